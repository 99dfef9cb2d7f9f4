package gateway

import (
	"bytes"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tapecast/tapecast/gateway/feed"
	"github.com/tapecast/tapecast/internal/protocol"
	"github.com/tapecast/tapecast/internal/sabotage"
)

// lane writes for those sessions of a shard that stand at one place of one
// topic and want nothing else. It reads the tapes once for all of them and
// writes the same bytes to each that wants all keys; those that want some get
// their part of the same frames. So a delivery costs no look at a session, and
// a write little more than the write.
//
// A session takes a seat when it is live, has passed everything on the tapes
// and has one subscription, mode "all". While it sits there, its cursors are
// the lane's: sync brings them up to date before anybody looks at them. It
// leaves when its socket does not take a whole write, when the lane meets
// anything but events (a gap, a frame that cannot be made, another incarnation
// of the topic), or when it ends; then it goes on by itself.
type lane struct {
	// static after construction
	shard *shard
	key   laneKey
	tap   tap
	hold  time.Duration

	queued atomic.Bool // it is in the shard's list of woken lanes

	// owned by the shard's loop
	at       []int64  // by partition: every member has passed everything before
	last     []passed // by partition: the last event that was passed
	whole    [wireKinds][]seat
	keyed    []*keyedSeat
	byKey    map[string][]*keyedSeat
	kinds    [wireKinds]int // members
	wholes   int            // members that want all keys
	dirty    []*keyedSeat   // those with events in the stretch
	ahead    bool           // some member is
	holdTill time.Time
	wanted   bool // it was woken while it rests
	closed   bool
}

// laneKey names what the members of a lane have in common. Hold follows from
// the topic.
type laneKey struct {
	source     any // of their holds
	partitions int
}

// passed is an event that went by.
type passed struct {
	offset int64 // -1 = none yet
	time   int64 // ms
}

// seat is a session's place in a lane.
type seat struct {
	s     *session
	raw   syscall.RawConn
	ahead bool // some cursor of it is beyond the lane's
}

// keyedSeat is that of a session that wants some keys.
type keyedSeat struct {
	seat
	kind    wireKind
	place   int      // in keyed
	cursors []cursor // the subscription's: they do not move while it sits here
	keys    [][]byte // ascending, each once
	places  []int32  // by key, in the lane's byKey
	due     []int32  // its events in the stretch
}

// keptDue is how long a list of events a member keeps between passes.
const keptDue = 512

// seated is what a session has for its lane. Owned by the shard's loop.
type seated struct {
	lane  *lane
	sub   *subscription
	loose bool       // it has its turn: its cursors are its own
	place int        // in whole, by its wire
	keyed *keyedSeat // nil = it is in whole
}

// steady returns the conversation's subscription, if a lane can serve it.
func (c *conversation) steady() *subscription {
	if len(c.subs) != 1 || len(c.replies) > 0 || c.beatNow || c.slow {
		return nil
	}
	s := c.subs[0]
	if s.state != positioned || !s.live || s.busy || s.snapshot != nil || s.wish.Mode != protocol.ModeAll || !s.gap.empty() || s.due.Load() {
		return nil
	}
	for i := range s.cursors {
		cur := &s.cursors[i]
		if cur.ready || cur.pending || cur.skips() || cur.until != noEnd || int(cur.partition) != i {
			return nil
		}
	}
	return s
}

// seat gives a session that has turned its seat, or has it keep it, if a lane
// can go on for it.
func (sh *shard) seat(s *session, now time.Time) {
	sub := s.conv.steady()
	if sub == nil || now.Before(s.alone) {
		sh.unseat(s)
		return
	}
	key := laneKey{sub.hold.Source(), len(sub.cursors)}
	l := s.lane
	if l == nil || l.key != key || s.sub != sub {
		sh.unseat(s)
		if key.source == nil || key.partitions == 0 {
			return
		}
		if l = sh.lanes[key]; l == nil {
			l = sh.openLane(key, sub)
		}
	}
	ahead := false
	for p := range l.at {
		if sub.cursors[p].next < l.at[p] {
			sh.unseat(s)
			return
		}
		ahead = ahead || sub.cursors[p].next > l.at[p]
	}
	ahead = ahead && !sabotage.Is(sabotage.LaneAhead)
	sub.hold.Park()
	l.ahead = l.ahead || ahead
	s.loose = false
	switch {
	case s.lane == nil:
		l.sit(s, sub, ahead)
	case s.keyed != nil:
		s.keyed.ahead = ahead
	default:
		l.whole[kindOf(s.conv.wire)][s.place].ahead = ahead
	}
}

func (sh *shard) openLane(key laneKey, sub *subscription) *lane {
	l := &lane{shard: sh, key: key, hold: sub.gather}
	for i := range sub.cursors {
		l.at = append(l.at, sub.cursors[i].next)
		l.last = append(l.last, passed{offset: -1})
	}
	l.tap = sub.hold.Tap(func() { sh.wakeLane(l) })
	sh.lanes[key] = l
	sh.wakeLane(l) // it has not looked yet
	return l
}

// sit gives a session a seat.
func (l *lane) sit(s *session, sub *subscription, ahead bool) {
	k := kindOf(s.conv.wire)
	l.kinds[k]++
	s.lane, s.sub = l, sub
	at := seat{s: s, raw: s.socket.raw, ahead: ahead}
	if sub.wish.Keys == nil {
		s.place = len(l.whole[k])
		l.whole[k] = append(l.whole[k], at)
		l.wholes++
		return
	}
	m := &keyedSeat{seat: at, kind: k, place: len(l.keyed), cursors: sub.cursors, keys: sub.wish.Keys}
	s.keyed = m
	l.keyed = append(l.keyed, m)
	if l.byKey == nil {
		l.byKey = map[string][]*keyedSeat{}
	}
	m.places = make([]int32, len(m.keys))
	for i, key := range m.keys {
		list := l.byKey[string(key)]
		m.places[i] = int32(len(list)) //nolint:gosec // members of one shard
		l.byKey[string(key)] = append(list, m)
	}
}

// unseat has a session go on by itself, from where it stands. It looks soon:
// nobody wakes its hold until it has.
func (sh *shard) unseat(s *session) {
	l := s.lane
	if l == nil {
		return
	}
	l.sync(s)
	if !sabotage.Is(sabotage.LaneParted) {
		s.sub.wakeAll()
	}
	l.leave(s)
	sh.wake(s)
}

// leave takes a session's seat away.
func (l *lane) leave(s *session) {
	k := kindOf(s.conv.wire)
	l.kinds[k]--
	if m := s.keyed; m != nil {
		last := len(l.keyed) - 1
		l.keyed[m.place] = l.keyed[last]
		l.keyed[m.place].place = m.place
		l.keyed[last] = nil
		l.keyed = l.keyed[:last]
		for i := range m.keys {
			l.forget(m, i)
		}
	} else {
		seats := l.whole[k]
		last := len(seats) - 1
		seats[s.place] = seats[last]
		seats[s.place].s.place = s.place
		seats[last] = seat{}
		l.whole[k] = seats[:last]
		l.wholes--
	}
	s.seated = seated{}
	if l.wholes+len(l.keyed) == 0 && !l.closed {
		l.closed = true
		l.tap.Close()
		delete(l.shard.lanes, l.key)
	}
}

// forget takes a member out of the list of its i-th key. Whoever is last there
// gets its place.
func (l *lane) forget(m *keyedSeat, i int) {
	key := m.keys[i]
	list := l.byKey[string(key)]
	last := len(list) - 1
	moved := list[last]
	list[m.places[i]] = moved
	moved.places[moved.keyAt(key, i)] = m.places[i]
	list[last] = nil
	if last == 0 {
		delete(l.byKey, string(key))
	} else {
		l.byKey[string(key)] = list[:last]
	}
}

// keyAt finds a key that the member wants among its keys. guess is where another
// has it: those who want the same keys have them in the same order.
func (m *keyedSeat) keyAt(key []byte, guess int) int {
	if guess < len(m.keys) && bytes.Equal(m.keys[guess], key) {
		return guess
	}
	i, _ := slices.BinarySearchFunc(m.keys, key, bytes.Compare)
	return i
}

// sync brings a member's cursors to where the lane stands. It keeps its seat.
func (l *lane) sync(s *session) {
	if s.loose || sabotage.Is(sabotage.LaneSync) {
		return
	}
	for p := range s.sub.cursors {
		l.move(s, &s.sub.cursors[p], l.at[p], l.last[p])
	}
}

// move brings a cursor forward, past an event that was sent to it if it came
// after where it stood.
func (l *lane) move(s *session, cur *cursor, to int64, last passed) {
	if s.keyed == nil && last.offset >= cur.next { // a keyed one knows its own
		cur.time = last.time
	}
	cur.next = max(cur.next, to)
	cur.onTape = true
}

// syncTo brings a member's cursors to where it has got the stretch's events
// before index n.
func (l *lane) syncTo(s *session, n int) {
	st := &l.shard.stretch
	cursors := s.sub.cursors
	from := 0
	for p := range cursors {
		to, last := l.at[p], l.last[p]
		end := st.ends[p]
		if got := min(n, end); got > from {
			e := st.events[got-1]
			to, last = e.Offset+1, passed{e.Offset, e.Time}
		}
		if n >= end {
			to = st.to[p]
		}
		l.move(s, &cursors[p], to, last)
		from = end
	}
}

// aloneFor is how long a session goes on by itself after its lane could not.
const aloneFor = time.Second

// dissolve has all members go on by themselves.
func (l *lane) dissolve(now time.Time) {
	for k := range l.whole {
		for len(l.whole[k]) > 0 {
			l.release(l.whole[k][len(l.whole[k])-1].s, now)
		}
	}
	for len(l.keyed) > 0 {
		l.release(l.keyed[len(l.keyed)-1].s, now)
	}
}

// release has a session look for itself.
func (l *lane) release(s *session, now time.Time) {
	l.shard.unseat(s)
	s.alone = now.Add(aloneFor)
}

// needs tells whether a member takes that form.
func (l *lane) needs(f feed.Form) bool {
	if f == feed.FormBinary {
		return l.kinds[binaryKind] > 0
	}
	return l.kinds[textKind]+l.kinds[batchKind] > 0
}
