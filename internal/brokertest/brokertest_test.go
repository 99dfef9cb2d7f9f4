package brokertest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/brokertest"
)

func TestBothKafkasTakeAndKeepRecords(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		topic := env.Topic(t, 1, "retention.ms", "-1")
		require.NotEqual(t, topic, env.Topic(t, 1))
		base, err := env.Client.Append(t.Context(), topic, 0, []broker.AppendRecord{{Value: []byte("v")}})
		require.NoError(t, err)
		require.Zero(t, base)
		require.Equal(t, env.Name == "kfake", env.Kfake != nil)
	})
}
