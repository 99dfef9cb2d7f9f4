package broker_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/internal/embedded"
	"github.com/tapecast/tapecast/internal/stream"
)

func TestReadingGoesOnWhenConnectionsBreak(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		topic, cut := env.Topic(t, 1), newCutter(t, 7)
		fill(t, env, topic, 0, 3000, 20)
		c, err := broker.New(broker.Options{Addrs: env.Addrs, Dial: cut.dial})
		require.NoError(t, err)
		t.Cleanup(c.Close)
		cut.every.Store(20_000)
		r := c.NewReader(topic, stream.TopicID{}, 0)
		defer r.Close()
		next := int64(0)
		for next < 3000 {
			span, err := r.Read(ctxOf(t), next, 4<<10, time.Second)
			if err != nil {
				require.True(t, broker.Retryable(err), "%v", err)
				continue
			}
			for _, rec := range span.Records {
				require.Equal(t, next, rec.Offset)
				require.Equal(t, fmt.Sprint("value ", next), string(rec.Value))
				next++
			}
			require.Equal(t, next, span.To)
		}
		require.Positive(t, cut.cuts.Load())
	})
}

// TestARestartOfTheBroker runs everything over a broker that goes away and
// comes back at the same address, on connections that are pooled.
func TestARestartOfTheBroker(t *testing.T) {
	dir := t.TempDir()
	b, err := embedded.Start(embedded.Options{Listen: "127.0.0.1:0", DataDir: dir})
	require.NoError(t, err)
	addr := b.Addr()
	c := brokertest.Dial(t, addr)
	env := &brokertest.Env{Addrs: []string{addr}, Client: c}
	topic := env.Topic(t, 2)
	id := topicID(t, c, topic)
	p := producer(t, c, broker.ProducerOptions{})
	m := join(t, c, broker.GroupOptions{Group: "g", Topics: topicsOf(topic), Instance: "i", Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))})
	m.await(t, 2)
	r := c.NewReader(topic, id, 0)
	next := int64(0)
	for range 4 {
		out, err := p.Produce(ctxOf(t), topic, []broker.ProduceRecord{{Value: []byte("v")}})
		require.NoError(t, err)
		require.NoError(t, out[0].Err)
		require.Equal(t, next, out[0].Offset)
		span, err := r.Read(ctxOf(t), next, 1<<20, 10*time.Second)
		require.NoError(t, err)
		require.Len(t, span.Records, 1)
		next = span.To

		require.NoError(t, b.Close())
		require.Error(t, c.Ping(ctxOf(t)))
		_, err = r.Read(ctxOf(t), next, 1<<20, 10*time.Millisecond)
		require.Error(t, err)
		require.True(t, broker.Retryable(err), "%v", err)
		_, err = c.Append(ctxOf(t), topic, 1, []broker.AppendRecord{{}})
		require.True(t, broker.Retryable(err), "%v", err)
		b, err = embedded.Start(embedded.Options{Listen: addr, DataDir: dir})
		require.NoError(t, err)

		require.Eventually(t, func() bool { return c.Ping(ctxOf(t)) == nil }, 20*time.Second, 10*time.Millisecond)
		require.Eventually(t, func() bool {
			_, err := c.Append(ctxOf(t), topic, 1, []broker.AppendRecord{{}})
			return err == nil
		}, 20*time.Second, 10*time.Millisecond)
	}
	// The member is still one, or again.
	require.Eventually(t, func() bool {
		m.mu.Lock()
		last := m.last
		m.mu.Unlock()
		return last.Commit(context.Background(), map[broker.TopicPartition]broker.Committed{{Topic: topic, Partition: 1}: {Offset: 1}}) == nil
	}, 30*time.Second, 20*time.Millisecond)
	m.stop()
	require.NoError(t, b.Close())
}

func TestAGroupStaysTogetherWhenConnectionsBreak(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		topic, group, cut := env.Topic(t, 6), brokertest.Name(t, "group"), newCutter(t, 11)
		c, err := broker.New(broker.Options{Addrs: env.Addrs, Dial: cut.dial})
		require.NoError(t, err)
		t.Cleanup(c.Close)
		o := broker.GroupOptions{Group: group, Topics: topicsOf(topic), Heartbeat: 10 * time.Millisecond}
		a := join(t, c, o)
		b := join(t, c, o)
		a.await(t, 3)
		g := b.await(t, 3)
		cut.every.Store(1500)
		cut.cutAll()
		tp := keys(g)[0]
		for i := range 200 {
			err := g.Commit(ctxOf(t), map[broker.TopicPartition]broker.Committed{tp: {Offset: int64(i)}})
			if err != nil {
				require.True(t, broker.Retryable(err), "%v", err)
			}
		}
		require.Positive(t, cut.cuts.Load())
		require.Equal(t, g, b.await(t, 3), "broken connections are no rebalance")
	})
}

// TestALeaderThatDiesLosesAndDoublesNothing kills and freezes leaders of a
// replicated topic while it is written and read.
func TestALeaderThatDiesLosesAndDoublesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("short: three Kafka processes")
	}
	cluster := brokertest.StartKafka(t, 3)
	env := cluster.Env(t)
	const partitions = 3
	topic := env.Topic(t, partitions)
	p := producer(t, env.Client, broker.ProducerOptions{})
	stop, done := make(chan struct{}), make(chan map[broker.TopicPartition]map[int64]string, 1)
	go func() { done <- produceUntil(t, p, topic, stop) }()
	require.Eventually(t, func() bool { return bounds(t, env, topic).End > 100 }, time.Minute, 10*time.Millisecond)
	leader := func() int {
		ts, err := env.Client.Topics(ctxOf(t), topic)
		require.NoError(t, err)
		return int(ts[0].Partitions[0].Leader) - 1
	}
	end := int64(0)
	progress := func() {
		require.Eventually(t, func() bool {
			b, err := env.Client.Bounds(ctxOf(t), topic, []int32{0})
			return err == nil && b[0].End > end+100
		}, 2*time.Minute, 50*time.Millisecond)
		end = bounds(t, env, topic).End
	}
	progress()
	dead := leader()
	cluster.Kill(dead)
	progress()
	require.NoError(t, cluster.Restart(dead))
	progress()
	frozen := leader()
	require.NoError(t, cluster.Stop(frozen))
	progress()
	require.NoError(t, cluster.Cont(frozen))
	progress()
	close(stop)
	verify(t, env, topic, partitions, <-done)
}

// TestAnAppendFindsTheNextLeader has a broker refuse while metadata still name it,
// until others are elected.
func TestAnAppendFindsTheNextLeader(t *testing.T) {
	env := brokertest.StartWith(t, threeBrokers)
	topic := env.Topic(t, 1)
	require.NoError(t, env.Kfake.MoveTopicPartition(topic, 0, 2))
	var dead atomic.Bool
	var mu sync.Mutex
	var conns []net.Conn
	c, err := broker.New(broker.Options{Addrs: env.Addrs, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == env.Addrs[2] && dead.Load() {
			return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err == nil && addr == env.Addrs[2] {
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
		}
		return conn, err
	}})
	require.NoError(t, err)
	defer c.Close()
	one := []broker.AppendRecord{{Value: []byte("x")}}
	_, err = c.Append(t.Context(), topic, 0, one)
	require.NoError(t, err)

	dead.Store(true)
	mu.Lock()
	for _, conn := range conns {
		_ = conn.Close()
	}
	mu.Unlock()
	for range 3 { // before the election
		_, err = c.Append(t.Context(), topic, 0, one)
		require.Error(t, err)
	}
	require.NoError(t, env.Kfake.RemoveNode(2)) // elects others
	require.Eventually(t, func() bool {
		_, err = c.Append(t.Context(), topic, 0, one)
		return err == nil
	}, 20*time.Second, 20*time.Millisecond, "%v", err)
}
