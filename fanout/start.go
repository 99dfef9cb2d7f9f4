package fanout

import (
	"context"
	"fmt"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/stream"
)

// startAt decides where a partition that became ours is read from. A commit
// holds the topic's id as its metadata; one without (an operator's reset) is
// taken at its word.
func startAt(c broker.Committed, id stream.TopicID, followed bool) (from int64, atEnd bool) {
	switch {
	case c.Offset < 0:
		// New in a topic that was followed before: what was written to it
		// before anybody looked must not be missed.
		return 0, !followed
	case c.Metadata != "" && c.Metadata != id.String():
		return 0, false // a commit of another incarnation of the topic
	}
	return c.Offset, false
}

// start settles where to begin: which incarnation of the topic, from which
// offset, with all interests of this moment loaded. ok=false: ctx ended.
func (p *partition) start(ctx context.Context) (id stream.TopicID, from int64, ok bool) {
	var retry backoff
	for {
		if id, ok = p.incarnation(ctx); !ok {
			return id, 0, false
		}
		from, err := p.startOf(ctx, id)
		if err == nil {
			return id, from, true
		}
		p.log.Debug("partition cannot be started, trying again", "topic", p.tp.Topic, "partition", p.tp.Partition, "error", err)
		if !retry.wait(ctx) {
			return id, 0, false
		}
	}
}

func (p *partition) startOf(ctx context.Context, id stream.TopicID) (int64, error) {
	followed := true
	if p.committed.Offset < 0 {
		var err error
		if followed, err = p.followed(ctx, id); err != nil {
			return 0, err
		}
	}
	from, atEnd := startAt(p.committed, id, followed)
	b, err := p.bounds(ctx)
	if err != nil {
		return 0, err
	}
	switch {
	case atEnd:
		from = b.End
	case from < b.Start:
		from = b.Start
	case from > b.End:
		from = b.End // the log was cut: what comes next is written there
	}
	// Interests that were acknowledged before now are routed from the first
	// record on; fewer gaps for the gateways.
	if err := p.follower.Sync(ctx); err != nil {
		return 0, err
	}
	p.tracker.flush()
	return from, nil
}

func (p *partition) bounds(ctx context.Context) (broker.Bounds, error) {
	all, err := p.client.Bounds(ctx, p.tp.Topic, []int32{p.tp.Partition})
	if err != nil {
		return broker.Bounds{}, fmt.Errorf("ask bounds of %s partition %d: %w", p.tp.Topic, p.tp.Partition, err)
	}
	b, ok := all[p.tp.Partition]
	if !ok {
		return broker.Bounds{}, fmt.Errorf("bounds of %s partition %d were not told", p.tp.Topic, p.tp.Partition)
	}
	return b, nil
}

// clamp settles where to go on after an offset that is not in the log: at the
// first retained one, or at the end of a log that was cut.
func (p *partition) clamp(ctx context.Context, out *stream.OutOfRangeError) (from int64, ok bool) {
	var retry backoff
	for {
		b, err := p.bounds(ctx)
		switch {
		case err != nil:
		case out.Offset > b.End:
			return b.End, true
		default:
			return max(out.Offset, b.Start), true
		}
		if !retry.wait(ctx) {
			return 0, false
		}
	}
}

// incarnation asks which incarnation of the topic there is. A topic that was
// deleted may never come back: then only ctx ends the wait, when the group
// takes the partition away.
func (p *partition) incarnation(ctx context.Context) (id stream.TopicID, ok bool) {
	var retry backoff
	for {
		ts, err := p.client.Topics(ctx, p.tp.Topic)
		if err != nil {
			p.log.Debug("topic cannot be looked up, trying again", "topic", p.tp.Topic, "error", err)
		}
		for i := range ts {
			if ts[i].Name == p.tp.Topic && !ts[i].ID.IsZero() {
				return ts[i].ID, true
			}
		}
		if !retry.wait(ctx) {
			return stream.TopicID{}, false
		}
	}
}
