package loadtest

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// truth is what the topic holds, as another library reads it.
type truth struct {
	parts map[int32][]truthEvent // ascending offsets
}

type truthEvent struct {
	offset   int64
	digest   uint64
	key      string
	producer int64
	seq      int64
}

// end is the offset after the last event of a partition.
func (t *truth) end(p int32) int64 {
	evs := t.parts[p]
	if len(evs) == 0 {
		return 0
	}
	return evs[len(evs)-1].offset + 1
}

// readTruth dumps the committed records of a topic, from its start to the ends
// that the producers know of.
func readTruth(ctx context.Context, brokers []string, topic string, parts int, ends map[int32]int64) (*truth, error) {
	assign := map[int32]kgo.Offset{}
	for p := range int32(parts) {
		assign[p] = kgo.NewOffset().AtStart()
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: assign}))
	if err != nil {
		return nil, fmt.Errorf("oracle: %w", err)
	}
	defer cl.Close()
	t := &truth{parts: map[int32][]truthEvent{}}
	for !t.complete(ends) {
		if err := t.poll(ctx, cl); err != nil {
			return nil, fmt.Errorf("oracle reads %s: %w", topic, err)
		}
	}
	return t, nil
}

func (t *truth) complete(ends map[int32]int64) bool {
	for p, end := range ends {
		if t.end(p) < end {
			return false
		}
	}
	return true
}

func (t *truth) poll(ctx context.Context, cl *kgo.Client) error {
	pctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	fs := cl.PollFetches(pctx)
	if err := fs.Err0(); err != nil {
		return err
	}
	var bad error
	fs.EachRecord(func(r *kgo.Record) {
		var e event
		if len(r.Value) < 5 || r.Value[0] != 0 {
			bad = fmt.Errorf("partition %d offset %d is not in Confluent's format", r.Partition, r.Offset)
			return
		}
		if err := e.parseAvro(r.Value[5:]); err != nil {
			bad = fmt.Errorf("partition %d offset %d: %w", r.Partition, r.Offset, err)
			return
		}
		t.parts[r.Partition] = append(t.parts[r.Partition], truthEvent{
			offset: r.Offset, digest: e.digest(string(r.Key)), key: string(r.Key), producer: e.Producer, seq: e.Seq,
		})
	})
	return bad
}
