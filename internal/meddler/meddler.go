// Package meddler stands between a client and a gateway as a faulty proxy
// would, and changes events in the frames that pass. The proof has to notice
// each of its kinds: it is for negative controls only, and only tests import
// it.
package meddler

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"net"
	"sync/atomic"
)

// Kind is what a meddler does to an event.
type Kind string

// The kinds.
const (
	Removed Kind = "a proxy removes events from frames"
	Doubled Kind = "a proxy doubles events in frames"
	Swapped Kind = "a proxy swaps events of a partition"
	Altered Kind = "a proxy alters values of events"
)

// Kinds lists them.
func Kinds() []Kind { return []Kind{Removed, Doubled, Swapped, Altered} }

// Meddler changes one event in so many, over all its connections.
type Meddler struct {
	kind  Kind         // static
	every int64        // static
	seen  atomic.Int64 // events
	done  atomic.Int64
}

// New makes a meddler that changes one event in every.
func New(kind Kind, every int) *Meddler { return &Meddler{kind: kind, every: int64(every)} }

// Done tells how many events were changed.
func (m *Meddler) Done() int { return int(m.done.Load()) }

// Conn returns a client's connection to a gateway with the meddler on it. What
// the gateway sends is a WebSocket's handshake and its frames (not masked, not
// compressed, not in parts, as gateways send them); what is neither text nor
// an event passes as it is.
func (m *Meddler) Conn(c net.Conn) net.Conn {
	return &conn{Conn: c, m: m, buf: make([]byte, 4<<10), held: map[place][]byte{}}
}

// conn is read by one goroutine at a time, as a WebSocket is.
type conn struct {
	net.Conn
	m    *Meddler
	buf  []byte
	in   []byte // not parsed yet
	out  []byte // not read yet
	open bool   // the handshake has passed
	held map[place][]byte
}

// place is whose order a swap breaks.
type place struct {
	topic     string
	partition int32
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	for len(c.out) == 0 {
		n, err := c.Conn.Read(c.buf)
		c.in = append(c.in, c.buf[:n]...)
		for c.next() { //nolint:revive // until a frame is not whole
		}
		if err != nil && len(c.out) == 0 {
			return 0, err
		}
	}
	n := copy(p, c.out)
	c.out = c.out[n:]
	return n, nil
}

// next passes the handshake or a frame on, if it is there as a whole.
func (c *conn) next() bool {
	if !c.open {
		end := bytes.Index(c.in, []byte("\r\n\r\n"))
		if end < 0 {
			return false
		}
		c.out, c.in, c.open = append(c.out, c.in[:end+4]...), c.in[end+4:], true
		return true
	}
	head, size, ok := frame(c.in)
	if !ok {
		return false
	}
	whole := c.in[:head+size]
	c.in = c.in[head+size:]
	if whole[0] != finalText {
		c.out = append(c.out, whole...)
		return true
	}
	c.text(whole[head:])
	return true
}

const finalText = 0x81

// frame tells the sizes of a server's frame.
func frame(b []byte) (head, size int, ok bool) {
	if len(b) < 2 {
		return 0, 0, false
	}
	head, size = 2, int(b[1])
	switch {
	case size == 126 && len(b) >= 4:
		head, size = 4, int(binary.BigEndian.Uint16(b[2:]))
	case size == 127 && len(b) >= 10:
		head, size = 10, int(binary.BigEndian.Uint64(b[2:])) //nolint:gosec // in a test
	case size >= 126:
		return 0, 0, false
	}
	return head, size, len(b) >= head+size
}

// text passes a message on. Only one of several lines can have several lines
// afterwards: else each line is a message, as in the form without batches.
func (c *conn) text(message []byte) {
	lines := bytes.Split(message, []byte("\n"))
	var out [][]byte
	for _, line := range lines {
		out = append(out, c.line(line)...)
	}
	if len(lines) > 1 && len(out) > 0 {
		out = [][]byte{bytes.Join(out, []byte("\n"))}
	}
	for _, m := range out {
		c.out = append(appendHead(c.out, len(m)), m...)
	}
}

func appendHead(dst []byte, n int) []byte {
	switch {
	case n < 126:
		return append(dst, finalText, byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(dst, finalText, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, finalText, 127), uint64(n)) //nolint:gosec // not negative
}

// line is what becomes of one line.
func (c *conn) line(line []byte) [][]byte {
	var e struct {
		Event     string
		Topic     string
		Partition int32
		Offset    *int64
	}
	if json.Unmarshal(line, &e) != nil || e.Event != "" || e.Offset == nil {
		return [][]byte{line}
	}
	at := place{e.Topic, e.Partition}
	if was := c.held[at]; was != nil {
		delete(c.held, at)
		c.m.done.Add(1)
		return [][]byte{line, was}
	}
	if c.m.seen.Add(1)%c.m.every != 0 {
		return [][]byte{line}
	}
	if c.m.kind == Swapped {
		c.held[at] = bytes.Clone(line)
		return nil
	}
	c.m.done.Add(1)
	switch c.m.kind {
	case Removed:
		return nil
	case Doubled:
		return [][]byte{line, line}
	}
	return [][]byte{altered(line)}
}

// altered changes the first digit of an event's data.
func altered(line []byte) []byte {
	line = bytes.Clone(line)
	i := bytes.Index(line, []byte(`"data":`))
	for i = max(i, 0); i < len(line); i++ {
		if b := line[i]; '0' <= b && b <= '9' {
			line[i] = '0' + (b-'0'+1)%10
			break
		}
	}
	return line
}
