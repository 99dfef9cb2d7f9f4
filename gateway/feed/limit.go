package feed

import (
	"context"
	"sync"
	"time"
)

// rate is a budget in bytes per second that is paid after the fact: how much a
// read will bring is known only when it came. Who spends more than there is
// makes the next one wait. At most one second's worth is saved up.
type rate struct {
	perSecond float64

	mu   sync.Mutex
	have float64 // guarded by mu; negative = debt
	at   time.Time
}

func newRate(perSecond int) *rate {
	return &rate{perSecond: float64(perSecond), have: float64(perSecond)}
}

// spend takes n bytes from the budget.
func (r *rate) spend(n int, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fill(now)
	r.have -= float64(n)
}

// debt tells how long to wait until the budget is not overdrawn.
func (r *rate) debt(now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fill(now)
	if r.have >= 0 {
		return 0
	}
	return time.Duration(-r.have / r.perSecond * float64(time.Second))
}

func (r *rate) fill(now time.Time) {
	if !r.at.IsZero() {
		r.have = min(r.perSecond, r.have+now.Sub(r.at).Seconds()*r.perSecond)
	}
	r.at = now
}

// wait waits until the budget is not overdrawn.
func (r *rate) wait(ctx context.Context) error {
	for {
		d := r.debt(time.Now())
		if d <= 0 {
			return ctx.Err()
		}
		if err := sleep(ctx, d); err != nil {
			return err
		}
	}
}

// sleep waits for d or ctx's end.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// backoff doubles from its first to its last step. The zero value is not ready.
type backoff struct{ first, last, next time.Duration }

func newBackoff(first, last time.Duration) *backoff {
	return &backoff{first: first, last: last, next: first}
}

func (b *backoff) reset() { b.next = b.first }

func (b *backoff) wait(ctx context.Context) error {
	d := b.next
	b.next = min(2*b.next, b.last)
	return sleep(ctx, d)
}
