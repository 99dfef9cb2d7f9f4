package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/tapecast/tapecast/internal/stream"
)

// AppendRecord is one record to append as it is.
type AppendRecord struct {
	Key, Value []byte
	Time       time.Time // zero = now
}

// Append writes records as one batch to one partition, acks=all, one try, no
// Kafka-level compression. It returns the first record's offset. An error does
// not mean "not written". For delivery topics and the interest log, where a
// double does no harm. A leader that has moved is looked up again for at most
// appendPatience: those tries were refused, not lost.
func (c *Client) Append(ctx context.Context, topic string, partition int32, recs []AppendRecord) (base int64, err error) {
	if len(recs) == 0 {
		return 0, errors.New("append: no records")
	}
	batch, err := appendBatch(recs)
	if err != nil {
		return 0, err
	}
	err = retryIf(ctx, appendPatience, movedOn, func() (err error) {
		base, err = c.appendOnce(ctx, topic, partition, batch)
		return err
	})
	if isCode(err, kafka.MessageSizeTooLarge, kafka.RecordListTooLarge) {
		err = fmt.Errorf("%w: %w", ErrRecordTooLarge, err)
	}
	if err != nil {
		return 0, fmt.Errorf("append to topic %s partition %d: %w", topic, partition, err)
	}
	return base, nil
}

// appendPatience is how long brokers may take to hear of a topic, a partition or
// a leader that another one knows of already: milliseconds where all is well,
// more where disks are slow.
const appendPatience = 5 * time.Second

// appendOnce forgets who leads the partition if that turns out to be wrong.
func (c *Client) appendOnce(ctx context.Context, topic string, partition int32, batch []byte) (base int64, err error) {
	leader, _, err := c.leader(ctx, topic, partition)
	if err == nil {
		base, err = c.produce(ctx, leader, topic, partition, batch)
	}
	if movedOn(err) || unreached(err) {
		c.forget(topic)
	}
	return base, err
}

// movedOn tells whether a write was refused because the leader is another one,
// or the topic: a broker may be asked while it replaces one by another of its
// name, or before it has heard of a partition that was added.
func movedOn(err error) bool {
	return errors.Is(err, ErrNoPartition) ||
		isCode(err, kafka.NotLeaderForPartition, kafka.LeaderNotAvailable, kafka.UnknownTopicOrPartition, kafka.BrokerNotAvailable,
			kafka.UnknownTopicID, kafka.InconsistentTopicID)
}

func appendBatch(recs []AppendRecord) ([]byte, error) {
	var w batchWriter
	now := time.Now()
	stamp := func(r AppendRecord) int64 {
		if r.Time.IsZero() {
			return now.UnixMilli()
		}
		return r.Time.UnixMilli()
	}
	baseTime := stamp(recs[0])
	maxTime := baseTime
	w.begin()
	for i, r := range recs {
		t := stamp(r)
		maxTime = max(maxTime, t)
		w.add(&plainRecord{key: r.Key, value: r.Value}, t-baseTime, i)
	}
	return w.finish(len(recs), baseTime, maxTime, codecNone, noProducer)
}

const (
	// produceWait is how long a leader may wait for its followers.
	produceWait = 5 * time.Second
	// produceVersion is spoken by all brokers that are new enough for the rest.
	produceVersion = 8
)

// appendProduceHead begins a produce request. A partition whose followers do not
// have it within wait is answered as timed out; its leader keeps what it has.
func appendProduceHead(f *frame, wait time.Duration) {
	f.nullString("") // no transaction
	f.int16(-1)      // all in-sync replicas
	f.int32(int32(wait.Milliseconds()))
}

// produce sends one batch to a partition's leader, once.
func (c *Client) produce(ctx context.Context, leader int32, topic string, partition int32, batch []byte) (base int64, err error) {
	a, err := c.ask(ctx, request{
		key: keyProduce, version: produceVersion, to: leader, wait: produceWait, slack: dataTimeout, records: true,
		body: func(f *frame) {
			appendProduceHead(f, produceWait)
			f.array(1)
			f.string(topic)
			f.array(1)
			f.int32(partition)
			f.b = grow(f.b, 4+len(batch))
			f.bytes32(batch)
		},
	})
	if err != nil {
		return 0, err
	}
	return readProduced(a)
}

func readProduced(a *answer) (base int64, err error) {
	base = -1
	found := false
	for n := a.array(6); n > 0; n-- {
		a.string()
		for m := a.array(30); m > 0; m-- {
			found = true
			p := readProducedPartition(a) // there is one
			base, err = p.base, p.err
		}
	}
	if a.err == nil && !found {
		a.fail()
	}
	if a.err != nil {
		return -1, a.done("produce")
	}
	return base, err
}

// producedPartition is what became of one partition's batch.
type producedPartition struct {
	partition int32
	base      int64
	err       error
}

func readProducedPartition(a *answer) (p producedPartition) {
	p.partition = a.int32()
	p.err = code(a.int16())
	p.base = a.int64()
	a.int64() // append time
	a.int64() // log start
	text := ""
	for k := a.array(6); k > 0; k-- {
		a.int32()
		text = a.string()
	}
	if m := a.string(); text == "" {
		text = m
	}
	if p.err != nil && text != "" {
		p.err = fmt.Errorf("%w (%s)", p.err, text)
	}
	return p
}

// gone tells whether an error says that the topic is not there.
func gone(err error) bool {
	return errors.Is(err, stream.ErrUnknownTopic) || errors.Is(err, ErrNoPartition)
}
