package feed

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tapecast/tapecast/internal/coverage"
)

// tickEvery is how often a view lets time act.
const tickEvery = 100 * time.Millisecond

// partition is one followed partition: its view, its tape, its shelf of
// replayed blocks. One loop owns the view and writes the tape.
type partition struct {
	// static after construction
	inst  *instance
	id    int32
	env   *env
	tape  *tape
	shelf *shelf
	box   mailbox
	over  chan struct{} // closed when loop has ended: what is posted is not done any more

	spoilt spoilt

	end atomic.Int64 // last stable offset as far as known

	xmu sync.RWMutex
	xs  map[coverage.InterestID]int64 // X of the interests that have one; guarded by xmu

	lazyHead int64 // owned by the feed's tickLoop

	// owned by loop
	view      *coverage.View
	inc       uint64 // incarnation whose sections are taken
	keys      map[coverage.InterestID][]byte
	copying   bool      // the records at hand alias a read buffer
	bypassing time.Time // since when the feed is read because sections do not come; zero = they do
	waker     waker
}

func newPartition(inst *instance, id int32, e *env) *partition {
	t := inst.topic
	src := newSource(t.client, id, t.format, t.dec, e.resolver, func() { t.waiting.Store(true) }, &e.metrics.frames)
	p := &partition{inst: inst, id: id, env: e, tape: newTape(e.budget, src), box: newMailbox(), over: make(chan struct{})}
	open := func() reader { return e.open(t.name, inst.id, id) }
	p.shelf = &shelf{src: src, open: open}
	p.xs = map[coverage.InterestID]int64{}
	p.keys = map[coverage.InterestID][]byte{}
	p.view = coverage.NewView(inst.id, id, coverage.Options{
		Silence: e.silence,
		// Partitions turn to Kafka one by one, and none later than 1.4 times the
		// silence: with the default no feed pauses for 3 s.
		Jitter: time.Duration(rand.Int64N(int64(e.silence)*2/5 + 1)), //nolint:gosec // spreads load, guards nothing
	})
	return p
}

// x returns from where on the tape is complete for an interest.
func (p *partition) x(id coverage.InterestID) (int64, bool) {
	p.xmu.RLock()
	defer p.xmu.RUnlock()
	x, ok := p.xs[id]
	return x, ok
}

// loop takes one message after the other, until Run or the following ends.
func (p *partition) loop(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.env.metrics.followed.Inc()
	defer p.leave()
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		ticked := false
		select {
		case <-ctx.Done():
			return
		case <-p.inst.done:
			return
		case <-p.box.signal:
		case <-tick.C:
			ticked = true
		}
		now := time.Now()
		ops, secs := p.box.take()
		for _, op := range ops {
			p.do(ctx, op(p, now), now)
		}
		for i := range secs {
			p.section(ctx, &secs[i], now)
		}
		if ticked {
			p.do(ctx, p.view.Tick(now), now)
		}
	}
}

// leave drops what the partition holds.
func (p *partition) leave() {
	p.noteBypass(false, time.Now())
	p.env.budget.remove(p.tape)
	p.env.cache.close(p.shelf)
	p.env.metrics.followed.Dec()
	close(p.over)
}
