package feed

import (
	"bytes"
	"container/list"
	"hash/maphash"
	"sort"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/tapecast/tapecast/internal/sabotage"
	"github.com/tapecast/tapecast/internal/stream"
)

// block is what one fetch answer proved: all committed records of [from, to).
// It is shared by every cursor that passes. It keeps the records packed in one
// piece of memory, and makes events of them for those who want them, a run of
// neighbours at a time: whoever looks for few keys in many records pays for
// looking at keys.
type block struct {
	// static after construction
	from, to int64
	end      int64 // last stable offset when it was read
	corrupt  bool  // Kafka holds [from, to), but nobody can read it
	src      *source
	used     *atomic.Int64 // the budget that its bytes count in
	recs     []packed
	data     []byte // keys and values, behind one another

	lru *list.Element // owned by the cache

	// guarded by the cache's mu
	run   int  // the how manyth block of a stretch that was read on and on
	ahead bool // what follows it was asked for

	runs []atomic.Pointer[run] // set under mu, never changed after

	index atomic.Pointer[keyIndex] // made under mu

	mu    sync.Mutex
	gone  bool  // guarded by mu: its bytes are no longer counted
	own   int64 // guarded by mu: bytes that count for the block itself: what is in no event
	looks int   // guarded by mu: for one key
}

// packed is a record in a block. It has no pointers, so that the collector
// does not look at it.
type packed struct {
	offset, time, accepted int64
	at                     uint32 // of the key in data; the value is behind it
	key, value             int32  // lengths; -1 = none
}

// run is a stretch of a block's events.
type run [runLen]Event

// runLen is how many events are made at a time: one allocation for many where
// all are wanted, not much for nothing where one in a thousand is.
const runLen = 16

// blockBytes is what a block costs beyond its records: many small ones must
// count as well.
const blockBytes = int64(unsafe.Sizeof(block{})) + 256

// newBlock copies records, which alias a read buffer.
func newBlock(src *source, used *atomic.Int64, from, to, end int64, recs []stream.Record) *block {
	n := 0
	for i := range recs {
		n += len(recs[i].Key) + len(recs[i].Value)
	}
	b := &block{
		from: from, to: to, end: end, src: src, used: used, recs: make([]packed, len(recs)), data: make([]byte, 0, n),
		runs: make([]atomic.Pointer[run], (len(recs)+runLen-1)/runLen),
	}
	for i := range recs {
		r := &recs[i]
		b.recs[i] = packed{
			offset: r.Offset, time: r.Time, accepted: r.Accepted,
			at: uint32(len(b.data)), key: lengthOf(r.Key), value: lengthOf(r.Value), //nolint:gosec // an answer is far below 4 GiB
		}
		b.data = append(append(b.data, r.Key...), r.Value...)
	}
	b.own = blockBytes + int64(cap(b.data)) + int64(len(b.recs))*int64(unsafe.Sizeof(packed{})) + int64(len(b.runs))*8
	used.Add(b.own)
	return b
}

func lengthOf(b []byte) int32 {
	if b == nil {
		return -1
	}
	return int32(len(b)) //nolint:gosec // as above
}

// release takes the block's bytes out of the budget, with those of its events.
func (b *block) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gone = true
	b.used.Add(-b.own)
	b.own = 0
	for i := range b.runs {
		if r := b.runs[i].Load(); r != nil {
			for j := range b.recs[i*runLen : min((i+1)*runLen, len(b.recs))] {
				r[j].release()
			}
		}
	}
}

// search returns the index of the first record at or after offset.
func (b *block) search(offset int64) int {
	return sort.Search(len(b.recs), func(i int) bool { return b.recs[i].offset >= offset })
}

// key returns a record's key, nil if it has none.
func (b *block) key(i int) []byte {
	r := &b.recs[i]
	if r.key < 0 {
		return nil
	}
	return b.data[r.at : r.at+uint32(r.key) : r.at+uint32(r.key)]
}

// event returns a record's event, the same for all.
func (b *block) event(i int) *Event {
	r := b.runs[i/runLen].Load()
	if r == nil {
		r = b.makeRun(i / runLen)
	}
	return &r[i%runLen]
}

// makeRun makes a run's events, once.
func (b *block) makeRun(n int) *run {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.runs[n].Load(); r != nil {
		return r
	}
	r := new(run)
	var size, shared int64
	for j := range b.recs[n*runLen : min((n+1)*runLen, len(b.recs))] {
		e, p := &r[j], &b.recs[n*runLen+j]
		e.Offset, e.Time, e.Accepted = p.offset, p.time, p.accepted
		e.Key = b.key(n*runLen + j)
		if p.value >= 0 {
			at := p.at + uint32(len(e.Key)) //nolint:gosec // as above
			e.Value = b.data[at : at+uint32(p.value) : at+uint32(p.value)]
		}
		e.src, e.used, e.gone = b.src, b.used, b.gone
		size += e.size()
		shared += int64(len(e.Key) + len(e.Value))
	}
	if !b.gone {
		// From here on the bytes count with their events.
		b.used.Add(size - shared)
		b.own -= shared
	}
	b.runs[n].Store(r)
	return r
}

// read gives the events of [cursor, to) that the filter matches; to <= upTo.
func (b *block) read(buf []*Event, cursor, upTo int64, f *filter, limit int) (evs []*Event, to int64) {
	to = min(b.to, upTo)
	if len(f.keys) == 1 {
		if x := b.keyed(); x != nil {
			return b.lookup(buf, cursor, to, x, f.keys[0], limit)
		}
	}
	for i := b.search(cursor); i < len(b.recs) && b.recs[i].offset < to; i++ {
		if !f.all && !f.wants(b.key(i)) {
			continue
		}
		if len(buf) >= limit {
			return buf, b.recs[i].offset
		}
		buf = append(buf, b.event(i))
	}
	return buf, to
}

// wants is match by the key alone.
func (f *filter) wants(key []byte) bool {
	switch {
	case f.all, sabotage.Is(sabotage.NoFilter):
		return true
	case key == nil:
		return false
	case len(f.keys) == 1:
		return string(key) == f.keys[0]
	}
	_, ok := f.set[string(key)]
	return ok
}

// manyLooks is from how many reads for one key on an index is worth its making.
const manyLooks = 3

// keyIndex finds the records of a key: chains by the keys' hashes, ascending.
type keyIndex struct {
	seed  maphash.Seed
	heads []int32 // by hash; -1 = none
	next  []int32 // by record; -1 = none
}

// keyed returns the index, nil as long as few have looked for a key.
func (b *block) keyed() *keyIndex {
	if x := b.index.Load(); x != nil {
		return x
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.looks++; b.looks <= manyLooks || b.index.Load() != nil {
		return b.index.Load()
	}
	size := 1
	for size < len(b.recs) {
		size *= 2
	}
	x := &keyIndex{seed: maphash.MakeSeed(), heads: make([]int32, size), next: make([]int32, len(b.recs))}
	for i := range x.heads {
		x.heads[i] = -1
	}
	for i := len(b.recs) - 1; i >= 0; i-- {
		x.next[i] = -1
		if k := b.key(i); k != nil {
			h := maphash.Bytes(x.seed, k) & uint64(size-1)
			x.next[i], x.heads[h] = x.heads[h], int32(i) //nolint:gosec // an answer holds far fewer records
		}
	}
	if !b.gone {
		n := int64(4 * (len(x.heads) + len(x.next)))
		b.own += n
		b.used.Add(n)
	}
	b.index.Store(x)
	return x
}

// lookup is read for one key.
func (b *block) lookup(buf []*Event, cursor, to int64, x *keyIndex, key string, limit int) (evs []*Event, upTo int64) {
	want := []byte(key)
	for i := x.heads[maphash.Bytes(x.seed, want)&uint64(len(x.heads)-1)]; i >= 0; i = x.next[i] {
		switch offset := b.recs[i].offset; {
		case offset < cursor:
			continue
		case offset >= to:
			return buf, to
		case !bytes.Equal(b.key(int(i)), want):
			continue
		case len(buf) >= limit:
			return buf, offset
		}
		buf = append(buf, b.event(int(i)))
	}
	return buf, to
}
