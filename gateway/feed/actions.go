package feed

import (
	"context"
	"errors"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/coverage"
	"github.com/tapecast/tapecast/internal/sabotage"
	"github.com/tapecast/tapecast/internal/stream"
)

// What a partition's loop does for its view. All of it runs in the loop, but
// for the reads, which hand their results back as operations.

func (p *partition) add(its []posted, now time.Time) (out []coverage.Action) {
	for _, it := range its {
		p.keys[it.id] = it.key
		out = append(out, p.view.Add(it.id, it.key, now)...)
		if it.acked {
			p.view.Acked(it.id, it.e)
		}
	}
	return out
}

// acked also ticks: the section that covers the interests may have been faster.
func (p *partition) acked(its []posted, now time.Time) []coverage.Action {
	for _, it := range its {
		p.view.Acked(it.id, it.e)
	}
	return p.view.Tick(now)
}

func (p *partition) remove(ids []coverage.InterestID) []coverage.Action {
	p.xmu.Lock()
	defer p.xmu.Unlock()
	for _, id := range ids {
		p.view.Remove(id)
		delete(p.xs, id)
		delete(p.keys, id)
	}
	return nil
}

// renew begins a new incarnation: sections of the one before are not taken any
// more, and none covers anything until the interests are acked again.
func (p *partition) renew(seq uint64) []coverage.Action {
	p.inc = seq
	for id := range p.keys {
		p.view.Renew(id, id)
	}
	return nil
}

func (p *partition) section(ctx context.Context, t *tagged, now time.Time) {
	if t.inc != p.inc {
		p.env.metrics.foreign.Inc()
		return
	}
	p.noteEnd(max(t.sec.End, t.sec.To))
	p.do(ctx, p.view.Section(t.sec, now), now)
}

// noteEnd keeps the highest last stable offset that was told.
func (p *partition) noteEnd(end int64) {
	if end > p.end.Load() {
		p.end.Store(end)
	}
}

// shrunk forgets what was known beyond the end of a log that was cut. Cursors
// that stand there are told that they are beyond it.
func (p *partition) shrunk(end int64) {
	p.end.Store(end)
	p.env.cache.truncate(p.shelf, p.inst.topic.name, p.id, end)
}

func (p *partition) do(ctx context.Context, actions []coverage.Action, now time.Time) {
	for _, a := range actions {
		switch a := a.(type) {
		case coverage.Restart:
			p.tape.restart(a.At)
		case coverage.Take:
			evs := p.tape.append(a.Records, a.To, now.UnixMilli(), p.copying)
			p.env.hops.take(p, evs, a.To, p.copying)
			p.waker.events(&p.inst.topic.subs, evs)
		case coverage.TapeGap:
			p.tape.gap(a.From, a.To)
			p.waker.key(&p.inst.topic.subs, nil)
		case coverage.Read:
			if !sabotage.Is(sabotage.NoFill) {
				p.startRead(ctx, a)
			}
		case coverage.AskEnd:
			p.askEnd(ctx)
		case coverage.AskTopic:
			p.env.refresh()
		case coverage.Complete:
			p.complete(a.IDs)
		case coverage.Count:
			p.env.metrics.count(a.What)
		}
	}
	p.noteBypass(p.view.Bypassing(), now)
}

// complete publishes the X of interests and wakes who waits for them.
func (p *partition) complete(ids []coverage.InterestID) {
	p.xmu.Lock()
	for _, id := range ids {
		if x, ok := p.view.X(id); ok {
			p.xs[id] = x
		}
	}
	p.xmu.Unlock()
	for _, id := range ids {
		p.waker.key(&p.inst.topic.subs, p.keys[id])
	}
}

// noteBypass counts for how long partitions were read around the fan-out.
func (p *partition) noteBypass(on bool, now time.Time) {
	switch {
	case on && p.bypassing.IsZero():
		p.bypassing = now
		p.env.bypassing.Add(1)
	case !p.bypassing.IsZero():
		p.env.metrics.bypassSeconds.Add(max(0, now.Sub(p.bypassing).Seconds()))
		p.bypassing = now
		if !on {
			p.bypassing = time.Time{}
			p.env.bypassing.Add(-1)
		}
	}
}

const (
	// readBytes is asked for with one read of a gap or a bypass.
	readBytes = 1 << 20
	// bypassWait is how long a bypass waits at the log's end for something new.
	bypassWait = 200 * time.Millisecond
	// manyBypasses is from how many partitions on a bypass asks instead of
	// waiting at the broker, where each that waits holds a connection.
	manyBypasses = 32
)

// startRead makes the one read that the view asked for.
func (p *partition) startRead(ctx context.Context, a coverage.Read) {
	p.env.spawn(func(context.Context) {
		r := p.env.open(p.inst.topic.name, p.inst.id, p.id)
		defer r.Close() // the records are in its memory
		res := p.read(ctx, r, a)
		done := make(chan struct{})
		p.box.post(func(p *partition, now time.Time) []coverage.Action {
			defer close(done)
			p.noteEnd(res.End)
			if res.Shrunk {
				p.shrunk(res.End)
			}
			if a.Bypass {
				// The records are used before this operation is over, by do.
				p.env.metrics.bypassRead(len(res.Records))
			}
			p.copying = true
			p.do(ctx, p.view.Read(res, now), now)
			p.copying = false
			return nil
		})
		select {
		case <-done:
		case <-p.over: // nobody takes it any more
		}
	})
}

// read reads once, within the budget of the node.
func (p *partition) read(ctx context.Context, r reader, a coverage.Read) coverage.ReadResult {
	wait := time.Duration(0)
	if a.Bypass && p.env.bypassing.Load() <= manyBypasses {
		wait = bypassWait
	}
	if err := p.env.enterRead(ctx, a.Bypass); err != nil {
		return coverage.ReadResult{From: a.From, Err: err}
	}
	defer p.env.leaveRead()
	span, err := r.Read(ctx, a.From, readBytes, wait)
	p.env.bypassRate.spend(span.Bytes, time.Now())
	if a.Bypass {
		p.env.metrics.bypassBytes.Add(float64(span.Bytes))
	}
	res := readResult(a.From, span, err)
	p.spoiled(&res, p.end.Load())
	return res
}

func readResult(from int64, span broker.Span, err error) coverage.ReadResult {
	oor, isRange := errors.AsType[*stream.OutOfRangeError](err)
	switch {
	case isRange && from < oor.Start:
		return coverage.ReadResult{From: from, OutOfRange: true, Start: oor.Start, End: oor.End}
	case isRange && from > oor.End:
		return coverage.ReadResult{From: from, Shrunk: true, End: oor.End}
	case errors.Is(err, stream.ErrTopicChanged), errors.Is(err, stream.ErrUnknownTopic):
		return coverage.ReadResult{From: from, Changed: true}
	case err != nil:
		return coverage.ReadResult{From: from, Err: err}
	}
	return coverage.ReadResult{From: span.From, To: span.To, End: span.End, Records: span.Records}
}

// askEnd asks for the log's end afresh. A view that hears nothing asks again.
func (p *partition) askEnd(ctx context.Context) {
	p.env.spawn(func(context.Context) {
		tctx, cancel := context.WithTimeout(ctx, boundsTimeout)
		defer cancel()
		b, err := p.env.bounds(tctx, p.inst.topic.name, p.inst.id, []int32{p.id})
		got, ok := b[p.id]
		if err != nil || !ok {
			p.env.metrics.boundsFailed.Inc()
			return
		}
		p.box.post(func(p *partition, now time.Time) []coverage.Action {
			p.noteEnd(got.End)
			return p.view.End(got.End, now)
		})
	})
}

const boundsTimeout = 5 * time.Second
