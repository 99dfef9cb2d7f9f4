package gateway

import (
	"time"

	"github.com/tapecast/tapecast/gateway/feed"
	"github.com/tapecast/tapecast/internal/protocol"
)

// serveSnapshot sends what is left of a snapshot.
func (c *conversation) serveSnapshot(b *block, s *subscription) (progress, full bool) {
	shot := s.snapshot
	for len(shot.events) > 0 {
		e, cur := shot.events[0], s.find(shot.parts[0])
		// The cursor already stands at S, beyond the event.
		_, ok, full := c.emit(b, s, cur, e, "snapshot")
		if full || !ok {
			return false, full
		}
		shot.events, shot.parts = shot.events[1:], shot.parts[1:]
	}
	c.flushGap(b, s)
	shot.free()
	s.snapshot = nil
	s.due.Store(true) // partitions may have come meanwhile
	c.notify()
	return true, false
}

// fellOff begins to skip where a client that was live wants the newest values
// rather than all, and has fallen off the tape.
func (c *conversation) fellOff(s *subscription, cur *cursor, chunk feed.Chunk, now time.Time) bool {
	if chunk.Status == feed.AtHead || chunk.Status == feed.More && !chunk.Replayed {
		cur.onTape = true
	}
	if !s.wish.OnSlow || !s.live || !cur.onTape || chunk.Status != feed.Pending && !chunk.Replayed {
		return false
	}
	if s.behind == 0 || momentOf(now).sub(s.behind) < lagShown {
		return false // the gateway itself may have had to read a stretch
	}
	head, ok := s.hold.Head(cur.partition)
	if !ok || head <= cur.next {
		return false
	}
	cur.fresh = &conflation{active: true, target: head, read: cur.next}
	return true
}

// serveSlow reads up to where the head stood, tells the stretch as a gap, then
// sends its newest values.
func (c *conversation) serveSlow(b *block, s *subscription, cur *cursor) (progress, full bool) {
	f := cur.fresh
	if len(f.sending) == 0 {
		if f.read < min(f.target, cur.until) && f.bytes < slowBytes {
			return c.collect(b, s, cur), false
		}
		if b.full(1) {
			return false, true
		}
		c.flushGap(b, s)
		c.addGap(b, s, cur, gap{cur.partition, cur.next, f.read, protocol.CauseSlow})
		f.turn()
	}
	if ok, full := c.sendFresh(b, s, cur, "latest"); full || !ok {
		return false, full
	}
	more := f.read < min(f.target, cur.until)
	*f = conflation{active: more, target: f.target, read: f.read}
	cur.ready = true
	return true, false
}

// serveLatest sends the newest value per key, at most every interval.
func (c *conversation) serveLatest(b *block, s *subscription, cur *cursor, now time.Time) (progress, full bool) {
	f := cur.fresh
	if f == nil {
		f = &conflation{}
		cur.fresh = f
	}
	f.read = max(f.read, cur.next)
	if len(f.sending) == 0 && f.after.empty() {
		if !cur.ready || momentOf(now) < cur.flushAt {
			return false, false
		}
		if f.bytes < latestBytes && c.collect(b, s, cur) {
			return true, false
		}
		if s.busy || s.state != positioned {
			return false, false
		}
		f.turn()
	}
	return c.flushLatest(b, s, cur, now)
}

func (c *conversation) flushLatest(b *block, s *subscription, cur *cursor, now time.Time) (progress, full bool) {
	f := cur.fresh
	sent := len(f.sending) > 0
	if ok, full := c.sendFresh(b, s, cur, ""); full || !ok {
		return false, full
	}
	if !f.after.empty() {
		c.addGap(b, s, cur, f.after)
		f.after = gap{}
	}
	cur.next = max(cur.next, min(f.read, cur.until))
	if sent {
		cur.flushAt = momentOf(now).add(s.wish.Interval) // a key is in one partition
	}
	return false, false
}

// sendFresh sends what a conflation has ready.
func (c *conversation) sendFresh(b *block, s *subscription, cur *cursor, mark string) (done, full bool) {
	f := cur.fresh
	for len(f.sending) > 0 {
		e := f.sending[0]
		_, ok, full := c.emit(b, s, cur, e, mark)
		if full || !ok {
			return false, full
		}
		b.settled++
		if e.Accepted > b.newest {
			b.newest = e.Accepted
		}
		f.sending = f.sending[1:]
	}
	return true, false
}

// collect reads on into a conflation. It returns false when there is nothing more now.
func (c *conversation) collect(b *block, s *subscription, cur *cursor) bool {
	f := cur.fresh
	if f.read >= cur.until {
		return false
	}
	chunk := s.hold.Read(cur.partition, f.read, quantumEvents)
	c.reads++
	switch chunk.Status {
	case feed.More:
	default:
		c.accept(b, s, cur, chunk)
		if chunk.Status == feed.AtHead {
			f.target = f.read
		}
		return false
	}
	if chunk.Gap != nil {
		f.after = gap{cur.partition, f.read, min(chunk.Gap.To, cur.until), protocol.Cause(chunk.Gap.Cause)}
		f.read = max(f.read, chunk.Gap.To)
		cur.ready = true
		return f.active
	}
	if chunk.To <= f.read {
		cur.ready = false // nothing was read, whatever it said
		return false
	}
	events := clip(chunk.Events, cur.until)
	for _, e := range events {
		if e.Offset >= f.read {
			s.skipped += f.add(e)
		}
	}
	if chunk.Replayed {
		own(f.byKey, events)
	}
	f.read = max(f.read, min(chunk.To, cur.until))
	return true
}
