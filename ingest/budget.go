package ingest

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// budgetWait is how long a request waits for memory before it is told "busy".
const budgetWait = 2 * time.Second

// budget bounds the bytes that all requests together hold: what was read and
// what it was encoded to, until Kafka's verdict.
type budget struct {
	max  int64
	sem  *semaphore.Weighted
	held atomic.Int64
}

func newBudget(maxBytes int64) *budget {
	return &budget{max: maxBytes, sem: semaphore.NewWeighted(maxBytes)}
}

// lease is one request's part of the budget. Owned by the request's goroutine.
type lease struct {
	b *budget
	n int64
}

func (b *budget) lease() *lease { return &lease{b: b} }

// grow takes n bytes more, before they are allocated.
func (l *lease) grow(ctx context.Context, n int64) *problem {
	if n <= 0 {
		return nil
	}
	if l.n+n > l.b.max {
		return tooLarge("the request needs more memory than is allowed for all; send less at once, or stream NDJSON")
	}
	if !l.b.sem.TryAcquire(n) {
		wctx, cancel := context.WithTimeout(ctx, budgetWait)
		defer cancel()
		if err := l.b.sem.Acquire(wctx, n); err != nil {
			return busy()
		}
	}
	l.n += n
	l.b.held.Add(n)
	return nil
}

// shrink gives back all but keep bytes.
func (l *lease) shrink(keep int64) {
	if back := l.n - keep; back > 0 {
		l.n = keep
		l.b.held.Add(-back)
		l.b.sem.Release(back)
	}
}

// release gives back all.
func (l *lease) release() { l.shrink(0) }
