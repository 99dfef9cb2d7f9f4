package broker_test

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/brokertest"
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
	var stale atomic.Int64
	stale.Store(5)
	env.Kfake.ControlKey(int16(kmsg.Metadata), func(r kmsg.Request) (kmsg.Response, error, bool) {
		env.Kfake.KeepControl()
		if stale.Add(-1) < 0 {
			return nil, nil, false
		}
		lagging := *old
		lagging.SetVersion(r.GetVersion())
		return &lagging, nil, true
	})
	created, err := env.Client.CreateTopic(ctxOf(t), broker.TopicSpec{Name: topic, Partitions: 1})
	require.NoError(t, err)
	require.True(t, created)
	require.NotEqual(t, was, topicID(t, env.Client, topic))
	require.Negative(t, stale.Load(), "it has asked until the new one was shown")
	created, err = env.Client.CreateTopic(ctxOf(t), broker.TopicSpec{Name: topic, Partitions: 1})
	require.NoError(t, err)
	require.False(t, created, "it is there")
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
