package interestlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/stream"
)

const (
	readBytes  = 1 << 20                // of one read
	readWait   = 500 * time.Millisecond // long poll at the log's end
	backoffMin = 50 * time.Millisecond
	backoffMax = 2 * time.Second
)

// Handler receives the log. Calls come from Run's goroutine, one at a time;
// while one lasts nothing is read.
type Handler interface {
	// Reset: the log begins anew (at the start, or the topic was made again):
	// forget everything that was applied before.
	Reset(log stream.TopicID)
	// Apply: everything up to and including pos is applied after this call.
	// ok=false: the record could not be read (counted), only pos moves. r holds
	// no memory of the follower's and may be kept.
	Apply(pos stream.InterestPos, r interest.Record, ok bool)
	// Caught: everything that was in the log when this pass began is applied;
	// called after each read that reached the end, also when nothing came.
	Caught(pos stream.InterestPos)
}

// Follower follows the log. Run is called once; Sync from any goroutine.
type Follower struct {
	// static after construction
	client  *broker.Client
	handler Handler
	log     *slog.Logger

	// owned by Run
	reader *broker.Reader
	loud   bool // an error was logged and not yet followed by a success

	// guarded by mu
	mu    sync.Mutex
	topic stream.TopicID
	next  int64
	moved chan struct{} // closed, and made anew, whenever topic or next moves
}

// NewFollower makes a follower; it reads nothing yet.
func NewFollower(c *broker.Client, h Handler, log *slog.Logger) *Follower {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Follower{client: c, handler: h, log: log, moved: make(chan struct{})}
}

// Run reads from the log's first offset and goes on until ctx ends, then it
// returns nil. Errors of the cluster, a missing topic among them, are retried
// with backoff, for ever.
func (f *Follower) Run(ctx context.Context) error {
	defer f.closeReader()
	backoff := backoffMin
	for ctx.Err() == nil {
		err := f.pass(ctx)
		if err == nil {
			backoff = backoffMin
			f.loud = false
			continue
		}
		if ctx.Err() != nil {
			break
		}
		f.closeReader()
		if !f.loud {
			f.loud = true
			f.log.Warn("interest log cannot be read, trying again", "topic", interest.Topic, "error", err)
		}
		if !sleep(ctx, jitter(backoff)) {
			break
		}
		backoff = min(2*backoff, backoffMax)
	}
	return nil
}

// pass is one read, with what must be settled before it.
func (f *Follower) pass(ctx context.Context) error {
	if f.reader == nil {
		if err := f.open(ctx); err != nil {
			return err
		}
	}
	from := f.position()
	span, err := f.reader.Read(ctx, from, readBytes, readWait)
	if err != nil {
		return f.failed(from, err)
	}
	f.apply(span)
	return nil
}

// open asks which incarnation of the topic there is, and begins anew when it
// is another one than before.
func (f *Follower) open(ctx context.Context) error {
	t, ok, err := lookup(ctx, f.client)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("interest topic %s: %w", interest.Topic, stream.ErrUnknownTopic)
	}
	f.reader = f.client.NewReader(interest.Topic, t.ID, 0)
	if t.ID != f.topicID() {
		f.log.Info("interest log is read from its beginning", "topic", interest.Topic, "id", t.ID.String())
		f.handler.Reset(t.ID)
		f.moveTo(t.ID, 0)
	}
	return nil
}

// failed settles a read error. Below the first retained offset: the cleaner
// has removed what lies between, and with ids that are written once nothing of
// it is missed (a missed tombstone only sends too much). Beyond the end: the
// log was cut, so what was applied may never have been; begin anew.
func (f *Follower) failed(from int64, err error) error {
	var out *stream.OutOfRangeError
	if !errors.As(err, &out) || out.End < 0 {
		return fmt.Errorf("read interest log %s from %d: %w", interest.Topic, from, err)
	}
	if from < out.Start {
		f.moveTo(f.topicID(), out.Start)
		return nil
	}
	if from > out.End {
		f.log.Error("interest log was cut, it is read from its beginning", "topic", interest.Topic, "offset", from, "end", out.End)
		f.handler.Reset(f.topicID())
		f.moveTo(f.topicID(), max(out.Start, 0))
		return nil
	}
	return fmt.Errorf("read interest log %s from %d: %w", interest.Topic, from, err)
}

func (f *Follower) apply(span broker.Span) {
	pos := stream.InterestPos{Log: f.topicID()}
	for i := range span.Records {
		rec := &span.Records[i]
		pos.Offset = rec.Offset
		r, err := interest.Decode(rec.Key, rec.Value)
		if err != nil {
			f.log.Warn("interest record cannot be read", "topic", interest.Topic, "offset", rec.Offset, "error", err)
			f.handler.Apply(pos, interest.Record{}, false)
			continue
		}
		f.handler.Apply(pos, r, true)
	}
	if span.To >= span.End {
		pos.Offset = span.To - 1
		f.handler.Caught(pos)
	}
	f.moveTo(pos.Log, span.To)
}

// Sync waits until everything that is in the log at the time of the call is
// applied. Errors of the cluster are retried with backoff until ctx ends; then
// its error is returned.
func (f *Follower) Sync(ctx context.Context) error {
	backoff := backoffMin
	for {
		id, end, err := f.bounds(ctx)
		if err == nil {
			err = f.await(ctx, id, end)
		}
		if err == nil {
			return nil
		}
		if !sleep(ctx, jitter(backoff)) {
			return fmt.Errorf("sync with interest log %s: %w", interest.Topic, errors.Join(ctx.Err(), err))
		}
		backoff = min(2*backoff, backoffMax)
	}
}

// bounds returns the log's end and the id of the topic it is the end of: the
// answer itself does not name it, so the id is asked before and after.
func (f *Follower) bounds(ctx context.Context) (stream.TopicID, int64, error) {
	before, ok, err := lookup(ctx, f.client)
	if err != nil {
		return stream.TopicID{}, 0, err
	}
	if !ok {
		return stream.TopicID{}, 0, fmt.Errorf("interest topic %s: %w", interest.Topic, stream.ErrUnknownTopic)
	}
	b, err := f.client.Bounds(ctx, interest.Topic, []int32{0})
	if err != nil {
		return stream.TopicID{}, 0, fmt.Errorf("ask end of interest log %s: %w", interest.Topic, err)
	}
	p, ok := b[0]
	if !ok {
		return stream.TopicID{}, 0, fmt.Errorf("end of interest log %s was not told", interest.Topic)
	}
	after, ok, err := lookup(ctx, f.client)
	if err != nil {
		return stream.TopicID{}, 0, err
	}
	if !ok || after.ID != before.ID {
		return stream.TopicID{}, 0, fmt.Errorf("interest topic %s: %w", interest.Topic, stream.ErrTopicChanged)
	}
	return before.ID, p.End, nil
}

// await waits until [0, end) of the log with this id is applied. A log that
// was replaced meanwhile will never be, so while Run stands in another one the
// wait is short, and the caller asks again.
func (f *Follower) await(ctx context.Context, id stream.TopicID, end int64) error {
	patience := time.NewTimer(backoffMax)
	defer patience.Stop()
	for {
		f.mu.Lock()
		topic, next, moved := f.topic, f.next, f.moved
		f.mu.Unlock()
		if topic == id && next >= end {
			return nil
		}
		select {
		case <-moved:
		case <-patience.C:
			if topic != id {
				return fmt.Errorf("interest log %s is not followed as %s: %w", interest.Topic, id, stream.ErrTopicChanged)
			}
			patience.Reset(backoffMax)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *Follower) topicID() stream.TopicID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.topic
}

func (f *Follower) position() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.next
}

func (f *Follower) moveTo(topic stream.TopicID, next int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.topic == topic && f.next == next {
		return
	}
	f.topic, f.next = topic, next
	close(f.moved)
	f.moved = make(chan struct{})
}

func (f *Follower) closeReader() {
	if f.reader != nil {
		f.reader.Close()
		f.reader = nil
	}
}

func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// sleep waits for d; false means that ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
