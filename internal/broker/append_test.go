package broker_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

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
