package gateway

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
	"golang.org/x/time/rate"

	"github.com/tapecast/tapecast/internal/protocol"
)

// Bounds of a socket.
const (
	sendBuffer  = 128 << 10 // the kernel's, per socket: a stalled reader holds that much
	tlsChunk    = 16 << 10
	goodbyeTime = 2 * time.Second // for the client's answer to a close
	maxFloods   = 64              // commands over the limit, one after the other, before the close
)

// quietConn is the connection under gorilla's Conn. Once quiet, what gorilla
// would write (answers to protocol errors and to messages that are too big)
// goes nowhere: the session's loop writes to the socket itself, and a frame of
// somebody else could land inside one of its own.
type quietConn struct {
	net.Conn
	quiet atomic.Bool
}

func (c *quietConn) Write(p []byte) (int, error) {
	if c.quiet.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *quietConn) SetWriteDeadline(t time.Time) error {
	if c.quiet.Load() {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// socket is a WebSocket as a transport. The reading side belongs to readLoop,
// the writing side to the session's loop.
type socket struct {
	// static after construction
	conn    net.Conn
	ws      *websocket.Conn // for reading only
	silence time.Duration   // a client that says nothing for that long is gone
	limit   *rate.Limiter

	// owned by the session's loop
	raw     syscall.RawConn // for attempts
	attempt *attempt        // its shard's; nil = writes wait
	rest    []byte          // what the socket has not taken yet; nil = nothing
	timeout time.Duration   // a write that moves nothing for that long fails
	maxLag  time.Duration   // a write that is not done after that long fails; 0 = no limit
	slow    bool            // closed for that; read by readLoop after the close

	sess    *session    // static
	closing atomic.Bool // set by the loop: readLoop only discards

	// owned by readLoop
	floods  int
	goodbye bool // the client closed in good form
}

// write writes a block with the socket's own methods: gorilla's would refuse
// to go on after a partial write.
func (t *socket) write(b *block) error {
	if t.attempt != nil {
		return t.offer(b)
	}
	end := time.Time{}
	if t.maxLag > 0 {
		end = time.Now().Add(t.maxLag)
	}
	if err := t.send(b.buf[b.head:], end); err != nil {
		return err
	}
	return t.send(b.tail, end)
}

// offer writes what the socket takes at once, and keeps the rest: shared
// bytes as they are, others in a copy as large as needed.
func (t *socket) offer(b *block) error {
	head := b.buf[b.head:]
	if len(head) > 0 {
		n, err := t.attempt.write(t.raw, head)
		if err != nil {
			return err
		}
		if n < len(head) {
			t.rest = append(append(make([]byte, 0, len(head)-n+len(b.tail)), head[n:]...), b.tail...)
			return nil
		}
	}
	if len(b.tail) == 0 {
		return nil
	}
	n, err := t.attempt.write(t.raw, b.tail)
	if n < len(b.tail) {
		t.rest = b.tail[n:]
	}
	return err
}

// waits tells whether there is a rest.
func (t *socket) waits() bool { return t.rest != nil }

// await writes the rest.
func (t *socket) await() error {
	end := time.Time{}
	if t.maxLag > 0 {
		end = time.Now().Add(t.maxLag)
	}
	err := t.send(t.rest, end)
	t.rest = nil
	_ = t.conn.SetWriteDeadline(time.Time{}) // attempts have none
	return err
}

func (t *socket) send(p []byte, end time.Time) error {
	_, isTLS := t.conn.(*tls.Conn)
	for len(p) > 0 {
		piece := p
		if isTLS { // TLS cannot go on after a deadline: small pieces, each with its own
			piece = p[:min(len(p), tlsChunk)]
		}
		deadline := time.Now().Add(t.timeout)
		if !end.IsZero() && end.Before(deadline) {
			deadline = end
		}
		if err := t.conn.SetWriteDeadline(deadline); err != nil {
			return err
		}
		n, err := t.conn.Write(piece)
		p = p[n:]
		switch {
		case err == nil:
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case !end.IsZero() && !time.Now().Before(end):
			t.reset()
			return errSlow
		case n == 0 || isTLS:
			t.reset()
			return err
		}
	}
	return nil
}

// reset makes the kernel forget what the client did not take.
func (t *socket) reset() {
	if tcp, ok := t.conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}

// abort implements transport.
func (t *socket) abort() { _ = t.conn.Close() }

// hurry implements transport.
func (t *socket) hurry() { t.timeout, t.maxLag, t.attempt = goodbyeTime, goodbyeTime, nil }

// close sends the close frame and gives the client a moment to answer; the
// readLoop closes the connection.
func (t *socket) close(code protocol.CloseCode) {
	t.closing.Store(true)
	t.slow = code == protocol.CloseSlow
	if code == 0 {
		_ = t.conn.Close()
		return
	}
	var body []byte
	if code != closeEmpty {
		body = binary.BigEndian.AppendUint16(nil, uint16(code))
	}
	_ = t.conn.SetWriteDeadline(time.Now().Add(goodbyeTime))
	if _, err := t.conn.Write(appendFrame(nil, opClose, body)); err != nil {
		_ = t.conn.Close()
		return
	}
	if half, ok := t.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	_ = t.conn.SetReadDeadline(time.Now().Add(goodbyeTime))
}

// closeEmpty stands for a close frame without a code.
const closeEmpty protocol.CloseCode = 1005

// Errors by which handlers end the reading.
var errFlood = errors.New("commands come too fast")

// readLoop reads commands and hands them to the session until the client or
// the session ends. Then it discards what still comes, for a moment: closing a
// socket with unread data would take the close frame away from the client. It
// is the last of the session to end. It has the form that an errgroup starts.
func (t *socket) readLoop() error {
	t.prepare()
	for t.readOne() { //nolint:revive // what waits has a small stack, see session.loop
	}
	t.finish()
	return nil
}

// prepare puts gorilla's handlers in place: they hand over, and write nothing.
func (t *socket) prepare() {
	t.ws.SetPingHandler(func(data string) error {
		if !t.limit.Allow() && t.flooded() {
			return errFlood
		}
		t.heard()
		t.sess.hand(input{raw: appendFrame(nil, opPong, []byte(data))})
		return nil
	})
	t.ws.SetPongHandler(func(string) error { t.heard(); return nil })
	t.ws.SetCloseHandler(func(int, string) error { return nil })
	t.heard()
}

// readOne reads one message, and tells whether to go on.
func (t *socket) readOne() bool {
	kind, text, err := t.ws.ReadMessage()
	return t.message(kind, text, err)
}

// message hands a message, or why there is none, to the session.
func (t *socket) message(kind int, text []byte, err error) (more bool) {
	var in input
	if !t.sess.contain(func() {
		if err != nil {
			in.end = readEnding(err)
			return
		}
		t.heard()
		in = t.input(kind, text)
	}) {
		in.end = panicEnding
	}
	t.goodbye = in.end != nil && in.end.reason == "client"
	t.sess.hand(in)
	return in.end == nil && !t.closing.Load()
}

// finish waits for the session's end, and closes the connection.
func (t *socket) finish() {
	<-t.sess.closed
	if !t.goodbye {
		t.discard()
	}
	if t.slow {
		t.reset()
	}
	_ = t.conn.Close()
	t.sess.ended()
}

// discard waits for the end of the stream, for a moment.
func (t *socket) discard() {
	_ = t.conn.SetReadDeadline(time.Now().Add(goodbyeTime))
	_, _ = io.Copy(io.Discard, t.conn)
}

// heard puts off the moment at which the client counts as gone.
func (t *socket) heard() {
	if t.silence > 0 && !t.closing.Load() {
		_ = t.conn.SetReadDeadline(time.Now().Add(t.silence))
	}
}

// input makes one message an input. The loop parses it: this goroutine's stack
// stays small.
func (t *socket) input(kind int, text []byte) input {
	if !t.limit.Allow() {
		if t.flooded() {
			return input{end: floodEnding}
		}
		return input{text: text, refused: &protocol.Error{Code: protocol.CodeRate, Message: "commands come too fast; slow down"}}
	}
	t.floods = 0
	switch {
	case kind != websocket.TextMessage:
		return input{refused: &protocol.Error{Code: protocol.CodeBinary, Message: "commands are text messages"}}
	case !utf8.Valid(text):
		return input{end: utf8Ending}
	}
	return input{text: text}
}

var utf8Ending = &ending{reason: "utf8", code: protocol.CloseBadUTF8}

// flooded counts what came over the limit.
func (t *socket) flooded() bool {
	t.floods++
	return t.floods > maxFloods
}

var floodEnding = &ending{reason: "flood", code: protocol.CloseFlood, bye: string(protocol.CodeRate)}

// readEnding says what a read error means.
func readEnding(err error) *ending {
	var closed *websocket.CloseError
	var timeout net.Error
	switch {
	case errors.Is(err, errFlood):
		return floodEnding
	case errors.Is(err, websocket.ErrReadLimit):
		return &ending{reason: "too_big", code: protocol.CloseTooBig}
	case errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure:
		// The close is answered at once: nothing that was not sent follows it.
		return &ending{reason: "client", code: protocol.CloseCode(closed.Code), dead: true} //nolint:gosec // 16 bits on the wire
	case errors.As(err, &timeout) && timeout.Timeout(): // gorilla hides os.ErrDeadlineExceeded
		return &ending{reason: "timeout", code: protocol.CloseTimeout, bye: "timeout", retry: true}
	case strings.HasPrefix(err.Error(), "websocket: ") && closed == nil:
		return &ending{reason: "protocol", code: protocol.CloseProtocol}
	}
	return goneEnding
}
