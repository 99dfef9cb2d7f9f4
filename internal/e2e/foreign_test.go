package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/client"
	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/internal/pyenv"
)

// TestForeignProducer: what Confluent's Python client writes (its own
// serializer, registry client, idempotence, zstd, lz4, transactions aborted and
// committed) reaches a client as JSON, on both brokers.
func TestForeignProducer(t *testing.T) {
	py := pyenv.Python(t, pyenv.Confluent)
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		s := newStack(t, strings.Join(env.Addrs, ","), 1, 1)
		topic := brokertest.Name(t, "foreign")
		want := run(t, py, "testdata/foreign.py", s.brokers, s.registry, topic, "500")
		s.awaitTopic(t, topic)
		brokertest.Report(t, "confluent-kafka 2.16.0 (Python) on "+env.Name)

		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c, err := client.Dial(ctx, client.Options{URLs: s.ws})
		require.NoError(t, err)
		defer c.Close()
		sub, err := c.Subscribe(ctx, topic, client.SubscribeOptions{From: client.Earliest()})
		require.NoError(t, err)
		lines := bufio.NewScanner(bytes.NewReader(want))
		n, last := 0, int64(-1)
		for lines.Scan() {
			var w struct {
				Key  string          `json:"key"`
				Data json.RawMessage `json:"data"`
			}
			require.NoError(t, json.Unmarshal(lines.Bytes(), &w))
			f := nextData(t, ctx, sub)
			require.Equal(t, w.Key, f.Key)
			require.JSONEq(t, string(w.Data), string(f.Value), "offset %d", f.Offset)
			require.Greater(t, f.Offset, last)
			last = f.Offset
			n++
		}
		require.Equal(t, 520, n)
	})
}

// nextData returns the next event; a gap fails the test.
func nextData(t *testing.T, ctx context.Context, sub *client.Subscription) client.Frame {
	t.Helper()
	for {
		f, err := sub.Next(ctx)
		require.NoError(t, err)
		require.NotEqual(t, client.KindGap, f.Kind, "%s", f.Raw)
		if f.Kind == client.KindData {
			return f
		}
	}
}
