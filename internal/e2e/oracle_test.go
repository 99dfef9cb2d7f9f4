package e2e

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/brokertest"
)

// javaOracle reads topics with Kafka's own Java consumer, straight from the
// brokers. It tells a test's report what it read.
func javaOracle(t *testing.T, addrs []string) func(context.Context, string, func(int32, int64, []byte, []byte) error) error {
	return func(ctx context.Context, topic string, each func(int32, int64, []byte, []byte) error) error {
		d, err := brokertest.DumpTopic(ctx, addrs, topic)
		if err != nil {
			return err
		}
		n := 0
		for p, recs := range d.Records {
			for _, r := range recs {
				n++
				if err := each(p, r.Offset, r.Key, r.Value); err != nil {
					return err
				}
			}
		}
		t.Logf("oracle: Kafka's Java consumer read %d records of %s, ends %v", n, topic, d.End)
		return nil
	}
}

// dump is a topic as Kafka's own Java consumer reads it.
func dump(t *testing.T, ctx context.Context, addrs []string, topic string) *brokertest.Dump {
	t.Helper()
	d, err := brokertest.DumpTopic(ctx, addrs, topic)
	require.NoError(t, err)
	return d
}
