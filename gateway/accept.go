package gateway

import (
	"bufio"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/tapecast/tapecast/internal/protocol"
	"github.com/tapecast/tapecast/internal/rawio"
)

// Bounds of the handshake.
const (
	handshakeBuffer = 512
	handshakeTime   = 5 * time.Second
)

var upgrader = websocket.Upgrader{
	HandshakeTimeout: handshakeTime,
	ReadBufferSize:   128, // what this one reads is parsed by a parser
	WriteBufferSize:  handshakeBuffer,
	WriteBufferPool:  &sync.Pool{}, // gorilla writes nothing after the handshake
	Subprotocols:     []string{protocol.SubprotocolJSON, protocol.SubprotocolBatch, protocol.SubprotocolAvro},
	CheckOrigin:      func(*http.Request) bool { return true }, // the door has
}

// hijacker keeps the connection that gorilla takes.
type hijacker struct {
	http.ResponseWriter
	conn net.Conn
}

// Hijack implements http.Hijacker.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.conn = conn
	return conn, rw, err
}

// serveSocket upgrades a request and starts its session. The handler returns
// at once, so that net/http's buffers are free.
func (s *Service) serveSocket(w http.ResponseWriter, r *http.Request) {
	leave, ok := s.door.admit(w, r)
	if !ok {
		return
	}
	h := &hijacker{ResponseWriter: w}
	ws, err := upgrader.Upgrade(h, r, nil)
	if err != nil { // gorilla has answered
		leave()
		s.metrics.refused.of("upgrade").Inc()
		s.o.Logger.Debug("upgrade failed", slog.Any("error", err))
		return
	}
	s.startSocket(h.conn, wireOf(ws.Subprotocol()), s.terms, leave)
}

// startSocket starts a WebSocket's session: its loop and its reader. Where Run
// does not run it closes the connection.
func (s *Service) startSocket(conn net.Conn, w wire, terms *terms, leave func()) {
	setSendBuffer(conn)
	t := &socket{conn: conn, terms: terms}
	sess := newSession(s.rules, w, t, s.o.Logger)
	sess.ping = s.o.Ping
	t.sess = sess
	bodies := []func() error{t.readLoop}
	if tcp, ok := rawio.TCP(conn); ok && canAttempt && s.attempts(t, tcp) {
		sess.socket = t
	} else {
		bodies = append(bodies, sess.run)
	}
	if !s.start(sess, "ws", leave, bodies...) {
		leave()
		_ = t.conn.Close()
	}
}

// attempts gives a socket what it takes to be written without waiting; one that
// is going to be parked is taken over.
func (s *Service) attempts(t *socket, tcp *net.TCPConn) bool {
	s.mu.Lock()
	parks := s.readers != nil
	s.mu.Unlock()
	if parks {
		if conn, raw, err := takeOver(tcp); err == nil {
			t.conn, t.raw = conn, raw
			return true
		} // there are no descriptors left, say: it goes on as it is
	}
	raw, err := tcp.SyscallConn()
	t.raw = raw
	return err == nil
}

func wireOf(subprotocol string) wire {
	switch subprotocol {
	case protocol.SubprotocolBatch:
		return batchWire{}
	case protocol.SubprotocolAvro:
		return textWire{binary: true}
	}
	return textWire{}
}

// setSendBuffer bounds what the kernel holds for a client that does not read.
func setSendBuffer(conn net.Conn) {
	if tcp, ok := rawio.TCP(beneath(conn)); ok {
		_ = tcp.SetWriteBuffer(sendBuffer)
	}
}

// beneath is the connection that TLS goes over, and any other itself.
func beneath(conn net.Conn) net.Conn {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		return t.NetConn()
	}
	return conn
}
