package broker_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/internal/embedded"
	"github.com/tapecast/tapecast/internal/stream"
)

// What metadata says may be older than the answer to a creation: then it shows
// the topic that was deleted before, with leaders and all.
func TestATopicThatIsMadeAgainIsAwaited(t *testing.T) {
	env := brokertest.Start(t)
	topic := env.Topic(t, 1)
	was := topicID(t, env.Client, topic)
	old, err := kmsg.NewPtrMetadataRequest().RequestWith(ctxOf(t), franz(t, env))
	require.NoError(t, err)
	require.NoError(t, env.Client.DeleteTopic(ctxOf(t), topic))
	stale := lag(env, old, 5)
	_, created, err := env.Client.CreateTopic(ctxOf(t), broker.TopicSpec{Name: topic, Partitions: 1})
	require.NoError(t, err)
	require.True(t, created)
	require.NotEqual(t, was, topicID(t, env.Client, topic))
	require.Negative(t, stale.Load(), "it has asked until the new one was shown")
	_, created, err = env.Client.CreateTopic(ctxOf(t), broker.TopicSpec{Name: topic, Partitions: 1})
	require.NoError(t, err)
	require.False(t, created, "it is there")
}

// lag lets metadata answer the next n questions as of old.
func lag(env *brokertest.Env, old *kmsg.MetadataResponse, n int64) (left *atomic.Int64) {
	left = new(atomic.Int64)
	left.Store(n)
	env.Kfake.ControlKey(int16(kmsg.Metadata), func(r kmsg.Request) (kmsg.Response, error, bool) {
		env.Kfake.KeepControl()
		if ask, _ := r.(*kmsg.MetadataRequest); len(ask.Topics) == 0 || left.Add(-1) < 0 { // the transport's own name none
			return nil, nil, false
		}
		lagging := *old
		lagging.SetVersion(r.GetVersion())
		return &lagging, nil, true
	})
	return left
}

// kafka-go asks one broker, and the same again and again: that it has not heard
// of a topic yet says nothing of the others.
func TestATopicIsUnknownOnlyWhenOthersSaySoToo(t *testing.T) {
	env := brokertest.StartWith(t, embedded.Options{Brokers: 3})
	topic := env.Topic(t, 2)
	all, err := kmsg.NewPtrMetadataRequest().RequestWith(ctxOf(t), franz(t, env))
	require.NoError(t, err)
	var mu sync.Mutex
	behind, asked := int32(-1), map[int32]int{}
	env.Kfake.ControlKey(int16(kmsg.Metadata), func(r kmsg.Request) (kmsg.Response, error, bool) {
		env.Kfake.KeepControl()
		ask, _ := r.(*kmsg.MetadataRequest)
		if len(ask.Topics) == 0 {
			return nil, nil, false
		}
		mu.Lock()
		defer mu.Unlock()
		node := env.Kfake.CurrentNode()
		asked[node]++
		if behind < 0 {
			behind = node
		}
		if node != behind {
			return nil, nil, false
		}
		unknown := kmsg.NewPtrMetadataResponse()
		unknown.SetVersion(r.GetVersion())
		unknown.Brokers = all.Brokers
		for _, of := range ask.Topics {
			one := kmsg.NewMetadataResponseTopic()
			one.Topic, one.ErrorCode = of.Topic, int16(kafka.UnknownTopicOrPartition)
			unknown.Topics = append(unknown.Topics, one)
		}
		return unknown, nil, true
	})
	for range 5 { // who is asked first is up to chance
		c := brokertest.Dial(t, env.Addrs...)
		ts, err := c.Topics(ctxOf(t), topic)
		require.NoError(t, err)
		require.Len(t, ts, 1)
		require.Equal(t, topic, ts[0].Name)
		require.Len(t, ts[0].Partitions, 2)
		_, err = c.Append(ctxOf(t), topic, 1, []broker.AppendRecord{{Value: []byte("x")}})
		require.NoError(t, err)
	}
	mu.Lock()
	clear(asked)
	mu.Unlock()
	ts, err := env.Client.Topics(ctxOf(t), "nobody-made-it")
	require.NoError(t, err)
	require.Empty(t, ts)
	mu.Lock()
	require.Len(t, asked, 3, "each broker had a say")
	mu.Unlock()
	_, err = env.Client.Bounds(ctxOf(t), "nobody-made-it", []int32{0})
	require.ErrorIs(t, err, stream.ErrUnknownTopic)
}

func TestATopicMadeAgainAndAgainIsAnotherOneEachTime(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		topic := env.Topic(t, 1)
		was := topicID(t, env.Client, topic)
		for range 10 {
			require.NoError(t, env.Client.DeleteTopic(ctxOf(t), topic))
			env.Create(t, topic, 1)
			id := topicID(t, env.Client, topic)
			require.NotEqual(t, was, id)
			was = id
			_, err := env.Client.Append(ctxOf(t), topic, 0, []broker.AppendRecord{{Value: []byte("x")}})
			require.NoError(t, err)
		}
	})
}
