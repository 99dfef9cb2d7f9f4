package gateway

import "time"

// bucket bounds how often something may be done: a token bucket that is kept
// as the time at which it would be full again. It is owned by one goroutine.
type bucket int64

// pace is what buckets are filled with: a token each, most at once.
type pace struct {
	each time.Duration // 0 = no limit
	most time.Duration // burst * each
}

// newPace makes a pace of rate tokens a second and at most burst at once; no
// rate = none comes back.
func newPace(rate float64, burst int) pace {
	const never = time.Hour
	each := never
	if rate > 0 && float64(time.Second)/rate < float64(never) {
		each = max(time.Duration(float64(time.Second)/rate), 1)
	}
	return pace{each: each, most: time.Duration(min(int64(burst), int64(1<<62)/int64(each))) * each}
}

// take takes a token, if there is one. now is since some fixed moment.
func (b *bucket) take(p pace, now time.Duration) bool {
	full := max(time.Duration(*b), now) + p.each
	if full-now > p.most && p.each > 0 {
		return false
	}
	*b = bucket(full)
	return true
}
