package broker_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/internal/stream"
)

func TestReadsWhatAnotherLibraryWroteInEveryCodec(t *testing.T) {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		ctx := ctxOf(t)
		for name, codec := range codecs {
			topic := env.Topic(t, 1)
			w := franz(t, env, kgo.ProducerBatchCompression(codec))
			var want []*kgo.Record
			for i := range 500 {
				r := &kgo.Record{Topic: topic, Key: fmt.Append(nil, "key", i%3), Value: bytes.Repeat(fmt.Append(nil, "value ", i), 20), Timestamp: time.UnixMilli(1546383600078 + int64(i))}
				switch i % 5 {
				case 0:
					r.Key = nil
				case 1:
					r.Value = nil
				case 2:
					r.Key, r.Value = []byte{}, []byte{}
				case 3:
					r.Headers = []kgo.RecordHeader{{Key: "other", Value: []byte("x")}, {Key: stream.AcceptedHeader, Value: binary.BigEndian.AppendUint64(nil, uint64(i))}, {Key: "nil"}}
				}
				want = append(want, r)
			}
			require.NoError(t, w.ProduceSync(ctx, want...).FirstErr())
			for _, from := range []int64{0, 1, 250, 499} {
				got := readAll(t, env.Client, topic, stream.TopicID{}, 0, from, 1<<20)
				require.Len(t, got, 500-int(from), name)
				for j, r := range got {
					w := want[int(from)+j]
					require.Equal(t, from+int64(j), r.Offset)
					require.Equal(t, w.Timestamp.UnixMilli(), r.Time)
					require.Equal(t, w.Value, r.Value, name)
					require.Equal(t, w.Key, r.Key, name)
					accepted := int64(0)
					if r.Offset%5 == 3 {
						accepted = r.Offset
					}
					require.Equal(t, accepted, r.Accepted)
				}
			}
		}
	})
}

func TestReadsSnappyAsJavaFramesIt(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		topic := env.Topic(t, 1)
		value := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
		base := javaSnappy(t, env, topic, value, []byte("small"))
		got := readAll(t, env.Client, topic, stream.TopicID{}, 0, base, 1<<20)
		require.GreaterOrEqual(t, len(got), 2)
		require.Equal(t, base, got[0].Offset)
		require.Equal(t, value, got[0].Value)
		require.Equal(t, "small", string(got[1].Value))
	})
}

// javaSnappy writes one batch to partition 0 with kafka-go, which frames its
// snappy as Java does, and returns its offset. Its transport is its own: the one
// that all share may remember a time before the topic. What it gives up on may
// be written all the same, so there may be more of them.
func javaSnappy(t *testing.T, env *brokertest.Env, topic string, values ...[]byte) (base int64) {
	t.Helper()
	transport := &kafka.Transport{MetadataTTL: 50 * time.Millisecond}
	defer transport.CloseIdleConnections()
	c := &kafka.Client{Addr: kafka.TCP(env.Addrs...), Transport: transport}
	var err error
	require.Eventually(t, func() bool {
		var recs []kafka.Record
		for _, v := range values {
			recs = append(recs, kafka.Record{Value: kafka.NewBytes(v)})
		}
		var out *kafka.ProduceResponse
		out, err = c.Produce(ctxOf(t), &kafka.ProduceRequest{Topic: topic, Compression: kafka.Snappy, RequiredAcks: kafka.RequireAll, Records: kafka.NewRecordReader(recs...)})
		if err == nil {
			base, err = out.BaseOffset, out.Error
		}
		return err == nil
	}, time.Minute, 20*time.Millisecond)
	require.NoError(t, err)
	return base
}

func TestABatchLargerThanMaxBytesIsReadWhole(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		topic := env.Topic(t, 1)
		value := bytes.Repeat([]byte("x"), 300<<10)
		for range 3 {
			_, err := env.Client.Append(ctxOf(t), topic, 0, []broker.AppendRecord{{Value: value}, {Value: []byte("end")}})
			require.NoError(t, err)
		}
		require.Len(t, readAll(t, env.Client, topic, stream.TopicID{}, 0, 0, 1), 6)
		require.Len(t, readAll(t, env.Client, topic, stream.TopicID{}, 0, 1, 400<<10), 5)
	})
}

func TestAbortedTransactionsAreNotReadAndOpenOnesNotPassed(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		ctx, topic := ctxOf(t), env.Topic(t, 1)
		txn := func(c *kgo.Client, commit kgo.TransactionEndTry, values ...string) {
			require.NoError(t, c.BeginTransaction())
			for _, v := range values {
				require.NoError(t, c.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte(v)}).FirstErr())
			}
			require.NoError(t, c.EndTransaction(ctx, commit))
		}
		a := franz(t, env, kgo.TransactionalID(brokertest.Name(t, "a")))
		b := franz(t, env, kgo.TransactionalID(brokertest.Name(t, "b")))
		plain := franz(t, env)
		txn(a, kgo.TryCommit, "1", "2")
		txn(a, kgo.TryAbort, "no", "no")
		txn(a, kgo.TryCommit, "3")
		// Two at once, one of each end.
		require.NoError(t, a.BeginTransaction())
		require.NoError(t, b.BeginTransaction())
		require.NoError(t, a.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("no")}).FirstErr())
		require.NoError(t, b.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("4")}).FirstErr())
		require.NoError(t, plain.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("5")}).FirstErr())
		require.NoError(t, a.EndTransaction(ctx, kgo.TryAbort))
		require.NoError(t, b.EndTransaction(ctx, kgo.TryCommit))
		txn(b, kgo.TryAbort, "no")

		values := func(recs []stream.Record) string {
			var out []byte
			for _, r := range recs {
				out = append(out, r.Value...)
			}
			return string(out)
		}
		const all = "12345"
		require.Equal(t, all, values(readAll(t, env.Client, topic, stream.TopicID{}, 0, 0, 1<<20)))
		other := ""
		for _, r := range otherAll(t, env, topic, 0) {
			other += string(r.Value)
		}
		require.Equal(t, all, other)
		bounds, err := env.Client.Bounds(ctx, topic, []int32{0})
		require.NoError(t, err)
		for from := range bounds[0].End { // from every offset, also in the middle of a transaction
			got := readAll(t, env.Client, topic, stream.TopicID{}, 0, from, 1)
			require.True(t, strings.HasSuffix(all, values(got)), "from %d: %s", from, values(got))
		}

		// An open transaction holds the last stable offset back.
		require.NoError(t, a.BeginTransaction())
		require.NoError(t, a.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("6")}).FirstErr())
		require.NoError(t, plain.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("7")}).FirstErr())
		held, err := env.Client.Bounds(ctx, topic, []int32{0})
		require.NoError(t, err)
		require.Equal(t, bounds[0], held[0])
		r := env.Client.NewReader(topic, stream.TopicID{}, 0)
		span, err := r.Read(ctx, held[0].End, 1<<20, 50*time.Millisecond)
		require.NoError(t, err)
		require.Equal(t, broker.Span{From: held[0].End, To: held[0].End, Start: 0, End: held[0].End, Bytes: span.Bytes, Records: span.Records}, span)
		require.Empty(t, span.Records)

		// Its end wakes a reader that waits.
		waited := make(chan broker.Span, 1)
		go func() {
			span, err := r.Read(ctx, held[0].End, 1<<20, 30*time.Second)
			if err == nil {
				span.Records = append([]stream.Record(nil), span.Records...)
			}
			waited <- span
		}()
		require.NoError(t, a.EndTransaction(ctx, kgo.TryCommit))
		require.Equal(t, "67", values((<-waited).Records))
	})
}

func TestCompactionHolesAreCovered(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		topic := env.Topic(t, 1, "cleanup.policy", "compact", "segment.ms", "100", "min.cleanable.dirty.ratio", "0.01", "delete.retention.ms", "0", "min.compaction.lag.ms", "0")
		n := 0
		require.Eventually(t, func() bool {
			fill(t, env, topic, n, 50, 10)
			n += 50
			if env.Kfake != nil {
				env.Kfake.Compact()
			}
			return len(readAll(t, env.Client, topic, stream.TopicID{}, 0, bounds(t, env, topic).Start, 1<<20)) < n-20
		}, time.Minute, 150*time.Millisecond)
		b := bounds(t, env, topic)
		for from := b.Start; from < b.End; from += 3 {
			got := readAll(t, env.Client, topic, stream.TopicID{}, 0, from, 1)
			latest := map[string]string{}
			for _, r := range got {
				latest[string(r.Key)] = string(r.Value)
			}
			for i := max(int(from), n-7); i < n; i++ {
				require.Equal(t, fmt.Sprint("value ", i), latest[fmt.Sprint(i%7)])
			}
		}
	})
}

func bounds(t testing.TB, env *brokertest.Env, topic string) broker.Bounds {
	t.Helper()
	b, err := env.Client.Bounds(ctxOf(t), topic, []int32{0})
	require.NoError(t, err)
	return b[0]
}

func TestOutOfRangeIsAResultWithTheBounds(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		ctx, topic := ctxOf(t), env.Topic(t, 1)
		fill(t, env, topic, 0, 100, 10)
		trim(t, env, topic, 42)
		r := env.Client.NewReader(topic, topicID(t, env.Client, topic), 0)
		for _, from := range []int64{0, 41, 101, 1 << 40} {
			_, err := r.Read(ctx, from, 1<<20, time.Second)
			var out *stream.OutOfRangeError
			require.ErrorAs(t, err, &out)
			require.Equal(t, stream.OutOfRangeError{Offset: from, Start: 42, End: 100}, *out)
			require.False(t, broker.Retryable(err))
		}
		span, err := r.Read(ctx, 42, 1<<20, time.Second)
		require.NoError(t, err)
		require.EqualValues(t, 42, span.Records[0].Offset)
		require.EqualValues(t, 42, span.Start)
		span, err = r.Read(ctx, 100, 1<<20, 10*time.Millisecond)
		require.NoError(t, err)
		require.EqualValues(t, 100, span.To)
	})
}

func TestATopicThatWasMadeAgainIsAnotherTopic(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		recreated(t, env.Client, env)
	})
}

func recreated(t *testing.T, c *broker.Client, env *brokertest.Env) {
	ctx, topic := ctxOf(t), env.Topic(t, 2)
	fill(t, env, topic, 0, 10, 10)
	old := topicID(t, c, topic)
	byID, byName := c.NewReader(topic, old, 0), c.NewReader(topic, stream.TopicID{}, 0)
	for _, r := range []*broker.Reader{byID, byName} {
		_, err := r.Read(ctx, 0, 1<<20, time.Second)
		require.NoError(t, err)
		require.Equal(t, old, r.ID())
	}
	require.NoError(t, c.DeleteTopic(ctx, topic))
	for _, r := range []*broker.Reader{byID, byName, c.NewReader(topic, old, 1)} {
		require.Eventually(t, func() bool {
			_, err := r.Read(ctx, 0, 1<<20, 10*time.Millisecond)
			return errors.Is(err, stream.ErrTopicChanged) && !broker.Retryable(err)
		}, 30*time.Second, 10*time.Millisecond)
	}
	_, err := c.NewReader(topic, stream.TopicID{}, 0).Read(ctx, 0, 1<<20, 10*time.Millisecond)
	require.ErrorIs(t, err, stream.ErrUnknownTopic)
	_, err = c.Bounds(ctx, topic, []int32{0})
	require.ErrorIs(t, err, stream.ErrUnknownTopic)
	_, err = c.Append(ctx, topic, 0, []broker.AppendRecord{{}})
	require.ErrorIs(t, err, stream.ErrUnknownTopic)
	_, err = c.TopicConfig(ctx, topic)
	require.ErrorIs(t, err, stream.ErrUnknownTopic)
	ts, err := c.Topics(ctx, topic)
	require.NoError(t, err)
	require.Empty(t, ts)

	env.Create(t, topic, 2)
	fill(t, env, topic, 0, 20, 10)
	for _, r := range []*broker.Reader{byID, byName, c.NewReader(topic, old, 1)} {
		_, err := r.Read(ctx, 5, 1<<20, 10*time.Millisecond)
		require.ErrorIs(t, err, stream.ErrTopicChanged)
	}
	require.Len(t, readAll(t, c, topic, topicID(t, c, topic), 0, 0, 1<<20), 20)
	_, err = c.NewReader(topic, stream.TopicID{}, 2).Read(ctx, 0, 1<<20, 10*time.Millisecond)
	require.ErrorIs(t, err, broker.ErrNoPartition)
	require.NoError(t, c.AddPartitions(ctx, topic, 3))
	_, err = c.Append(ctx, topic, 2, []broker.AppendRecord{{Value: []byte("new")}})
	require.NoError(t, err)
	require.Len(t, readAll(t, c, topic, stream.TopicID{}, 2, 0, 1<<20), 1)
}

func TestABrokerWithoutFetchByIDIsReadByNameAndChecked(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.MaxVersions(kversion.V3_0_0()))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	env := &brokertest.Env{Addrs: c.ListenAddrs(), Client: brokertest.Dial(t, c.ListenAddrs()...), Kfake: c}
	recreated(t, env.Client, env)
}

func TestAWaitingReadEndsWithDataAndWithItsContext(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		topic := env.Topic(t, 1)
		r := env.Client.NewReader(topic, stream.TopicID{}, 0)
		type result struct {
			n   int
			err error
		}
		got := make(chan result, 1)
		read := func(ctx context.Context, from int64) {
			span, err := r.Read(ctx, from, 1<<20, 50*time.Second)
			got <- result{len(span.Records), err}
		}
		go read(ctxOf(t), 0)
		fill(t, env, topic, 0, 1, 1)
		require.Equal(t, result{1, nil}, <-got)
		ctx, cancel := context.WithCancel(ctxOf(t))
		go read(ctx, 1)
		cancel()
		res := <-got
		require.ErrorIs(t, res.err, context.Canceled)
		require.False(t, broker.Retryable(res.err))
	})
}

func TestReadersFollowLeadersThatMove(t *testing.T) {
	env := brokertest.StartWith(t, threeBrokers)
	topic := env.Topic(t, 1)
	next := int64(0)
	r := env.Client.NewReader(topic, topicID(t, env.Client, topic), 0)
	for i := range 60 {
		require.NoError(t, env.Kfake.MoveTopicPartition(topic, 0, int32(i%3)))
		fill(t, env, topic, i, 1, 1)
		span, err := r.Read(ctxOf(t), next, 1<<20, time.Second)
		require.NoError(t, err)
		require.Len(t, span.Records, 1)
		next = span.To
	}
}

func TestOffsetsAtATime(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		ctx, topic := ctxOf(t), env.Topic(t, 2)
		start := time.UnixMilli(1546383600000)
		var recs []broker.AppendRecord
		for i := range 10 {
			recs = append(recs, broker.AppendRecord{Time: start.Add(time.Duration(i) * time.Second)})
		}
		_, err := env.Client.Append(ctx, topic, 0, recs)
		require.NoError(t, err)
		for at, want := range map[time.Duration]int64{-time.Hour: 0, 0: 0, time.Nanosecond: 1, time.Second: 1, 8500 * time.Millisecond: 9, 9 * time.Second: 9, 10 * time.Second: -1} {
			got, err := env.Client.OffsetsAt(ctx, topic, []int32{0, 1}, start.Add(at))
			require.NoError(t, err)
			require.Equal(t, map[int32]int64{0: want, 1: -1}, got, "%s", at)
		}
	})
}
