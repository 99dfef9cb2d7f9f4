package client

import "maps"

// Violation is a breach of the feed's promise that the client noticed.
type Violation struct {
	Kind      string // one of the Broken constants
	Topic     string
	Partition int32
	Offset    int64 // of the offending frame
	Next      int64 // what the client held
}

// What can be broken.
const (
	BrokenOrder    = "order"    // an event below the position: doubled, or out of order. It was kept back
	BrokenCoverage = "coverage" // coverage went back behind what was already had
	BrokenGap      = "gap"      // a gap over what was already had, or of no length
	BrokenHole     = "hole"     // a resumption beyond the position that was asked for: events are missing
	BrokenEpoch    = "epoch"    // another history without a reset
	BrokenForeign  = "foreign"  // an event that nobody asked for. It was kept back
)

// tracker is the client's side of the promise for one subscription: where it
// stands, and whether each frame fits. It does no I/O.
type tracker struct {
	topic    string
	snapshot bool // mode snapshot: no position before live
	epoch    string
	next     map[int32]int64 // nil = no position yet
	skipped  map[int32]span  // the last slow gap: its newest values may follow
	broken   func(Violation)
}

type span struct{ from, to int64 }

func (t *tracker) bad(kind string, p int32, offset int64) {
	t.broken(Violation{Kind: kind, Topic: t.topic, Partition: p, Offset: offset, Next: t.next[p]})
}

// data judges an event; false = it must be kept back.
func (t *tracker) data(p int32, offset int64, h *header) bool {
	switch {
	case h.snapshot:
		if t.next != nil {
			t.bad(BrokenOrder, p, offset)
			return false
		}
		return true
	case h.latest:
		s := t.skipped[p]
		if offset < s.from || offset >= s.to {
			t.bad(BrokenOrder, p, offset)
			return false
		}
		t.skipped[p] = span{offset + 1, s.to}
		return true
	case t.next == nil || offset < t.next[p]:
		t.bad(BrokenOrder, p, offset)
		return false
	}
	t.next[p] = offset + 1
	return true
}

// gap takes a stretch that is missing. One of cause epoch speaks of the old
// history, and moves nothing.
func (t *tracker) gap(p int32, from, to int64, cause string) {
	if cause == "epoch" || t.next == nil {
		return
	}
	if from < t.next[p] || to <= from {
		t.bad(BrokenGap, p, from)
	}
	if cause == "slow" {
		if t.skipped == nil {
			t.skipped = map[int32]span{}
		}
		t.skipped[p] = span{from, to}
	}
	t.advance(p, to)
}

func (t *tracker) advance(p int32, next int64) {
	if t.next != nil && next > t.next[p] {
		t.next[p] = next
	}
}

// covered takes a heartbeat's watermark.
func (t *tracker) covered(at offsets) {
	if t.next == nil {
		return
	}
	for p, o := range at {
		if o < t.next[p] {
			t.bad(BrokenCoverage, p, o)
		}
		t.advance(p, o)
	}
}

// passed takes the positions of live and end: every partition has got there.
func (t *tracker) passed(at offsets) {
	if t.next == nil && len(at) > 0 {
		t.next = make(map[int32]int64, len(at)) // a snapshot is complete
	}
	for p, o := range at {
		t.advance(p, o)
	}
}

// reset takes a new beginning.
func (t *tracker) reset(epoch string, from offsets) {
	t.epoch, t.skipped = epoch, nil
	t.next = maps.Clone(map[int32]int64(from))
	if t.next == nil {
		t.next = map[int32]int64{}
	}
}

// acked takes an acknowledgement. wanted is the position that was asked for,
// nil if none was. more: the topic has partitions that came since; they must
// be asked for from 0, which t.next now says.
func (t *tracker) acked(epoch, resume string, from, wanted map[int32]int64, until bool) (more bool) {
	changed := t.epoch != "" && epoch != t.epoch
	if changed && resume != "reset" {
		t.bad(BrokenEpoch, 0, 0)
	}
	switch {
	case t.snapshot && wanted == nil:
		t.epoch, t.next = epoch, nil
		return false
	case wanted == nil || resume == "reset" || changed:
		t.reset(epoch, from)
		return false
	}
	t.epoch = epoch
	if t.next == nil {
		t.next = maps.Clone(wanted)
	}
	for p, o := range from {
		want, known := wanted[p]
		switch {
		case known && o > want: // also where it is clamped: the gap frames begin at the wish
			t.bad(BrokenHole, p, o)
		case !known && !until && o > t.next[p]:
			t.next[p] += 0 // from its beginning, which has no event yet
			more = true
		case !known && until:
			t.advance(p, o)
		}
	}
	return more
}
