package fanout

import (
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/stream"
)

const (
	// foldFor bounds how long records are folded without a snapshot while the
	// log's end is not reached.
	foldFor = 50 * time.Millisecond
	// caughtStep bounds what one successful read adds to the lease clock: the
	// long poll, and some. Time in which the log was not read does not count
	// against anybody's lease.
	caughtStep = time.Second
)

// deliveryPrefix begins the name of each delivery topic. What the interest log
// says is not trusted with any other topic.
const deliveryPrefix = stream.InternalPrefix + "delivery."

// tracker folds the interest log into routes and nodes. It is the handler of
// the follower, whose goroutine is the only one that writes.
type tracker struct {
	// static after construction
	metrics *metrics
	log     *slog.Logger
	changed chan struct{} // cap 1: a new snapshot
	loaded  chan struct{} // closed when the log was read to its end once

	// set once, before the follower runs
	newPub func(inc *interest.Incarnation) *publisher // makes and starts a node's publisher

	snap atomic.Pointer[snapshot]
	live atomic.Int64 // number of targets

	// guarded by mu
	mu       sync.Mutex
	state    interest.State
	routes   *builder
	targets  map[string]*target // alive, by incarnation
	pos      stream.InterestPos
	pending  bool // something was applied since the last snapshot
	folded   time.Time
	caught   time.Time // when the end was last reached; zero = not since Reset
	isLoaded bool
	clock    time.Time // the lease clock: stands still while the log is not read
	resets   int
}

func newTracker(m *metrics, log *slog.Logger) *tracker {
	return &tracker{
		metrics: m, log: log,
		changed: make(chan struct{}, 1), loaded: make(chan struct{}),
		routes: newBuilder(), targets: map[string]*target{}, clock: time.Unix(0, 0),
	}
}

// Reset forgets all nodes. Partitions go on by the old routes until the log is
// read to its end again.
func (t *tracker) Reset(log stream.TopicID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state.Reset(log)
	for _, target := range t.targets {
		target.pub.end()
	}
	t.targets = map[string]*target{}
	t.live.Store(0)
	t.routes = newBuilder()
	t.pos = stream.InterestPos{Log: log, Offset: -1}
	t.caught = time.Time{}
	t.resets++
}

// Apply folds one record.
func (t *tracker) Apply(pos stream.InterestPos, r interest.Record, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.metrics.interests.Inc()
	if !ok {
		t.metrics.badInterests.Inc()
	}
	t.fold(t.state.Apply(pos, r, ok, t.clock), pos.Offset)
	t.pos, t.pending = pos, true
	if !t.caught.IsZero() && time.Since(t.folded) > foldFor {
		t.publishLocked()
	}
}

func (t *tracker) fold(c interest.Change, offset int64) {
	if c.Incarnation == nil {
		return
	}
	target := t.targets[c.Incarnation.Name]
	switch {
	case c.Ended:
		if target != nil {
			t.retire(target, c.Incarnation)
		}
	case c.Born:
		t.welcome(c.Incarnation, offset)
	case target == nil || !c.Edge:
	case c.Kind == interest.KindAdd:
		t.routes.add(target, c.Want, offset)
	case c.Kind == interest.KindEnd1:
		t.routes.drop(target, c.Want)
	}
}

// welcome makes an incarnation a target, with all it asked for so far.
func (t *tracker) welcome(inc *interest.Incarnation, offset int64) {
	if !strings.HasPrefix(inc.Delivery, deliveryPrefix) {
		t.metrics.badInterests.Inc()
		t.log.Warn("lease names a delivery topic that is none, nothing is written to it",
			"node", inc.Node, "incarnation", inc.Name, "topic", inc.Delivery)
		return
	}
	target := &target{slot: t.routes.slot(), incarnation: inc.Name, pub: t.newPub(inc)}
	t.targets[inc.Name] = target
	t.live.Store(int64(len(t.targets)))
	for w := range inc.Wants {
		t.routes.add(target, w, offset)
	}
	if t.isLoaded {
		t.log.Info("node is known", "node", inc.Node, "incarnation", inc.Name)
	}
}

func (t *tracker) retire(target *target, inc *interest.Incarnation) {
	target.pub.end()
	for _, w := range inc.IDs {
		t.routes.drop(target, w)
	}
	t.routes.release(target)
	delete(t.targets, inc.Name)
	t.live.Store(int64(len(t.targets)))
	if t.isLoaded {
		t.log.Info("node has ended", "node", inc.Node, "incarnation", inc.Name)
	}
}

// Caught publishes what was folded, and lets the lease clock go on.
func (t *tracker) Caught(pos stream.InterestPos) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if !t.caught.IsZero() {
		t.clock = t.clock.Add(min(now.Sub(t.caught), caughtStep))
	}
	t.caught = now
	if t.pos != pos {
		t.pos, t.pending = pos, true
	}
	t.publishLocked()
	if !t.isLoaded {
		t.isLoaded = true
		close(t.loaded)
		t.log.Info("interests are loaded", "offset", pos.Offset, "nodes", len(t.targets), "interests", t.state.Wants())
	}
}

// flush publishes what is applied now, for who waited for it with Sync.
func (t *tracker) flush() {
	t.mu.Lock()
	defer t.mu.Unlock()
	// Before the end was reached once, a snapshot would be half of the log.
	if !t.caught.IsZero() {
		t.publishLocked()
	}
}

func (t *tracker) publishLocked() {
	if !t.pending && t.snap.Load() != nil {
		return
	}
	t.pending = false
	t.folded = time.Now()
	t.snap.Store(t.routes.publish(t.pos))
	signal(t.changed)
}

// following tells since when the log was not seen to its end; ok=false: never.
func (t *tracker) following(now time.Time) (age time.Duration, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return now.Sub(t.caught), !t.caught.IsZero()
}

// queued tells whether anything waits to be written for a node that is not cut.
func (t *tracker) queued() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, target := range t.targets {
		if bytes, h := target.pub.load(); h == healthy && bytes > 0 {
			return true
		}
	}
	return false
}
