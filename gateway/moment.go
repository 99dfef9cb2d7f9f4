package gateway

import "time"

// moment is a time in 8 bytes where time.Time has 24: sessions keep many. 0 =
// none; it is before all others.
type moment time.Duration

// dawn is where moments are counted from: so long ago that the clocks of tests
// are behind it.
var dawn = time.Now().Add(-50 * 365 * 24 * time.Hour)

func momentOf(t time.Time) moment {
	if t.IsZero() {
		return 0
	}
	return moment(t.Sub(dawn))
}

// time is the moment as a time; zero = none.
func (m moment) time() time.Time {
	if m == 0 {
		return time.Time{}
	}
	return dawn.Add(time.Duration(m))
}

// add is the moment some time later.
func (m moment) add(d time.Duration) moment { return m + moment(d) }

// sub is how much later the moment is than another one.
func (m moment) sub(o moment) time.Duration { return time.Duration(m - o) }
