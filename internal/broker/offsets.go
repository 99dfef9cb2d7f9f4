package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/segmentio/kafka-go"

	"github.com/tapecast/tapecast/internal/stream"
)

// Timestamps with a meaning in ListOffsets.
const (
	atEnd   int64 = -1
	atStart int64 = -2
)

// Bounds of a partition's log, asked afresh.
type Bounds struct {
	Start int64 // first retained offset
	End   int64 // last stable offset: the first offset that is not yet committed
}

// Bounds asks for the bounds of these partitions.
func (c *Client) Bounds(ctx context.Context, topic string, partitions []int32) (map[int32]Bounds, error) {
	var starts, ends map[int32]int64
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		starts, err = c.listOffsets(gctx, topic, partitions, atStart, committed)
		return err
	})
	g.Go(func() (err error) {
		ends, err = c.listOffsets(gctx, topic, partitions, atEnd, committed)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("bounds of topic %s: %w", topic, err)
	}
	out := make(map[int32]Bounds, len(partitions))
	for _, p := range partitions {
		// Asked side by side: retention may have passed the end in between.
		out[p] = Bounds{Start: starts[p], End: max(starts[p], ends[p])}
	}
	return out, nil
}

// BoundsOf is Bounds of one incarnation of a topic: stream.ErrTopicChanged if
// the topic was deleted or made again, and the bounds may be another log's.
// Kafka answers by name, so it is asked for the name's id afterwards.
func (c *Client) BoundsOf(ctx context.Context, topic string, id stream.TopicID, partitions []int32) (map[int32]Bounds, error) {
	b, err := c.Bounds(ctx, topic, partitions)
	if err != nil {
		return nil, err
	}
	t, err := c.topicSince(ctx, topic, time.Now())
	switch {
	case errors.Is(err, stream.ErrUnknownTopic), err == nil && t.ID != id:
		return nil, fmt.Errorf("bounds of topic %s: %w", topic, stream.ErrTopicChanged)
	case err != nil:
		return nil, fmt.Errorf("bounds of topic %s: %w", topic, err)
	}
	return b, nil
}

// OffsetsAt returns for each partition the first offset whose record time is
// at or after t; -1 = there is none.
func (c *Client) OffsetsAt(ctx context.Context, topic string, partitions []int32, t time.Time) (map[int32]int64, error) {
	ms := t.UnixMilli()
	if t.After(time.UnixMilli(ms)) {
		ms++ // record times are whole milliseconds
	}
	out, err := c.listOffsets(ctx, topic, partitions, max(ms, 0), committed)
	if err != nil {
		return nil, fmt.Errorf("offsets of topic %s at %s: %w", topic, t.UTC().Format(time.RFC3339Nano), err)
	}
	return out, nil
}

// Isolation levels.
const (
	uncommitted int8 = 0
	committed   int8 = 1
)

// listOffsets asks the leaders. Moved leaders are looked up again for a while.
func (c *Client) listOffsets(ctx context.Context, topic string, partitions []int32, at int64, isolation int8) (map[int32]int64, error) {
	out := make(map[int32]int64, len(partitions))
	missing := partitions
	err := retry(ctx, 5*time.Second, func() error {
		byLeader := make(map[int32][]int32)
		for _, p := range missing {
			leader, _, err := c.leader(ctx, topic, p)
			if err != nil {
				return err
			}
			byLeader[leader] = append(byLeader[leader], p)
		}
		var failed error
		missing = nil
		for leader, ps := range byLeader {
			got, err := c.listOffsetsOf(ctx, leader, topic, ps, at, isolation)
			if err != nil {
				failed = err
			}
			for _, p := range ps {
				if o, ok := got[p]; ok {
					out[p] = o
				} else {
					missing = append(missing, p)
				}
			}
		}
		if failed == nil && len(missing) > 0 {
			failed = kafka.UnknownTopicOrPartition
		}
		if failed != nil {
			c.forget(topic)
		}
		return failed
	})
	return out, err
}

// listOffsetsOf asks one leader. It returns what it learned and the last error.
func (c *Client) listOffsetsOf(ctx context.Context, leader int32, topic string, partitions []int32, at int64, isolation int8) (map[int32]int64, error) {
	a, err := c.ask(ctx, request{
		key: keyListOffsets, version: 4, to: leader, again: true, slack: dataTimeout,
		body: func(f *frame) {
			f.int32(-1) // a consumer
			f.int8(isolation)
			f.array(1)
			f.string(topic)
			f.array(len(partitions))
			for _, p := range partitions {
				f.int32(p)
				f.int32(-1)
				f.int64(at)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	out := make(map[int32]int64, len(partitions))
	var failed error
	a.int32() // throttle
	for n := a.array(6); n > 0; n-- {
		a.string()
		for m := a.array(26); m > 0; m-- {
			p, err := a.int32(), code(a.int16())
			a.int64()
			offset := a.int64()
			a.int32()
			if err != nil {
				failed = fmt.Errorf("partition %d: %w", p, err)
				continue
			}
			out[p] = offset
		}
	}
	if a.err != nil {
		return nil, a.err
	}
	return out, failed
}
