package inspect_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/internal/delivery"
	"github.com/tapecast/tapecast/internal/inspect"
	"github.com/tapecast/tapecast/internal/stream"
)

const patience = time.Minute

// cluster is a feed topic with events in it.
type cluster struct {
	t      *testing.T
	client *broker.Client
	topic  broker.Topic
}

func newCluster(t *testing.T, env *brokertest.Env) *cluster {
	c := &cluster{t: t, client: brokertest.Dial(t, env.Addrs...)}
	c.topic = c.create(brokertest.Name(t, "inspected"), 2)
	return c
}

func (c *cluster) create(name string, partitions int) broker.Topic {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	_, _, err := c.client.CreateTopic(ctx, broker.TopicSpec{Name: name, Partitions: partitions, Replicas: 1})
	require.NoError(c.t, err)
	topics, err := c.client.Topics(ctx, name)
	require.NoError(c.t, err)
	require.Len(c.t, topics, 1)
	return topics[0]
}

func (c *cluster) append(topic string, partition int32, recs ...broker.AppendRecord) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	_, err := c.client.Append(ctx, topic, partition, recs)
	require.NoError(c.t, err)
}

// batch writes a delivery of an event to a node's delivery topic.
func (c *cluster) batch(topic, incarnation string, at time.Time, s stream.Section) {
	c.t.Helper()
	v, err := delivery.Append(nil, &delivery.Batch{Incarnation: incarnation, Writer: "f0", WrittenUs: at.UnixMicro(), Sections: []stream.Section{s}})
	require.NoError(c.t, err)
	c.append(topic, 0, broker.AppendRecord{Value: v, Time: at})
}

func TestTopic(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		c := newCluster(t, env)
		i := inspect.New(inspect.Options{Client: c.client, Group: brokertest.Name(t, "group")})
		first, last := time.UnixMilli(1_700_000_000_000), time.UnixMilli(1_700_000_100_000)
		c.append(c.topic.Name, 0, broker.AppendRecord{Value: []byte("a"), Time: first}, broker.AppendRecord{Value: []byte("b"), Time: first.Add(time.Second)})
		c.append(c.topic.Name, 1, broker.AppendRecord{Value: []byte("c"), Time: last})
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for range 2 { // the second time from memory
			bounds, err := c.client.Bounds(ctx, c.topic.Name, []int32{0, 1})
			require.NoError(t, err)
			got, err := i.Topic(ctx, c.topic, bounds)
			require.NoError(t, err)
			require.Equal(t, inspect.Topic{Lag: -1, Oldest: first.UnixMilli(), Newest: last.UnixMilli()}, got)
		}
		c.append(c.topic.Name, 1, broker.AppendRecord{Value: []byte("d"), Time: last.Add(time.Minute)})
		bounds, err := c.client.Bounds(ctx, c.topic.Name, []int32{0, 1})
		require.NoError(t, err)
		got, err := i.Topic(ctx, c.topic, bounds)
		require.NoError(t, err)
		require.Equal(t, last.Add(time.Minute).UnixMilli(), got.Newest)
	})
}

func TestTrace(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		c := newCluster(t, env)
		i := inspect.New(inspect.Options{Client: c.client, Group: "none"})
		at := time.Now().Truncate(time.Microsecond)
		c.append(c.topic.Name, 1, broker.AppendRecord{Key: []byte("EURUSD"), Value: []byte("1"), Time: at}, broker.AppendRecord{Value: []byte("2"), Time: at})

		section := stream.Section{Topic: c.topic.ID, Partition: 1, To: 2, ReadFirst: at.UnixMicro() + 10, ReadLast: at.UnixMicro() + 20, Deliveries: []stream.Record{{Offset: 0}}}
		mine := c.create(delivery.TopicName("g.1", "abc"+brokertest.Name(t, "x")), 1)
		inc := mine.Name[len(delivery.TopicName("g.1", "")):]
		c.append(mine.Name, 0, broker.AppendRecord{Value: []byte("no batch"), Time: at})
		c.batch(mine.Name, inc, at.Add(time.Millisecond), section)
		c.batch(mine.Name, inc, at.Add(time.Second), section) // it came again
		other := c.create(delivery.TopicName("g2", "def"+brokertest.Name(t, "x")), 1)
		section.Partition = 0
		c.batch(other.Name, "def", at.Add(time.Millisecond), section)

		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		e, found, searched, err := i.Trace(ctx, c.topic, 1, 0)
		require.NoError(t, err)
		require.Equal(t, inspect.Event{Found: true, Key: []byte("EURUSD"), Time: at.UnixMilli()}, e)
		require.GreaterOrEqual(t, searched, 2)
		require.Equal(t, []inspect.Delivery{{
			Node: "g.1", Incarnation: inc, Writer: "f0", ReadFirst: at.UnixMicro() + 10, ReadLast: at.UnixMicro() + 20,
			Written: at.Add(time.Millisecond).UnixMicro(),
		}}, found)

		_, found, _, err = i.Trace(ctx, c.topic, 1, 1) // nobody wanted it
		require.NoError(t, err)
		require.Empty(t, found)
		e, _, _, err = i.Trace(ctx, c.topic, 1, 99)
		require.NoError(t, err)
		require.False(t, e.Found)
	})
}
