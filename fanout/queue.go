package fanout

import (
	"github.com/tapecast/tapecast/internal/coverage"
	"github.com/tapecast/tapecast/internal/delivery"
	"github.com/tapecast/tapecast/internal/stream"
)

// entry is one section that waits for its node, or is being written.
type entry struct {
	book *book
	size int
	sec  stream.Section
	own  bool // the deliveries' slice is this entry's alone: it may grow
}

// backlog is what of one book is not acknowledged by one node.
type backlog struct {
	from    int64 // of the oldest such section
	entries int
	newest  int // its number in the queue
}

// queue holds one node's sections in the order they were made: those in
// flight first, then those that wait. Pure; the owner locks.
type queue struct {
	entries []entry
	first   int // number of entries[head]
	head    int
	flight  int
	bytes   int // of all entries
	books   map[*book]*backlog
}

// len is the number of entries, in flight or waiting.
func (q *queue) len() int { return len(q.entries) - q.head }

// waiting is the number of entries that are not in flight.
func (q *queue) waiting() int { return q.len() - q.flight }

// mergeBytes bounds a merged section.
const mergeBytes = 64 << 10

// push queues a section. Where it continues the book's last waiting section,
// and it announces no new interests, they become one.
func (q *queue) push(b *book, sec stream.Section) {
	if q.books == nil {
		q.books = map[*book]*backlog{}
	}
	size := delivery.Size(&sec)
	l := q.books[b]
	if l == nil {
		l = &backlog{from: sec.From}
		q.books[b] = l
	} else if i := l.newest - q.first; i >= q.flight && q.merge(&q.entries[q.head+i], sec, size) {
		return
	}
	l.newest = q.first + q.len()
	l.entries++
	q.entries = append(q.entries, entry{book: b, size: size, sec: sec})
	q.bytes += size
}

// merge adds a section to one that waits; false: they should stay apart.
func (q *queue) merge(last *entry, sec stream.Section, size int) bool {
	if last.size+size > mergeBytes {
		return false
	}
	// What may be merged is the protocol's to say; the deliveries are moved
	// here, so that a queue that grows by single events is not copied each time.
	more, had := sec.Deliveries, last.sec.Deliveries
	sec.Deliveries, last.sec.Deliveries = nil, nil
	merged, ok := coverage.Merge(last.sec, sec)
	if !ok {
		last.sec.Deliveries = had
		return false
	}
	switch {
	case len(more) == 0:
	case len(had) == 0:
		had, last.own = more, false
	default:
		if !last.own {
			had = append(make([]stream.Record, 0, 2*(len(had)+len(more))), had...)
			last.own = true
		}
		had = append(had, more...)
	}
	merged.Deliveries = had
	last.sec = merged
	grown := delivery.Size(&sec) // without its deliveries: what one section less saves
	last.size += size - grown
	q.bytes += size - grown
	return true
}

// take moves what waits into flight, up to limit bytes but at least one entry,
// and appends its sections to dst.
func (q *queue) take(dst []stream.Section, limit int) []stream.Section {
	room := limit
	for i := q.head + q.flight; i < len(q.entries); i++ {
		e := &q.entries[i]
		if len(dst) > 0 && e.size > room {
			break
		}
		room -= e.size
		dst = append(dst, e.sec)
		q.flight++
	}
	return dst
}

// ack forgets what is in flight: it is written.
func (q *queue) ack() {
	for i := q.head; i < q.head+q.flight; i++ {
		e := &q.entries[i]
		q.bytes -= e.size
		if l := q.books[e.book]; l.entries == 1 {
			delete(q.books, e.book)
		} else {
			l.entries--
			l.from = e.sec.To // sections of a book chain
		}
		*e = entry{}
	}
	q.head += q.flight
	q.first += q.flight
	q.flight = 0
	q.compact()
}

// compact gives the room before head back, once it is most of the slice.
func (q *queue) compact() {
	if q.head < len(q.entries) && q.head < 64 || q.head < len(q.entries)/2 {
		return
	}
	n := copy(q.entries, q.entries[q.head:])
	clear(q.entries[n:])
	q.entries = q.entries[:n]
	q.head = 0
}

// retake puts what is in flight back to what waits, in its place.
func (q *queue) retake() { q.flight = 0 }

// drop forgets everything and returns how many entries that were.
func (q *queue) drop() int {
	n := q.len()
	*q = queue{}
	return n
}

// unacked is the first offset of a book that is not acknowledged; ok=false:
// all that was queued is.
func (q *queue) unacked(b *book) (from int64, ok bool) {
	l := q.books[b]
	if l == nil {
		return 0, false
	}
	return l.from, true
}
