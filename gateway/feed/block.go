package feed

import (
	"container/list"
	"sort"
	"sync"
)

// block is what one fetch answer proved: all committed records of [from, to).
// It is immutable and shared by every cursor that passes.
type block struct {
	from, to int64
	end      int64 // last stable offset when it was read
	evs      []Event
	lru      *list.Element // owned by the cache

	once  sync.Once
	byKey map[string][]int32 // made for the first cursor with keys
}

// search returns the index of the first event at or after offset.
func (b *block) search(offset int64) int {
	return sort.Search(len(b.evs), func(i int) bool { return b.evs[i].Offset >= offset })
}

func (b *block) index() map[string][]int32 {
	b.once.Do(func() {
		b.byKey = make(map[string][]int32)
		for i := range b.evs {
			if k := b.evs[i].Key; k != nil {
				b.byKey[string(k)] = append(b.byKey[string(k)], int32(i)) //nolint:gosec // a block holds far fewer events
			}
		}
	})
	return b.byKey
}

// read gives the events of [cursor, to) that the filter matches; to <= upTo.
func (b *block) read(buf []*Event, cursor, upTo int64, f *filter, limit int) (evs []*Event, to int64) {
	to = min(b.to, upTo)
	if len(f.keys) == 1 {
		return b.lookup(buf, cursor, to, f.keys[0], limit)
	}
	for i := b.search(cursor); i < len(b.evs) && b.evs[i].Offset < to; i++ {
		e := &b.evs[i]
		if !f.match(e) {
			continue
		}
		if len(buf) >= limit {
			return buf, e.Offset
		}
		buf = append(buf, e)
	}
	return buf, to
}

// lookup is read for one key.
func (b *block) lookup(buf []*Event, cursor, to int64, key string, limit int) (evs []*Event, upTo int64) {
	at := b.index()[key]
	for _, i := range at[sort.Search(len(at), func(i int) bool { return b.evs[at[i]].Offset >= cursor }):] {
		e := &b.evs[i]
		if e.Offset >= to {
			break
		}
		if len(buf) >= limit {
			return buf, e.Offset
		}
		buf = append(buf, e)
	}
	return buf, to
}

// blockBytes is what a block costs beyond its events: many small ones must
// count as well.
const blockBytes = 512
