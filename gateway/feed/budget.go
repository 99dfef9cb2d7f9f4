package feed

import (
	"math"
	"sync"
	"sync/atomic"
)

// budget is the one byte budget of all tapes, frames included.
type budget struct {
	limit int64 // static after construction

	used   atomic.Int64
	events atomic.Int64

	evicting sync.Mutex // held by the one who evicts

	mu    sync.Mutex
	tapes map[*tape]struct{} // guarded by mu
}

func newBudget(limit int) *budget {
	return &budget{limit: int64(limit), tapes: map[*tape]struct{}{}}
}

func (b *budget) add(t *tape) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tapes[t] = struct{}{}
}

func (b *budget) remove(t *tape) {
	b.mu.Lock()
	delete(b.tapes, t)
	b.mu.Unlock()
	t.drop()
}

// enforce evicts the oldest events of all tapes until the budget is kept with
// a little to spare, so that not every append has to. All tapes then reach back
// about equally far in time: that is what clients who come back ask for. One
// at a time does it; the others need not wait for it.
func (b *budget) enforce() {
	if b.used.Load() <= b.limit || !b.evicting.TryLock() {
		return
	}
	defer b.evicting.Unlock()
	target := b.limit - b.limit/64
	for idle := 0; b.used.Load() > target && idle < 3; {
		oldest, next := b.oldest()
		if oldest == nil {
			return
		}
		if oldest.evict(b.used.Load()-target, next) == 0 {
			idle++ // it was emptied meanwhile
		}
	}
}

// oldest returns the tape with the oldest event, and the age of the next one's.
func (b *budget) oldest() (t *tape, next int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	first := int64(math.MaxInt64)
	next = math.MaxInt64
	for c := range b.tapes {
		switch at := c.oldest.Load(); {
		case at < first:
			t, first, next = c, at, first
		case at < next:
			next = at
		}
	}
	return t, next
}
