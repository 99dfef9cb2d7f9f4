package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"
)

// GroupOptions of a group member.
type GroupOptions struct {
	Group     string
	Instance  string                                      // static membership: the same name rejoins without a rebalance
	Topics    func(ctx context.Context) ([]string, error) // asked at every join, and every few seconds
	Changed   <-chan struct{}                             // topics or partitions changed: rejoin
	Session   time.Duration                               // default 6 s
	Heartbeat time.Duration                               // default 500 ms
	Rebalance time.Duration                               // default 6 s
	Leave     bool                                        // leave at the end also as a static member: it will not come back soon
	Logger    *slog.Logger
}

// TopicPartition names a partition of a topic.
type TopicPartition struct {
	Topic     string
	Partition int32
}

// Committed is a group's committed position. Metadata holds what the committer
// said of it, at most 4096 bytes.
type Committed struct {
	Offset   int64 // next to read; -1 = none
	Metadata string
}

// Generation is one membership: what this member owns until the next call.
type Generation struct {
	ID       int32
	Member   string
	Assigned map[TopicPartition]Committed

	member *member
	owned  map[TopicPartition]struct{}
}

// maxCommitMetadata is Kafka's own limit.
const maxCommitMetadata = 4096

// Commit commits next offsets under this generation. Safe for concurrent use.
// After the generation has ended, and for partitions that it does not own, the
// error is ErrStaleGeneration. While the group rebalances it may be Retryable.
func (g *Generation) Commit(ctx context.Context, offsets map[TopicPartition]Committed) error {
	if len(offsets) == 0 {
		return nil
	}
	for tp, o := range offsets {
		if _, ok := g.owned[tp]; !ok {
			return fmt.Errorf("commit topic %s partition %d, which is not assigned: %w", tp.Topic, tp.Partition, ErrStaleGeneration)
		}
		if len(o.Metadata) > maxCommitMetadata {
			return fmt.Errorf("commit topic %s partition %d: %d bytes of metadata, limit %d", tp.Topic, tp.Partition, len(o.Metadata), maxCommitMetadata)
		}
	}
	m := g.member
	err := retry(ctx, time.Second, func() error {
		to, err := m.coordinator(ctx)
		if err != nil {
			return err
		}
		results, err := m.client.offsetCommit(ctx, to, m.o.Group, m.o.Instance, g.Member, g.ID, offsets)
		for _, r := range results {
			if r.err != nil {
				err = errors.Join(err, fmt.Errorf("topic %s partition %d: %w", r.Topic, r.Partition, r.err))
			}
		}
		if err != nil {
			m.lost(err)
		}
		return err
	})
	if isCode(err, kafka.IllegalGeneration, kafka.UnknownMemberId, kafka.FencedInstanceID) {
		err = fmt.Errorf("%w: %w", ErrStaleGeneration, err)
	}
	if err != nil {
		return fmt.Errorf("commit to group %s: %w", m.o.Group, err)
	}
	return nil
}

// JoinGroup keeps a member in the group until ctx ends, then leaves it (a
// static member only goes, so that it may come back without a rebalance; see
// GroupOptions.Leave). For each generation it calls assigned, which must return
// soon: it diffs the assignment, stops what was revoked, starts what is new,
// and leaves what is kept running. Assignment is sticky. While Kafka is away
// it retries for ever. It returns only with ctx's end.
func (c *Client) JoinGroup(ctx context.Context, o GroupOptions, assigned func(*Generation)) error {
	if o.Session <= 0 {
		o.Session = 6 * time.Second
	}
	if o.Heartbeat <= 0 {
		o.Heartbeat = 500 * time.Millisecond
	}
	if o.Rebalance <= 0 {
		o.Rebalance = 6 * time.Second
	}
	if o.Logger == nil {
		o.Logger = c.log
	}
	m := &member{client: c, o: o, node: anyBroker, log: o.Logger.With(slog.String("group", o.Group))}
	defer m.leave(ctx)
	for pause := firstPause; ctx.Err() == nil; {
		g, err := m.join(ctx)
		if err == nil {
			pause = firstPause
			m.log.Info("joined the group", slog.Int("generation", int(g.ID)), slog.Int("partitions", len(g.Assigned)))
			assigned(g)
			err = m.stay(ctx, g)
		}
		if ctx.Err() != nil {
			break
		}
		if m.again(err) {
			continue
		}
		m.log.Warn("cannot be in the group now", slog.Any("error", err))
		if isCode(err, kafka.FencedInstanceID) {
			pause = max(pause, o.Session) // another process has our name; do not fight over it
		}
		sleep(ctx, pause)
		pause = min(2*pause, 2*time.Second)
	}
	return ctx.Err()
}

const firstPause = 50 * time.Millisecond

// watchEvery is how often a member looks for new topics and partitions by itself.
const watchEvery = 5 * time.Second

// errChanged says that topics or partitions differ from those assigned.
var errChanged = errors.New("topics or partitions have changed")

// again learns from an error, and tells whether to join again at once.
func (m *member) again(err error) bool {
	m.lost(err)
	switch {
	case errors.Is(err, errChanged):
		m.nudge++
		return true
	case isCode(err, kafka.RebalanceInProgress, kafka.MemberIDRequired):
		return true
	case isCode(err, kafka.IllegalGeneration):
		return true
	case isCode(err, kafka.UnknownMemberId, kafka.FencedInstanceID):
		// Evicted. What was owned may have another owner by now, but sticky
		// assignment gives it back if nobody took it.
		m.id = ""
		return isCode(err, kafka.UnknownMemberId)
	}
	return false
}

// join goes through one rebalance and returns what this member got.
func (m *member) join(ctx context.Context) (*Generation, error) {
	topics, err := m.o.Topics(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask for the topics: %w", err)
	}
	slices.Sort(topics)
	m.topics = slices.Compact(topics)
	to, err := m.coordinator(ctx)
	if err != nil {
		return nil, err
	}
	j, err := m.client.joinGroup(ctx, to, &m.o, m.id, encodeSubscription(m.topics, m.owned, m.last, m.nudge))
	if j.member != "" {
		m.id = j.member // also with "member id required"
	}
	if err != nil {
		return nil, fmt.Errorf("join group: %w", err)
	}
	var shares map[string][]byte
	if j.leader == j.member && len(j.members) > 0 {
		if shares, err = m.lead(ctx, j.members); err != nil {
			return nil, err
		}
	}
	b, err := m.client.syncGroup(ctx, to, &m.o, j, shares)
	if err != nil {
		return nil, fmt.Errorf("sync group: %w", err)
	}
	tps, counts, err := decodeAssignment(b)
	if err != nil {
		return nil, err
	}
	m.counts = counts
	return m.generation(ctx, to, j.generation, tps)
}

// lead computes everybody's share.
func (m *member) lead(ctx context.Context, members []joinedMember) (map[string][]byte, error) {
	subs := make([]subscription, 0, len(members))
	names := make(map[string]struct{})
	for _, jm := range members {
		s, err := decodeSubscription(jm.id, jm.metadata)
		if err != nil {
			m.log.Warn("a member's subscription cannot be read", slog.String("member", jm.id), slog.Any("error", err))
		}
		subs = append(subs, s)
		for _, t := range s.topics {
			names[t] = struct{}{}
		}
	}
	counts, err := m.partitions(ctx, slices.Sorted(maps.Keys(names)))
	if err != nil {
		return nil, err
	}
	out := make(map[string][]byte, len(subs))
	for id, tps := range assign(subs, counts) {
		out[id] = encodeAssignment(tps, counts)
	}
	return out, nil
}

// partitions asks how many partitions the topics have; those that do not exist are left out.
func (m *member) partitions(ctx context.Context, topics []string) (map[string]int, error) {
	out := make(map[string]int, len(topics))
	if len(topics) == 0 {
		return out, nil // no names would mean all
	}
	got, err := m.client.Topics(ctx, topics...)
	for _, t := range got {
		out[t.Name] = len(t.Partitions)
	}
	return out, err
}

// generation makes a Generation of an assignment, with what was committed.
func (m *member) generation(ctx context.Context, to, id int32, tps []TopicPartition) (*Generation, error) {
	g := &Generation{ID: id, Member: m.id, member: m, Assigned: make(map[TopicPartition]Committed), owned: make(map[TopicPartition]struct{})}
	for _, tp := range tps {
		g.owned[tp] = struct{}{}
		g.Assigned[tp] = Committed{Offset: -1}
	}
	if len(tps) > 0 {
		err := retry(ctx, m.o.Session/2, func() (err error) {
			g.Assigned, err = m.client.offsetFetch(ctx, to, m.o.Group, g.Assigned)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("fetch committed offsets: %w", err)
		}
	}
	m.owned, m.last = tps, id
	return g, nil
}
