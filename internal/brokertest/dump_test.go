package brokertest

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

// nowhere is an address that Kafka's client warns of before it does anything
// else, and goes on without. No name server is asked.
const nowhere = "[::x]:9092"

// TestWhatKafkasClientLogsIsNoPartOfADump: its warnings, which its logger
// writes to Java's standard output, are with what went wrong.
func TestWhatKafkasClientLogsIsNoPartOfADump(t *testing.T) {
	env := Kafka(t)
	_, err := DumpTopic(t.Context(), append([]string{nowhere}, env.Addrs...), Name(t, "missing"))
	require.ErrorContains(t, err, "Couldn't resolve server "+nowhere)
	require.ErrorContains(t, err, "UnknownTopicOrPartitionException")
	require.ErrorIs(t, err, io.EOF, "of an empty dump")
}

// TestDumpSeesWhatIsCommitted: Kafka's consumer shows nulls as nulls, no
// aborted record, and the topic's id as our client shows it.
func TestDumpSeesWhatIsCommitted(t *testing.T) {
	env := Kafka(t)
	topic := env.Topic(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(env.Addrs...), kgo.TransactionalID(topic), kgo.DefaultProduceTopic(topic))
	require.NoError(t, err)
	defer cl.Close()
	write := func(commit kgo.TransactionEndTry, recs ...*kgo.Record) {
		require.NoError(t, cl.BeginTransaction())
		require.NoError(t, cl.ProduceSync(ctx, recs...).FirstErr())
		require.NoError(t, cl.EndTransaction(ctx, commit))
	}
	write(kgo.TryCommit, &kgo.Record{Key: []byte("k"), Value: []byte("v")}, &kgo.Record{Value: []byte{0, 255}}, &kgo.Record{Key: []byte{}, Value: nil})
	write(kgo.TryAbort, &kgo.Record{Value: []byte("aborted")})
	write(kgo.TryCommit, &kgo.Record{Value: []byte("last")})
	d, err := DumpTopic(ctx, append([]string{nowhere}, env.Addrs...), topic)
	require.NoError(t, err)
	ts, err := env.Client.Topics(ctx, topic)
	require.NoError(t, err)
	require.Equal(t, ts[0].ID.String(), d.TopicID)
	require.Equal(t, map[int32]int64{0: 0}, d.Start)
	require.Equal(t, map[int32]int64{0: 8}, d.End)
	var got []DumpRecord
	for _, r := range d.Records[0] {
		require.Positive(t, r.Timestamp)
		r.Timestamp = 0
		got = append(got, r)
	}
	require.Equal(t, []DumpRecord{
		{Offset: 0, Key: []byte("k"), Value: []byte("v")},
		{Offset: 1, Value: []byte{0, 255}},
		{Offset: 2, Key: []byte{}},
		{Offset: 6, Value: []byte("last")},
	}, got)
}
