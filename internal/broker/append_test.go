package broker_test

import (
	"bytes"
	"testing"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/brokertest"
)

// The fan-out makes its batches smaller when a delivery topic takes no larger
// ones: it has to be told so in words that it knows.
func TestAppendSaysThatARecordIsTooLarge(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		topic := env.Topic(t, 1, "max.message.bytes", "2000")
		_, err := env.Client.Append(t.Context(), topic, 0, []broker.AppendRecord{{Value: bytes.Repeat([]byte("x"), 5000)}})
		require.ErrorIs(t, err, broker.ErrRecordTooLarge)
		_, err = env.Client.Append(t.Context(), topic, 0, []broker.AppendRecord{{Value: bytes.Repeat([]byte("x"), 500)}})
		require.NoError(t, err)
	})
}

// A broker that replaces a topic by another of its name says so in these words
// for a moment; nothing was written then.
func TestAppendWaitsForATopicThatIsBeingReplaced(t *testing.T) {
	env := brokertest.Start(t)
	topic := env.Topic(t, 1)
	for _, code := range []kafka.Error{kafka.UnknownTopicID, kafka.InconsistentTopicID, kafka.UnknownTopicOrPartition} {
		for range 5 { // a disk that is slow
			env.Kfake.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
				return refusal(r, topic, code), nil, true
			})
		}
		_, err := env.Client.Append(t.Context(), topic, 0, []broker.AppendRecord{{Value: []byte("x")}})
		require.NoError(t, err, code)
	}
	b, err := env.Client.Bounds(t.Context(), topic, []int32{0})
	require.NoError(t, err)
	require.EqualValues(t, 3, b[0].End)
}

func refusal(r kmsg.Request, topic string, code kafka.Error) kmsg.Response {
	refused := kmsg.NewPtrProduceResponse()
	refused.SetVersion(r.GetVersion())
	one := kmsg.NewProduceResponseTopic()
	one.Topic = topic
	part := kmsg.NewProduceResponseTopicPartition()
	part.ErrorCode, part.BaseOffset = int16(code), -1
	one.Partitions = append(one.Partitions, part)
	refused.Topics = append(refused.Topics, one)
	return refused
}

// A partition that was added is no mistake of the caller's where the broker that
// is asked has not heard of it.
func TestAppendWaitsForAPartitionThatWasAdded(t *testing.T) {
	env := brokertest.Start(t)
	topic := env.Topic(t, 1)
	old, err := kmsg.NewPtrMetadataRequest().RequestWith(ctxOf(t), franz(t, env))
	require.NoError(t, err)
	require.NoError(t, env.Client.AddPartitions(ctxOf(t), topic, 2))
	lag(env, old, 5)
	_, err = brokertest.Dial(t, env.Addrs...).Append(t.Context(), topic, 1, []broker.AppendRecord{{Value: []byte("x")}})
	require.NoError(t, err)
}
