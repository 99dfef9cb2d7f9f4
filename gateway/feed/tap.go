package feed

import "sync/atomic"

// Tap reads the tapes of one incarnation of a topic for many subs at once: all
// events, whatever the subs want, and only what is on the tapes. It holds no
// interests: those of the subs keep the tapes going. Its methods are called by
// one goroutine, wake from any.
type Tap struct {
	// static after construction
	inst *instance
	wake func()

	place int         // guarded by the topic's subIndex
	armed atomic.Bool // a wake is due when a tape moves
}

// Tap opens a tap on the incarnation of the topic that the sub reads. wake is
// called as that of Open is, once after each Arm, when there may be more.
func (s *Sub) Tap(wake func()) *Tap {
	t := &Tap{inst: s.inst.Load(), wake: wake}
	s.topic.subs.tap(t)
	return t
}

// Source is equal for all subs that read the same tapes.
func (s *Sub) Source() any { return s.inst.Load() }

// Park ends wakes for what is on the tapes until the next Read: somebody else
// reads for this sub. Wakes for anything else (another incarnation of the
// topic, new partitions, a schema that was fetched) still come.
func (s *Sub) Park() {
	s.disarm()
	s.pending.Store(false)
}

// Close ends the wakes. It may be called once.
func (t *Tap) Close() { t.inst.topic.subs.untap(t) }

// Arm asks for a wake when there is more than the reads that follow find.
func (t *Tap) Arm() { t.armed.Store(true) }

func (t *Tap) disarm() bool { return t.armed.Load() && t.armed.Swap(false) }

// wholeTopic matches every event.
var wholeTopic = &filter{all: true}

// Read appends the events of [from, to) of a partition to buf, about limit at
// most. more: the tape goes on behind to. ok=false: the tape does not say what
// is there (it begins later, has a gap, or is another topic's now), and every
// sub has to read for itself.
func (t *Tap) Read(buf []*Event, partition int32, from int64, limit int) (evs []*Event, to int64, more, ok bool) {
	p := t.inst.part(partition)
	if p == nil || t.inst.replaced.Load() || t.inst.topic.gone.Load() {
		return buf, from, false, false
	}
	r := p.tape.read(buf, from, wholeTopic, len(buf)+limit)
	switch {
	case r.below || r.gap:
		return buf, from, false, false
	case r.ahead: // it will get there, if the log does
		return buf, from, false, p.end.Load() >= from
	case r.evs == nil:
		r.evs = buf
	}
	_, head, _ := p.tape.bounds()
	return r.evs, r.to, head > r.to, true
}

// Frame is Event.Frame.
func (t *Tap) Frame(e *Event, form Form) ([]byte, error) { return e.Frame(form) }
