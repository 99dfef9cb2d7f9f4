package broker_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/internal/embedded"
	"github.com/tapecast/tapecast/internal/stream"
)

// threeBrokers is a kfake with leaders to move.
var threeBrokers = embedded.Options{Brokers: 3}

// ctxOf bounds what a test waits for.
func ctxOf(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// producer runs a producer until the test ends.
func producer(t testing.TB, c *broker.Client, o broker.ProducerOptions) *broker.Producer {
	t.Helper()
	p := c.NewProducer(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return p
}

// franz makes a client of another library.
func franz(t testing.TB, env *brokertest.Env, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(env.Addrs...), kgo.RecordPartitioner(kgo.ManualPartitioner())}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// readAll reads a partition from offset from to its last stable offset, and
// checks that the spans join up.
func readAll(t testing.TB, c *broker.Client, topic string, id stream.TopicID, partition int32, from int64, maxBytes int) []stream.Record {
	t.Helper()
	ctx := ctxOf(t)
	r := c.NewReader(topic, id, partition)
	defer r.Close()
	var out []stream.Record
	for {
		span, err := r.Read(ctx, from, maxBytes, 100*time.Millisecond)
		require.NoError(t, err)
		require.Equal(t, from, span.From)
		require.GreaterOrEqual(t, span.To, span.From)
		require.LessOrEqual(t, span.To, span.End)
		for _, rec := range span.Records {
			require.GreaterOrEqual(t, rec.Offset, span.From)
			require.Less(t, rec.Offset, span.To)
			if n := len(out); n > 0 {
				require.Greater(t, rec.Offset, out[n-1].Offset)
			}
			rec.Key, rec.Value = clone(rec.Key), clone(rec.Value)
			out = append(out, rec)
		}
		from = span.To
		if from >= span.End {
			return out
		}
	}
}

func clone(b []byte) []byte {
	if b == nil {
		return nil
	}
	return append([]byte{}, b...)
}

// otherAll reads a partition with the other library.
func otherAll(t testing.TB, env *brokertest.Env, topic string, partition int32) []*kgo.Record {
	t.Helper()
	ctx := ctxOf(t)
	b, err := env.Client.Bounds(ctx, topic, []int32{partition})
	require.NoError(t, err)
	c := franz(t, env, kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.FetchMaxWait(200*time.Millisecond),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().At(b[partition].Start)}}))
	defer c.Close()
	var out []*kgo.Record
	next := b[partition].Start
	for next < b[partition].End {
		f := c.PollFetches(ctx)
		require.NoError(t, f.Err0())
		f.EachRecord(func(r *kgo.Record) {
			next = r.Offset + 1
			if !r.Attrs.IsControl() {
				out = append(out, r)
			}
		})
		// What is aborted at the end shows as progress only in the other
		// client's own position.
		for _, o := range c.UncommittedOffsets()[topic] {
			next = max(next, o.Offset)
		}
	}
	return out
}

func topicID(t testing.TB, c *broker.Client, topic string) stream.TopicID {
	t.Helper()
	ts, err := c.Topics(ctxOf(t), topic)
	require.NoError(t, err)
	require.Len(t, ts, 1)
	return ts[0].ID
}

// fill writes n numbered records to partition 0 in batches of size.
func fill(t testing.TB, env *brokertest.Env, topic string, from, n, batch int) {
	t.Helper()
	for i := from; i < from+n; i += batch {
		var recs []broker.AppendRecord
		for j := i; j < min(i+batch, from+n); j++ {
			recs = append(recs, broker.AppendRecord{Key: fmt.Append(nil, j%7), Value: fmt.Append(nil, "value ", j)})
		}
		_, err := env.Client.Append(ctxOf(t), topic, 0, recs)
		require.NoError(t, err)
	}
}

func trim(t testing.TB, env *brokertest.Env, topic string, to int64) {
	t.Helper()
	var offsets kadm.Offsets
	offsets.AddOffset(topic, 0, to, -1)
	res, err := kadm.NewClient(franz(t, env)).DeleteRecords(ctxOf(t), offsets)
	require.NoError(t, errors.Join(err, res.Error()))
}
