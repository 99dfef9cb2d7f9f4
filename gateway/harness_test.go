package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/rawio"
)

// pipes is a listener in memory, so that tests run in virtual time.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "tcp" }
func (pipeAddr) String() string  { return "127.0.0.1:1" }

type pipeConn struct{ net.Conn }

func (pipeConn) RemoteAddr() net.Addr { return pipeAddr{} }

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return pipeConn{c}, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return pipeAddr{} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// rig is a gateway over a fake feed.
type rig struct {
	t       testing.TB
	feed    *fakeFeed
	service *Service
	base    string
	dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	drain   context.CancelFunc
	done    chan struct{}
}

// portable has sockets read by a goroutine each.
var portable = false

// newRig starts a gateway. With virtual it listens in memory.
func newRig(t testing.TB, virtual bool, change ...func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, feed: newFakeFeed(), done: make(chan struct{})}
	o := Options{source: r.feed, Hold: -1, portable: virtual || portable} // virtual time does not pass while somebody waits in an epoll set
	for _, fn := range change {
		fn(&o)
	}
	var err error
	r.service, err = New(o)
	require.NoError(t, err)
	mux := http.NewServeMux()
	r.service.Register(mux)
	var l net.Listener
	if virtual {
		p := newPipes()
		l, r.dial = p, p.dial
	} else {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		r.dial = (&net.Dialer{}).DialContext
	}
	r.base = l.Addr().String()
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	ctx, cancel := context.WithCancel(context.Background())
	r.drain = cancel
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(rawio.Listener(l)) }()
	go func() { defer close(r.done); _ = r.service.Run(ctx) }()
	for !r.service.running() {
		runtime.Gosched()
	}
	t.Cleanup(func() {
		cancel()
		<-r.done
		_ = server.Close()
		<-served
		require.Zero(t, r.feed.holds(), "holds leaked")
		require.Zero(t, r.feed.tapped, "taps leaked")
	})
	return r
}

func (s *Service) running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.group != nil
}

// client is a WebSocket client of a rig.
type client struct {
	t  testing.TB
	ws *websocket.Conn
}

func (r *rig) connect(protocols ...string) *client {
	r.t.Helper()
	d := websocket.Dialer{NetDialContext: r.dial, Subprotocols: protocols}
	ws, resp, err := d.Dial("ws://"+r.base+"/ws", nil)
	require.NoError(r.t, err)
	_ = resp.Body.Close()
	r.t.Cleanup(func() { _ = ws.Close() })
	return &client{t: r.t, ws: ws}
}

func (c *client) send(text string) {
	c.t.Helper()
	require.NoError(c.t, c.ws.WriteMessage(websocket.TextMessage, []byte(text)))
}

// next returns the next message.
func (c *client) next() string {
	c.t.Helper()
	_ = c.ws.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, text, err := c.ws.ReadMessage()
	require.NoError(c.t, err)
	return string(text)
}

// frame returns the next message as an object.
func (c *client) frame() map[string]any {
	c.t.Helper()
	return object(c.t, c.next())
}

// expect wants the next message to be that JSON.
func (c *client) expect(want string) {
	c.t.Helper()
	require.JSONEq(c.t, want, c.next())
}

// event skips heartbeats, and wants the next control frame to have that name.
func (c *client) event(name string) map[string]any {
	c.t.Helper()
	for {
		f := c.frame()
		if f["event"] == "heartbeat" && name != "heartbeat" {
			continue
		}
		require.Equal(c.t, name, f["event"], "%v", f)
		return f
	}
}

// offsets reads n data frames and returns their offsets.
func (c *client) offsets(n int) (out []int64) {
	c.t.Helper()
	for len(out) < n {
		f := c.frame()
		if f["event"] == "heartbeat" {
			continue
		}
		require.NotContains(c.t, f, "event", "%v", f)
		out = append(out, int64(f["offset"].(float64)))
	}
	return out
}

// closed wants the connection to be closed with that code.
func (c *client) closed(code int) {
	c.t.Helper()
	_ = c.ws.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		if _, _, err := c.ws.ReadMessage(); err != nil {
			var closed *websocket.CloseError
			require.True(c.t, errors.As(err, &closed), "%v", err)
			require.Equal(c.t, code, closed.Code, "%v", err)
			return
		}
	}
}

// sync waits until the session has done every command before.
func (c *client) sync() {
	c.t.Helper()
	c.send(`{"cmd":"ping","id":"sync"}`)
	for {
		f := c.frame()
		if f["event"] == "pong" && f["id"] == "sync" {
			return
		}
	}
}

func object(t testing.TB, text string) map[string]any {
	t.Helper()
	var f map[string]any
	require.NoError(t, json.Unmarshal([]byte(text), &f), "%s", text)
	return f
}

func seq(from, to int64) (out []int64) {
	for ; from < to; from++ {
		out = append(out, from)
	}
	return out
}

var noDeadline time.Time

const (
	waitLong = 10 * time.Second
	tick     = 5 * time.Millisecond
)
