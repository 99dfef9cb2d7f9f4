package gateway

import (
	"bufio"
	"container/list"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// Bounds of messages that come in parts.
const (
	// partTime is how long a message may take from the first time that its next
	// bytes are waited for. A client that sends half a frame is gone then.
	partTime = 20 * time.Second
	// maxLent is how many parked sockets may be waited for so at once.
	maxLent = 4096
)

// parser is a gorilla connection for reading only: bytes in, messages out. It
// belongs to no client: a socket is put under it. Between two messages gorilla
// keeps nothing of a client, so that the parser may then serve another one.
//
// It is owned by one goroutine at a time.
type parser struct {
	net.Conn // nil: what gorilla calls is below
	ws       *websocket.Conn
	buf      *bufio.Reader
	glance   glance

	t       *socket
	worker  *worker       // who reads; nil = a goroutine of the socket's own
	served  int64         // bytes that buf got
	edge    int64         // of these, up to where the last frame outside of a message went
	began   time.Duration // the message's bytes were waited for; 0 = they were not
	parsing bool          // gorilla reads; else whoever asks whether there is anything
	inside  bool          // gorilla is in a message
	nothing bool          // the next message is none
	lent    *list.Element // among the readers' that wait for half a message
	cut     atomic.Bool   // it has waited too long there
}

// errNotNow: there is nothing to read now.
var errNotNow = errors.New("nothing to read now")

// newParser makes a gorilla connection out of a request that nobody sent. (It
// has no other constructor for a server's side.)
func newParser(buffer, limit int) *parser {
	p := &parser{}
	p.glance.init()
	p.buf = bufio.NewReaderSize(p, buffer)
	r := &http.Request{Method: http.MethodGet, Header: http.Header{
		"Connection": {"upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="},
	}}
	up := websocket.Upgrader{WriteBufferPool: upgrader.WriteBufferPool, WriteBufferSize: upgrader.WriteBufferSize, CheckOrigin: upgrader.CheckOrigin}
	ws, err := up.Upgrade(nowhere{p: p}, r, nil)
	if err != nil {
		panic("gateway: a parser's handshake: " + err.Error()) // it is the same every time
	}
	p.ws = ws
	ws.SetReadLimit(int64(limit))
	ws.SetPingHandler(func(data string) error {
		p.passed()
		return p.t.pinged(data)
	})
	ws.SetPongHandler(func(string) error {
		p.passed()
		p.t.heard()
		return nil
	})
	ws.SetCloseHandler(func(int, string) error { return nil })
	return p
}

// nowhere is where a parser's handshake goes.
type nowhere struct {
	http.ResponseWriter // nil: a good request is not answered
	p                   *parser
}

// Hijack implements http.Hijacker. gorilla keeps a reader of more than 256
// bytes, so that the parser can tell how much is left in it.
func (n nowhere) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return n.p, bufio.NewReadWriter(n.p.buf, bufio.NewWriterSize(n.p, loopBuffer)), nil
}

// loopBuffer is the buffer of a reader that keeps its parser, and about the
// smallest that gorilla keeps.
const loopBuffer = 512

// Write implements net.Conn. What gorilla would write (its handshake, answers
// to protocol errors and to messages that are too big) goes nowhere: the
// session's loop writes to the socket itself, and a frame of somebody else
// could land inside one of its own.
func (p *parser) Write(b []byte) (int, error) { return len(b), nil }

// SetDeadline implements net.Conn.
func (p *parser) SetDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn.
func (p *parser) SetWriteDeadline(time.Time) error { return nil }

// Close implements net.Conn.
func (p *parser) Close() error { return nil }

// consumed is how many bytes gorilla has taken.
func (p *parser) consumed() int64 { return p.served - int64(p.buf.Buffered()) }

// passed notes that a control frame is done.
func (p *parser) passed() {
	if !p.inside {
		p.edge = p.consumed()
	}
}

// between tells whether gorilla stands between two frames and in no message.
func (p *parser) between() bool { return !p.inside && p.empty() && p.served == p.edge }

// empty tells whether nothing of the socket is left in the parser.
func (p *parser) empty() bool { return p.buf.Buffered() == 0 }

// any tells whether there is something to read: errNotNow, or the socket's
// error. Only of a socket that is read by glances.
func (p *parser) any() error {
	_, err := p.buf.Peek(1)
	return err
}

// wait waits for the next message's first bytes. What waits here has fewer
// frames on its stack than what waits in gorilla.
func (p *parser) wait() error {
	p.edge, p.began = p.consumed(), 0
	_, err := p.buf.Peek(1)
	return err
}

// next reads a message. Control frames before it were handled; some=false:
// nothing but these came.
func (p *parser) next() (kind int, text []byte, some bool, err error) {
	p.parsing, p.inside, p.nothing, p.began, p.edge = true, false, false, 0, p.consumed()
	defer func() { p.parsing, p.inside = false, false }()
	kind, r, err := p.ws.NextReader()
	if err != nil || p.nothing {
		return 0, nil, false, err
	}
	p.inside = true
	text, err = io.ReadAll(r)
	return kind, text, true, err
}

// emptyMessage is a client's frame: a text without any.
var emptyMessage = [...]byte{opText, 0x80, 0, 0, 0, 0}

// Read implements net.Conn: gorilla's buffer asks for bytes. Where a socket is
// read by glances and has no more, gorilla is got out of its loop by an empty
// message of our own, if it stands between two frames; in a frame or a message
// the socket is waited for.
func (p *parser) Read(b []byte) (n int, err error) {
	r := p.t.readers
	if r == nil {
		n, err = p.await(b)
	} else if n, err = p.glance.read(p.t.raw, b); err == errNotNow { //nolint:errorlint // it comes as it is
		switch {
		case !p.parsing:
			return 0, errNotNow
		case p.between():
			p.nothing = true
			n, err = copy(b, emptyMessage[:]), nil
		default:
			r.lend(p)
			n, err = p.await(b)
		}
	}
	p.served += int64(n)
	return n, err
}

// await waits for bytes: between two messages for as long as the client may be
// silent, in one for as long as it may take.
func (p *parser) await(b []byte) (int, error) {
	t := p.t
	until := t.silentAt()
	if !p.between() {
		if p.began == 0 {
			p.began = t.terms.now()
		}
		if end := p.began + t.terms.part; until == 0 || end < until {
			until = end
		}
	}
	deadline := time.Time{}
	if until > 0 {
		deadline = t.terms.start.Add(until)
	}
	_ = t.conn.SetReadDeadline(deadline)
	switch { // who sets these sets the deadline after them: either they come last, or this
	case t.closing.Load():
		_ = t.conn.SetReadDeadline(time.Now().Add(goodbyeTime))
	case p.cut.Load():
		_ = t.conn.SetReadDeadline(time.Unix(1, 0))
	}
	return t.conn.Read(b)
}

// terms are what all sockets have in common. Static.
type terms struct {
	start    time.Time     // times are told as durations since then
	timeout  time.Duration // a write that moves nothing for that long fails
	maxLag   time.Duration // a write that is not done after that long fails; 0 = no limit
	silence  time.Duration // a client that says nothing for that long is gone; 0 = it may
	part     time.Duration // see partTime
	lent     int           // see maxLent
	commands pace
	limit    int // bytes of a message
	// meaning makes a message an input.
	meaning func(t *socket, kind int, text []byte) input
}

func newTerms(o *Options) *terms {
	return &terms{
		start: time.Now(), timeout: o.WriteTimeout, maxLag: o.MaxLag, silence: 2 * o.Ping, part: partTime, lent: maxLent,
		commands: newPace(o.CommandRate, o.CommandBurst), limit: o.MaxCommand, meaning: (*socket).input,
	}
}

func (t *terms) now() time.Duration { return time.Since(t.start) }
