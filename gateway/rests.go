package gateway

import "time"

// rest is a session, or a lane, that wrote events and waits for more.
type rest struct {
	s     *session
	l     *lane
	till  time.Time
	wrote time.Time // the session's; another one meanwhile = not valid
}

// rests are those of a shard: a queue for each hold, as each is in the order
// in which its rests end. There are few holds.
type rests []*restQueue

func (q *rests) push(r rest, hold time.Duration) {
	for _, c := range *q {
		if c.hold == hold {
			c.push(r)
			return
		}
	}
	c := &restQueue{hold: hold}
	c.push(r)
	*q = append(*q, c)
}

// pop takes a rest that is over.
func (q rests) pop(now time.Time) (r rest, ok bool) {
	for _, c := range q {
		if c.n > 0 && !now.Before(c.first().till) {
			return c.pop(), true
		}
	}
	return r, false
}

// pause tells when the next rest is over, about.
func (q rests) pause(now time.Time) (wait time.Duration, some bool) {
	for _, c := range q {
		if c.n == 0 {
			continue
		}
		if t := c.first().till.Sub(now) + c.grain(); !some || t < wait {
			wait, some = t, true
		}
	}
	return wait, some
}

// restQueue is a queue of rests in the order in which they end.
type restQueue struct {
	hold time.Duration // static
	buf  []rest        // length is a power of two
	head int
	n    int
}

// grain is how exactly rests end, so that many end together.
func (q *restQueue) grain() time.Duration { return min(q.hold/16, 2*time.Millisecond) }

func (q *restQueue) first() *rest { return &q.buf[q.head] }

func (q *restQueue) push(r rest) {
	if q.n == len(q.buf) {
		buf := make([]rest, max(64, 2*len(q.buf)))
		for i := range q.n {
			buf[i] = q.buf[(q.head+i)&(len(q.buf)-1)]
		}
		q.buf, q.head = buf, 0
	}
	q.buf[(q.head+q.n)&(len(q.buf)-1)] = r
	q.n++
}

func (q *restQueue) pop() rest {
	r := q.buf[q.head]
	q.buf[q.head] = rest{}
	q.head = (q.head + 1) & (len(q.buf) - 1)
	q.n--
	return r
}
