package feed

import "sort"

// ring is a queue of events in ascending offset order that grows as needed.
type ring struct {
	buf  []*Event // length is a power of two
	head int      // index of the first
	n    int
}

func (r *ring) at(i int) *Event { return r.buf[(r.head+i)&(len(r.buf)-1)] }

func (r *ring) push(e *Event) {
	if r.n == len(r.buf) {
		r.resize(max(4, 2*len(r.buf)))
	}
	r.buf[(r.head+r.n)&(len(r.buf)-1)] = e
	r.n++
}

func (r *ring) pop() *Event {
	e := r.buf[r.head]
	r.buf[r.head] = nil
	r.head = (r.head + 1) & (len(r.buf) - 1)
	r.n--
	if len(r.buf) > 1024 && r.n < len(r.buf)/8 {
		r.resize(len(r.buf) / 4)
	}
	return e
}

func (r *ring) resize(size int) {
	buf := make([]*Event, size)
	for i := range r.n {
		buf[i] = r.at(i)
	}
	r.buf, r.head = buf, 0
}

// search returns the index of the first event at or after offset.
func (r *ring) search(offset int64) int {
	// Most cursors stand near the head of the tape: look back from there in
	// growing steps, so that little memory is touched.
	hi, step := r.n, 1
	for hi > 0 {
		lo := max(hi-step, 0)
		if r.at(lo).Offset < offset {
			return lo + 1 + sort.Search(hi-lo-1, func(i int) bool { return r.at(lo+1+i).Offset >= offset })
		}
		hi, step = lo, 4*step
	}
	return 0
}
