package gateway

import (
	"cmp"
	"slices"

	"github.com/tapecast/tapecast/gateway/feed"
)

// Bounds of what a conflation holds. When it is full it is sent, and begins
// anew: each key's newest value then holds for that stretch.
const (
	latestBytes = 1 << 20   // mode latest
	slowBytes   = 256 << 10 // on_slow
)

// conflation is the newest event per key of a stretch [cursor.next, read) of
// one partition: collected, then sent in offset order.
type conflation struct {
	active  bool // on_slow: the stretch is skipped, and reported as a gap
	target  int64
	read    int64
	byKey   map[string]*feed.Event
	bytes   int
	sending []*feed.Event // ascending; what is left of it
	after   gap           // comes after what is collected
}

// add takes an event and tells how many older ones it replaced (0 or 1).
func (f *conflation) add(e *feed.Event) (replaced int64) {
	if f.byKey == nil {
		f.byKey = map[string]*feed.Event{}
	}
	if old, ok := f.byKey[string(e.Key)]; ok {
		f.bytes -= eventSize(old)
		replaced = 1
	}
	f.byKey[string(e.Key)] = e
	f.bytes += eventSize(e)
	return replaced
}

// own has the newest events of a replayed chunk kept apart from what came with them.
func own(byKey map[string]*feed.Event, events []*feed.Event) {
	for _, e := range events {
		if byKey[string(e.Key)] == e {
			byKey[string(e.Key)] = e.Own()
		}
	}
}

// turn makes what was collected ready to be sent.
func (f *conflation) turn() {
	if len(f.byKey) == 0 {
		return
	}
	f.sending = ascending(f.byKey)
	f.byKey, f.bytes = nil, 0
}

// ascending lists events in offset order.
func ascending(byKey map[string]*feed.Event) []*feed.Event {
	out := make([]*feed.Event, 0, len(byKey))
	for _, e := range byKey {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b *feed.Event) int { return cmp.Compare(a.Offset, b.Offset) })
	return out
}

// eventSize is what holding an event of its own memory costs, about, with its place by key.
func eventSize(e *feed.Event) int { return 288 + 2*len(e.Key) + len(e.Value) }
