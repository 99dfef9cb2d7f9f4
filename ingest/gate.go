package ingest

import (
	"context"
	"sync"
)

// gate counts the requests that are inside, and closes behind the last.
type gate struct {
	ending context.Context // done when the gate closes: streams end then
	end    context.CancelFunc

	mu     sync.Mutex
	isUp   bool          // guarded by mu
	down   bool          // guarded by mu: closed for good
	inside int           // guarded by mu
	idle   chan struct{} // guarded by mu; closed when down and nobody is inside
}

func newGate() *gate {
	g := &gate{idle: make(chan struct{})}
	g.ending, g.end = context.WithCancel(context.Background())
	return g
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.isUp = true
}

func (g *gate) isOpen() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.isUp && !g.down
}

// enter lets a request in, unless the gate is closed. Who was let in leaves.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.isUp || g.down {
		return false
	}
	g.inside++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.down && g.inside == 0 {
		close(g.idle)
	}
}

// close lets nobody in any more. The channel is closed when all have left.
func (g *gate) close() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.down {
		g.down = true
		g.end()
		if g.inside == 0 {
			close(g.idle)
		}
	}
	return g.idle
}
