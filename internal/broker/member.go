package broker

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
)

// member is one membership of a group, over all its generations.
type member struct {
	// static
	client *Client
	o      GroupOptions
	log    *slog.Logger

	// owned by JoinGroup's loop
	id     string           // as the coordinator knows it; "" = not a member
	topics []string         // joined with
	owned  []TopicPartition // of the last generation
	last   int32            // the generation that owned is of
	counts map[string]int   // partitions per topic, as the last leader saw them
	nudge  int32

	mu   sync.Mutex
	node int32 // guarded by mu; the coordinator, anyBroker = not known
}

// coordinator returns the group's coordinator.
func (m *member) coordinator(ctx context.Context) (int32, error) {
	m.mu.Lock()
	node := m.node
	m.mu.Unlock()
	if node != anyBroker {
		return node, nil
	}
	node, err := m.client.findCoordinator(ctx, m.o.Group)
	if err != nil {
		return anyBroker, err
	}
	m.mu.Lock()
	m.node = node
	m.mu.Unlock()
	return node, nil
}

// lost forgets the coordinator where an error says that it may be another.
func (m *member) lost(err error) {
	if disconnected(err) || isNet(err) || isCode(err, kafka.NotCoordinatorForGroup, kafka.GroupCoordinatorNotAvailable, kafka.BrokerNotAvailable) {
		m.mu.Lock()
		m.node = anyBroker
		m.mu.Unlock()
	}
}

// stay sends heartbeats until the generation ends, and says why it did.
func (m *member) stay(ctx context.Context, g *Generation) error {
	beat, watch := time.NewTicker(m.o.Heartbeat), time.NewTicker(watchEvery)
	defer beat.Stop()
	defer watch.Stop()
	changed := m.o.Changed
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-beat.C:
			if err := m.beat(ctx, g); err != nil {
				return err
			}
		case _, ok := <-changed:
			if !ok {
				changed = nil
			}
			if m.outdated(ctx) {
				return errChanged
			}
		case <-watch.C:
			if m.outdated(ctx) {
				return errChanged
			}
		}
	}
}

// beat sends one heartbeat. An absent coordinator is no reason to give the
// generation up: if it lasts too long the next answer says so.
func (m *member) beat(ctx context.Context, g *Generation) error {
	ctx, cancel := context.WithTimeout(ctx, m.o.Session/2)
	defer cancel()
	to, err := m.coordinator(ctx)
	if err == nil {
		err = m.client.heartbeat(ctx, to, &m.o, g.ID, g.Member)
	}
	if err == nil {
		return nil
	}
	m.lost(err)
	if isCode(err, kafka.IllegalGeneration, kafka.UnknownMemberId, kafka.RebalanceInProgress, kafka.FencedInstanceID) || !Retryable(err) && ctx.Err() == nil {
		return err
	}
	m.log.Debug("heartbeat failed", slog.Any("error", err))
	return nil
}

// outdated tells whether this member sees other topics or partitions than the
// leader that made the assignment did.
func (m *member) outdated(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, m.o.Session/2)
	defer cancel()
	topics, err := m.o.Topics(ctx)
	if err != nil {
		m.log.Debug("cannot ask for the topics", slog.Any("error", err))
		return false
	}
	slices.Sort(topics)
	topics = slices.Compact(topics)
	if !slices.Equal(topics, m.topics) {
		return true
	}
	counts, err := m.partitions(ctx, topics)
	if err != nil {
		return false
	}
	for _, t := range topics {
		if counts[t] != m.counts[t] {
			return true
		}
	}
	return false
}

// leave ends the membership, when JoinGroup does.
func (m *member) leave(ctx context.Context) {
	if m.id == "" || m.o.Instance != "" && !m.o.Leave {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	to, err := m.coordinator(ctx)
	if err == nil {
		err = m.client.leaveGroup(ctx, to, &m.o, m.id)
	}
	if err != nil {
		m.log.Debug("could not leave the group", slog.Any("error", err))
	}
}
