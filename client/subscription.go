package client

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// SubscribeOptions of one subscription. The zero value is every event from now
// on. What the gateway does not take (its limits are those of docs/PROTOCOL.md)
// ends the subscription with an [*Error], code invalid.
type SubscribeOptions struct {
	Keys  []string // 1 to 10,000, of at most 4,096 bytes; nil = all keys
	From  From     // where to begin; zero = live. Not with the mode snapshot
	Until From     // where to end, with [ErrEnd]; zero = never. Live() is the end as it is when first asked

	// Mode is "all" (every event; also ""), "latest" (the newest of each key, at
	// most one in IntervalMs) or "snapshot" (the newest of each key, then every event).
	Mode       string
	IntervalMs int // mode latest: milliseconds, 50 to 60,000; 0 = 250, the gateway's default

	// Extra are further fields of the command; what is set otherwise goes first.
	// {"on_slow": "latest"} asks for the newest of each key, after a gap, instead
	// of a replay, where this client falls off the gateway's memory.
	Extra map[string]any

	Buffer   int       // bytes; 0 = as Options.Buffer says
	Overflow *Overflow // nil = as Options.Overflow says
}

// phase of a subscription at the gateway.
type phase uint8

const (
	wanted phase = iota // a command is due
	asked               // sent, not acknowledged
	acked               // events come
	parked              // taken back because its reader is away
	over                // nothing comes any more
)

// Subscription is one subscription of a Client. Next, Frames and Chan are for
// one goroutine at a time; everything else may be called from any.
type Subscription struct {
	// static after construction
	c        *Client
	topic    string
	opt      SubscribeOptions
	keys     map[string]bool // nil = all
	limit    int
	overflow Overflow
	more     chan struct{} // one slot: frames or err changed
	room     chan struct{} // one slot: the reader took some
	stop     func() bool   // forgets the context of Subscribe

	// guarded by mu
	mu       sync.Mutex
	q        queue
	err      error
	phase    phase
	wire     int64 // id of the command; 0 = none was sent
	leaving  bool  // parked, but the gateway is not told yet
	hasty    bool  // parked, but not for its reader
	dueAt    time.Time
	refusals int
	lost     time.Time     // since when the topic is unknown to the gateway
	stalled  time.Duration // held up since the buffer was half empty
	t        tracker
	ask      map[int32]int64 // position of the command under way
	until    offsets         // as the gateway took it
	known    bool            // acknowledged once
	handed   map[int32]int64 // next offset, of what Next has returned
	handedIn string          // the epoch of that
	names    map[string]string
	bad      []Violation
	badCount int
	fresh    []Violation // to be reported when mu is free
}

func newSubscription(c *Client, topic string, o SubscribeOptions) *Subscription {
	s := &Subscription{
		c: c, topic: topic, opt: o, limit: c.opt.Buffer, overflow: c.opt.Overflow,
		more: make(chan struct{}, 1), room: make(chan struct{}, 1), names: map[string]string{},
	}
	if o.Buffer > 0 {
		s.limit = o.Buffer
	}
	if o.Overflow != nil {
		s.overflow = *o.Overflow
	}
	if o.Keys != nil {
		s.keys = make(map[string]bool, len(o.Keys))
		for _, k := range o.Keys {
			s.keys[k] = true
		}
	}
	s.t = tracker{topic: topic, snapshot: o.Mode == "snapshot", broken: s.broken}
	if o.From.at != nil {
		s.t.epoch = o.From.at.Epoch
	}
	return s
}

// broken notes a violation; s.mu is held.
func (s *Subscription) broken(v Violation) {
	s.badCount++
	if len(s.bad) < 100 {
		s.bad = append(s.bad, v)
	}
	s.fresh = append(s.fresh, v)
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// renew makes the subscription due on a new connection.
func (s *Subscription) renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == asked || s.phase == acked {
		s.phase = wanted
	}
	s.dueAt = time.Time{}
}

// due tells whether a command is to be sent, and when.
func (s *Subscription) due() (bool, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.phase == wanted, s.dueAt
}

// command is the `sub` command that goes on where the subscription stands.
// id 0 = none is due.
func (s *Subscription) command() (id int64, text []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != wanted {
		return 0, nil
	}
	if s.wire == 0 {
		s.wire = s.c.nextID.Add(1)
	}
	m := map[string]any{}
	maps.Copy(m, s.opt.Extra)
	m["cmd"], m["id"], m["topic"] = "sub", s.wire, s.topic
	if s.opt.Keys != nil {
		m["keys"] = s.opt.Keys
	}
	mode, from := s.opt.Mode, s.opt.From
	s.ask = nil
	switch {
	case s.t.next != nil:
		from = At(Position{Epoch: s.t.epoch, Next: s.t.next})
		s.ask = maps.Clone(s.t.next)
		if mode == "snapshot" {
			mode = "" // the snapshot was taken; what is owed is what came after it
		}
	case from.at != nil:
		s.ask = maps.Clone(from.at.Next)
	}
	if from.wire != nil {
		m["from"] = from.wire
	}
	if s.until != nil {
		m["until"] = positionJSON(s.until, "") // "live" meant the end as it was then
	} else if s.opt.Until.wire != nil {
		m["until"] = s.opt.Until.wire
	}
	if mode != "" {
		m["mode"] = mode
	}
	if s.opt.IntervalMs > 0 {
		m["interval_ms"] = s.opt.IntervalMs
	}
	s.phase = asked
	return s.wire, mustJSON(m)
}

// data takes an event of the link's header.
func (s *Subscription) data(l *link, key, raw []byte) {
	h := &l.h
	s.mu.Lock()
	leave := s.makeRoom(l, len(raw)+len(h.data))
	if s.phase == acked && s.t.data(int32(h.partition), h.offset, h) { //nolint:gosec // scan has looked
		f := Frame{
			Kind: KindData, Raw: raw, Topic: s.topic, Partition: int32(h.partition), Offset: h.offset, Key: s.name(key), //nolint:gosec // as above
			Value: h.data, Time: h.ts, Schema: uint32(h.schema), Tombstone: h.tombstone, Snapshot: h.snapshot, Latest: h.latest, //nolint:gosec // as above
			avro: s.c.opt.DecodeAvro,
		}
		s.q.push(&f)
		leave = s.bound(leave)
	}
	s.unlock(l, leave)
}

// maxNames bounds the keys whose strings are shared between frames.
const maxNames = 4096

func (s *Subscription) name(key []byte) string {
	if len(key) == 0 {
		return ""
	}
	if n, ok := s.names[string(key)]; ok {
		return n
	}
	if len(s.names) >= maxNames {
		clear(s.names)
	}
	n := string(key)
	s.names[n] = n
	return n
}

// unlock frees mu, then does what must not be done under it: wakes the reader,
// reports violations, takes the subscription back at the gateway if leave is an id.
func (s *Subscription) unlock(l *link, leave int64) {
	fresh, failed := s.fresh, s.err != nil && leave != 0
	s.fresh = nil
	s.mu.Unlock()
	signal(s.more)
	if len(fresh) > 0 {
		s.c.report(fresh)
	}
	if leave != 0 {
		l.leave(leave, s.topic)
		s.taken()
	}
	if failed {
		s.c.remove(s)
	}
}

// taken notes that the gateway is going to be told that a parked subscription
// is taken back: from now on it may be asked for again, after that.
func (s *Subscription) taken() {
	s.mu.Lock()
	s.leaving = false
	due := s.resume()
	s.mu.Unlock()
	if due {
		s.c.kick()
	}
}

// resume makes a parked subscription due if its reader has read enough; s.mu is held.
func (s *Subscription) resume() bool {
	if s.phase != parked || s.leaving || s.q.bytes > s.limit/2 && !s.hasty {
		return false
	}
	s.phase, s.hasty, s.stalled = wanted, false, 0
	return true
}

// makeRoom waits until n bytes more may be taken, parks the subscription, or
// fails it, as its policy says; s.mu is held, and let go while it waits. leave
// is the id to take back at the gateway, 0 = none.
func (s *Subscription) makeRoom(l *link, n int) (leave int64) {
	switch {
	case s.phase != acked || s.q.len() == 0 || s.q.bytes+n <= s.limit || s.overflow == DropOldest:
		return 0
	case s.overflow == Fail:
		return s.overfull()
	case s.t.next == nil: // a snapshot under way cannot be taken up in the middle
		if s.q.bytes+n <= maxSnapshot {
			return 0
		}
		return s.overfull()
	}
	for s.phase == acked && s.q.bytes+n > s.limit && s.q.len() > 0 {
		patience := s.c.opt.Stall
		if s.c.active.Load() > 1 {
			patience -= s.stalled // others wait as well: it counts together
		}
		if patience <= 0 || l.ctx.Err() != nil {
			return s.park()
		}
		begun := time.Now()
		t := time.NewTimer(patience)
		s.mu.Unlock()
		late := false
		select {
		case <-s.room:
		case <-l.ctx.Done():
		case <-t.C:
			late = true
		}
		t.Stop()
		s.mu.Lock()
		s.stalled += time.Since(begun)
		if late && s.phase == acked {
			return s.park()
		}
	}
	return 0
}

// park takes the subscription back until its reader has read; s.mu is held.
func (s *Subscription) park() (leave int64) {
	leave, s.wire, s.phase, s.leaving = s.wire, 0, parked, true
	return leave
}

// overfull ends the subscription; s.mu is held.
func (s *Subscription) overfull() (leave int64) {
	if s.err == nil {
		s.err = ErrOverflow
	}
	s.phase = over
	return s.wire
}

// bound keeps the buffer in its limit after something was put in; s.mu is held.
func (s *Subscription) bound(leave int64) int64 {
	if s.overflow == DropOldest && s.q.bytes > s.limit && !s.q.drop(s.limit) {
		return s.overfull()
	}
	return leave
}

// control takes a control frame.
func (s *Subscription) control(l *link, kind Kind, w *control, raw []byte) {
	f := Frame{Kind: kind, Raw: raw, Topic: s.topic, Partition: w.Partition}
	s.mu.Lock()
	ready := s.phase == acked || kind == KindSubscribed && s.phase == asked
	var leave int64
	if ready && kind == KindGap {
		leave = s.makeRoom(l, len(raw))
		ready = s.phase == acked
	}
	if !ready {
		s.unlock(l, leave)
		return
	}
	switch kind {
	case KindSubscribed:
		if s.subscribed(&f, w) {
			leave, s.hasty = s.park(), true // asked for again at once, with the new partitions
			s.unlock(l, leave)
			return
		}
	case KindGap:
		f.GapFrom = w.offset()
		f.GapTo, f.Cause = w.To, w.Cause
		s.t.gap(w.Partition, f.GapFrom, f.GapTo, f.Cause)
	case KindReset:
		f.Epoch, f.Cause, f.From = w.Epoch, w.Cause, w.from()
		s.t.reset(w.Epoch, w.from())
	case KindHeartbeat:
		f.LiveAt = w.At
		s.t.covered(w.At)
	default: // live, end
		f.LiveAt = w.At
		s.t.passed(w.At)
	}
	s.enqueue(&f)
	leave = s.bound(leave)
	if s.overflow == Block && s.q.bytes > 2*s.limit && s.t.next != nil && s.phase == acked {
		leave = s.park() // control frames alone have filled it
	}
	if kind == KindEnd {
		s.phase = over
		s.err = ErrEnd
	}
	s.unlock(l, leave)
	if kind == KindEnd {
		s.c.remove(s)
	}
}

// enqueue puts a control frame into the buffer. Of heartbeats in a row the
// newest is enough.
func (s *Subscription) enqueue(f *Frame) {
	if last := s.q.last(); f.Kind == KindHeartbeat && last != nil && last.Kind == KindHeartbeat {
		s.q.bytes += size(f) - size(last)
		*last = *f
		return
	}
	s.q.push(f)
}

// subscribed takes an acknowledgement; true = it must be asked for again.
func (s *Subscription) subscribed(f *Frame, w *control) bool {
	f.From, f.LiveAt, f.Epoch, f.Resume = w.from(), w.Live, w.Epoch, w.Resume
	if s.t.acked(w.Epoch, w.Resume, f.From, s.ask, s.opt.Until.wire != nil) {
		return true
	}
	s.phase, s.known, s.refusals, s.lost = acked, true, 0, time.Time{}
	if w.Until != nil {
		s.until = w.Until
	}
	return false
}

// again has a refused subscription asked for later; false = the refusal stands.
func (s *Subscription) again(e *Error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	starting := false
	if s.known && e.Code == "unknown_topic" {
		// A gateway that has just started may not have found the topic yet.
		if s.lost.IsZero() {
			s.lost = time.Now()
		}
		starting = time.Since(s.lost) < gone
	}
	if s.phase != asked || !e.Retry && !starting {
		return false
	}
	s.phase = wanted
	s.dueAt = time.Now().Add(max(s.c.backoff(s.refusals*len(s.c.opt.URLs)), time.Millisecond))
	s.refusals++
	return true
}

func (s *Subscription) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.phase = over
	signal(s.more)
	signal(s.room)
}

// Close ends the subscription: it is taken back at the gateway, and Next
// returns ErrClosed after what is buffered.
func (s *Subscription) Close() {
	s.mu.Lock()
	id := s.wire
	s.mu.Unlock()
	s.c.mu.Lock()
	removed, l := s.c.removeLocked(s), s.c.link
	s.c.mu.Unlock()
	if removed && l != nil && id != 0 {
		l.leave(id, s.topic)
	}
	s.fail(ErrClosed)
}

// Violations returns how often the feed broke its promise, and the first hundred.
func (s *Subscription) Violations() (int, []Violation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.badCount, slices.Clone(s.bad)
}
