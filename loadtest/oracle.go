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

// truth asks the oracle, until it has seen the ends that are known of.
func (r *run) truth(ctx context.Context, ends map[int32]int64) (*truth, error) {
	if r.o.Oracle == nil {
		return readTruth(ctx, r.o.Brokers, r.topic, r.o.Partitions, ends)
	}
	ctx, cancel := context.WithTimeout(ctx, oracleTime)
	defer cancel()
	for {
		t := &truth{parts: map[int32][]truthEvent{}}
		if err := r.o.Oracle(ctx, r.topic, t.add); err != nil {
			return nil, fmt.Errorf("oracle reads %s: %w", r.topic, err)
		}
		if t.complete(ends) {
			return t, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("oracle does not reach the ends %v of %s: %w", ends, r.topic, ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

// oracleTime bounds how long an oracle may take to see a topic's ends.
const oracleTime = 5 * time.Minute

// add adds a record.
func (t *truth) add(partition int32, offset int64, key, value []byte) error {
	var e event
	if len(value) < 5 || value[0] != 0 {
		return fmt.Errorf("partition %d offset %d is not in Confluent's format", partition, offset)
	}
	if err := e.parseAvro(value[5:]); err != nil {
		return fmt.Errorf("partition %d offset %d: %w", partition, offset, err)
	}
	t.parts[partition] = append(t.parts[partition], truthEvent{
		offset: offset, digest: e.digest(string(key)), key: string(key), producer: e.Producer, seq: e.Seq,
	})
	return nil
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
		if err := t.add(r.Partition, r.Offset, r.Key, r.Value); err != nil {
			bad = err
		}
	})
	return bad
}
