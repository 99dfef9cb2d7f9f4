package fanout

import (
	"errors"
	"sync"

	"github.com/tapecast/tapecast/internal/broker"
)

// errNotSent says that a batch could not leave with those of its round.
var errNotSent = errors.New("no line to the leader was free")

// round writes the batches of all nodes that got something at the same moment, in
// one request for each broker, by the hand of whoever routed it: nobody is woken
// for that. What takes longer is the nodes' own goroutines' (publisher.run): nodes
// that are in doubt, that have much to write, or whose batches linger.
//
// Whoever pushes to publishers calls flush when it has pushed to all of them.
type round struct {
	send func([]broker.Outgoing) (rest []broker.Outgoing) // static; see broker.Sender

	mu    sync.Mutex
	noted []*publisher // guarded by mu; that have something to write, and nobody sees to it
}

// note says that a node has something to write.
func (r *round) note(p *publisher) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noted = append(r.noted, p)
}

// flush writes for all nodes that were noted. It does not wait.
func (r *round) flush() {
	r.mu.Lock()
	noted := r.noted
	r.noted = nil
	r.mu.Unlock()
	if len(noted) == 0 {
		return
	}
	room := broker.SendBytes
	out := make([]broker.Outgoing, 0, len(noted))
	for _, p := range noted {
		if o, ok := p.pack(room); ok {
			out = append(out, o)
			room -= len(o.Value)
		}
	}
	if len(out) == 0 {
		return
	}
	for _, o := range r.send(out) {
		o.Done(errNotSent)
	}
}
