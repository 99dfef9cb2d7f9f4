package broker_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/internal/stream"
)

// verify checks with another library that a topic holds exactly the records
// that were acknowledged, where they were said to be, and each writer's in order.
func verify(t *testing.T, env *brokertest.Env, topic string, partitions int, acked map[broker.TopicPartition]map[int64]string) {
	t.Helper()
	total, lost := 0, 0
	for p := range int32(partitions) {
		seen, last := map[string]bool{}, map[string]int{}
		at := acked[broker.TopicPartition{Topic: topic, Partition: p}]
		found := 0
		for _, r := range otherAll(t, env, topic, p) {
			v := string(r.Value)
			require.False(t, seen[v], "duplicate %s in partition %d", v, p)
			seen[v] = true
			writer, n, _ := strings.Cut(v, "-")
			i, err := strconv.Atoi(n)
			require.NoError(t, err)
			if prev, ok := last[writer]; ok {
				require.Greater(t, i, prev, "order of writer %s", writer)
			}
			last[writer] = i
			if want, ok := at[r.Offset]; ok {
				require.Equal(t, want, v)
				found++
			}
		}
		total += len(seen)
		lost += len(at) - found
	}
	require.Zero(t, lost, "acknowledged records that are not where they were said to be")
	t.Logf("%d records, 0 duplicates, 0 lost", total)
}

// produceAll lets writers write until each has written n records, and returns what was acknowledged.
func produceAll(t *testing.T, p *broker.Producer, topic string, writers, n, batch int) map[broker.TopicPartition]map[int64]string {
	t.Helper()
	ctx := ctxOf(t)
	acked := map[broker.TopicPartition]map[int64]string{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := 0; i < n; i += batch {
				var recs []broker.ProduceRecord
				for j := i; j < min(n, i+batch); j++ {
					recs = append(recs, broker.ProduceRecord{Key: fmt.Append(nil, "writer", w), Value: fmt.Appendf(nil, "%d-%d", w, j), Partition: -1})
				}
				out, err := p.Produce(ctx, topic, recs)
				if err != nil {
					t.Errorf("produce: %v", err)
					return
				}
				mu.Lock()
				for j, o := range out {
					if o.Err != nil {
						t.Errorf("record %s: %v", recs[j].Value, o.Err)
						continue
					}
					tp := broker.TopicPartition{Topic: topic, Partition: o.Partition}
					if acked[tp] == nil {
						acked[tp] = map[int64]string{}
					}
					acked[tp][o.Offset] = string(recs[j].Value)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return acked
}

// produceUntil writes until it is told to stop, and returns what was acknowledged.
func produceUntil(t *testing.T, p *broker.Producer, topic string, stop <-chan struct{}) map[broker.TopicPartition]map[int64]string {
	t.Helper()
	acked := map[broker.TopicPartition]map[int64]string{}
	for i := 0; ; i++ {
		select {
		case <-stop:
			return acked
		default:
		}
		var recs []broker.ProduceRecord
		for part := range int32(3) {
			recs = append(recs, broker.ProduceRecord{Value: fmt.Appendf(nil, "0-%d", 3*i+int(part)), Partition: part})
		}
		out, err := p.Produce(context.Background(), topic, recs)
		if err != nil {
			t.Errorf("produce: %v", err)
			return acked
		}
		for j, o := range out {
			if o.Err != nil {
				t.Errorf("record %s: %v", recs[j].Value, o.Err)
				continue
			}
			tp := broker.TopicPartition{Topic: topic, Partition: o.Partition}
			if acked[tp] == nil {
				acked[tp] = map[int64]string{}
			}
			acked[tp][o.Offset] = string(recs[j].Value)
		}
	}
}

func TestNothingIsLostOrDoubledWhenConnectionsBreak(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		const partitions = 3
		topic, cut := env.Topic(t, partitions), newCutter(t, rand.Uint64())
		c, err := broker.New(broker.Options{Addrs: env.Addrs, Dial: cut.dial})
		require.NoError(t, err)
		t.Cleanup(c.Close)
		p := producer(t, c, broker.ProducerOptions{})
		cut.every.Store(3000)
		acked := produceAll(t, p, topic, 4, 1500, 5)
		cut.every.Store(0)
		require.Positive(t, cut.cuts.Load(), "nothing was cut")
		t.Logf("%d connections cut", cut.cuts.Load())
		verify(t, env, topic, partitions, acked)
	})
}

func TestNothingIsLostOrDoubledWhenAnswersLie(t *testing.T) {
	env := brokertest.StartWith(t, threeBrokers)
	const partitions = 3
	topic := env.Topic(t, partitions)
	p := producer(t, env.Client, broker.ProducerOptions{})
	r := rand.New(rand.NewPCG(1, 1))
	var mu sync.Mutex
	chance := func(of float64) func(kmsg.Request) bool {
		return func(kmsg.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			return r.Float64() < of
		}
	}
	var handles []*kfake.FaultHandle
	for err, of := range map[*kerr.Error]float64{
		kerr.NotEnoughReplicasAfterAppend: 0.1, // written
		kerr.RequestTimedOut:              0.1, // written
		kerr.NotEnoughReplicas:            0.1, // not written
		kerr.NotLeaderForPartition:        0.05,
		kerr.KafkaStorageError:            0.05,
	} {
		handles = append(handles, env.Kfake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: err, Count: -1, When: chance(of)}))
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for tick := time.NewTicker(100 * time.Millisecond); ; {
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
				env.Kfake.ShufflePartitionLeaders()
			}
		}
	})
	acked := produceAll(t, p, topic, 4, 300, 3)
	close(stop)
	wg.Wait()
	for _, h := range handles {
		require.Positive(t, h.Hits())
		h.Remove()
	}
	verify(t, env, topic, partitions, acked)
}

// faults answers the next produce requests in turn.
func faults(env *brokertest.Env, topic string, errs ...*kerr.Error) {
	for _, err := range errs {
		env.Kfake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: err, Count: 1})
	}
}

func TestALostSequenceIsLookedUpBeforeANewOneIsBegun(t *testing.T) {
	for name, errs := range map[string][]*kerr.Error{
		"written, then out of order":       {kerr.NotEnoughReplicasAfterAppend, kerr.OutOfOrderSequenceNumber},
		"written, then unknown producer":   {kerr.RequestTimedOut, kerr.UnknownProducerID},
		"written, then duplicate":          {kerr.NotEnoughReplicasAfterAppend, kerr.DuplicateSequenceNumber},
		"not written, then out of order":   {kerr.NotEnoughReplicas, kerr.OutOfOrderSequenceNumber},
		"out of order, twice":              {kerr.OutOfOrderSequenceNumber, kerr.OutOfOrderSequenceNumber},
		"fenced":                           {kerr.InvalidProducerEpoch},
		"not written, then not the leader": {kerr.NotEnoughReplicas, kerr.NotLeaderForPartition, kerr.LeaderNotAvailable},
	} {
		t.Run(name, func(t *testing.T) {
			env := brokertest.Start(t)
			topic := env.Topic(t, 1)
			fill(t, env, topic, 0, 10, 5)
			p := producer(t, env.Client, broker.ProducerOptions{})
			write := func(from, n int) {
				var recs []broker.ProduceRecord
				for i := range n {
					recs = append(recs, broker.ProduceRecord{Value: fmt.Append(nil, "0-", from+i)})
				}
				out, err := p.Produce(ctxOf(t), topic, recs)
				require.NoError(t, err)
				for i, o := range out {
					require.NoError(t, o.Err)
					require.EqualValues(t, 10+from+i, o.Offset)
				}
			}
			write(0, 3)
			faults(env, topic, errs...)
			write(3, 4)
			write(7, 2)
			got := readAll(t, env.Client, topic, stream.TopicID{}, 0, 10, 1<<20)
			require.Len(t, got, 9)
			for i, r := range got {
				require.Equal(t, fmt.Sprint("0-", i), string(r.Value))
			}
		})
	}
}

func TestRefusalsFailTheRecordsAndNotTheProducer(t *testing.T) {
	env := brokertest.Start(t)
	topic := env.Topic(t, 1)
	p := producer(t, env.Client, broker.ProducerOptions{})
	one := []broker.ProduceRecord{{Value: []byte("v")}}
	for range 3 {
		faults(env, topic, kerr.InvalidRecord)
		out, err := p.Produce(ctxOf(t), topic, one)
		require.NoError(t, err)
		require.Error(t, out[0].Err)
		require.False(t, broker.Retryable(out[0].Err))
		out, err = p.Produce(ctxOf(t), topic, one)
		require.NoError(t, err)
		require.NoError(t, out[0].Err)
	}
	// Written perhaps, then refused: nobody knows.
	faults(env, topic, kerr.RequestTimedOut, kerr.TopicAuthorizationFailed)
	out, err := p.Produce(ctxOf(t), topic, one)
	require.NoError(t, err)
	require.ErrorIs(t, out[0].Err, broker.ErrUnknownOutcome)
	out, err = p.Produce(ctxOf(t), topic, one)
	require.NoError(t, err)
	require.NoError(t, out[0].Err)
	require.EqualValues(t, 4, out[0].Offset)
}

func TestTooLargeRecordsFailAlone(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		topic := env.Topic(t, 1, "max.message.bytes", "2000")
		p := producer(t, env.Client, broker.ProducerOptions{MaxBatch: 10_000, Compression: "none"})
		sizes := []int{100, 1500, 700, 20_000, 700, 5000, 300, 1500, 1, 9_000, 800, 800, 800}
		var recs []broker.ProduceRecord
		for _, n := range sizes {
			recs = append(recs, broker.ProduceRecord{Value: bytes.Repeat([]byte("x"), n), Accepted: int64(n)})
		}
		out, err := p.Produce(ctxOf(t), topic, recs)
		require.NoError(t, err)
		var want []int
		for i, n := range sizes {
			if n > 1900 {
				require.ErrorIs(t, out[i].Err, broker.ErrRecordTooLarge)
				continue
			}
			require.NoError(t, out[i].Err, "%d", n)
			require.EqualValues(t, len(want), out[i].Offset)
			want = append(want, n)
		}
		got := readAll(t, env.Client, topic, stream.TopicID{}, 0, 0, 1<<20)
		require.Len(t, got, len(want))
		for i, r := range got {
			require.Len(t, r.Value, want[i])
			require.EqualValues(t, want[i], r.Accepted)
		}
	})
}

func TestUnknownTopicsAndPartitionsFailSoon(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		p := producer(t, env.Client, broker.ProducerOptions{})
		_, err := p.Produce(ctxOf(t), brokertest.Name(t, "nowhere"), []broker.ProduceRecord{{}})
		require.ErrorIs(t, err, stream.ErrUnknownTopic)
		topic := env.Topic(t, 2)
		out, err := p.Produce(ctxOf(t), topic, []broker.ProduceRecord{{Partition: 2}, {Partition: 1}})
		require.NoError(t, err)
		require.ErrorIs(t, out[0].Err, broker.ErrNoPartition)
		require.NoError(t, out[1].Err)
		out, err = p.Produce(ctxOf(t), topic, nil)
		require.NoError(t, err)
		require.Empty(t, out)
	})
}

func TestATopicMadeAgainIsWrittenAgain(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		ctx, topic := ctxOf(t), env.Topic(t, 1)
		p := producer(t, env.Client, broker.ProducerOptions{})
		for round := range 3 {
			for i := range 5 {
				out, err := p.Produce(ctx, topic, []broker.ProduceRecord{{Value: fmt.Append(nil, i)}})
				require.NoError(t, err)
				require.NoError(t, out[0].Err, "round %d", round)
				require.EqualValues(t, i, out[0].Offset)
			}
			require.NoError(t, env.Client.DeleteTopic(ctx, topic))
			if round == 1 { // also noticed while it is gone
				require.Eventually(t, func() bool {
					out, err := p.Produce(ctx, topic, []broker.ProduceRecord{{}})
					return err != nil || out[0].Err != nil
				}, 30*time.Second, 10*time.Millisecond)
			}
			require.Eventually(t, func() bool {
				ts, err := env.Client.Topics(ctx, topic)
				return err == nil && len(ts) == 0
			}, 30*time.Second, 10*time.Millisecond)
			env.Create(t, topic, 1)
		}
	})
}

func TestKeysGoWhereOtherProducersPutThem(t *testing.T) {
	env := brokertest.Start(t)
	topic := env.Topic(t, 7)
	w, err := kgo.NewClient(kgo.SeedBrokers(env.Addrs...), kgo.DefaultProduceTopic(topic))
	require.NoError(t, err)
	defer w.Close()
	p := producer(t, env.Client, broker.ProducerOptions{})
	var recs []broker.ProduceRecord
	var others []*kgo.Record
	for i := range 300 {
		key := fmt.Append(nil, strings.Repeat("k", i%9), i)
		recs = append(recs, broker.ProduceRecord{Key: key, Partition: -1})
		others = append(others, &kgo.Record{Key: key})
	}
	require.NoError(t, w.ProduceSync(ctxOf(t), others...).FirstErr())
	out, err := p.Produce(ctxOf(t), topic, recs)
	require.NoError(t, err)
	for i := range out {
		require.NoError(t, out[i].Err)
		require.Equal(t, others[i].Partition, out[i].Partition, "key %s", recs[i].Key)
	}
	used := map[int32]int{}
	for range 70 {
		out, err := p.Produce(ctxOf(t), topic, []broker.ProduceRecord{{Partition: -1}})
		require.NoError(t, err)
		used[out[0].Partition]++
	}
	require.Len(t, used, 7)
}

func TestWhileKafkaIsAwayCallersGetTheirContextsEnd(t *testing.T) {
	env := brokertest.Start(t)
	topic := env.Topic(t, 1)
	cut := newCutter(t, 1)
	c, err := broker.New(broker.Options{Addrs: env.Addrs, Dial: cut.dial})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	p := producer(t, c, broker.ProducerOptions{MaxBuffered: 40_000, MaxBatch: 10_000, Compression: "none"})
	write := func(ctx context.Context, n int) []broker.Produced {
		recs := make([]broker.ProduceRecord, n)
		for i := range recs {
			recs[i].Value = bytes.Repeat([]byte("x"), 1000)
		}
		out, err := p.Produce(ctx, topic, recs)
		require.NoError(t, err)
		return out
	}
	for _, o := range write(ctxOf(t), 100) { // more than the buffer holds
		require.NoError(t, o.Err)
	}
	cut.down.Store(true)
	cut.cutAll()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	unknown := 0
	for _, o := range write(ctx, 100) {
		require.Error(t, o.Err)
		require.EqualValues(t, -1, o.Offset)
		if unknown++; o.Err != broker.ErrUnknownOutcome { //nolint:errorlint // the exact one is counted
			require.ErrorIs(t, o.Err, context.DeadlineExceeded)
			unknown--
		}
	}
	require.Less(t, unknown, 12, "at most one batch is in flight")
	cut.down.Store(false)
	for _, o := range write(ctxOf(t), 5) {
		require.NoError(t, o.Err)
	}
	// What had been in flight is there once at most, and nothing else of that call.
	end := bounds(t, env, topic).End
	require.LessOrEqual(t, end, int64(105+unknown))
	require.Len(t, otherAll(t, env, topic, 0), int(end))
}

func TestAProducerThatEndsFailsWhatIsQueued(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // accepts and never answers
	require.NoError(t, err)
	defer ln.Close()
	env := brokertest.Start(t)
	topic := env.Topic(t, 1)
	p := env.Client.NewProducer(broker.ProducerOptions{MaxBatch: 1000})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	out, err := p.Produce(ctxOf(t), topic, []broker.ProduceRecord{{}})
	require.NoError(t, err)
	require.NoError(t, out[0].Err)
	var wake sync.Once
	block := make(chan struct{})
	env.Kfake.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		env.Kfake.SleepControl(func() {
			wake.Do(cancel)
			<-block
		})
		return nil, nil, false
	})
	defer close(block)
	recs := make([]broker.ProduceRecord, 100)
	for i := range recs {
		recs[i].Value = make([]byte, 100)
	}
	out, err = p.Produce(ctxOf(t), topic, recs)
	require.NoError(t, err)
	require.ErrorIs(t, <-ended, context.Canceled)
	require.ErrorIs(t, out[0].Err, broker.ErrUnknownOutcome)
	require.ErrorIs(t, out[99].Err, context.Canceled)
	require.NotErrorIs(t, out[99].Err, broker.ErrUnknownOutcome)
	out, err = p.Produce(ctxOf(t), topic, recs[:1])
	require.NoError(t, err)
	require.Error(t, out[0].Err)
}

func TestACallLeavesInOneBatchAPartition(t *testing.T) {
	env := brokertest.Start(t)
	topic := env.Topic(t, 2)
	p := env.Client.NewProducer(broker.ProducerOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	var requests atomic.Int64
	env.Kfake.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		env.Kfake.KeepControl()
		requests.Add(1)
		return nil, nil, false
	})
	recs := make([]broker.ProduceRecord, 2000)
	for i := range recs {
		recs[i] = broker.ProduceRecord{Value: []byte("v"), Partition: int32(i % 2)}
	}
	for n := range int64(10) {
		out, err := p.Produce(ctxOf(t), topic, recs)
		require.NoError(t, err)
		for _, o := range out {
			require.NoError(t, o.Err)
		}
		require.Equal(t, 2*(n+1), requests.Load())
	}
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
}

func TestABrokerThatIsKilledAndComesBackLosesAndDoublesNothing(t *testing.T) {
	cluster := brokertest.StartKafka(t, 1)
	env := cluster.Env(t)
	topic := env.Topic(t, 2)
	p := producer(t, env.Client, broker.ProducerOptions{})
	first := make(chan struct{})
	var acked map[broker.TopicPartition]map[int64]string
	var wg sync.WaitGroup
	wg.Go(func() {
		out, err := p.Produce(ctxOf(t), topic, []broker.ProduceRecord{{Value: []byte("9-0")}})
		if err != nil || out[0].Err != nil {
			t.Errorf("first record: %v", err)
		}
		close(first)
		acked = produceAll(t, p, topic, 4, 4000, 4)
	})
	<-first
	cluster.Kill(0)
	require.NoError(t, cluster.Restart(0))
	wg.Wait()
	verify(t, env, topic, 2, acked)
}
