package feed

import (
	"sync/atomic"
	"time"

	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/internal/coverage"
	"github.com/tapecast/tapecast/internal/stream"
)

// topic is a followed feed topic, by its Kafka name: its interests and its
// subs. What belongs to one incarnation of it in Kafka is in its instance, and
// is replaced when the topic is made again.
type topic struct {
	// static after construction
	name   string // in Kafka
	client string // as clients call it
	format string
	dec    decoder

	subs subIndex

	inst    atomic.Pointer[instance] // replaced under the book's mu
	gone    atomic.Bool              // it is no feed any more
	waiting atomic.Bool              // a frame waits for a schema

	// guarded by the book's mu
	whole   *interest
	byKey   map[string]*interest
	missing time.Time // since when the catalogue does not name it; zero = it does
}

// interests calls fn with each interest that is not ended. The book is locked.
func (t *topic) interests(fn func(*interest)) {
	if t.whole != nil {
		fn(t.whole)
	}
	for _, it := range t.byKey {
		fn(it)
	}
}

// instance is one incarnation of a followed topic.
type instance struct {
	// static after construction
	id    stream.TopicID
	topic *topic
	done  chan struct{} // closed when it is not followed any more

	parts    atomic.Pointer[[]*partition] // by id; grows under the book's mu
	replaced atomic.Bool                  // the topic was made again: topic.inst is another, or will be
}

func newInstance(t *topic, f catalog.Feed) *instance {
	i := &instance{id: f.ID, topic: t, done: make(chan struct{})}
	i.parts.Store(&[]*partition{})
	return i
}

// part returns a partition, nil if it is not known (yet).
func (i *instance) part(id int32) *partition {
	ps := *i.parts.Load()
	if id < 0 || int(id) >= len(ps) {
		return nil
	}
	return ps[id]
}

// post hands an operation to every partition's loop.
func (i *instance) post(op operation) {
	for _, p := range *i.parts.Load() {
		p.box.post(op)
	}
}

// moved tells whether a tape's head moved since the last call. Only one
// goroutine calls it.
func (i *instance) moved() (moved bool) {
	for _, p := range *i.parts.Load() {
		if _, head, _ := p.tape.bounds(); head != p.lazyHead {
			p.lazyHead, moved = head, true
		}
	}
	return moved
}

// posted is what the loops are told of an interest: a copy, as the original
// may change meanwhile.
type posted struct {
	id    coverage.InterestID
	key   []byte
	acked bool
	e     stream.InterestPos
}
