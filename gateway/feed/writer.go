package feed

import (
	"context"
	"errors"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	ilog "github.com/tapecast/tapecast/internal/interest"
)

const (
	// maxWrite and maxWriteBytes bound the records of one append to the interest log, and how
	// many ids a failed one makes dead.
	maxWrite      = 2000
	maxWriteBytes = 256 << 10
	// maxAppendWait bounds one append; the lease bounds it as well.
	maxAppendWait = 3 * time.Second
)

// writer is the only one who writes interests of this node: whatever is queued
// leaves in one append, with the lease where it is due.
type writer struct {
	// static after construction
	life  *life
	inc   *incarnation
	ended *incarnation // the one before, to be ended with the first write; nil = none
	born  chan int64   // gets the offset of the first write, once

	// owned by loop
	renewed time.Time // when the last acked lease record was sent
	started bool
}

// loop returns errLeaseLost when the lease cannot be held.
func (w *writer) loop(ctx context.Context) error {
	w.renewed = time.Now() // of the topic's making: no interest is anybody's yet
	back := newBackoff(50*time.Millisecond, time.Second)
	tick := time.NewTicker(max(w.life.lease/12, time.Millisecond))
	defer tick.Stop()
	for {
		err := w.write(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(w.renewed) > w.life.lease*7/10 {
			return errors.Join(errLeaseLost, err)
		}
		if err != nil {
			w.life.counts.writeErrors.Inc()
			w.life.log.Debug("interests were not written", "err", err)
			if back.wait(ctx) != nil {
				return nil
			}
			continue
		}
		back.reset()
		if w.life.book.more() {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.life.book.signal:
		case <-tick.C:
		}
	}
}

// write appends what is queued, and the lease when a third of it is over.
func (w *writer) write(ctx context.Context) error {
	now := time.Now()
	var recs []ilog.Record
	lease := !w.started || now.Sub(w.renewed) >= w.life.lease/3
	if !w.started && w.ended != nil {
		recs = append(recs, ilog.Record{Kind: ilog.KindEnd, Incarnation: w.ended.id})
	}
	if lease {
		recs = append(recs, ilog.Record{
			Kind: ilog.KindLease, Incarnation: w.inc.id, Node: w.life.node,
			Delivery: w.inc.delivery, LeaseMs: w.life.lease.Milliseconds(),
		})
	}
	before := len(recs)
	cs := w.life.book.take(maxWrite, maxWriteBytes)
	for _, c := range cs {
		recs = append(recs, c.record(w.inc.id))
	}
	if len(recs) == 0 {
		return nil
	}
	tctx, cancel := context.WithTimeout(ctx, min(maxAppendWait, w.life.lease/4))
	defer cancel()
	base, err := w.life.append(tctx, recs)
	if err != nil {
		w.life.book.failed(cs)
		return err
	}
	w.life.counts.written.Add(float64(len(recs)))
	w.life.book.written(cs, w.inc.log, base+int64(before))
	if !w.started {
		w.started = true
		w.born <- base
	}
	if lease {
		w.renewed = now
		w.life.lived(w.inc, now)
	}
	return nil
}

// lived notes a renewal.
func (l *life) lived(inc *incarnation, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == inc {
		l.renewed = at
	}
}

var _ cluster = (*broker.Client)(nil)
