package feed

import (
	"sync"
	"time"

	"github.com/tapecast/tapecast/internal/coverage"
	"github.com/tapecast/tapecast/internal/stream"
)

// operation is something that a partition's loop does, with what its view
// then wants done.
type operation func(p *partition, now time.Time) []coverage.Action

// tagged is a section and the incarnation it was addressed to.
type tagged struct {
	inc uint64
	sec stream.Section
}

// maxQueued bounds the sections that wait for a partition's loop, in bytes.
// What is dropped beyond it is found again as a gap.
const maxQueued = 2 << 20

// sectionBytes is what a section costs beyond its deliveries, and a delivery
// beyond its key and value.
const sectionBytes, deliveryCost = 128, 96

// mailbox is how others reach a partition's loop. Operations are never
// dropped: there is a bounded number of each (reads: one; interests: as many
// as there are). Sections are bounded in bytes.
type mailbox struct {
	signal chan struct{} // static; from anyone to the loop, never closed

	mu    sync.Mutex
	ops   []operation // guarded by mu
	secs  []tagged    // guarded by mu
	bytes int         // guarded by mu; of secs
}

func newMailbox() mailbox { return mailbox{signal: make(chan struct{}, 1)} }

func (m *mailbox) poke() {
	select {
	case m.signal <- struct{}{}:
	default:
	}
}

func (m *mailbox) post(op operation) {
	m.mu.Lock()
	m.ops = append(m.ops, op)
	m.mu.Unlock()
	m.poke()
}

// section queues a section; false: there was no room.
func (m *mailbox) section(t tagged) bool {
	n := sectionBytes
	for i := range t.sec.Deliveries {
		n += deliveryCost + len(t.sec.Deliveries[i].Key) + len(t.sec.Deliveries[i].Value)
	}
	m.mu.Lock()
	if m.bytes > 0 && m.bytes+n > maxQueued {
		m.mu.Unlock()
		return false
	}
	m.secs = append(m.secs, t)
	m.bytes += n
	m.mu.Unlock()
	m.poke()
	return true
}

// take takes everything. Operations come before sections: what an operation
// says of interests and incarnations holds for the sections taken with it.
func (m *mailbox) take() ([]operation, []tagged) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ops, secs := m.ops, m.secs
	m.ops, m.secs, m.bytes = nil, nil, 0
	return ops, secs
}
