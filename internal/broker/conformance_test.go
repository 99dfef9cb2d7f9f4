package broker_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/internal/stream"
)

func TestTheWholePackageOnce(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c := env.Client
		require.NoError(t, c.Ping(ctx))
		topic := env.Topic(t, 3)
		topics, err := c.Topics(ctx, topic)
		require.NoError(t, err)
		require.Len(t, topics, 1)
		require.Len(t, topics[0].Partitions, 3)
		require.False(t, topics[0].ID.IsZero())

		base, err := c.Append(ctx, topic, 0, []broker.AppendRecord{{Key: []byte("k"), Value: []byte("v")}, {Value: []byte("w")}})
		require.NoError(t, err)
		require.EqualValues(t, 0, base)

		for _, codec := range []string{"snappy", "none", "gzip", "zstd"} {
			p := producer(t, c, broker.ProducerOptions{Compression: codec})
			var recs []broker.ProduceRecord
			for i := range 50 {
				recs = append(recs, broker.ProduceRecord{Key: fmt.Append(nil, i%5), Value: fmt.Append(nil, "value", i), Partition: -1, Accepted: int64(i + 1)})
			}
			out, err := p.Produce(ctx, topic, recs)
			require.NoError(t, err)
			for i, o := range out {
				require.NoError(t, o.Err)
				r := c.NewReader(topic, stream.TopicID{}, o.Partition)
				span, err := r.Read(ctx, o.Offset, 1<<20, time.Second)
				require.NoError(t, err)
				require.Equal(t, o.Offset, span.Records[0].Offset)
				require.Equal(t, string(recs[i].Value), string(span.Records[0].Value))
				require.EqualValues(t, i+1, span.Records[0].Accepted)
				require.Equal(t, topics[0].ID, r.ID())
				r.Close()
			}
		}
		b, err := c.Bounds(ctx, topic, []int32{0, 1, 2})
		require.NoError(t, err)
		require.EqualValues(t, 202, b[0].End+b[1].End+b[2].End)
		cfg, err := c.TopicConfig(ctx, topic)
		require.NoError(t, err)
		require.NotEmpty(t, cfg["retention.ms"])
		require.NoError(t, c.AddPartitions(ctx, topic, 5))
		topics, err = c.Topics(ctx, topic)
		require.NoError(t, err)
		require.Len(t, topics[0].Partitions, 5)
		at, err := c.OffsetsAt(ctx, topic, []int32{0}, time.Now().Add(time.Hour))
		require.NoError(t, err)
		require.EqualValues(t, -1, at[0])
		require.NoError(t, c.DeleteTopic(ctx, topic))
		require.NoError(t, c.DeleteTopic(ctx, topic))
	})
}
