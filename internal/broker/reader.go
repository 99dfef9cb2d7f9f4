package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/tapecast/tapecast/internal/stream"
)

// Reader reads one partition of one incarnation of a topic, committed records
// only, through raw batches. Not safe for concurrent use; cheap to make.
type Reader struct {
	client    *Client
	topic     string
	id        stream.TopicID
	pinned    bool // id was given, or records were read under it
	partition int32
	puller    *Puller // nil = Follow reads by itself

	// memory of the last span, given back before the next one
	records []stream.Record
	room    *[]stream.Record // where the records' memory comes from; nil = there is none
	answer  *memory
	plain   []*[]byte
	aborted map[int64]struct{}
}

// NewReader reads by topic id; with a zero id, by name (and ID tells which it met).
func (c *Client) NewReader(topic string, id stream.TopicID, partition int32) *Reader {
	return &Reader{client: c, topic: topic, id: id, pinned: !id.IsZero(), partition: partition, aborted: make(map[int64]struct{})}
}

// ID returns the incarnation that is read: the one given to NewReader, else
// the first that Read met, else zero.
func (r *Reader) ID() stream.TopicID { return r.id }

// Span is what one fetch answer proves: the committed records of [From, To).
type Span struct {
	From, To int64
	Start    int64           // first retained offset, -1 = not told
	End      int64           // last stable offset
	Records  []stream.Record // ascending; alias the reader's buffer until the next call
	Bytes    int             // read from the wire
}

// minFetch is the least that is asked for: a smaller maxBytes would make many
// requests of few records.
const minFetch = 1 << 10

// Read reads from offset from, at most about maxBytes, and waits up to maxWait
// when there is nothing. To = From when nothing is proved. Errors:
// *stream.OutOfRangeError, stream.ErrTopicChanged, stream.ErrUnknownTopic (only
// by name), ErrNoPartition, *CorruptError, ErrLegacyFormat, and others (see
// Retryable). A batch that is larger than maxBytes is read whole.
func (r *Reader) Read(ctx context.Context, from int64, maxBytes int, maxWait time.Duration) (Span, error) {
	maxBytes = min(max(maxBytes, minFetch), maxBatchBytes)
	for try := 1; ; try++ {
		r.release()
		span, need, err := r.readOnce(ctx, from, maxBytes, maxWait)
		if err == nil {
			if need <= maxBytes {
				return span, nil
			}
			maxBytes = need // the first batch was cut off: ask for all of it
			continue
		}
		if r.final(ctx, err) || try == 5 || !sleep(ctx, time.Duration(try)*20*time.Millisecond) {
			return Span{}, fmt.Errorf("read topic %s partition %d at offset %d: %w", r.topic, r.partition, from, err)
		}
	}
}

// final reports whether to hand an error to the caller at once. What only
// says that the leader has moved is worth another look.
func (r *Reader) final(ctx context.Context, err error) bool {
	switch {
	case ctx.Err() != nil:
		return true
	case isCode(err, kafka.NotLeaderForPartition, kafka.LeaderNotAvailable, kafka.FencedLeaderEpoch,
		kafka.UnknownLeaderEpoch, kafka.UnknownTopicOrPartition, kafka.UnknownTopicID, kafka.InconsistentTopicID,
		kafka.ReplicaNotAvailable, kafka.OffsetNotAvailable, kafka.OffsetOutOfRange):
		return false
	}
	return true
}

// Follow reads on from offset from and hands every span to take, until take
// returns false (then the error is nil) or a read fails, as Read does. Spans
// prove what Read's do, and are good until take returns. One that proves
// nothing comes at least about every 1.2 maxWait. take may be called by another
// goroutine, never by two, and never after Follow has returned; it should not
// wait, as others may be served after it: see Puller.
func (r *Reader) Follow(ctx context.Context, from int64, maxBytes int, maxWait time.Duration, take func(Span) bool) error {
	counted := func(s Span) bool {
		from = max(from, s.To)
		return take(s)
	}
	for {
		if r.puller != nil {
			err := r.puller.follow(ctx, r, from, min(max(maxBytes, minFetch), maxBatchBytes), maxWait, counted)
			if err == nil {
				return nil
			}
			if ctx.Err() != nil {
				return fmt.Errorf("follow topic %s partition %d at offset %d: %w", r.topic, r.partition, from, ctx.Err())
			}
		}
		// Also whatever was wrong: Read finds out what that is.
		span, err := r.Read(ctx, from, maxBytes, maxWait)
		if err != nil {
			return err
		}
		more := counted(span)
		if r.puller != nil {
			r.puller.served()
		}
		if !more {
			return nil
		}
	}
}

// question is what to ask, and whom.
func (r *Reader) question(ctx context.Context, from int64, maxBytes int, maxWait time.Duration) (fetchAsk, error) {
	leader, err := r.leader(ctx)
	if err != nil {
		return fetchAsk{}, err
	}
	version, err := r.client.fetchVersion(ctx, leader)
	if err != nil {
		r.client.forget(r.topic)
		return fetchAsk{}, err
	}
	return fetchAsk{
		version: version, leader: leader, topic: r.topic, id: r.id, partition: r.partition,
		from: from, maxBytes: maxBytes, maxWait: maxWait, isolation: committed,
	}, nil
}

func (r *Reader) readOnce(ctx context.Context, from int64, maxBytes int, maxWait time.Duration) (Span, int, error) {
	q, err := r.question(ctx, from, maxBytes, maxWait)
	if err != nil {
		return Span{}, 0, err
	}
	leader, version := q.leader, q.version
	got, err := r.client.fetch(ctx, q)
	if err != nil {
		return Span{}, 0, r.failed(ctx, leader, from, err)
	}
	r.answer, r.pinned = got.mem, true
	if version < fetchByID && len(got.records) > 0 {
		// The name may have come to mean another topic. Ids never come back,
		// so if it is still ours the records are too.
		if err := r.sameTopic(ctx); err != nil {
			return Span{}, 0, err
		}
	}
	return r.walk(&got, from, maxBytes)
}

// failed says what a failed fetch means.
func (r *Reader) failed(ctx context.Context, leader int32, from int64, err error) error {
	switch {
	case ctx.Err() != nil:
		return err
	case isCode(err, kafka.OffsetOutOfRange):
		return r.outOfRange(ctx, from, err)
	case isCode(err, kafka.UnknownTopicOrPartition, kafka.UnknownTopicID, kafka.InconsistentTopicID):
		if e := r.sameTopic(ctx); e != nil {
			return e
		}
	case isCode(err, kafka.UnsupportedVersion):
		r.client.forgetVersion(leader)
		return fmt.Errorf("%w: %w", kafka.NotLeaderForPartition, err)
	case disconnected(err) || isNet(err):
		r.client.forgetVersion(leader)
	}
	r.client.forget(r.topic)
	return err
}

// leader returns whom to ask, after a check that the topic is still the same.
func (r *Reader) leader(ctx context.Context) (int32, error) {
	leader, id, err := r.client.leader(ctx, r.topic, r.partition)
	if errors.Is(err, stream.ErrUnknownTopic) && r.pinned {
		return 0, fmt.Errorf("topic %s is gone: %w", r.topic, stream.ErrTopicChanged)
	}
	if err != nil {
		if r.pinned && !id.IsZero() && id != r.id {
			return 0, r.sameTopicOr(ctx, err)
		}
		return 0, err
	}
	if !r.pinned {
		r.id = id
	}
	if id != r.id {
		// What is cached may be older than what the caller knows.
		return 0, r.sameTopicOr(ctx, kafka.NotLeaderForPartition)
	}
	return leader, nil
}

func (r *Reader) sameTopicOr(ctx context.Context, otherwise error) error {
	if err := r.sameTopic(ctx); err != nil {
		return err
	}
	return otherwise
}

// sameTopic asks whether the name still stands for the incarnation that is read.
func (r *Reader) sameTopic(ctx context.Context) error {
	t, err := r.client.topic(ctx, r.topic, 0)
	switch {
	case errors.Is(err, stream.ErrUnknownTopic) && r.pinned:
		return fmt.Errorf("topic %s is gone: %w", r.topic, stream.ErrTopicChanged)
	case err != nil:
		return err
	case !r.pinned:
		r.id = t.ID
	case t.ID != r.id:
		return fmt.Errorf("topic %s has id %s now, not %s: %w", r.topic, t.ID, r.id, stream.ErrTopicChanged)
	}
	return nil
}

// outOfRange turns Kafka's answer into the bounds, asked of the same incarnation.
func (r *Reader) outOfRange(ctx context.Context, from int64, cause error) error {
	b, err := r.client.Bounds(ctx, r.topic, []int32{r.partition})
	if err := r.sameTopicOr(ctx, err); err != nil {
		return err
	}
	bounds := b[r.partition]
	if from >= bounds.Start && from <= bounds.End {
		return cause // a moment ago it was outside; ask again
	}
	return &stream.OutOfRangeError{Offset: from, Start: bounds.Start, End: bounds.End}
}

// release gives the memory of the last span back.
func (r *Reader) release() {
	r.answer.give()
	r.answer = nil
	for i, b := range r.plain {
		buffers.give(b)
		r.plain[i] = nil
	}
	r.plain = r.plain[:0]
	if r.room == nil {
		return
	}
	clear(r.records)
	*r.room = r.records
	rooms.give(r.room)
	r.room, r.records = nil, nil
}

// maxRecords bounds the records of one span, and what a pooled room may keep:
// small records take many times what they take in Kafka.
const maxRecords = 128 << 10

// rooms holds memory for the records of an answer, as buffers does for its bytes.
var rooms = pool[stream.Record]{most: maxRecords}

// furnish gets the reader memory for records.
func (r *Reader) furnish() {
	r.room = rooms.take()
	r.records = *r.room
}

// Close releases the reader's buffer.
func (r *Reader) Close() { r.release() }
