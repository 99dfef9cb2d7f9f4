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
	pong    bool              // raw answers a ping: a later one may stand for it
	end     *ending
}

const (
	// inboxSize is how many inputs wait for the loop; a reader that is ahead waits.
	inboxSize = 4
	// maxPongs is how many may wait with them (no reader waits for a ping's
	// sake). Then only the last ping is answered: RFC 6455, section 5.5.3.
	maxPongs = 16
)

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
	mail *mail  // guarded by mu; nil = nothing has come
	room func() // guarded by mu: whom to call when there is room for inputs, or it is over; nil = nobody
	over bool   // guarded by mu: nobody takes any more
}

func (m *mailbox) init(wake func()) {
	m.wake = wake
}

// letters is where mail goes. mu is held.
func (m *mailbox) letters() *mail {
	if m.mail == nil {
		m.mail = &mail{}
	}
	return m.mail
}

// post tells the loop that something came.
func (m *mailbox) post() {
	m.posted.Store(true)
	m.wake()
}

// put hands an input over. full: the reader has to wait before it reads on, see
// whenRoom. After the end it goes to nobody.
func (m *mailbox) put(in input) (full bool) {
	m.mu.Lock()
	mail := m.letters()
	waiting := mail.inputs
	if n := len(waiting); in.pong && n >= maxPongs && waiting[n-1].pong {
		waiting[n-1] = in
	} else if !m.over {
		mail.inputs = append(mail.inputs, in)
	}
	full = len(mail.inputs) >= inboxSize && !m.over
	m.mu.Unlock()
	m.post()
	return full
}

// whenRoom has fn called, once, when there is room for inputs or it is over.
// false: that is so now, and fn is not called.
func (m *mailbox) whenRoom(fn func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.letters().inputs) < inboxSize || m.over {
		return false
	}
	m.room = fn
	return true
}

// hand hands an input over, and waits until there is room for more.
func (m *mailbox) hand(in input) {
	if !m.put(in) {
		return
	}
	room := make(chan struct{})
	if m.whenRoom(func() { close(room) }) {
		<-room
	}
}

// result hands a task's result over.
func (m *mailbox) result(fn func()) {
	m.mu.Lock()
	mail := m.letters()
	mail.results = append(mail.results, fn) // at most maxTasks
	m.mu.Unlock()
	m.post()
}

// drain has the session closed within a time; after it, clients come back
// spread over as long again.
func (m *mailbox) drain(within time.Duration) {
	m.mu.Lock()
	m.letters().drain = &within
	m.mu.Unlock()
	m.post()
}

// cut ends the session at once.
func (m *mailbox) cut() {
	m.mu.Lock()
	m.letters().cut = true
	m.mu.Unlock()
	m.post()
}

// take takes what is there; inputs only if they are wanted. left: some were not.
func (m *mailbox) take(inputs bool) (got mail, left bool) {
	if !m.posted.Swap(false) {
		return mail{}, false
	}
	m.mu.Lock()
	if m.mail != nil {
		got, m.mail = *m.mail, nil
	}
	var room func()
	if !inputs && len(got.inputs) > 0 {
		m.mail = &mail{inputs: got.inputs}
		got.inputs, left = nil, true
	} else if got.inputs != nil {
		room, m.room = m.room, nil
	}
	m.mu.Unlock()
	if room != nil {
		room()
	}
	return got, left
}

// close lets nobody wait any more.
func (m *mailbox) close() {
	m.mu.Lock()
	m.over = true
	room := m.room
	m.room = nil
	m.mu.Unlock()
	if room != nil {
		room()
	}
}
