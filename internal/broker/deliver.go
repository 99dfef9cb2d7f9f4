package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/tapecast/tapecast/internal/stream"
)

// restamp puts another producer's identity and sequence into a batch.
func restamp(wire []byte, s producerState) {
	be := binary.BigEndian
	be.PutUint64(wire[offsetProducerID:], uint64(s.id))
	be.PutUint16(wire[offsetEpoch:], uint16(s.epoch))
	be.PutUint32(wire[offsetSequence:], uint32(s.sequence))
	be.PutUint32(wire[offsetCRC:], crc32.Checksum(wire[offsetAttributes:], castagnoli))
}

// deliver sends the same bytes until Kafka's verdict on them is known. It
// returns the first record's offset, or -1 where the batch is written but
// nobody can tell where any more.
func (q *partitionQueue) deliver(ctx context.Context, wire []byte, count int32) (int64, error) {
	c := q.producer.client
	uncertain := false // an earlier try may have been written
	corrupt := 0
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		base, err := q.try(ctx, wire)
		switch {
		case err == nil && base >= 0:
			return base, nil
		case err == nil, isCode(err, kafka.DuplicateSequenceNumber):
			base, _, err := q.find(ctx, q.state, count)
			return base, err
		case isCode(err, kafka.MessageSizeTooLarge, kafka.RecordListTooLarge):
			return -1, fmt.Errorf("%w: %w", errTooLarge, err)
		case isCode(err, kafka.OutOfOrderSequenceNumber, kafka.UnknownProducerId, kafka.InvalidProducerEpoch,
			kafka.InvalidProducerIDMapping, kafka.ProducerFenced):
			base, found, e := q.find(ctx, q.state, count)
			if e != nil || found {
				return base, e
			}
			c.log.Warn("kafka lost the producer's sequence", slog.String("topic", q.tp.Topic),
				slog.Int("partition", int(q.tp.Partition)), slog.Any("error", err))
			if e := q.renew(ctx); e != nil {
				return -1, e
			}
			// The old bytes may still be in flight somewhere; new ones may be written to.
			fresh := append([]byte(nil), wire...)
			restamp(fresh, q.state)
			wire, uncertain = fresh, false
		case gone(err):
			q.reset()
			return -1, err
		case isCode(err, kafka.InvalidMessage) && corrupt < 3:
			corrupt++
		case ctx.Err() != nil:
			if uncertain || mayBeWritten(err) {
				return -1, fmt.Errorf("%w: %w", ErrUnknownOutcome, ctx.Err())
			}
			return -1, ctx.Err()
		case !Retryable(err):
			// Only Kafka's own refusal says that nothing was written: another
			// batch must never take the sequence of one that may lie there.
			var refused kafka.Error
			if uncertain || !errors.As(err, &refused) {
				q.reset()
				return -1, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
			}
			return -1, err
		default:
			uncertain = uncertain || mayBeWritten(err)
		}
		if !sleep(ctx, pause) && !uncertain {
			return -1, ctx.Err()
		}
	}
}

// try sends a batch to the leader once. Where the topic was made again in the
// meantime the same bytes go to the new one: if a try has reached that
// already, its sequence says so.
func (q *partitionQueue) try(ctx context.Context, wire []byte) (int64, error) {
	c := q.producer.client
	leader, id, err := c.leader(ctx, q.tp.Topic, q.tp.Partition)
	if err != nil {
		return -1, err
	}
	if id != q.topicID {
		q.topicID, q.searchFrom = id, 0
	}
	base, err := c.produce(ctx, leader, q.tp.Topic, q.tp.Partition, wire)
	if err != nil {
		c.forget(q.tp.Topic)
		return -1, fmt.Errorf("produce to topic %s partition %d: %w", q.tp.Topic, q.tp.Partition, err)
	}
	return base, nil
}

// renew takes a new producer id, with which the sequence begins again.
func (q *partitionQueue) renew(ctx context.Context) error {
	return q.untilDone(ctx, func() error {
		s, err := q.producer.fresh(ctx, q.state.id)
		if err == nil {
			q.state = s
		}
		return err
	})
}

// find looks for a batch by producer and sequence, from where the partition
// ended before it was sent. It returns -1 and false when it is not there.
func (q *partitionQueue) find(ctx context.Context, want producerState, count int32) (base int64, found bool, err error) {
	from := max(q.searchFrom, 0)
	base = -1
	err = q.untilDone(ctx, func() error {
		for {
			got, err := q.tail(ctx, from)
			if err != nil {
				var out *stream.OutOfRangeError
				if errors.As(err, &out) && out.Start > from {
					from = out.Start
					continue
				}
				return err
			}
			next := from
			for b := got.records; len(b) > 0; {
				h, _, rest, whole, err := nextBatch(b)
				if err != nil || !whole {
					break
				}
				if h.producer == want && h.count == count {
					base, found = h.base, true
					got.give()
					return nil
				}
				next, b = h.last()+1, rest
			}
			got.give()
			if next >= got.high || next == from {
				return nil
			}
			from = next
		}
	})
	return base, found, err
}

// tail fetches what lies at from, also what is not committed.
func (q *partitionQueue) tail(ctx context.Context, from int64) (fetched, error) {
	c := q.producer.client
	leader, id, err := c.leader(ctx, q.tp.Topic, q.tp.Partition)
	if err != nil {
		return fetched{}, err
	}
	version, err := c.fetchVersion(ctx, leader)
	if err != nil {
		return fetched{}, err
	}
	got, err := c.fetch(ctx, fetchAsk{
		version: version, leader: leader, topic: q.tp.Topic, id: id, partition: q.tp.Partition,
		from: from, maxBytes: 2 << 20, maxWait: 100 * time.Millisecond, isolation: uncommitted,
	})
	if isCode(err, kafka.OffsetOutOfRange) {
		b, e := c.Bounds(ctx, q.tp.Topic, []int32{q.tp.Partition})
		if e != nil {
			return fetched{}, e
		}
		bounds := b[q.tp.Partition]
		if from < bounds.Start {
			return fetched{}, &stream.OutOfRangeError{Offset: from, Start: bounds.Start, End: bounds.End}
		}
		return fetched{high: from}, nil // beyond the end: there is nothing
	}
	if err != nil {
		c.forget(q.tp.Topic)
	}
	return got, err
}
