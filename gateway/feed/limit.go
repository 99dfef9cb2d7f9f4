package feed

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/stream"
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

// fetch reads once, within the node's budgets. A leader that does not answer
// takes no token from those that do: a fetch that is slow changes to the slow
// ones, where its shelf then begins until it is quick again, and is given up
// if too many are slow already.
func (c *cache) fetch(ctx context.Context, sh *shelf, r reader, from int64, size int) (broker.Span, error) {
	if err := c.rate.wait(ctx); err != nil {
		return broker.Span{}, err
	}
	tokens := c.walks
	if sh.slow {
		tokens = c.slow
	}
	select {
	case <-ctx.Done():
		return broker.Span{}, ctx.Err()
	case tokens <- struct{}{}:
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began, moved := time.Now(), make(chan bool, 1)
	timer := time.AfterFunc(slowAfter, func() {
		if tokens == c.slow {
			moved <- false
			return
		}
		select {
		case c.slow <- struct{}{}:
			<-c.walks
			moved <- true
		default:
			cancel()
			moved <- false
		}
	})
	span, err := r.Read(ctx, from, size, 0)
	if !timer.Stop() && <-moved {
		tokens = c.slow
	}
	<-tokens
	sh.slow = err != nil && !told(err) || time.Since(began) > slowAfter
	c.counts.fetches.Inc()
	c.counts.bytes.Add(float64(span.Bytes))
	c.rate.spend(span.Bytes, time.Now())
	return span, err
}

// told tells whether an error is an answer of Kafka's.
func told(err error) bool {
	_, isRange := errors.AsType[*stream.OutOfRangeError](err)
	return isRange || errors.Is(err, broker.ErrCorrupt) || errors.Is(err, stream.ErrTopicChanged) || errors.Is(err, stream.ErrUnknownTopic)
}
