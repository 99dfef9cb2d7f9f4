package fanout

import (
	"sync"

	"github.com/tapecast/tapecast/internal/stream"
)

// maxHistory bounds the topics that a history remembers; about 150 bytes each.
const maxHistory = 1 << 16

// history remembers which incarnations of topics the group has followed since
// this process began. Kafka forgets a topic's commits when it is deleted; so
// this tells a topic that was made again (cast from its beginning) from one
// that nobody has followed before (cast from its end).
type history struct {
	mu     sync.Mutex
	topics map[string]eras // guarded by mu
}

// eras are the latest incarnation of a topic and the one before.
type eras struct{ now, before stream.TopicID }

func newHistory() *history { return &history{topics: map[string]eras{}} }

// note says that the group follows this incarnation of the topic.
func (h *history) note(topic string, id stream.TopicID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, known := h.topics[topic]
	switch {
	case id.IsZero() || known && e.now == id:
		return
	case !known && len(h.topics) >= maxHistory:
		clear(h.topics)
	}
	h.topics[topic] = eras{now: id, before: e.now}
}

// another tells whether an incarnation other than id was followed.
func (h *history) another(topic string, id stream.TopicID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, known := h.topics[topic]
	return known && (e.now != id || !e.before.IsZero())
}
