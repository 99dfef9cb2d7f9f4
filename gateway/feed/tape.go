package feed

import (
	"math"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tapecast/tapecast/internal/stream"
)

// tape holds the latest events of one partition, and gap entries: complete in
// [start, head) for every interest from its X on. One loop writes it, any
// number of cursors read it; nobody holds the lock for long.
type tape struct {
	// static after construction
	budget *budget
	src    *source

	oldest atomic.Int64 // stamp of the first event, for the budget; MaxInt64 = empty

	mu    sync.RWMutex
	open  bool // guarded by mu: start and head mean something
	start int64
	head  int64
	seq   int64 // of the next event
	all   ring
	byKey map[string]*ring
	gaps  []span // ascending, within [start, head)
}

// span is a stretch of offsets, to exclusive.
type span struct{ from, to int64 }

func newTape(b *budget, src *source) *tape {
	t := &tape{budget: b, src: src, byKey: map[string]*ring{}}
	t.oldest.Store(math.MaxInt64)
	b.add(t)
	return t
}

// restart empties the tape: it begins at offset at.
func (t *tape) restart(at int64) {
	t.drop()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open, t.start, t.head = true, at, at
}

// drop empties the tape and closes it.
func (t *tape) drop() {
	t.mu.Lock()
	old := t.all
	t.all, t.byKey, t.gaps = ring{}, map[string]*ring{}, nil
	t.open, t.start, t.head = false, 0, 0
	t.oldest.Store(math.MaxInt64)
	t.mu.Unlock()
	for i := range old.n {
		old.at(i).release()
	}
	t.budget.events.Add(int64(-old.n))
}

// append puts records behind the head, which moves to to. With own the records
// are copied. stamp must not decrease.
func (t *tape) append(recs []stream.Record, to, stamp int64, own bool) []Event {
	evs := makeEvents(t.src, &t.budget.used, recs, stamp, own)
	t.mu.Lock()
	for i := range evs {
		t.push(&evs[i])
	}
	t.head = max(t.head, to)
	if t.all.n > 0 {
		t.oldest.Store(t.all.at(0).stamp)
	}
	t.mu.Unlock()
	t.budget.events.Add(int64(len(evs)))
	t.budget.enforce()
	return evs
}

func (t *tape) push(e *Event) {
	e.seq = t.seq
	t.seq++
	t.all.push(e)
	if e.Key == nil {
		return
	}
	r := t.byKey[string(e.Key)]
	if r == nil {
		r = &ring{}
		t.byKey[string(e.Key)] = r
	}
	r.push(e)
}

// gap puts a gap entry behind the head.
func (t *tape) gap(from, to int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.gaps); n > 0 && t.gaps[n-1].to == from {
		t.gaps[n-1].to = to
	} else {
		t.gaps = append(t.gaps, span{from, to})
	}
	t.head = max(t.head, to)
}

// evictStep bounds how long an eviction holds the lock.
const evictStep = 1024

// evict takes about want bytes off the tape's beginning, as long as its first
// event is not newer than until, but always at least one event.
func (t *tape) evict(want, until int64) (freed int64) {
	out := make([]*Event, 0, evictStep)
	t.mu.Lock()
	for t.all.n > 0 && len(out) < evictStep && (len(out) == 0 || freed < want && t.all.at(0).stamp <= until) {
		e := t.all.pop()
		t.unindex(e)
		t.start = e.Offset + 1
		freed += e.size()
		out = append(out, e)
	}
	for len(t.gaps) > 0 && t.gaps[0].to <= t.start {
		t.gaps = t.gaps[1:]
	}
	if t.all.n > 0 {
		t.oldest.Store(t.all.at(0).stamp)
	} else {
		t.oldest.Store(math.MaxInt64)
	}
	t.mu.Unlock()
	freed = 0
	for _, e := range out {
		freed += e.release()
	}
	t.budget.events.Add(int64(-len(out)))
	return freed
}

func (t *tape) unindex(e *Event) {
	if e.Key == nil {
		return
	}
	r := t.byKey[string(e.Key)]
	if r.pop(); r.n == 0 {
		delete(t.byKey, string(e.Key))
	}
}

// bounds tells what the tape spans.
func (t *tape) bounds() (start, head int64, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.start, t.head, t.open
}

// reading is what a tape has for a cursor.
type reading struct {
	below bool     // the tape begins after the cursor, or there is none
	ahead bool     // the cursor is beyond the head
	to    int64    // all of [cursor, to) is in events, or is the gap
	gap   bool     // [cursor, to) is missing
	evs   []*Event // appended to the buffer given
}

// read gives the events of [cursor, to) that the filter matches, about limit
// at most, or the gap entry in which the cursor stands.
func (t *tape) read(buf []*Event, cursor int64, f *filter, limit int) reading {
	t.mu.RLock()
	defer t.mu.RUnlock()
	switch {
	case !t.open || cursor < t.start:
		return reading{below: true}
	case cursor >= t.head:
		return reading{ahead: cursor > t.head, to: cursor}
	}
	to := t.head
	if i := slices.IndexFunc(t.gaps, func(g span) bool { return g.to > cursor }); i >= 0 {
		if g := t.gaps[i]; g.from <= cursor {
			return reading{to: g.to, gap: true}
		}
		to = min(to, t.gaps[i].from)
	}
	first, end := t.all.search(cursor), t.all.search(to)
	switch {
	case first == end:
		return reading{to: to}
	case f.all || end-first <= scanFactor*len(f.keys):
		return t.scan(buf, first, end, to, f, limit)
	}
	if end-first > maxMarked {
		if len(f.keys) < manyKeys {
			return t.lookup(buf, cursor, to, f, limit)
		}
		end = first + maxMarked
		to = t.all.at(end).Offset
	}
	return t.lookupNear(buf, cursor, first, end, to, f, limit)
}

const (
	// maxMarked is how many events lookupNear looks over at most.
	maxMarked = 4096
	// manyKeys is from how many keys on a cursor that is far behind goes on in
	// such stretches: collecting a chunk's worth of each key, to keep one chunk
	// of all, would make those slowest that are behind.
	manyKeys = 4
)

// lookupNear asks the index for each key, from the newest event back, and
// marks what it finds: the marks are in order, so that nothing is sorted.
func (t *tape) lookupNear(buf []*Event, cursor int64, first, end int, to int64, f *filter, limit int) reading {
	var marks [maxMarked / 64]uint64
	base := t.all.at(first).seq
	for _, k := range f.keys {
		r := t.byKey[k]
		if r == nil {
			continue
		}
		for i := r.search(to) - 1; i >= 0; i-- {
			e := r.at(i)
			if e.Offset < cursor {
				break
			}
			n := uint64(e.seq - base) //nolint:gosec // below maxMarked: it is within [first, end)
			marks[n/64] |= 1 << (n % 64)
		}
	}
	for w, m := range marks[:(end-first+63)/64] {
		for ; m != 0; m &= m - 1 {
			if len(buf) >= limit {
				return reading{to: buf[len(buf)-1].Offset + 1, evs: buf}
			}
			buf = append(buf, t.all.at(first+64*w+bits.TrailingZeros64(m)))
		}
	}
	return reading{to: to, evs: buf}
}

// scan looks at every event.
func (t *tape) scan(buf []*Event, first, end int, to int64, f *filter, limit int) reading {
	for i := first; i < end; i++ {
		e := t.all.at(i)
		if !f.match(e) {
			continue
		}
		if buf = append(buf, e); len(buf) >= limit && i+1 < end {
			return reading{to: e.Offset + 1, evs: buf}
		}
	}
	return reading{to: to, evs: buf}
}

// lookup asks the index for each key and merges.
func (t *tape) lookup(buf []*Event, cursor, to int64, f *filter, limit int) reading {
	full := false
	for _, k := range f.keys {
		r := t.byKey[k]
		if r == nil {
			continue
		}
		taken := 0
		for i := r.search(cursor); i < r.n; i++ {
			e := r.at(i)
			if e.Offset >= to {
				break
			}
			if taken == limit {
				full = true
				break
			}
			buf = append(buf, e)
			taken++
		}
	}
	if len(f.keys) > 1 {
		slices.SortFunc(buf, byOffset)
	}
	if len(buf) > limit {
		full = true
		clear(buf[limit:])
		buf = buf[:limit]
	}
	if full {
		to = buf[len(buf)-1].Offset + 1
	}
	return reading{to: to, evs: buf}
}
