package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/tapecast/tapecast/internal/stream"
)

// queued is one record in a partition's queue.
type queued struct {
	call  *call
	index int
	size  int64 // of the producer's room that it holds
}

// partitionQueue is what waits for one partition, and the sequence of what
// was written to it.
type partitionQueue struct {
	// static
	producer *Producer
	tp       TopicPartition

	mu      sync.Mutex
	items   []queued // guarded by mu
	sending bool     // guarded by mu; a sendLoop runs

	// encoding is held while the callers' memory is read, so that a caller
	// that leaves can wait for it.
	encoding sync.Mutex

	// owned by sendLoop, of which there is one at a time
	state      producerState // of the next batch; id -1 = none yet
	spent      int64         // the last producer id whose sequence is not known any more; -1 = none
	topicID    stream.TopicID
	searchFrom int64 // where to look for a lost batch; -1 = not known
	writer     batchWriter
}

// outgoing is a batch on its way, with whose records it holds.
type outgoing struct {
	items    []queued
	plain    []byte // the records, uncompressed
	baseTime int64
	maxTime  int64
}

// push queues records and tells whether a sender must be started.
func (q *partitionQueue) push(items []queued) (start bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = append(q.items, items...)
	start, q.sending = !q.sending, true
	return start
}

// failAll gives everything queued an error; no sender runs afterwards.
func (q *partitionQueue) failAll(err error) {
	q.mu.Lock()
	items := q.items
	q.items, q.sending = nil, false
	q.mu.Unlock()
	q.settle(items, err, -1)
}

// failQueued is failAll for the sender, which goes on.
func (q *partitionQueue) failQueued(err error) {
	q.mu.Lock()
	items := q.items
	q.items = nil
	q.mu.Unlock()
	q.settle(items, err, -1)
}

// settle gives records their verdicts, with offsets from base on, and their room back.
func (q *partitionQueue) settle(items []queued, err error, base int64) {
	var size int64
	for i, it := range items {
		offset := int64(-1)
		if err == nil && base >= 0 {
			offset = base + int64(i)
		}
		it.call.settle(it.index, err, offset)
		size += it.size
	}
	q.producer.room.Release(size)
}

// abandon takes a call's records out of the queue, and waits until those that
// were taken before are encoded.
func (q *partitionQueue) abandon(c *call, cause error) {
	q.mu.Lock()
	kept, dropped := q.items[:0], []queued(nil)
	for _, it := range q.items {
		if it.call == c {
			dropped = append(dropped, it)
		} else {
			kept = append(kept, it)
		}
	}
	clear(q.items[len(kept):])
	q.items = kept
	q.mu.Unlock()
	q.settle(dropped, cause, -1)
	q.encoding.Lock()
	q.encoding.Unlock() //nolint:staticcheck // the wait is the point
}

// sendLoop sends until the queue is empty.
func (q *partitionQueue) sendLoop(ctx context.Context) {
	for {
		if q.idle() {
			return
		}
		if linger := q.producer.opts.Linger; linger > 0 {
			sleep(ctx, linger)
		}
		err := ctx.Err()
		if err == nil {
			err = q.prepare(ctx)
		}
		if err != nil {
			q.failQueued(err)
			continue
		}
		if b := q.take(); len(b.items) > 0 {
			q.send(ctx, b)
		}
	}
}

// idle ends the sender when there is nothing to send.
func (q *partitionQueue) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sending = len(q.items) > 0
	return !q.sending
}

// prepare sees to a producer id, and to knowing where a lost batch would be.
// It waits while Kafka is away.
func (q *partitionQueue) prepare(ctx context.Context) error {
	if q.state.id >= 0 && q.searchFrom >= 0 {
		return nil
	}
	return q.untilDone(ctx, func() error {
		if q.state.id < 0 {
			s, err := q.producer.fresh(ctx, q.spent)
			if err != nil {
				return err
			}
			q.state = s
		}
		_, id, err := q.producer.client.leader(ctx, q.tp.Topic, q.tp.Partition)
		if err != nil {
			return err
		}
		ends, err := q.producer.client.listOffsets(ctx, q.tp.Topic, []int32{q.tp.Partition}, atEnd, uncommitted)
		if err != nil {
			return err
		}
		q.topicID, q.searchFrom = id, ends[q.tp.Partition]
		return nil
	})
}

// reset gives the producer id up: with it the next sequence is not known, and
// a wrong one could pass for a duplicate.
func (q *partitionQueue) reset() {
	q.spent, q.state, q.searchFrom = q.state.id, noProducer, -1
}

// untilDone repeats f, with pauses, until it succeeds or cannot.
func (q *partitionQueue) untilDone(ctx context.Context, f func() error) error {
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := f()
		if err == nil || !Retryable(err) && ctx.Err() == nil {
			return err
		}
		if !sleep(ctx, pause) {
			return ctx.Err()
		}
	}
}

// take cuts the next batch off the queue and encodes its records.
func (q *partitionQueue) take() outgoing {
	q.encoding.Lock()
	defer q.encoding.Unlock()
	q.mu.Lock()
	var size int64 = batchHeader
	n := 0
	for n < len(q.items) && size+q.items[n].size <= int64(q.producer.opts.MaxBatch) {
		size += q.items[n].size
		n++
	}
	b := outgoing{items: append([]queued(nil), q.items[:n]...)}
	rest := copy(q.items, q.items[n:])
	clear(q.items[rest:])
	q.items = q.items[:rest]
	q.mu.Unlock()

	q.writer.begin()
	var r plainRecord
	for i, it := range b.items {
		it.call.plain(it.index, &r)
		if i == 0 {
			b.baseTime, b.maxTime = r.time, r.time
		}
		b.maxTime = max(b.maxTime, r.time)
		q.writer.add(&r, r.time-b.baseTime, i)
	}
	b.plain = q.writer.records
	return b
}

// errTooLarge says that the broker takes no batch of this size.
var errTooLarge = errors.New("the batch is larger than the broker takes")

// send sees a batch through to its verdict.
func (q *partitionQueue) send(ctx context.Context, b outgoing) {
	w := batchWriter{records: b.plain}
	wire, err := w.finish(len(b.items), b.baseTime, b.maxTime, q.producer.codec, q.state)
	if err != nil {
		q.settle(b.items, err, -1)
		return
	}
	base, err := q.deliver(ctx, wire, int32(len(b.items)))
	switch {
	case err == nil:
		q.state.sequence = int32((int64(q.state.sequence) + int64(len(b.items))) & 0x7fffffff)
		if base >= 0 {
			q.searchFrom = base + int64(len(b.items))
		}
		q.settle(b.items, nil, base)
	case errors.Is(err, errTooLarge) && len(b.items) > 1:
		for _, half := range b.split() {
			q.send(ctx, half)
		}
	case errors.Is(err, errTooLarge):
		q.settle(b.items, fmt.Errorf("%w for the topic: %w", ErrRecordTooLarge, err), -1)
	default:
		q.settle(b.items, err, -1)
	}
}

// split makes two batches of one, from its own encoding: the callers' memory
// may be gone.
func (b outgoing) split() []outgoing {
	half := len(b.items) / 2
	out := make([]outgoing, 0, 2)
	var w batchWriter
	c := cursor{b: b.plain}
	for _, items := range [][]queued{b.items[:half], b.items[half:]} {
		part := outgoing{items: items}
		w = batchWriter{}
		for i := range items {
			r := c.record()
			t := b.baseTime + r.time
			if i == 0 {
				part.baseTime, part.maxTime = t, t
			}
			part.maxTime = max(part.maxTime, t)
			w.add(&r, t-part.baseTime, i)
		}
		part.plain = w.records
		out = append(out, part)
	}
	return out
}

// record reads a record that this package wrote; its time is the delta.
func (c *cursor) record() plainRecord {
	var r plainRecord
	c.varint()
	c.skip(1)
	r.time = c.varint()
	c.varint()
	r.key, r.value = c.nullable(), c.nullable()
	if c.varint() == 1 {
		r.headerKey = string(c.nullable())
		copy(r.headerValue[:], c.nullable())
	}
	return r
}

// mayBeWritten tells whether a batch may be in the log despite this error.
func mayBeWritten(err error) bool {
	return !isCode(err, kafka.NotLeaderForPartition, kafka.LeaderNotAvailable, kafka.UnknownTopicOrPartition,
		kafka.NotEnoughReplicas, kafka.BrokerNotAvailable, kafka.ReplicaNotAvailable, kafka.FencedLeaderEpoch,
		kafka.ThrottlingQuotaExceeded, kafka.InvalidMessage)
}
