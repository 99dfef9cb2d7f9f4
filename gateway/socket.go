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

	"github.com/tapecast/tapecast/internal/protocol"
)

// Bounds of a socket.
const (
	sendBuffer  = 96 << 10 // the kernel's, per socket, which doubles it and may go beyond by a write: a stalled reader holds that much
	tlsChunk    = 16 << 10
	goodbyeTime = 2 * time.Second // for the client's answer to a close
	maxFloods   = 64              // commands over the limit, one after the other, before the close
)

// socket is a WebSocket as a transport. The reading side belongs to whoever
// reads, the writing side to the session's loop.
type socket struct {
	// static after construction
	conn    net.Conn
	raw     syscall.RawConn // conn's, for attempts; nil = there are none
	terms   *terms
	sess    *session
	readers *readers // who read it; nil = a goroutine of its own, readLoop
	token   uint64   // its place there

	// owned by the session's loop
	attempt *attempt // its shard's; nil = writes wait
	rest    []byte   // what the socket has not taken yet; nil = nothing
	hurried bool     // the last writes
	slow    bool     // closed for that; read by finish

	closing atomic.Bool  // set by the loop: what comes is only discarded
	holder  atomic.Int32 // a holder
	heardAt atomic.Int64 // since terms.start: something came

	// owned by who reads
	goodbye bool // the client closed in good form
	floods  int32
	bucket  bucket  // of commands
	parser  *parser // with bytes of it; nil = there are none
}

// write writes a block with the socket's own methods: gorilla's would refuse
// to go on after a partial write.
func (t *socket) write(b *block) error {
	if t.attempt != nil {
		return t.offer(b)
	}
	if err := t.settle(); err != nil {
		return err
	}
	end := time.Time{}
	if _, lag := t.limits(); lag > 0 {
		end = time.Now().Add(lag)
	}
	if err := t.send(b.buf[b.head:], end); err != nil {
		return err
	}
	return t.send(b.tail, end)
}

// limits tells how long a write may move nothing, and how long it may take in
// all (0 = no limit).
func (t *socket) limits() (stalled, all time.Duration) {
	if t.hurried {
		return goodbyeTime, goodbyeTime
	}
	return t.terms.timeout, t.terms.maxLag
}

// offer writes what the socket takes at once, and keeps the rest of the frame
// that was cut; what was to follow is taken back where it can be.
func (t *socket) offer(b *block) error {
	head := b.buf[b.head:]
	if len(head) > 0 {
		n, err := t.attempt.write(t.raw, head)
		if err != nil {
			return err
		}
		if n < len(head) {
			t.rest = b.cut(n)
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

// settle writes the rest if there is one: a session that ends in the turn that cut
// a frame says its last words behind that.
func (t *socket) settle() error {
	if !t.waits() {
		return nil
	}
	return t.await()
}

// await writes the rest.
func (t *socket) await() error {
	end := time.Time{}
	if _, lag := t.limits(); lag > 0 {
		end = time.Now().Add(lag)
	}
	err := t.send(t.rest, end)
	t.rest = nil
	_ = t.conn.SetWriteDeadline(time.Time{}) // attempts have none
	return err
}

func (t *socket) send(p []byte, end time.Time) error {
	_, isTLS := t.conn.(*tls.Conn)
	timeout, _ := t.limits()
	for len(p) > 0 {
		piece := p
		if isTLS { // TLS cannot go on after a deadline: small pieces, each with its own
			piece = p[:min(len(p), tlsChunk)]
		}
		deadline := time.Now().Add(timeout)
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
	if tcp, ok := beneath(t.conn).(interface{ SetLinger(sec int) error }); ok {
		_ = tcp.SetLinger(0)
	}
}

// abort implements transport.
func (t *socket) abort() { _ = t.conn.Close() }

// hurry implements transport.
func (t *socket) hurry() { t.hurried, t.attempt = true, nil }

// close sends the close frame and gives the client a moment to answer; finish
// closes the connection.
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
	err := t.settle()
	if err == nil {
		_ = t.conn.SetWriteDeadline(time.Now().Add(goodbyeTime))
		_, err = t.conn.Write(appendFrame(nil, opClose, body))
	}
	if err != nil {
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

// readLoop reads commands until the client or the session ends. It is the last
// of the session to end. It has the form that an errgroup starts.
func (t *socket) readLoop() error {
	p := newParser(loopBuffer, t.terms.limit)
	p.t = t
	t.heard()
	for t.readOne(p) { //nolint:revive // what waits has a small stack, see session.loop
	}
	<-t.sess.closed
	t.finish()
	return nil
}

// readOne reads one message, and tells whether to go on.
func (t *socket) readOne(p *parser) bool {
	var in input
	var some bool
	if !t.sess.contain(func() {
		if err := p.wait(); err != nil {
			in, some = input{end: readEnding(err)}, true
			return
		}
		in, some = t.read(p)
	}) {
		in, some = input{end: panicEnding}, true
	}
	t.goodbye = in.end.byClient()
	if some {
		t.sess.hand(in)
	}
	return in.end == nil && !t.closing.Load()
}

// read makes the next message, or why there is none, an input. some=false:
// nothing but control frames came.
func (t *socket) read(p *parser) (in input, some bool) {
	kind, text, some, err := p.next()
	switch {
	case err != nil:
		return input{end: readEnding(err)}, true
	case !some:
		return input{}, false
	}
	t.heard()
	return t.terms.meaning(t, kind, text), true
}

// pinged answers a client's ping.
func (t *socket) pinged(data string) error {
	if !t.bucket.take(t.terms.commands, t.terms.now()) && t.flooded() {
		return errFlood
	}
	t.heard()
	t.sess.put(input{raw: appendFrame(nil, opPong, []byte(data)), pong: true})
	return nil
}

// finish discards what still comes, for a moment, and closes the connection:
// closing a socket with unread data would take the close frame away from the
// client. It comes after the end of both the session and the reading.
func (t *socket) finish() {
	if t.readers != nil {
		t.readers.forget(t)
	}
	t.parser = nil
	if !t.goodbye {
		_ = t.conn.SetReadDeadline(time.Now().Add(goodbyeTime))
		_, _ = io.Copy(io.Discard, t.conn)
	}
	if t.slow {
		t.reset()
	}
	_ = t.conn.Close()
	t.sess.ended()
}

// over tells that the session has ended.
func (t *socket) over() {
	if t.readers != nil {
		t.readers.quit(t)
	}
}

// heard puts off the moment at which the client counts as gone.
func (t *socket) heard() { t.heardAt.Store(int64(t.terms.now())) }

// silentAt is when the client counts as gone, since terms.start; 0 = never.
func (t *socket) silentAt() time.Duration {
	if t.terms.silence <= 0 || t.closing.Load() {
		return 0
	}
	return time.Duration(t.heardAt.Load()) + t.terms.silence
}

// input makes one message an input. The loop parses it: the reader's stack stays
// small.
func (t *socket) input(kind int, text []byte) input {
	if !t.bucket.take(t.terms.commands, t.terms.now()) {
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

var silentEnding = &ending{reason: "timeout", code: protocol.CloseTimeout, bye: "timeout", retry: true}

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
		return silentEnding
	case strings.HasPrefix(err.Error(), "websocket: ") && closed == nil:
		return &ending{reason: "protocol", code: protocol.CloseProtocol}
	}
	return goneEnding
}

// byClient tells whether the client closed in good form.
func (e *ending) byClient() bool { return e != nil && e.reason == "client" }
