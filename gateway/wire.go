package gateway

import (
	"encoding/binary"
	"sync"

	"github.com/tapecast/tapecast/gateway/feed"
)

// scratchSize is what one write gathers at most. A block holds that much while
// it is written and nothing between writes.
const scratchSize = 64 << 10

// batchSize bounds a batch's message, unless one frame is larger: what a client
// that stopped reading did not take of one is kept for it.
const batchSize = 8 << 10

// block gathers what leaves in one write.
type block struct {
	buf  []byte
	head int    // buf's first byte to write
	tail []byte // a shared frame too large for the buffer; it ends the block

	events  int   // data frames
	frames  int   // control frames
	newest  int64 // us: when the newest live event was accepted; 0 = none
	batchAt int   // where the payload of an open batch frame begins; 0 = none
	pooled  *memory

	marks   []mark // the events at its end, if they can be undone
	settled int    // what cannot: frames of other kinds, and what they stand for
	markAt  int    // settled at the last mark
}

// memory is what a block borrows while it is written.
type memory struct {
	buf   []byte
	marks []mark
}

var scratch = sync.Pool{New: func() any { return &memory{buf: make([]byte, 0, scratchSize)} }}

// grab gets the block its memory.
func (b *block) grab() {
	if b.pooled == nil {
		b.pooled = scratch.Get().(*memory) //nolint:forcetypeassert // only block puts into the pool
		b.buf, b.marks = b.pooled.buf[:0], b.pooled.marks[:0]
	}
}

// release empties the block and gives its memory back.
func (b *block) release() {
	if b.pooled != nil {
		if cap(b.buf) <= 2*scratchSize {
			b.pooled.buf = b.buf[:0]
		}
		clear(b.marks)
		b.pooled.marks = b.marks[:0]
		scratch.Put(b.pooled)
	}
	*b = block{}
}

var blocks = sync.Pool{New: func() any { return &block{} }}

// newBlock takes an empty block; done gives it back. Sessions have none of
// their own: most of them are idle.
func newBlock() *block { return blocks.Get().(*block) } //nolint:forcetypeassert // only done puts into the pool

func (b *block) done() {
	b.release()
	blocks.Put(b)
}

func (b *block) empty() bool { return len(b.buf) == 0 && b.tail == nil }
func (b *block) size() int   { return len(b.buf) - b.head + len(b.tail) }

// full tells whether n more bytes have no room. An empty block takes any size,
// and an open batch ends the block.
func (b *block) full(n int) bool {
	if b.batchAt > 0 && len(b.buf)-b.batchAt+n > batchSize {
		return true
	}
	return b.tail != nil || len(b.buf) > 0 && len(b.buf)+n > scratchSize
}

// wire is the form in which a session gets its frames.
type wire interface {
	form() feed.Form
	event(b *block, s *subscription, frame []byte)
	// marked writes an event that carries one more field: "snapshot" or "latest".
	marked(b *block, s *subscription, frame []byte, mark string)
	control(b *block, s *subscription, name string, text []byte) // s nil = of no subscription
	// heartbeat writes text, or what stands for it.
	heartbeat(b *block, subs []*subscription, text []byte)
	finish(b *block)
}

// WebSocket framing (RFC 6455, section 5.2): a server's frames are not masked.
const (
	opText   = 0x81 // with the final bit
	opClose  = 0x88
	opPing   = 0x89
	opPong   = 0x8a
	len16    = 126
	len64    = 127
	maxFrame = 10 // bytes of the longest header
)

func appendFrame(dst []byte, op byte, payload []byte) []byte {
	return append(appendHeader(dst, op, len(payload)), payload...)
}

func appendHeader(dst []byte, op byte, n int) []byte {
	switch {
	case n < len16:
		return append(dst, op, byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(dst, op, len16), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, op, len64), uint64(n))
}

// payload strips the header of a server's frame.
func payload(frame []byte) []byte { return feed.JSON(frame) }

// textWire is one frame per WebSocket message, data as text or as Avro.
type textWire struct{ binary bool }

func (w textWire) form() feed.Form {
	if w.binary {
		return feed.FormBinary
	}
	return feed.FormText
}

func (w textWire) event(b *block, _ *subscription, frame []byte) {
	if len(frame) > scratchSize {
		b.tail = frame
		return
	}
	b.buf = append(b.buf, frame...)
}

func (w textWire) marked(b *block, _ *subscription, frame []byte, mark string) {
	body := payload(frame)
	if !w.binary {
		n := len(body) + len(markText(mark))
		b.buf = appendMarked(appendHeader(b.buf, opText, n), body, mark)
		return
	}
	head := int(binary.BigEndian.Uint32(body))
	grown := head + len(markText(mark))
	b.buf = appendHeader(b.buf, frame[0], len(body)+len(markText(mark)))
	b.buf = binary.BigEndian.AppendUint32(b.buf, uint32(grown)) //nolint:gosec // a header is far below 4 GiB
	b.buf = appendMarked(b.buf, body[4:4+head], mark)
	b.buf = append(b.buf, body[4+head:]...)
}

func (w textWire) control(b *block, _ *subscription, _ string, text []byte) {
	b.buf = appendFrame(b.buf, opText, text)
}

func (w textWire) heartbeat(b *block, _ []*subscription, text []byte) { w.control(b, nil, "", text) }
func (w textWire) finish(*block)                                      {}

func markText(mark string) string { return `,"` + mark + `":true` }

// appendMarked appends an object with one more field at its end.
func appendMarked(dst, object []byte, mark string) []byte {
	dst = append(dst, object[:len(object)-1]...)
	dst = append(dst, markText(mark)...)
	return append(dst, '}')
}

// batchWire puts all frames of a write, newline-joined, into one message of
// about batchSize.
type batchWire struct{}

func (batchWire) form() feed.Form { return feed.FormText }

// line opens the batch frame or begins a new line. The header's length is not
// known yet, so that room is left for the longest.
func (batchWire) line(b *block) {
	if b.batchAt > 0 {
		b.buf = append(b.buf, '\n')
		return
	}
	b.buf = append(b.buf, make([]byte, maxFrame)...)
	b.batchAt = len(b.buf)
}

func (w batchWire) event(b *block, _ *subscription, frame []byte) {
	w.line(b)
	b.buf = append(b.buf, payload(frame)...)
}

func (w batchWire) marked(b *block, _ *subscription, frame []byte, mark string) {
	w.line(b)
	b.buf = appendMarked(b.buf, payload(frame), mark)
}

func (w batchWire) control(b *block, _ *subscription, _ string, text []byte) {
	w.line(b)
	b.buf = append(b.buf, text...)
}

func (w batchWire) heartbeat(b *block, _ []*subscription, text []byte) { w.control(b, nil, "", text) }

// finish closes an open batch frame: its header goes right before its payload,
// and what stands before the header moves up to it.
func (batchWire) finish(b *block) {
	if b.batchAt == 0 {
		return
	}
	var header [maxFrame]byte
	h := appendHeader(header[:0], opText, len(b.buf)-b.batchAt)
	at := b.batchAt - len(h)
	copy(b.buf[at:], h)
	before := b.batchAt - maxFrame - b.head
	copy(b.buf[at-before:], b.buf[b.head:b.head+before])
	b.head = at - before
	b.batchAt = 0
}

// sseWire is Server-Sent Events: data frames as plain events, control frames
// by name, the event id is the cursor.
type sseWire struct{}

func (sseWire) form() feed.Form { return feed.FormText }

func (sseWire) id(b *block, s *subscription) {
	if s == nil || !s.told() {
		return
	}
	b.buf = append(b.buf, "id: "...)
	b.buf = s.cursor().Append(b.buf)
	b.buf = append(b.buf, '\n')
}

func (sseWire) data(b *block, text []byte) {
	b.buf = append(b.buf, "data: "...)
	b.buf = append(b.buf, text...)
	b.buf = append(b.buf, '\n', '\n')
}

func (w sseWire) event(b *block, s *subscription, frame []byte) {
	w.id(b, s)
	w.data(b, payload(frame))
}

func (w sseWire) marked(b *block, s *subscription, frame []byte, mark string) {
	w.id(b, s)
	w.data(b, appendMarked(nil, payload(frame), mark))
}

// endID is the event id after the end event: a browser that comes back with
// it is told to stay away.
const endID = "end"

func (w sseWire) control(b *block, s *subscription, name string, text []byte) {
	if name == "end" {
		b.buf = append(b.buf, "id: "+endID+"\n"...)
	} else {
		w.id(b, s)
	}
	b.buf = append(b.buf, "event: "...)
	b.buf = append(b.buf, name...)
	b.buf = append(b.buf, '\n')
	w.data(b, text)
}

// heartbeat is a comment, with the id alone moving on: a block without data
// gives a browser no event, but it keeps the id.
func (w sseWire) heartbeat(b *block, subs []*subscription, _ []byte) {
	b.buf = append(b.buf, ": heartbeat\n"...)
	for _, s := range subs {
		w.id(b, s)
	}
	b.buf = append(b.buf, '\n')
}

func (sseWire) finish(*block) {}

// lineWire is NDJSON: every frame a line.
type lineWire struct{}

func (lineWire) form() feed.Form { return feed.FormText }

func (lineWire) event(b *block, _ *subscription, frame []byte) {
	b.buf = append(append(b.buf, payload(frame)...), '\n')
}

func (lineWire) marked(b *block, _ *subscription, frame []byte, mark string) {
	b.buf = append(appendMarked(b.buf, payload(frame), mark), '\n')
}

func (lineWire) control(b *block, _ *subscription, _ string, text []byte) {
	b.buf = append(append(b.buf, text...), '\n')
}

func (w lineWire) heartbeat(b *block, _ []*subscription, text []byte) { w.control(b, nil, "", text) }
func (lineWire) finish(*block)                                        {}
