package gateway

import (
	"errors"
	"time"

	"github.com/tapecast/tapecast/gateway/feed"
	"github.com/tapecast/tapecast/internal/protocol"
	"github.com/tapecast/tapecast/schemas"
)

// compose gathers what is due into b, in order: replies, the heartbeat,
// events. It tells whether more is due than b holds.
func (c *conversation) compose(b *block, now time.Time) (more bool) {
	if c.composeReplies(b) {
		return true
	}
	if c.beatAt != 0 && momentOf(now) >= c.beatAt {
		c.composeHeartbeat(b, now)
	}
	more = c.composeEvents(b, now)
	if !b.empty() {
		c.wire.finish(b)
	}
	return more
}

// composeReplies writes what waits, and nothing else.
func (c *conversation) composeReplies(b *block) (more bool) {
	for i, r := range c.replies {
		if b.full(len(r.text) + len(r.raw)) {
			c.replies = c.replies[i:]
			c.wire.finish(b)
			return true
		}
		b.grab()
		b.frames++
		b.settled++
		if r.raw != nil {
			c.wire.finish(b)
			b.buf = append(b.buf, r.raw...)
		} else {
			c.wire.control(b, r.sub, r.name, r.text)
		}
		c.replySize -= len(r.text) + len(r.raw)
	}
	c.replies = nil
	return false
}

// beatSize bounds one heartbeat frame; many subscriptions make several.
const beatSize = 32 << 10

func (c *conversation) composeHeartbeat(b *block, now time.Time) {
	c.beatAt, c.beatNow = momentOf(now).add(c.heartbeat), false
	low := c.lowest()
	if len(low) == 0 {
		if !c.anyLevel1() {
			c.beatAt = 0
		}
		return
	}
	f := newHeartbeat(now)
	var subs []*subscription
	size := 0
	flush := func() {
		b.grab()
		b.frames++
		b.settled++
		c.wire.heartbeat(b, subs, protocol.Encode(f))
		f, subs, size = newHeartbeat(now), nil, 0
	}
	for label, s := range low {
		f.Covered[label] = s.positions()
		f.Cursor[label] = s.cursor().String()
		if s.skipped > 0 {
			if f.Skipped == nil {
				f.Skipped = map[string]int64{}
			}
			f.Skipped[label] = s.skipped
		}
		subs = append(subs, s)
		if size += 40 + 25*len(s.cursors); size > beatSize {
			flush()
		}
	}
	if len(subs) > 0 {
		flush()
	}
}

func newHeartbeat(now time.Time) protocol.Heartbeat {
	return protocol.Heartbeat{
		Event: "heartbeat", TS: now.UnixMilli(), Covered: map[string]protocol.Positions{}, Cursor: map[string]string{},
	}
}

func (c *conversation) anyLevel1() bool {
	for _, s := range c.subs {
		if s.level1() {
			return true
		}
	}
	return false
}

// composeEvents serves the subscriptions in turn, a quantum each, until
// nothing is due or the block is full.
func (c *conversation) composeEvents(b *block, now time.Time) (full bool) {
	for _, s := range c.subs {
		if !s.busy && s.due.Swap(false) {
			c.refresh(s)
		}
	}
	if c.composeReplies(b) { // an ack comes before its events
		return true
	}
	if c.beatNow { // a client knows of every partition before its first event
		c.composeHeartbeat(b, now)
	}
	c.reads = 0
	for idle := 0; idle < len(c.subs) && !full; {
		c.turn = (c.turn + 1) % len(c.subs)
		s := c.subs[c.turn]
		var progress bool
		if progress, full = c.serve(b, s, now); progress {
			idle = 0
		} else {
			idle++
		}
		c.settle(b, s)
		full = full || c.reads > maxReads
	}
	for _, s := range c.subs {
		c.flushGap(b, s)
		c.watchLag(s, now)
	}
	return full || len(c.replies) > 0
}

// refresh looks at what a wake may have changed.
func (c *conversation) refresh(s *subscription) {
	if s.state == requested {
		c.placeLive(s)
	}
	if s.state != positioned {
		return
	}
	if s.snapshot == nil && s.grow(s.hold.Partitions()) {
		c.follow(s, len(s.cursors))
		c.beatNow = s.level1()
	}
	s.wakeAll()
}

// serve gives one subscription its turn: a quantum of one partition.
func (c *conversation) serve(b *block, s *subscription, now time.Time) (progress, full bool) {
	if s.busy || s.state != positioned {
		return false, false
	}
	if s.snapshot != nil {
		return c.serveSnapshot(b, s)
	}
	for range s.cursors {
		s.turn = (s.turn + 1) % len(s.cursors)
		cur := &s.cursors[s.turn]
		if cur.next >= cur.until {
			cur.ready = false
		}
		switch {
		case s.wish.Mode == protocol.ModeLatest:
			progress, full = c.serveLatest(b, s, cur, now)
		case cur.skips():
			progress, full = c.serveSlow(b, s, cur)
		case cur.ready:
			progress, full = c.servePartition(b, s, cur, now)
		}
		if progress || full || s.busy || s.state != positioned {
			return progress, full
		}
	}
	return false, false
}

// servePartition reads on from a cursor and writes what it gets.
func (c *conversation) servePartition(b *block, s *subscription, cur *cursor, now time.Time) (progress, full bool) {
	if b.full(1) {
		return false, true
	}
	before := cur.next
	chunk := s.hold.Read(cur.partition, cur.next, quantumEvents)
	c.reads++
	if c.fellOff(s, cur, chunk, now) {
		return true, false
	}
	if !c.accept(b, s, cur, chunk) {
		return false, false
	}
	start := b.size()
	for _, e := range clip(chunk.Events, cur.until) {
		if e.Offset < cur.next {
			continue
		}
		if b.size()-start > quantumBytes {
			return true, false
		}
		next, time := cur.next, cur.time
		frame, ok, full := c.emit(b, s, cur, e, "")
		if full || !ok {
			return ok, full
		}
		c.note(b, s, frame, next, time)
		if !chunk.Replayed && e.Accepted > b.newest {
			b.newest = e.Accepted
		}
	}
	cur.next = max(cur.next, min(chunk.To, cur.until))
	if cur.next == before {
		cur.ready = false // nothing was read, whatever it said: no reason to ask at once again
		return false, false
	}
	return true, false
}

// accept looks at a chunk's status; events are only looked at if it returns true.
func (c *conversation) accept(b *block, s *subscription, cur *cursor, chunk feed.Chunk) bool {
	switch chunk.Status {
	case feed.More:
		if chunk.Gap != nil {
			c.addGap(b, s, cur, gap{cur.partition, max(chunk.Gap.From, cur.next), min(chunk.Gap.To, cur.until), protocol.Cause(chunk.Gap.Cause)})
		}
		return true
	case feed.Reset:
		c.restart(b, s)
	case feed.Gone:
		c.flushGap(b, s)
		c.refuse(s, &protocol.Error{Code: protocol.CodeTopicGone, Message: "the topic was deleted, or may not be read any more"})
	case feed.Beyond:
		s.busy = true
		c.enqueue(s)
	case feed.AtHead, feed.Pending:
		cur.ready = false
		cur.pending = chunk.Status == feed.Pending
	}
	return false
}

// restart begins anew on another incarnation of the topic.
func (c *conversation) restart(b *block, s *subscription) {
	c.flushGap(b, s)
	gaps := s.restart(s.hold.Epoch(), s.hold.Partitions())
	c.follow(s, len(s.cursors))
	c.tellReset(b, s, "epoch")
	for _, g := range gaps {
		c.report(b, s, g)
	}
	if s.wish.Until.Kind != protocol.UntilNone {
		c.endSub(b, s) // what it wanted is in no log any more
	}
}

// emit writes one event, or what stands for it. ok=false: not now; full: not into
// this block. frame is the event's as it is on the tape, nil if it has none.
func (c *conversation) emit(b *block, s *subscription, cur *cursor, e *feed.Event, mark string) (frame []byte, ok, full bool) {
	frame, err := c.frame(s, e)
	if err != nil {
		var poison *schemas.PoisonError
		if !errors.As(err, &poison) {
			cur.ready = false // a wake comes when the schema may be there
			return nil, false, false
		}
		c.addGap(b, s, cur, gap{cur.partition, e.Offset, e.Offset + 1, protocol.CausePoison})
		cur.next = max(cur.next, e.Offset+1)
		return nil, true, false
	}
	if b.full(len(frame) + maxFrame) {
		return nil, false, true
	}
	c.flushGap(b, s)
	b.grab()
	b.events++
	cur.next = max(cur.next, e.Offset+1)
	cur.time = e.Time
	if mark == "" {
		c.wire.event(b, s, frame)
	} else {
		c.wire.marked(b, s, frame, mark)
		b.settled++
	}
	if !s.live {
		s.replayed++
	}
	return frame, true, false
}

// note has the block remember an event that can be taken back: one with a frame
// that left as it is on the tape.
func (c *conversation) note(b *block, s *subscription, frame []byte, next, time int64) {
	if _, plain := c.wire.(textWire); !plain {
		b.settled++
	} else if frame != nil {
		b.note(frame, s, s.turn, next, time)
	}
}

// addGap reports a gap with its neighbours.
func (c *conversation) addGap(b *block, s *subscription, cur *cursor, g gap) {
	if g.from >= g.to {
		return
	}
	cur.next = max(cur.next, g.to)
	if s.gap.join(g) {
		return
	}
	c.flushGap(b, s)
	own := g
	s.gap = &own
}

func (c *conversation) flushGap(b *block, s *subscription) {
	if !s.gap.empty() {
		c.report(b, s, *s.gap)
		s.gap = nil
	}
}

// settle does what a subscription's new positions call for: the live event, the end.
func (c *conversation) settle(b *block, s *subscription) {
	if s.state != positioned || s.busy || s.snapshot != nil {
		return
	}
	if !s.live && s.reachedLive() {
		s.live = true
		c.metrics.replaying.Dec()
		if s.announce {
			c.flushGap(b, s)
			c.put(b, s, "live", protocol.Live{Event: "live", Label: s.name(), At: s.positions(), Replayed: s.replayed})
		}
	}
	if s.ended() {
		c.endSub(b, s)
	}
}

func (c *conversation) endSub(b *block, s *subscription) {
	c.flushGap(b, s)
	c.put(b, s, "end", protocol.End{Event: "end", Label: s.name(), At: s.positions(), Cursor: s.cursor().String()})
	c.drop(s)
}

// watchLag looks how long a live subscription has not been at the head.
func (c *conversation) watchLag(s *subscription, now time.Time) {
	if !s.live || s.state != positioned || s.caughtUp() {
		s.behind = 0
		c.lagging(s, false)
		return
	}
	if s.behind == 0 {
		s.behind = momentOf(now)
	}
	lag := momentOf(now).sub(s.behind)
	c.lagging(s, lag > lagShown)
	if c.maxLag > 0 && lag > c.maxLag {
		c.slow = true
	}
}

// lagShown is the lag from which a subscription counts as lagging.
const lagShown = time.Second

func (c *conversation) lagging(s *subscription, is bool) {
	if s.lagging == is {
		return
	}
	s.lagging = is
	if is {
		c.metrics.lagging.Inc()
	} else {
		c.metrics.lagging.Dec()
	}
}

// caughtUp tells whether every partition was read up to the tape's head.
func (s *subscription) caughtUp() bool {
	if s.wish.Mode == protocol.ModeLatest {
		return true // it skips what it cannot take
	}
	for i := range s.cursors {
		if s.cursors[i].ready || s.cursors[i].pending || s.cursors[i].skips() {
			return false
		}
	}
	return true
}

// deadline is when the conversation has something to do without being woken.
func (c *conversation) deadline() time.Time {
	at := c.beatAt
	for _, s := range c.subs {
		if s.wish.Mode != protocol.ModeLatest || s.busy || s.state != positioned {
			continue
		}
		for i := range s.cursors {
			if s.cursors[i].ready && (at == 0 || s.cursors[i].flushAt < at) {
				at = s.cursors[i].flushAt
			}
		}
	}
	return at.time()
}
