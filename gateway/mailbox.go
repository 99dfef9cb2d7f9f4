package gateway

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/tapecast/tapecast/internal/protocol"
)

// input is what a session's reader hands to its loop: one of these.
type input struct {
	text    []byte            // of a command
	refused *protocol.Error   // why it is not done; with a text its id is echoed
	cmd     *protocol.Command // one that was parsed elsewhere
	raw     []byte            // a WebSocket control frame to send
	end     *ending
}

// inboxSize is how many inputs wait for the loop; a reader that is ahead waits.
const inboxSize = 4

// mail is what has come for a session's loop.
type mail struct {
	inputs  []input
	results []func()       // of tasks
	drain   *time.Duration // close within that time; nil = no drain
	cut     bool           // the other side is gone, or time is up: end at once
}

// mailbox is how everything but the feed's wake reaches a session's loop.
type mailbox struct {
	wake   func()      // static: makes the loop look; it never waits
	posted atomic.Bool // something came since the loop took last

	mu   sync.Mutex
	room sync.Cond // of mu: there is room for inputs, or it is over
	mail mail      // guarded by mu
	over bool      // guarded by mu: nobody takes any more
}

func (m *mailbox) init(wake func()) {
	m.wake = wake
	m.room.L = &m.mu
}

// post tells the loop that something came.
func (m *mailbox) post() {
	m.posted.Store(true)
	m.wake()
}

// hand hands an input over, and waits for room. After the end it goes to nobody.
func (m *mailbox) hand(in input) {
	m.mu.Lock()
	for len(m.mail.inputs) >= inboxSize && !m.over {
		m.room.Wait()
	}
	m.mail.inputs = append(m.mail.inputs, in)
	m.mu.Unlock()
	m.post()
}

// result hands a task's result over.
func (m *mailbox) result(fn func()) {
	m.mu.Lock()
	m.mail.results = append(m.mail.results, fn) // at most maxTasks
	m.mu.Unlock()
	m.post()
}

// drain has the session closed within a time; after it, clients come back
// spread over as long again.
func (m *mailbox) drain(within time.Duration) {
	m.mu.Lock()
	m.mail.drain = &within
	m.mu.Unlock()
	m.post()
}

// cut ends the session at once.
func (m *mailbox) cut() {
	m.mu.Lock()
	m.mail.cut = true
	m.mu.Unlock()
	m.post()
}

// take takes what is there; inputs only if they are wanted. left: some were not.
func (m *mailbox) take(inputs bool) (got mail, left bool) {
	if !m.posted.Swap(false) {
		return mail{}, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	got, m.mail = m.mail, mail{}
	if !inputs {
		m.mail.inputs, got.inputs = got.inputs, nil
		left = len(m.mail.inputs) > 0
	} else if got.inputs != nil {
		m.room.Signal()
	}
	return got, left
}

// close lets nobody wait any more.
func (m *mailbox) close() {
	m.mu.Lock()
	m.over = true
	m.mu.Unlock()
	m.room.Broadcast()
}
