package gateway

import "github.com/tapecast/tapecast/internal/sabotage"

// mark is an event in a block, with what it takes to take it back: a socket
// that does not take a whole write owes its client the rest of one frame, and
// what was to follow is read again. So a client that does not read holds no
// memory here beyond that.
type mark struct {
	end   int // of its frame in the block
	frame []byte
	sub   *subscription
	place int   // of its cursor
	next  int64 // the cursor before it
	time  int64
}

// note remembers an event that was put into the block as it is on the tape.
func (b *block) note(frame []byte, s *subscription, place int, next, time int64) {
	if b.markAt != b.settled {
		b.marks, b.markAt = b.marks[:0], b.settled // nothing before can be taken back
	}
	b.marks = append(b.marks, mark{b.size(), frame, s, place, next, time})
}

// cut says that the socket took n bytes of the buffer, and no more. It returns
// what must still follow, takes back what need not, and leaves the block as
// what is on its way.
func (b *block) cut(n int) (rest []byte) {
	at := 0
	for at < len(b.marks) && b.marks[at].end <= n {
		at++
	}
	if len(b.marks) == 0 || b.markAt != b.settled || at == len(b.marks) {
		left := b.buf[b.head+n:]
		return append(append(make([]byte, 0, len(left)+len(b.tail)), left...), b.tail...)
	}
	m := &b.marks[at]
	if from := m.end - len(m.frame); n >= from {
		rest = m.frame[n-from:]
	} else { // in something before the first event that can be taken back
		rest = append(append(make([]byte, 0, m.end-n), b.buf[b.head+n:b.head+from]...), m.frame...)
	}
	b.undo(at + 1)
	b.buf, b.tail = b.buf[:min(len(b.buf), b.head+m.end)], nil
	return rest
}

// undo takes the events of marks from index i on back.
func (b *block) undo(i int) {
	for n := len(b.marks) - 1; n >= i; n-- {
		m := &b.marks[n]
		cur := &m.sub.cursors[m.place]
		if sabotage.Is(sabotage.NoUndo) {
			continue
		}
		cur.next, cur.time, cur.ready = m.next, m.time, true
		if !m.sub.live {
			m.sub.replayed--
		}
		b.events--
	}
}
