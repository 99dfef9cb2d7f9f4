package embedded

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"time"
)

// nearLimit is how many bytes one side of a connection in memory may be ahead
// of the other; nearKept how many an idle one keeps room for.
const (
	nearLimit = 1 << 20
	nearKept  = 64 << 10
)

// Dial connects like a net.Dialer; to the broker itself, through memory: a
// request and its answer cost no call of the kernel, and no thread of the
// process has to be woken for them.
func (b *Broker) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	for i, a := range b.addrs {
		if a != addr {
			continue
		}
		client, server := nearPair()
		select {
		case b.doors[i].near <- server:
			return client, nil
		case <-b.doors[i].closed:
			return nil, fmt.Errorf("dial the embedded broker at %s: %w", addr, net.ErrClosed)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return (&net.Dialer{}).DialContext(ctx, network, addr)
}

// door is where the broker takes connections from: from the network, and from
// its own process.
type door struct {
	net.Listener
	near   chan net.Conn
	far    chan accepted
	closed chan struct{}
	once   sync.Once
	ended  sync.WaitGroup
}

type accepted struct {
	conn net.Conn
	err  error
}

func newDoor(ln net.Listener) *door {
	d := &door{Listener: ln, near: make(chan net.Conn), far: make(chan accepted), closed: make(chan struct{})}
	d.ended.Go(d.listen)
	return d
}

// listen takes the network's connections, until Close.
func (d *door) listen() {
	for {
		conn, err := d.Listener.Accept()
		select {
		case d.far <- accepted{conn, err}:
		case <-d.closed:
			if conn != nil {
				_ = conn.Close()
			}
			return
		}
	}
}

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	select {
	case conn := <-d.near:
		return conn, nil
	case a := <-d.far:
		return a.conn, a.err
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (d *door) Close() error {
	err := net.ErrClosed
	d.once.Do(func() {
		close(d.closed)
		err = d.Listener.Close()
		d.ended.Wait()
	})
	return err
}

// nearConn is one end of a connection in memory.
type nearConn struct {
	in, out *nearStream
	polite  bool // others of the process go first when it writes
}

func nearPair() (client, server net.Conn) {
	to, from := newNearStream(), newNearStream()
	return &nearConn{in: from, out: to, polite: true}, &nearConn{in: to, out: from}
}

// nearStream is one direction of it.
type nearStream struct {
	mu    sync.Mutex
	buf   []byte // guarded by mu; written, not yet read from at on
	at    int    // guarded by mu
	ended bool   // guarded by mu; nothing is written any more
	left  bool   // guarded by mu; nothing is read any more
	read  side   // guarded by mu
	write side   // guarded by mu
}

func newNearStream() *nearStream {
	s := &nearStream{}
	s.read.change.L, s.write.change.L = &s.mu, &s.mu
	return s
}

// side is who reads a stream, or who writes it. Its stream's lock guards it.
type side struct {
	change   sync.Cond // something has happened that it may wait for
	deadline time.Time // zero = none
	alarm    *time.Timer
	armed    time.Time // when alarm rings
}

func (s *side) late() bool { return !s.deadline.IsZero() && !time.Now().Before(s.deadline) }

// wait waits for a change, or the deadline.
func (s *side) wait() {
	if s.deadline != s.armed {
		s.arm()
	}
	s.change.Wait()
}

// arm sets the alarm: only who has to wait needs one.
func (s *side) arm() {
	s.armed = s.deadline
	switch {
	case s.deadline.IsZero():
		s.disarm()
	case s.alarm == nil:
		s.alarm = time.AfterFunc(time.Until(s.deadline), s.ring)
	default:
		s.alarm.Reset(time.Until(s.deadline))
	}
}

func (s *side) disarm() {
	if s.alarm != nil {
		s.alarm.Stop()
	}
}

// set has those that wait look again, by the new deadline.
func (s *side) set(deadline time.Time) {
	s.deadline = deadline
	s.change.Broadcast()
}

// ring has those that wait look again.
func (s *side) ring() {
	s.change.L.Lock()
	defer s.change.L.Unlock()
	s.change.Broadcast()
}

// Read implements net.Conn.
func (c *nearConn) Read(p []byte) (int, error) {
	s := c.in
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.at == len(s.buf) || s.left {
		switch {
		case s.left:
			return 0, net.ErrClosed
		case s.ended:
			return 0, io.EOF
		case s.read.late():
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		}
		s.read.wait()
	}
	n := copy(p, s.buf[s.at:])
	if s.at += n; s.at == len(s.buf) {
		if s.buf, s.at = s.buf[:0], 0; cap(s.buf) > nearKept {
			s.buf = nil
		}
		s.write.change.Broadcast()
	}
	return n, nil
}

// Write implements net.Conn.
func (c *nearConn) Write(p []byte) (n int, err error) {
	if c.polite {
		runtime.Gosched()
	}
	s := c.out
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.ended:
			return n, net.ErrClosed
		case s.left:
			return n, io.ErrClosedPipe
		case s.write.late():
			return n, os.ErrDeadlineExceeded
		}
		if room := nearLimit - len(s.buf); room > 0 {
			m := min(room, len(p)-n)
			s.buf = append(s.buf, p[n:n+m]...)
			n += m
			s.read.change.Broadcast()
		}
		if n == len(p) {
			return n, nil
		}
		s.write.wait()
	}
}

// Close implements net.Conn. What was written before is still read.
func (c *nearConn) Close() error {
	c.out.end(&c.out.ended)
	c.in.end(&c.in.left)
	return nil
}

func (s *nearStream) end(which *bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*which = true
	if s.left {
		s.buf, s.at = nil, 0
	}
	for _, one := range []*side{&s.read, &s.write} {
		one.disarm()
		one.change.Broadcast()
	}
}

// LocalAddr implements net.Conn.
func (c *nearConn) LocalAddr() net.Addr { return nearAddr }

// RemoteAddr implements net.Conn.
func (c *nearConn) RemoteAddr() net.Addr { return nearAddr }

// nearAddr is what both ends are told: this machine, and no port.
var nearAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}

// SetDeadline implements net.Conn.
func (c *nearConn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *nearConn) SetReadDeadline(t time.Time) error {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	c.in.read.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *nearConn) SetWriteDeadline(t time.Time) error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.out.write.set(t)
	return nil
}
