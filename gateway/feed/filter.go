package feed

import (
	"slices"

	ilog "github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/sabotage"
)

// filter is what a sub wants of a topic. It does not change.
type filter struct {
	all  bool
	long bool                // a key is too long for an interest of its own
	keys []string            // sorted, each once
	set  map[string]struct{} // of keys
}

// newFilter copies the keys. nil = all.
func newFilter(keys [][]byte) *filter {
	if keys == nil {
		return wholeTopic
	}
	f := &filter{set: make(map[string]struct{}, len(keys))}
	for _, k := range keys {
		f.set[string(k)] = struct{}{}
	}
	f.keys = make([]string, 0, len(f.set))
	for k := range f.set {
		f.keys = append(f.keys, k)
		f.long = f.long || len(k) > ilog.MaxKey
	}
	slices.Sort(f.keys)
	return f
}

// match tells whether an event is wanted.
func (f *filter) match(e *Event) bool {
	if f.all || sabotage.Is(sabotage.NoFilter) {
		return true
	}
	if e.Key == nil {
		return false
	}
	_, ok := f.set[string(e.Key)]
	return ok
}

// scanFactor says when looking at every event is cheaper than asking the index
// for every key.
const scanFactor = 1

func byOffset(a, b *Event) int {
	switch {
	case a.Offset < b.Offset:
		return -1
	case a.Offset > b.Offset:
		return 1
	}
	return 0
}
