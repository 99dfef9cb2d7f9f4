package fanout

import (
	"context"
	"errors"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
)

const (
	commitEvery  = 250 * time.Millisecond
	commitWithin = 2 * time.Second
)

// progress is how far one node's sections of a partition are.
type progress struct {
	holds   bool  // the node is not cut: commits wait for it
	pending bool  // something is not acknowledged
	unacked int64 // its first offset
	to      int64 // of the last section, acknowledged or not
}

// watermark is the offset up to which a partition that stands at next may be
// committed: everything before it was acknowledged by every node that is not
// cut. With no such node that is next.
func watermark(next int64, nodes []progress) int64 {
	for _, n := range nodes {
		switch {
		case !n.holds:
		case n.pending:
			next = min(next, n.unacked)
		default:
			next = min(next, n.to)
		}
	}
	return next
}

// commitment is what may be committed of the partition now; ok=false: nothing
// yet. scratch is reused.
func (p *partition) commitment(scratch []progress) (c broker.Committed, rest []progress, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.book == nil {
		return c, scratch, false
	}
	scratch = scratch[:0]
	for _, n := range p.book.nodes {
		w := progress{to: n.to}
		w.unacked, w.pending, w.holds = n.target.pub.unacked(p.book)
		scratch = append(scratch, w)
	}
	at := watermark(p.book.chains.Next(), scratch)
	return broker.Committed{Offset: at, Metadata: p.book.id.String()}, scratch, true
}

// commitLoop commits every 250 ms, also without progress: a successful commit
// is what proves that the group still counts on this instance. When quit is
// closed it commits a last time; nothing else commits, so none overtakes another.
func (m *member) commitLoop(ctx context.Context, quit <-chan struct{}) error {
	tick := time.NewTicker(commitEvery)
	defer tick.Stop()
	open := true
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-quit:
			m.commit(ctx)
			return nil
		case <-tick.C:
		case <-m.begun: // from now on the topic counts as followed
		}
		casting := m.commit(ctx) > 0
		now := m.fence.open(time.Now())
		if open && !now && casting {
			m.metrics.fenced.Inc()
			m.log.Warn("no commit succeeded for most of the session, publishing stops until one does",
				"age", m.fence.age(time.Now()).String())
		}
		if !open && now {
			m.log.Info("publishing goes on")
		}
		open = now || !casting
	}
}

// commit commits all owned partitions that are cast, and returns how many
// those are.
func (m *member) commit(ctx context.Context) int {
	gen, owned := m.current()
	if gen == nil {
		return 0
	}
	offsets := make(map[broker.TopicPartition]broker.Committed, len(owned))
	var scratch []progress
	for _, p := range owned {
		var c broker.Committed
		var ok bool
		c, scratch, ok = p.commitment(scratch)
		if ok {
			offsets[p.tp] = c
		}
	}
	if len(offsets) == 0 {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, commitWithin)
	defer cancel()
	sent := time.Now()
	err := gen.Commit(ctx, offsets)
	if err != nil && !errors.Is(err, broker.ErrStaleGeneration) && m.commitApart(ctx, gen, offsets) {
		m.fence.renew(sent)
	}
	if err != nil {
		m.metrics.commitErrors.Inc()
		if errors.Is(err, broker.ErrStaleGeneration) {
			m.metrics.zombie.Inc()
		}
		m.log.Debug("commit failed", "generation", gen.ID, "error", err)
		return len(offsets)
	}
	m.metrics.commits.Inc()
	m.fence.renew(sent)
	return len(offsets)
}

// commitApart commits topic by topic what failed together: one that was just
// deleted, or that may not be committed, must not stop the others. It tells
// whether any was committed.
func (m *member) commitApart(ctx context.Context, gen *broker.Generation, offsets map[broker.TopicPartition]broker.Committed) (any bool) {
	topics := map[string]map[broker.TopicPartition]broker.Committed{}
	for tp, c := range offsets {
		if topics[tp.Topic] == nil {
			topics[tp.Topic] = map[broker.TopicPartition]broker.Committed{}
		}
		topics[tp.Topic][tp] = c
	}
	if len(topics) < 2 {
		return false
	}
	for _, offsets := range topics {
		any = gen.Commit(ctx, offsets) == nil || any
	}
	return any
}
