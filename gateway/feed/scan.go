package feed

import (
	"context"
	"fmt"

	"github.com/tapecast/tapecast/internal/stream"
)

// scanLimit is how many events one chunk of a scan holds at most.
const scanLimit = 1024

func (s *Sub) scan(ctx context.Context, inst *instance, partition int32, from, to int64, fn func(c Chunk) bool) (end int64, err error) {
	p := inst.part(partition)
	if p == nil {
		return 0, fmt.Errorf("scan topic %s: no partition %d", s.topic.name, partition)
	}
	cache := s.feed.env.cache
	var buf []*Event
	for cursor := from; cursor < to; {
		c := Chunk{From: cursor, Replayed: true}
		b, start := cache.find(p.shelf, cursor)
		switch {
		case b != nil && b.corrupt:
			c.To, end = min(b.to, to), b.end
			c.Gap = &Gap{From: cursor, To: c.To, Cause: CausePoison}
		case b != nil:
			clear(buf)
			buf, c.To = b.read(buf[:0], cursor, to, s.filter, scanLimit)
			c.Events, end = buf, b.end
		case cursor < start:
			c.To = min(start, to)
			c.Gap = &Gap{From: cursor, To: c.To, Cause: CauseRetention}
		default:
			res, err := s.wait(ctx, p, cursor)
			switch {
			case err != nil:
				return end, err
			case res.changed:
				s.feed.refresh()
				return end, fmt.Errorf("scan topic %s partition %d at offset %d: %w", s.topic.name, partition, cursor, stream.ErrTopicChanged)
			case res.atEnd:
				return res.end, nil
			}
			continue
		}
		cursor = c.To
		if !fn(c) {
			break
		}
	}
	return end, nil
}

// wait waits until a cursor's block is there, or something else became of it.
func (s *Sub) wait(ctx context.Context, p *partition, cursor int64) (fetchResult, error) {
	cache := s.feed.env.cache
	done := make(chan struct{}, 1)
	w := cache.ask(p.shelf, cursor, func() { done <- struct{}{} })
	if res, ok := cache.result(w); ok {
		return res, nil
	}
	select {
	case <-ctx.Done():
		cache.forget(p.shelf, w)
		return fetchResult{}, fmt.Errorf("scan topic %s partition %d at offset %d: %w", s.topic.name, p.id, cursor, ctx.Err())
	case <-done:
		res, _ := cache.result(w)
		return res, nil
	}
}
