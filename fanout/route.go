package fanout

import (
	"github.com/tapecast/tapecast/internal/stream"
)

// chunkBytes is what the arena allocates at once. A section keeps the chunks
// alive that its records lie in, so they are small.
const chunkBytes = 16 << 10

// arena holds copies of keys and values beyond the life of the read buffer:
// one copy per record, shared by all nodes that get it.
type arena struct{ free []byte }

func (a *arena) bytes(n int) []byte {
	if n > chunkBytes/4 {
		return make([]byte, n)
	}
	if len(a.free) < n {
		a.free = make([]byte, chunkBytes)
	}
	b := a.free[:n:n]
	a.free = a.free[n:]
	return b
}

func (a *arena) copy(r stream.Record) stream.Record {
	b := a.bytes(len(r.Key) + len(r.Value))
	k := copy(b, r.Key)
	copy(b[k:], r.Value)
	// nil says something (no key, tombstone), empty something else.
	if r.Key != nil {
		r.Key = b[:k:k]
	}
	if r.Value != nil {
		r.Value = b[k:]
	}
	return r
}

// router sorts the records of one read by who wants them, by topic and key,
// without decoding. It belongs to one partition; its scratch is reused.
type router struct {
	arena   arena
	slots   []slotScratch
	touched []*target
	kept    []stream.Record // copies, by index in the read
	has     []bool
	out     map[string][]stream.Record
}

type slotScratch struct {
	whole   bool
	indices []int32
}

// route returns each incarnation's records, in order. The map is reused by the
// next call; the records are not, and those who want all keys share one slice.
func (r *router) route(routes *topicRoutes, recs []stream.Record) map[string][]stream.Record {
	if r.out == nil {
		r.out = map[string][]stream.Record{}
	}
	clear(r.out)
	if routes == nil || len(recs) == 0 {
		return r.out
	}
	if len(routes.whole) > 0 {
		all := make([]stream.Record, len(recs))
		for i := range recs {
			all[i] = r.arena.copy(recs[i])
		}
		for _, t := range routes.whole {
			r.scratch(t).whole = true
			r.out[t.incarnation] = all[:len(all):len(all)]
		}
		r.routeKeys(routes, recs, all)
	} else {
		r.routeKeys(routes, recs, nil)
	}
	for _, t := range routes.whole {
		r.slots[t.slot].whole = false
	}
	return r.out
}

// routeKeys adds those who asked for single keys. all holds the copies of all
// records, if they were made already.
func (r *router) routeKeys(routes *topicRoutes, recs, all []stream.Record) {
	if !routes.keyed || len(routes.nodes) == len(routes.whole) {
		return
	}
	for i := range recs {
		if recs[i].Key == nil {
			continue
		}
		for _, t := range routes.lookup(recs[i].Key) {
			s := r.scratch(t)
			if s.whole {
				continue
			}
			if len(s.indices) == 0 {
				r.touched = append(r.touched, t)
			}
			s.indices = append(s.indices, int32(i))
		}
	}
	if len(r.touched) == 0 {
		return
	}
	if all == nil {
		all = r.copies(len(recs))
	} else {
		r.has = r.has[:0]
	}
	for _, t := range r.touched {
		s := &r.slots[t.slot]
		mine := make([]stream.Record, len(s.indices))
		for k, i := range s.indices {
			if len(r.has) > 0 && !r.has[i] {
				all[i], r.has[i] = r.arena.copy(recs[i]), true
			}
			mine[k] = all[i]
		}
		r.out[t.incarnation] = mine
		s.indices = s.indices[:0]
	}
	clear(r.kept) // do not keep chunks alive
	r.touched = r.touched[:0]
}

// copies readies the scratch for copies that are made when first wanted.
func (r *router) copies(n int) []stream.Record {
	if cap(r.kept) < n {
		r.kept, r.has = make([]stream.Record, n), make([]bool, n)
	}
	r.kept, r.has = r.kept[:n], r.has[:n]
	clear(r.has)
	return r.kept
}

func (r *router) scratch(t *target) *slotScratch {
	for len(r.slots) <= t.slot {
		r.slots = append(r.slots, slotScratch{})
	}
	return &r.slots[t.slot]
}
