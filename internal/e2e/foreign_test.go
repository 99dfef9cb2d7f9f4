package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/client"
	"github.com/tapecast/tapecast/internal/brokertest"
)

const pythonPackages = "confluent-kafka[avro,schemaregistry]==2.16.0"

// python makes (once per machine) a virtual environment with Confluent's client.
func python(t *testing.T) string {
	t.Helper()
	need := func(err error, what string) {
		if err == nil {
			return
		}
		if os.Getenv("TAPECAST_TEST_REQUIRE_PYTHON") != "" {
			require.NoError(t, err, what)
		}
		t.Skipf("no foreign producer: %s: %v", what, err)
	}
	py, err := exec.LookPath("python3")
	need(err, "python3 is not installed")
	cache, err := os.UserCacheDir()
	need(err, "no cache directory")
	dir := filepath.Join(cache, "tapecast", "py-confluent-2.16.0")
	bin := filepath.Join(dir, "bin", "python")
	if err := exec.Command(bin, "-c", "import confluent_kafka.schema_registry.avro").Run(); err == nil {
		return bin
	}
	tmp := dir + fmt.Sprintf(".%d", os.Getpid())
	defer os.RemoveAll(tmp)
	out, err := exec.Command(py, "-m", "venv", tmp).CombinedOutput()
	need(err, "python3 -m venv: "+string(out))
	out, err = exec.Command(filepath.Join(tmp, "bin", "python"), "-m", "pip", "install", "-q", pythonPackages).CombinedOutput()
	need(err, "pip install: "+string(out))
	_ = os.RemoveAll(dir)
	require.NoError(t, os.Rename(tmp, dir))
	return bin
}

// TestForeignProducer: what Confluent's Python client writes (its own
// serializer, registry client, idempotence, zstd, lz4, transactions aborted and
// committed) reaches a client as JSON, on both brokers.
func TestForeignProducer(t *testing.T) {
	py := python(t)
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		s := newStack(t, strings.Join(env.Addrs, ","), 1, 1)
		topic := brokertest.Name(t, "foreign")
		want := run(t, 2*time.Minute, py, "testdata/foreign.py", s.brokers, s.registry, topic, "500")
		s.awaitTopic(t, topic)
		brokertest.Report(t, "confluent-kafka 2.16.0 (Python) on "+env.Name)

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
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
