// Package testconns owns the connections of a test's server: nothing of the
// server runs any more, or speaks to the test, when [Conns.HangUp] returns.
// Its goroutines are those given to [Conns.Go].
package testconns

import (
	"io"
	"sync"
)

// Conns are the connections of a server, and what runs for them. The zero value
// is ready. Safe for concurrent use.
type Conns struct {
	running sync.WaitGroup

	mu   sync.Mutex
	over bool        // guarded by mu
	open []io.Closer // guarded by mu
}

// Begin counts a handler, which calls Done at its end. false: the test is over,
// the handler must not run.
func (c *Conns) Begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.running.Add(1)
	}
	return !c.over
}

// Done ends what Begin counted.
func (c *Conns) Done() { c.running.Done() }

// Go runs f for a handler that has begun.
func (c *Conns) Go(f func()) { c.running.Go(f) }

// Hold has HangUp close a connection. false: the test is over, it is closed already.
func (c *Conns) Hold(conn io.Closer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		_ = conn.Close()
		return false
	}
	c.open = append(c.open, conn)
	return true
}

// Over tells whether the test has hung up.
func (c *Conns) Over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over
}

// HangUp closes all connections, and waits until nothing runs for them.
func (c *Conns) HangUp() {
	c.mu.Lock()
	c.over = true
	for _, conn := range c.open {
		_ = conn.Close()
	}
	c.mu.Unlock()
	c.running.Wait()
}
