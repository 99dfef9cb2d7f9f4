package broker_test

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// cutter dials through connections that it cuts at random, also in the middle
// of a request or an answer.
type cutter struct {
	every atomic.Int64 // a connection lives for about so many bytes; 0 = for ever
	cuts  atomic.Int64
	down  atomic.Bool // nothing can be dialled

	mu    sync.Mutex
	rand  *rand.Rand
	conns map[net.Conn]struct{}
}

func newCutter(t testing.TB, seed uint64) *cutter {
	t.Helper()
	t.Logf("cutter seed %d", seed)
	return &cutter{rand: rand.New(rand.NewPCG(seed, seed)), conns: map[net.Conn]struct{}{}}
}

func (c *cutter) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if c.down.Load() {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errRefused}
	}
	conn, err := (&net.Dialer{Timeout: 3 * time.Second}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	cc := &cutConn{Conn: conn, c: c}
	cc.left.Store(1 << 62)
	if every := c.every.Load(); every > 0 {
		c.mu.Lock()
		cc.left.Store(c.rand.Int64N(2*every) + 400) // beyond the greeting
		c.mu.Unlock()
	}
	c.mu.Lock()
	c.conns[cc] = struct{}{}
	c.mu.Unlock()
	return cc, nil
}

// cutAll breaks every connection there is.
func (c *cutter) cutAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.conns {
		_ = conn.Close()
	}
	clear(c.conns)
}

type refused struct{}

func (refused) Error() string { return "connection refused" }

var errRefused = refused{}

// cutConn breaks after so many bytes, whichever way they go.
type cutConn struct {
	net.Conn
	c    *cutter
	left atomic.Int64
}

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	return c.spend(n, err)
}

func (c *cutConn) Write(b []byte) (int, error) {
	if left := c.left.Load(); int64(len(b)) > left && left > 0 {
		n, _ := c.Conn.Write(b[:left]) // a part arrives
		_, err := c.spend(n+1, io.EOF)
		return n, err
	}
	n, err := c.Conn.Write(b)
	return c.spend(n, err)
}

func (c *cutConn) spend(n int, err error) (int, error) {
	if c.left.Add(-int64(n)) < 0 {
		if c.Close() == nil {
			c.c.cuts.Add(1)
		}
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}
