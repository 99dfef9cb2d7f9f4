package gateway

import (
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tapecast/tapecast/gateway/feed"
	"github.com/tapecast/tapecast/internal/protocol"
	"github.com/tapecast/tapecast/internal/stream"
)

// state of a subscription: requested -> positioned -> closed.
type state uint8

const (
	requested  state = iota // where it begins is being found out
	positioned              // it has cursors and is read for
	closed
)

// noEnd is the until of a subscription without one.
const noEnd = math.MaxInt64

// subscription is one session's wish for one topic. It is owned by its
// session's loop, but for due (set by the feed), and for hold while busy and
// not asked (it then belongs to a task).
type subscription struct {
	// static after construction
	id     protocol.ID
	topic  string
	wish   *protocol.Subscribe // may be shared
	gather time.Duration       // its events wait that long after a write
	sum    uint32              // protocol.CursorTopic(topic)

	due      atomic.Bool // a Read may give more than the last one did
	busy     bool        // it is being looked up; hold then belongs to a task,
	asked    bool        // ... or, while asked, is still the loop's: the answer comes without a task
	state    state
	live     bool // it has reached the live edge once
	announce bool // a live event is owed
	lagging  bool // as counted
	hold     hold
	cancel   context.CancelFunc // ends the task; nil before the first

	epoch    stream.TopicID
	cursors  []cursor  // ascending partitions
	turn     int       // the partition served next
	replayed int64     // events sent before it was live
	skipped  int64     // mode latest: events that newer ones replaced
	parts    int       // cursors, as counted
	behind   moment    // since when it has not been at the head; 0 = it is
	gap      *gap      // reported by the next frame; neighbours merge; nil = none
	snapshot *snapshot // being sent
}

// cursor is where a subscription stands in one partition.
type cursor struct {
	partition int32
	ready     bool        // a Read is worth it
	pending   bool        // the last Read waits for Kafka
	onTape    bool        // it was served from the tape once
	from      int64       // where it began
	next      int64       // covered: everything before was sent, did not match, or was reported
	live      int64       // the live edge at the ack
	until     int64       // first offset that is not wanted
	time      int64       // ms of the last event sent; 0 = none
	fresh     *conflation // what newest values are gathered in; nil = nothing yet
	flushAt   moment      // mode latest: not before then
}

// skips tells whether it is on its way to the newest values.
func (c *cursor) skips() bool { return c.fresh != nil && c.fresh.active }

// gap is a stretch to report.
type gap struct {
	partition int32
	from, to  int64
	cause     protocol.Cause
}

func (g *gap) empty() bool { return g == nil || g.cause == "" }

// join extends g by a gap that follows it directly.
func (g *gap) join(o gap) bool {
	if g.empty() || g.partition != o.partition || g.cause != o.cause || g.to != o.from || g.cause == protocol.CauseEpoch {
		return false
	}
	g.to = o.to
	return true
}

// level1 tells whether the client wants control frames.
func (s *subscription) level1() bool { return s.wish.Level > 0 }

// told tells whether its positions may be told: it has some, and they are true.
func (s *subscription) told() bool { return s.state == positioned && s.snapshot == nil }

// position puts the subscription where it begins.
func (s *subscription) position(p placement) {
	s.state = positioned
	s.epoch = p.epoch
	s.cursors = slices.Grow(s.cursors[:0], len(p.from))
	for _, part := range protocol.Positions(p.from).Partitions() {
		c := cursor{partition: part, from: p.from[part], next: p.from[part], live: p.live[part], until: noEnd, ready: true}
		if p.until != nil {
			c.until = p.until[part]
		}
		s.cursors = append(s.cursors, c)
	}
}

// grow adds partitions that came after the ack: they begin at 0, unless the
// subscription has an end that lies before them.
func (s *subscription) grow(partitions []int32) bool {
	if len(partitions) <= len(s.cursors) {
		return false
	}
	until := int64(noEnd)
	if s.wish.Until.Kind != protocol.UntilNone {
		until = 0
	}
	for _, p := range partitions {
		if s.find(p) == nil {
			s.cursors = append(s.cursors, cursor{partition: p, until: until, ready: true})
		}
	}
	slices.SortFunc(s.cursors, func(a, b cursor) int { return int(a.partition) - int(b.partition) })
	return true
}

func (s *subscription) find(partition int32) *cursor {
	for i := range s.cursors {
		if s.cursors[i].partition == partition {
			return &s.cursors[i]
		}
	}
	return nil
}

// wakeAll makes every partition worth a Read.
func (s *subscription) wakeAll() {
	for i := range s.cursors {
		s.cursors[i].ready = true
	}
}

// restart puts every partition of the topic's new incarnation at 0, and
// returns what was cut off by that.
func (s *subscription) restart(epoch stream.TopicID, partitions []int32) []gap {
	gaps := make([]gap, 0, len(s.cursors))
	for _, c := range s.cursors {
		gaps = append(gaps, gap{c.partition, c.next, 0, protocol.CauseEpoch})
	}
	s.epoch = epoch
	s.cursors = s.cursors[:0]
	for _, p := range partitions {
		s.cursors = append(s.cursors, cursor{partition: p, until: noEnd, ready: true})
	}
	return gaps
}

// reachedLive tells whether every partition has passed the live edge of the ack.
func (s *subscription) reachedLive() bool {
	for i := range s.cursors {
		if s.cursors[i].next < s.cursors[i].live {
			return false
		}
	}
	return true
}

// ended tells whether everything that was wanted is done.
func (s *subscription) ended() bool {
	if s.wish.Until.Kind == protocol.UntilNone {
		return false
	}
	for i := range s.cursors {
		if s.cursors[i].next < s.cursors[i].until {
			return false
		}
	}
	return true
}

// positions returns the covered positions.
func (s *subscription) positions() protocol.Positions {
	out := make(protocol.Positions, len(s.cursors))
	for i := range s.cursors {
		out[s.cursors[i].partition] = s.cursors[i].next
	}
	return out
}

// cursor returns what a client keeps to resume.
func (s *subscription) cursor() protocol.Cursor {
	out := protocol.Cursor{Topic: s.sum, Epoch: s.epoch}
	for i := range s.cursors {
		c := &s.cursors[i]
		for len(out.Next) <= int(c.partition) {
			out.Next = append(out.Next, 0)
		}
		out.Next[c.partition] = c.next
		if c.time > 0 && (out.Time == 0 || c.time < out.Time) {
			out.Time = c.time
		}
	}
	return out
}

// overlaps tells whether two key sets (ascending, nil = all) share a key.
func overlaps(a, b [][]byte) bool {
	if a == nil || b == nil {
		return true
	}
	for len(a) > 0 && len(b) > 0 {
		switch c := slices.Compare(a[0], b[0]); {
		case c == 0:
			return true
		case c < 0:
			a = a[1:]
		default:
			b = b[1:]
		}
	}
	return false
}

// wishes are those that many share: all keys, from now on, for ever. There are
// as many as clients name intervals; those beyond the first have their own.
var wishes struct {
	sync.RWMutex
	known map[plainWish]*protocol.Subscribe // guarded by the mutex
}

const maxWishes = 64

// plainWish is what such wishes differ in.
type plainWish struct {
	mode     protocol.Mode
	named    bool
	interval time.Duration
	onSlow   bool
	level    int
}

// shared returns a wish like w, for subscriptions, which do not change it.
func shared(w *protocol.Subscribe) *protocol.Subscribe {
	plain := plainWish{w.Mode, w.From.Named, w.Interval, w.OnSlow, w.Level}
	if w.Keys != nil || w.From.Kind != protocol.FromLive || w.Until.Kind != protocol.UntilNone {
		own := *w
		return &own
	}
	wishes.RLock()
	known, ok := wishes.known[plain], len(wishes.known) < maxWishes
	wishes.RUnlock()
	if known != nil {
		return known
	}
	known = &protocol.Subscribe{Mode: w.Mode, Interval: w.Interval, OnSlow: w.OnSlow, Level: w.Level, From: protocol.From{Kind: protocol.FromLive, Named: w.From.Named}}
	if ok {
		wishes.Lock()
		defer wishes.Unlock()
		if wishes.known == nil {
			wishes.known = map[plainWish]*protocol.Subscribe{}
		}
		wishes.known[plain] = known
	}
	return known
}

// same tells whether two wishes without id are one and the same.
func same(a, b *protocol.Subscribe) bool {
	if a.Mode != b.Mode || a.Interval != b.Interval || a.OnSlow != b.OnSlow || (a.Keys == nil) != (b.Keys == nil) {
		return false
	}
	return slices.EqualFunc(a.Keys, b.Keys, slices.Equal[[]byte]) &&
		a.From.Kind == protocol.FromLive && b.From.Kind == protocol.FromLive &&
		a.Until.Kind == protocol.UntilNone && b.Until.Kind == protocol.UntilNone
}

// clip cuts a chunk's events at the first offset that is not wanted.
func clip(events []*feed.Event, until int64) []*feed.Event {
	for n := len(events); n > 0; n-- {
		if events[n-1].Offset < until {
			return events[:n]
		}
	}
	return nil
}
