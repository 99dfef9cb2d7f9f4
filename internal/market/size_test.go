package market

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/delivery"
	"github.com/tapecast/tapecast/internal/stream"
	"github.com/tapecast/tapecast/schemas"
)

// kafkaOverhead is what a Kafka batch and its one record take beside the value.
const kafkaOverhead = 61 + 10

// TestDeliveryTopicsAreSmall holds what a batch of quotes takes in a delivery
// topic, all of Kafka's and our headers counted, to the same events as JSON:
// with what a delivery says of each (partition, offset, key, times), and as the
// bare values, which say less. A size is no matter of time: this is no
// benchmark.
func TestDeliveryTopicsAreSmall(t *testing.T) {
	for _, want := range []struct {
		events         int
		percent, value float64 // of the JSON, of the JSON of the values alone
	}{{1, 110, 220}, {10, 30, 56}, {100, 15, 30}, {1000, 12, 24}} {
		batch, full, values := batchOfQuotes(t, want.events)
		payload, err := delivery.Append(nil, batch)
		require.NoError(t, err)
		size := float64(len(payload) + kafkaOverhead)
		percent, value := 100*size/float64(full), 100*size/float64(values)
		t.Logf("%4d events a batch: %5.1f bytes an event, %4.1f %% of their JSON, %5.1f %% of the JSON of their values", want.events, size/float64(want.events), percent, value)
		require.LessOrEqual(t, percent, want.percent)
		require.LessOrEqual(t, value, want.value)
	}
}

// batchOfQuotes makes a batch of n quotes of the demo market, and says what the
// same are as JSON, in full and as values alone.
func batchOfQuotes(t *testing.T, n int) (b *delivery.Batch, full, values int) {
	tapes := testTapes(t)
	w := newWalk(7, DefaultSymbols())
	now := noon
	id, err := stream.ParseTopicID("nje5f0p8FcLQFy1jTUeA3w")
	require.NoError(t, err)
	s := stream.Section{Topic: id, Partition: 3, Generation: 4, From: 1_234_567, ReadFirst: now.UnixMicro()}
	s.Interests = stream.InterestPos{Log: id, Offset: 4321}
	for i := range n {
		now = now.Add(time.Duration(w.rng.IntN(100)) * time.Microsecond)
		e := w.quote(w.books[w.rng.IntN(len(w.books))], now)
		value, err := tapes[e.topic].codec.AppendAvro(schemas.AppendWireHeader(nil, 12), e.json)
		require.NoError(t, err)
		r := stream.Record{Offset: s.From + int64(i), Time: now.UnixMilli(), Accepted: now.UnixMicro(), Key: []byte(e.key), Value: value}
		s.Deliveries = append(s.Deliveries, r)
		values += len(e.json)
		full += len(fmt.Sprintf(`{"partition":3,"offset":%d,"key":%q,"time":%d,"accepted":%d,"value":%s}`, r.Offset, r.Key, r.Time, r.Accepted, e.json))
	}
	s.To = s.From + int64(n)
	s.End, s.ReadLast = s.To, s.ReadFirst
	return &delivery.Batch{
		Incarnation: "6f1c2a9be01d44aa", Writer: "fanout-1a2b3c4d5e6f", WrittenUs: now.UnixMicro() + 900, Sections: []stream.Section{s},
	}, full, values
}
