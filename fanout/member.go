package fanout

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/stream"
)

// member is this instance's part in the consumer group: which partitions it
// owns, and the loops that cast them.
type member struct {
	parts

	// owned by the loops' group: started here, waited for by Run
	loops    *errgroup.Group
	loopsCtx context.Context //nolint:containedctx // the life of the loops that assigned starts

	// guarded by mu
	mu         sync.Mutex
	generation *broker.Generation
	owned      map[broker.TopicPartition]*partition
	followed   map[followedKey]bool
	joined     bool
	closed     bool // Run ends: no more loops
}

type followedKey struct {
	generation int32
	topic      string
	id         stream.TopicID
}

func newMember(ctx context.Context, p parts, loops *errgroup.Group) *member {
	return &member{
		parts: p, loops: loops, loopsCtx: ctx,
		owned: map[broker.TopicPartition]*partition{}, followed: map[followedKey]bool{},
	}
}

// assigned takes a new generation on: loops of partitions that were taken away
// end, new ones start, and those that are kept do not notice.
func (m *member) assigned(gen *broker.Generation) {
	if m.byReader() { // in negative controls only
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	m.generation, m.joined = gen, true
	m.metrics.rebalances.Inc()
	m.fence.renew(time.Now()) // the group counts on us: it has just said so
	clear(m.followed)
	stopped, started := 0, 0
	for tp, p := range m.owned {
		if c, keep := gen.Assigned[tp]; keep && !p.overtaken(c) {
			p.setGeneration(gen.ID)
			continue
		}
		p.stop()
		delete(m.owned, tp)
		stopped++
	}
	for tp, c := range gen.Assigned {
		if m.owned[tp] == nil {
			m.begin(tp, c, gen.ID)
			started++
		}
	}
	m.log.Info("partitions assigned", "generation", gen.ID, "owned", len(m.owned), "started", started, "stopped", stopped)
}

// shut lets assigned start no more loops, so that they can be waited for.
func (m *member) shut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
}

func (m *member) begin(tp broker.TopicPartition, c broker.Committed, generation int32) {
	ctx, cancel := context.WithCancel(m.loopsCtx)
	p := &partition{parts: m.parts, tp: tp, committed: c, generation: generation, stop: cancel}
	p.followed = func(ctx context.Context, id stream.TopicID) (bool, error) {
		return m.wasFollowed(ctx, followedKey{generation: generation, topic: tp.Topic, id: id})
	}
	m.owned[tp] = p
	m.loops.Go(func() error {
		defer cancel()
		return p.run(ctx)
	})
}

// wasFollowed tells whether the group has a commit for any partition of the
// topic, or followed an earlier incarnation of it. Partitions of one generation get one answer: the first commits of
// some must not look like a past to the others.
func (m *member) wasFollowed(ctx context.Context, k followedKey) (bool, error) {
	m.mu.Lock()
	known, ok := m.followed[k]
	m.mu.Unlock()
	if ok {
		return known, nil
	}
	if m.history.another(k.topic, k.id) {
		return true, nil
	}
	ts, err := m.client.Topics(ctx, k.topic)
	if err != nil {
		return false, fmt.Errorf("look up %s: %w", k.topic, err)
	}
	var all []int32
	for _, t := range ts {
		if t.Name == k.topic {
			for _, p := range t.Partitions {
				all = append(all, p.ID)
			}
		}
	}
	committed, err := m.client.GroupOffsets(ctx, m.group, k.topic, all)
	if err != nil {
		return false, fmt.Errorf("ask commits of group %s for %s: %w", m.group, k.topic, err)
	}
	any := false
	for _, c := range committed {
		any = any || c.Offset >= 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if known, ok := m.followed[k]; ok {
		return known, nil
	}
	m.followed[k] = any
	return any, nil
}

// current returns the generation and what is owned in it.
func (m *member) current() (*broker.Generation, []*partition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	owned := make([]*partition, 0, len(m.owned))
	for _, p := range m.owned {
		owned = append(owned, p)
	}
	return m.generation, owned
}

func (m *member) size() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.owned)
}

func (m *member) isJoined() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.joined
}

// pace answers new interests, covers quiet nodes and watches over readers, for
// all owned partitions: theirs may be waiting in a long poll.
func (m *member) pace(ctx context.Context) error {
	tick := time.NewTicker(coverEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.tracker.changed:
			m.adopt()
			if !sleep(ctx, answerEvery) {
				return nil
			}
		case <-tick.C:
			_, owned := m.current()
			now := time.Now()
			for _, p := range owned {
				p.adopt(now)
				if m.fence.open(now) {
					p.cover(now)
				}
				p.watch(now)
			}
			m.round.flush()
		}
	}
}

// adopt hands a new snapshot to all owned partitions, and comes back to those
// for which it was too soon.
func (m *member) adopt() {
	_, owned := m.current()
	now := time.Now()
	later := false
	for _, p := range owned {
		later = !p.adopt(now) || later
	}
	m.round.flush()
	if later {
		signal(m.tracker.changed)
	}
}

// signal wakes whoever waits on a channel of capacity 1.
func signal(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// coverEvery is how often partitions are looked at for nodes that need a
// covering section, interests that waited, and stuck readers.
const coverEvery = 100 * time.Millisecond
