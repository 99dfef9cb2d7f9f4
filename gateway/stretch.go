package gateway

import (
	"github.com/tapecast/tapecast/gateway/feed"
)

// tap reads tapes for many sessions at once, see feed.Tap.
type tap interface {
	Close()
	Arm()
	Read(buf []*feed.Event, partition int32, from int64, limit int) (evs []*feed.Event, to int64, more, ok bool)
	Frame(e *feed.Event, form feed.Form) ([]byte, error)
}

// Bounds of a stretch. Its frames are the tape's own: only pieces of at most
// scratchSize are copied.
const (
	maxStretch      = 4096      // events
	maxStretchBytes = 512 << 10 // of frames, in the form that has more of them
)

// wireKind is a form in which pieces of a stretch leave.
type wireKind uint8

const (
	textKind wireKind = iota
	binaryKind
	batchKind
	wireKinds
)

func kindOf(w wire) wireKind {
	switch w := w.(type) {
	case batchWire:
		return batchKind
	case textWire:
		if w.binary {
			return binaryKind
		}
	}
	return textKind
}

func (k wireKind) form() feed.Form {
	if k == binaryKind {
		return feed.FormBinary
	}
	return feed.FormText
}

// stretch is what has come on the tapes behind a lane's place: what its members
// get next. A shard has one, for one pass after the other.
type stretch struct {
	events []*feed.Event
	frames [2][][]byte // by form, if some member needs it: of each event that a member wants
	ends   []int       // by partition: where its events end
	to     []int64     // by partition: all before is in events, or nobody's
	size   int         // bytes of frames
	more   bool        // the tapes have more
	stuck  bool        // the next event has no frame now, or never
	buf    []byte      // of pieces
}

// release lets go of the events.
func (st *stretch) release() {
	clear(st.events)
	st.events = st.events[:0]
	for f := range st.frames {
		clear(st.frames[f])
		st.frames[f] = st.frames[f][:0]
	}
	st.ends, st.to = st.ends[:0], st.to[:0]
	st.size, st.more, st.stuck = 0, false, false
}

// read reads on from a lane's place, and tells the keyed members which events
// are theirs. False: the tapes do not say what is there.
func (st *stretch) read(l *lane) bool {
	l.tap.Arm()
	for p := range l.at {
		if st.stuck {
			st.ends, st.to = append(st.ends, len(st.events)), append(st.to, l.at[p])
			continue
		}
		// What is left of the bounds is shared among the partitions that are left.
		left := len(l.at) - p
		from := len(st.events)
		events, to, more, ok := l.tap.Read(st.events, int32(p), l.at[p], max(1, (maxStretch-from)/left)) //nolint:gosec // a partition's id
		st.events = events
		if !ok {
			return false
		}
		if n := st.take(l, p, from, st.size+(maxStretchBytes-st.size)/left); n < len(events) {
			to, more = events[n].Offset, true
			clear(events[n:])
			st.events = events[:n]
		}
		st.ends, st.to = append(st.ends, len(st.events)), append(st.to, to)
		st.more = st.more || more
	}
	return true
}

// take gets the frames of a partition's events, from index from on, up to
// about a size. It returns how many events it took.
func (st *stretch) take(l *lane, p, from, size int) int {
	for i := from; i < len(st.events); i++ {
		e := st.events[i]
		var takers []*keyedSeat
		if e.Key != nil {
			takers = l.byKey[string(e.Key)]
		}
		wanted := len(takers) > 0 || l.wholes > 0
		if wanted && st.size > size && i > from {
			return i
		}
		if !st.frame(l, e, wanted) {
			st.stuck = true
			return i
		}
		for _, m := range takers {
			l.pick(m, p, i, e.Offset)
		}
	}
	return len(st.events)
}

// frame adds an event's frame in each form that is needed.
func (st *stretch) frame(l *lane, e *feed.Event, wanted bool) bool {
	most := 0
	var got [2][]byte
	for f := range got {
		if !wanted || !l.needs(feed.Form(f)) { //nolint:gosec // 0 or 1
			continue
		}
		b, err := l.tap.Frame(e, feed.Form(f)) //nolint:gosec // 0 or 1
		if err != nil {
			return false
		}
		got[f], most = b, max(most, len(b))
	}
	for f := range got {
		st.frames[f] = append(st.frames[f], got[f])
	}
	st.size += most
	return true
}

// picks are the events of a stretch that a member gets: those listed, or all
// of [from, to).
type picks struct {
	due      []int32
	from, to int
}

func (p picks) n() int {
	if p.due != nil {
		return len(p.due)
	}
	return p.to - p.from
}

func (p picks) at(i int) int {
	if p.due != nil {
		return int(p.due[i])
	}
	return p.from + i
}

// piece puts the frames of picks, of which there is one at least, into b, as
// many as one write takes, and returns how many it took. An event's age is that
// of the last: looking at each would cost more than its copy.
func (st *stretch) piece(b *block, k wireKind, p picks) (n int) {
	*b = block{buf: st.buf[:0]}
	frames := st.frames[k.form()]
	for count := p.n(); n < count; n++ {
		f := frames[p.at(n)]
		if b.full(len(f) + maxFrame) {
			break
		}
		switch {
		case k == batchKind:
			batchWire{}.event(b, nil, f)
		case len(f) > scratchSize:
			b.tail = f
		default:
			b.buf = append(b.buf, f...)
		}
	}
	b.events, b.newest = n, st.events[p.at(n-1)].Accepted
	batchWire{}.finish(b)
	if cap(b.buf) <= 2*scratchSize {
		st.buf = b.buf[:0]
	}
	return n
}

// rest returns what a socket that took sent bytes of a piece must still get:
// the rest of the frame that was cut, or the next frame, so that somebody can
// wait for room. events is how many of the picks are then sent.
func (st *stretch) rest(b *block, k wireKind, p picks, sent int) (rest []byte, events int) {
	frames := st.frames[k.form()]
	if k == batchKind {
		if sent > 0 {
			return append([]byte(nil), b.buf[b.head+sent:]...), p.n()
		}
		var one block
		batchWire{}.event(&one, nil, frames[p.at(0)])
		batchWire{}.finish(&one)
		return one.buf[one.head:], 1
	}
	for i := range p.n() {
		f := frames[p.at(i)]
		if sent < len(f) {
			return f[sent:], i + 1
		}
		sent -= len(f)
	}
	return nil, p.n()
}

// partition tells which partition an event is of.
func (st *stretch) partition(i int) int {
	p := 0
	for st.ends[p] <= i {
		p++
	}
	return p
}
