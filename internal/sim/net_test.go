package sim

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// network is a TCP of its own, in memory and in the bubble's time.
type network struct {
	mu        sync.Mutex
	rng       *rand.Rand
	listeners map[string]*listener
	port      int
	down      map[string]bool // addresses that refuse
	conns     map[*conn]struct{}
	cuts      int
}

func newNetwork(seed uint64) *network {
	return &network{rng: rand.New(rand.NewPCG(seed, 77)), listeners: map[string]*listener{}, port: 9000, down: map[string]bool{}, conns: map[*conn]struct{}{}}
}

type listener struct {
	net    *network
	addr   *net.TCPAddr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// listen makes a listener; port 0 is a new one.
func (n *network) listen(_, addr string) (net.Listener, error) {
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	port, _ := strconv.Atoi(p)
	if port == 0 {
		n.port++
		port = n.port
	}
	l := &listener{net: n, addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}, conns: make(chan net.Conn, 64), closed: make(chan struct{})}
	if n.listeners[l.addr.String()] != nil {
		return nil, syscall.EADDRINUSE
	}
	n.listeners[l.addr.String()] = l
	return l, nil
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Addr() net.Addr { return l.addr }

func (l *listener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		delete(l.net.listeners, l.addr.String())
		l.net.mu.Unlock()
		close(l.closed)
		for {
			select {
			case c := <-l.conns:
				_ = c.Close()
			default:
				return
			}
		}
	})
	return nil
}

// line is one host's network.
type line struct {
	net *network
	// guarded by net.mu
	dead    bool // no dial, no byte
	every   int64
	latency time.Duration
	in, out bool // held: what comes in, what goes out
}

func (n *network) line() *line { return &line{net: n} }

func (l *line) dial(_ context.Context, _, addr string) (net.Conn, error) {
	n := l.net
	n.mu.Lock()
	defer n.mu.Unlock()
	to := n.listeners[addr]
	if l.dead || n.down[addr] || to == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	n.port++
	a, b := newHalf(), newHalf()
	near := &conn{line: l, addr: addr, r: a, w: b, local: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: n.port}, remote: to.addr, left: 1 << 62}
	far := &conn{line: l, addr: addr, far: true, r: b, w: a, local: to.addr, remote: near.local, left: 1 << 62}
	near.peer, far.peer = far, near
	if l.every > 0 {
		near.left, far.left = 200+n.rng.Int64N(2*l.every), 200+n.rng.Int64N(2*l.every)
	}
	near.seed(n.rng)
	far.seed(n.rng)
	a.held, b.held = l.in, l.out
	select {
	case to.conns <- far:
	default:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	n.conns[near] = struct{}{}
	return near, nil
}

// each calls fn for the connections of a line (nil: all) to an address ("": all).
func (n *network) each(l *line, addr string, fn func(*conn)) {
	n.mu.Lock()
	var cs []*conn
	for c := range n.conns {
		if (l == nil || c.line == l) && (addr == "" || c.addr == addr) {
			cs = append(cs, c)
		}
	}
	n.mu.Unlock()
	for _, c := range cs {
		fn(c)
	}
}

// kill takes the network away at once, without a goodbye.
func (l *line) kill() {
	l.net.mu.Lock()
	l.dead = true
	l.net.mu.Unlock()
	l.net.each(l, "", func(c *conn) { c.reset() })
}

// cut breaks all connections; new ones may be made.
func (l *line) cut() {
	l.net.each(l, "", func(c *conn) { c.reset() })
}

// hold freezes what comes in and what goes out.
func (l *line) hold(in, out bool) {
	l.net.mu.Lock()
	l.in, l.out = in, out
	l.net.mu.Unlock()
	l.net.each(l, "", func(c *conn) { c.r.hold(in); c.w.hold(out) })
}

// rough makes connections to come break after about so many bytes (0 = never),
// and every write take up to a latency.
func (l *line) rough(every int64, latency time.Duration) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.every, l.latency = every, latency
}

func (n *network) setDown(addr string, down bool) {
	n.mu.Lock()
	n.down[addr] = down
	n.mu.Unlock()
	if down {
		n.each(nil, addr, func(c *conn) { c.reset() })
	}
}

// half is one direction of a connection.
type half struct {
	mu      sync.Mutex
	cond    *sync.Cond
	buf     []byte
	pending []chunk
	held    bool
	eof     bool // the writer has closed
	broken  bool // reset
	gone    bool // the reader has closed
}

type chunk struct {
	at time.Time
	b  []byte
}

// window bounds what lies between writer and reader.
const window = 1 << 20

func newHalf() *half {
	h := &half{}
	h.cond = sync.NewCond(&h.mu)
	return h
}

func (h *half) hold(on bool) {
	h.mu.Lock()
	h.held = on
	h.mu.Unlock()
	h.cond.Broadcast()
}

// arrive moves what is due to the reader.
func (h *half) arrive() {
	h.mu.Lock()
	now := time.Now()
	for len(h.pending) > 0 && !h.pending[0].at.After(now) {
		h.buf = append(h.buf, h.pending[0].b...)
		h.pending = h.pending[1:]
	}
	h.mu.Unlock()
	h.cond.Broadcast()
}

func (h *half) size() int {
	n := len(h.buf)
	for _, c := range h.pending {
		n += len(c.b)
	}
	return n
}

type conn struct {
	line          *line
	addr          string
	far           bool
	r, w          *half
	peer          *conn
	local, remote net.Addr

	mu     sync.Mutex
	closed bool
	left   int64 // bytes that may still be written
	rng    *rand.Rand
	rd, wd deadline
}

func (c *conn) seed(rng *rand.Rand) { c.rng = rand.New(rand.NewPCG(rng.Uint64(), 1)) }

type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) set(t time.Time, h *half) {
	h.mu.Lock()
	d.at = t
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	// One that has passed needs no timer, and gets none: AfterFunc with nothing to
	// wait for crashes Go 1.26's race detector in a bubble.
	if wait := time.Until(t); !t.IsZero() && wait > 0 {
		d.timer = time.AfterFunc(wait, func() { h.mu.Lock(); h.mu.Unlock(); h.cond.Broadcast() }) //nolint:staticcheck // orders the wake after the wait
	}
	h.mu.Unlock()
	h.cond.Broadcast()
}

func (d *deadline) over() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (c *conn) Read(p []byte) (int, error) {
	h := c.r
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.gone:
			return 0, net.ErrClosed
		case h.broken:
			return 0, &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
		case len(h.buf) > 0 && !h.held:
			n := copy(p, h.buf)
			h.buf = h.buf[n:]
			h.cond.Broadcast()
			return n, nil
		case h.eof && len(h.pending) == 0 && !h.held:
			return 0, io.EOF
		case c.rd.over():
			return 0, os.ErrDeadlineExceeded
		}
		h.cond.Wait()
	}
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.write(p)
	if errors.Is(err, errCut) {
		c.line.net.mu.Lock()
		c.line.net.cuts++
		c.line.net.mu.Unlock()
		c.reset()
		return n, &net.OpError{Op: "write", Net: "tcp", Err: syscall.ECONNRESET}
	}
	return n, err
}

var errCut = errors.New("cut")

func (c *conn) write(p []byte) (int, error) {
	c.line.net.mu.Lock()
	latency := c.line.latency
	c.line.net.mu.Unlock()
	c.mu.Lock()
	cut := int64(len(p)) > c.left
	if cut {
		p = p[:c.left]
	}
	c.left -= int64(len(p))
	var d time.Duration
	if latency > 0 {
		d = time.Duration(c.rng.Int64N(int64(latency)))
	}
	c.mu.Unlock()
	h := c.w
	h.mu.Lock()
	for h.size() > window && !h.eof && !h.broken && !h.gone && !c.wd.over() {
		h.cond.Wait()
	}
	switch {
	case h.eof:
		h.mu.Unlock()
		return 0, net.ErrClosed
	case h.broken, h.gone:
		h.mu.Unlock()
		return 0, &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}
	case h.size() > window && c.wd.over():
		h.mu.Unlock()
		return 0, os.ErrDeadlineExceeded
	}
	if d == 0 && len(h.pending) == 0 {
		h.buf = append(h.buf, p...)
	} else {
		at := time.Now().Add(d)
		if n := len(h.pending); n > 0 && h.pending[n-1].at.After(at) {
			at = h.pending[n-1].at
		}
		h.pending = append(h.pending, chunk{at, append([]byte(nil), p...)})
		time.AfterFunc(max(time.Until(at), 1), h.arrive)
	}
	h.mu.Unlock()
	h.cond.Broadcast()
	if cut {
		return len(p), errCut
	}
	return len(p), nil
}

// reset breaks both directions, and what is on its way is lost.
func (c *conn) reset() {
	for _, h := range []*half{c.r, c.w} {
		h.mu.Lock()
		h.broken, h.buf, h.pending = true, nil, nil
		h.mu.Unlock()
		h.cond.Broadcast()
	}
	c.forget()
}

func (c *conn) forget() {
	n := c.line.net
	n.mu.Lock()
	delete(n.conns, c)
	delete(n.conns, c.peer)
	n.mu.Unlock()
}

func (c *conn) Close() error {
	c.mu.Lock()
	was := c.closed
	c.closed = true
	c.mu.Unlock()
	if was {
		return net.ErrClosed
	}
	c.r.mu.Lock()
	c.r.gone = true
	c.r.mu.Unlock()
	c.r.cond.Broadcast()
	c.CloseWrite()
	c.rd.set(time.Time{}, c.r)
	c.wd.set(time.Time{}, c.w)
	c.peer.mu.Lock()
	both := c.peer.closed
	c.peer.mu.Unlock()
	if both {
		c.forget()
	}
	return nil
}

func (c *conn) CloseWrite() error {
	c.w.mu.Lock()
	c.w.eof = true
	c.w.mu.Unlock()
	c.w.cond.Broadcast()
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	c.rd.set(t, c.r)
	c.wd.set(t, c.w)
	return nil
}
func (c *conn) SetReadDeadline(t time.Time) error  { c.rd.set(t, c.r); return nil }
func (c *conn) SetWriteDeadline(t time.Time) error { c.wd.set(t, c.w); return nil }
