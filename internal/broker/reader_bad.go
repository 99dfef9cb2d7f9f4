//go:build provebad

package broker

import (
	"context"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/tapecast/tapecast/internal/stream"
)

// ReadGroup reads topics as kafka-go's Reader does for a group: it commits by
// itself what it has handed out, and says nothing of generations, topic ids or
// holes. FOR NEGATIVE CONTROLS ONLY.
func (c *Client) ReadGroup(ctx context.Context, addrs []string, group string, topics []string, fn func(topic string, partition int32, r stream.Record)) error {
	r := kafka.NewReader(kafka.ReaderConfig{
		Brokers: addrs, GroupID: group, GroupTopics: topics, Dialer: &kafka.Dialer{DialFunc: c.transport.Dial, Timeout: 5 * time.Second},
		MaxWait: 200 * time.Millisecond, CommitInterval: 100 * time.Millisecond, HeartbeatInterval: 500 * time.Millisecond,
		SessionTimeout: 6 * time.Second, RebalanceTimeout: 6 * time.Second, JoinGroupBackoff: 200 * time.Millisecond,
		WatchPartitionChanges: true, StartOffset: kafka.FirstOffset, IsolationLevel: kafka.ReadCommitted,
	})
	defer r.Close() //nolint:errcheck // it ends with the test
	for {
		m, err := r.ReadMessage(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		fn(m.Topic, int32(m.Partition), stream.Record{Offset: m.Offset, Time: m.Time.UnixMilli(), Key: m.Key, Value: m.Value}) //nolint:gosec // a partition
	}
}

// Brokers are the brokers that the client knows of. FOR NEGATIVE CONTROLS ONLY.
func (c *Client) Brokers() string { return c.addr.String() }
