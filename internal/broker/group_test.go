package broker_test

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/brokertest"
)

// testMember is a group member that tells of its generations.
type testMember struct {
	cancel context.CancelFunc
	done   chan error
	gens   chan *broker.Generation

	mu   sync.Mutex
	last *broker.Generation
}

func join(t *testing.T, c *broker.Client, o broker.GroupOptions) *testMember {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	m := &testMember{cancel: cancel, done: make(chan error, 1), gens: make(chan *broker.Generation, 100)}
	if o.Heartbeat == 0 {
		o.Heartbeat = 100 * time.Millisecond
	}
	go func() {
		m.done <- c.JoinGroup(ctx, o, func(g *broker.Generation) {
			m.mu.Lock()
			m.last = g
			m.mu.Unlock()
			m.gens <- g
		})
	}()
	t.Cleanup(m.stop)
	return m
}

func (m *testMember) stop() {
	m.cancel()
	if err, ok := <-m.done; ok {
		_ = err
		close(m.done)
	}
}

// await waits for a generation in which n partitions are assigned.
func (m *testMember) await(t *testing.T, n int) *broker.Generation {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		m.mu.Lock()
		g := m.last
		m.mu.Unlock()
		if g != nil && len(g.Assigned) == n {
			return g
		}
		select {
		case <-m.gens:
		case <-timeout:
			t.Fatalf("no generation with %d partitions", n)
		}
	}
}

func topicsOf(names ...string) func(context.Context) ([]string, error) {
	return func(context.Context) ([]string, error) { return slices.Clone(names), nil }
}

func keys(g *broker.Generation) []broker.TopicPartition {
	return slices.Collect(maps.Keys(g.Assigned))
}

func TestAMemberKeepsItsPartitionsWhenAnotherJoinsAndGetsThemBackWhenItLeaves(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		topic, group := env.Topic(t, 6), brokertest.Name(t, "group")
		o := broker.GroupOptions{Group: group, Topics: topicsOf(topic)}
		a := join(t, env.Client, o)
		a.await(t, 6)
		b := join(t, env.Client, o)
		gb := b.await(t, 3)
		ga := a.await(t, 3)
		require.Equal(t, ga.ID, gb.ID)
		for _, tp := range keys(gb) {
			require.NotContains(t, ga.Assigned, tp)
		}
		c := join(t, env.Client, o)
		gc := c.await(t, 2)
		ga2, gb2 := a.await(t, 2), b.await(t, 2)
		for _, tp := range keys(ga2) {
			require.Contains(t, ga.Assigned, tp)
		}
		for _, tp := range keys(gb2) {
			require.Contains(t, gb.Assigned, tp)
		}
		require.Len(t, gc.Assigned, 2)
		c.stop()
		b.stop()
		a.await(t, 6)
	})
}

func TestAStaticMemberComesBackWithoutARebalance(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		topic, group := env.Topic(t, 4), brokertest.Name(t, "group")
		o := func(name string) broker.GroupOptions {
			return broker.GroupOptions{Group: group, Instance: name, Topics: topicsOf(topic)}
		}
		a := join(t, env.Client, o("a"))
		a.await(t, 4)
		b := join(t, env.Client, o("b"))
		gb := b.await(t, 2)
		ga := a.await(t, 2)
		for _, name := range []string{"a", "b"} { // one of them leads the group
			m, g := a, ga
			if name == "b" {
				m, g = b, gb
			}
			m.stop()
			again := join(t, env.Client, o(name))
			back := again.await(t, 2)
			if env.Name == "kafka" { // kfake rebalances when what a member says of itself differs
				require.Equal(t, g.ID, back.ID, name)
			}
			require.ElementsMatch(t, keys(g), keys(back))
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			tp := keys(back)[0]
			require.NoError(t, back.Commit(ctx, map[broker.TopicPartition]broker.Committed{tp: {Offset: 5, Metadata: "id"}}))
			require.ErrorIs(t, g.Commit(ctx, map[broker.TopicPartition]broker.Committed{tp: {Offset: 4}}), broker.ErrStaleGeneration)
			got, err := env.Client.GroupOffsets(ctx, group, topic, []int32{tp.Partition})
			require.NoError(t, err)
			require.Equal(t, broker.Committed{Offset: 5, Metadata: "id"}, got[tp.Partition])
			cancel()
		}
	})
}

func TestAStaticMemberThatLeavesIsReplacedAtOnce(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		topic, group := env.Topic(t, 4), brokertest.Name(t, "group")
		a := join(t, env.Client, broker.GroupOptions{Group: group, Instance: "a", Topics: topicsOf(topic)})
		a.await(t, 4)
		b := join(t, env.Client, broker.GroupOptions{Group: group, Instance: "b", Topics: topicsOf(topic), Leave: true, Session: time.Minute})
		b.await(t, 2)
		b.stop()
		a.await(t, 4)
	})
}

func TestNewPartitionsAndTopicsAreAssigned(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		first, second, group := env.Topic(t, 2), env.Topic(t, 1), brokertest.Name(t, "group")
		var mu sync.Mutex
		names := []string{first}
		topics := func(context.Context) ([]string, error) {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(names), nil
		}
		var members []*testMember
		var changed []chan struct{}
		for range 2 {
			ch := make(chan struct{}, 1)
			changed = append(changed, ch)
			members = append(members, join(t, env.Client, broker.GroupOptions{Group: group, Topics: topics, Changed: ch}))
		}
		members[0].await(t, 1)
		members[1].await(t, 1)
		require.NoError(t, env.Client.AddPartitions(t.Context(), first, 4))
		changed[0] <- struct{}{}
		members[0].await(t, 2)
		members[1].await(t, 2)
		mu.Lock()
		names = append(names, second)
		mu.Unlock()
		changed[1] <- struct{}{}
		total := func() int {
			n := 0
			for _, m := range members {
				m.mu.Lock()
				n += len(m.last.Assigned)
				m.mu.Unlock()
			}
			return n
		}
		require.Eventually(t, func() bool { return total() == 5 }, time.Minute, 10*time.Millisecond)
	})
}

func TestACommitOfAnOldGenerationIsRefused(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		topic, group := env.Topic(t, 2), brokertest.Name(t, "group")
		o := broker.GroupOptions{Group: group, Topics: topicsOf(topic)}
		a := join(t, env.Client, o)
		old := a.await(t, 2)
		tp := broker.TopicPartition{Topic: topic, Partition: 1}
		require.EqualValues(t, -1, old.Assigned[tp].Offset)
		require.NoError(t, old.Commit(t.Context(), map[broker.TopicPartition]broker.Committed{tp: {Offset: 7, Metadata: "x"}}))
		join(t, env.Client, o).await(t, 1)
		a.await(t, 1)
		err := old.Commit(t.Context(), map[broker.TopicPartition]broker.Committed{tp: {Offset: 9}})
		require.ErrorIs(t, err, broker.ErrStaleGeneration)
		require.False(t, broker.Retryable(err))
		got, err := env.Client.GroupOffsets(t.Context(), group, topic, []int32{0, 1})
		require.NoError(t, err)
		require.Equal(t, map[int32]broker.Committed{0: {Offset: -1}, 1: {Offset: 7, Metadata: "x"}}, got)
		a.stop()
		// Whoever has it now starts where the commit stands.
	})
}
