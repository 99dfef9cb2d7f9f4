package fanout

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// fenceShare is the share of the session after which an instance without a
// successful commit stops publishing: somebody else may own its partitions.
// That is courtesy, not safety: a late section is a true sentence all the same.
const fenceShare = 0.7

// fence is the lease that every successful commit renews.
type fence struct {
	term time.Duration
	at   atomic.Pointer[time.Time]
}

func newFence(session time.Duration) *fence {
	return &fence{term: time.Duration(float64(session) * fenceShare)}
}

// renew takes the time at which the request that succeeded was sent.
func (f *fence) renew(sent time.Time) { f.at.Store(&sent) }

// open tells whether publishing is allowed. Both clocks must say so: the
// monotonic one stands still while a machine sleeps, the wall clock may jump
// backwards.
func (f *fence) open(now time.Time) bool { return f.age(now) < f.term }

// age is the time since the last success, by the clock that says more.
func (f *fence) age(now time.Time) time.Duration {
	at := f.at.Load()
	if at == nil {
		return 1<<63 - 1
	}
	return max(now.Sub(*at), now.Round(0).Sub(at.Round(0)))
}

// wait returns when the fence is open; false means that ctx ended.
func (f *fence) wait(ctx context.Context) bool {
	for !f.open(time.Now()) {
		if !sleep(ctx, 20*time.Millisecond) {
			return false
		}
	}
	return ctx.Err() == nil
}

// Backoff of whatever is retried for ever.
const (
	backoffMin = 50 * time.Millisecond
	backoffMax = 2 * time.Second
)

// backoff grows from backoffMin to backoffMax. The zero value is ready.
type backoff struct{ last time.Duration }

func (b *backoff) reset() { b.last = 0 }

// next is the next delay, with jitter: between half of it and all of it.
func (b *backoff) next() time.Duration {
	b.last = min(max(2*b.last, backoffMin), backoffMax)
	return b.last/2 + rand.N(b.last/2+1)
}

// wait sleeps for the next delay; false means that ctx ended.
func (b *backoff) wait(ctx context.Context) bool { return sleep(ctx, b.next()) }

// sleep waits for d; false means that ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
