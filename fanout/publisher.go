package fanout

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/coverage"
	"github.com/tapecast/tapecast/internal/delivery"
	"github.com/tapecast/tapecast/internal/stream"
)

const (
	// ackWithin is how long a write may go without its acknowledgement before
	// its node is cut. It is more than broker.SendTimeout: what a round could not
	// write is written alone in the time that is left.
	ackWithin = 2 * time.Second
	// batchBytes bounds a batch's body so that its record fits into what Kafka
	// takes by default (max.message.bytes 1 MiB), also if snappy gains nothing.
	batchBytes = 900 << 10
	// smallestBatch is how far batchBytes shrinks where a topic takes less.
	smallestBatch = 16 << 10
	// retryWrite is the delay before a refused write is tried again.
	retryWrite = 20 * time.Millisecond
)

// appendFunc writes one record to a delivery topic, in a request of its own, and
// waits for the verdict.
type appendFunc func(ctx context.Context, topic string, payload []byte) error

// health of a node, as its publisher sees it.
type health uint8

const (
	healthy health = iota
	probing        // was cut; the next write decides. Does not hold commits back
	cut            // nothing is queued until the backoff is over
)

// publisherParts is what all publishers of an instance have in common.
type publisherParts struct {
	writer  string // of the batches: this instance
	limit   int    // bytes queued and in flight
	append  appendFunc
	round   *round
	fence   *fence
	linger  func() time.Duration
	metrics *metrics
	log     *slog.Logger
}

// publisher writes one node's sections to its delivery topic: one request in
// flight, everything that waits meanwhile goes into the next batch.
//
// While a node is busy, exactly one sees to it, and hands it on: push notes it for
// the round, flush packs its batch and sends it, settle has the verdict, and notes
// it again if more waits. Whatever is no everyday matter is handed to run.
type publisher struct {
	// static after construction
	publisherParts
	incarnation string
	node        string
	topic       string
	wake        chan struct{} // cap 1: the node is run's to see to
	done        chan struct{} // closed when the incarnation has ended
	endOnce     sync.Once
	settled     func(error) // settle

	// owned by who sees to the node
	sections []stream.Section // in flight
	parcel   *parcel          // the same, encoded; nil = not yet, or written

	// guarded by mu
	mu     sync.Mutex
	q      queue
	health health
	batch  int  // what the sections of a batch may take, bytes
	busy   bool // somebody sees to the node
}

// parcel is a batch on its way.
type parcel struct {
	buf  *[]byte // the payload; from buffers
	sent time.Time
}

func newPublisher(incarnation, node, topic string, parts publisherParts) *publisher {
	p := &publisher{
		publisherParts: parts, incarnation: incarnation, node: node, topic: topic,
		wake: make(chan struct{}, 1), done: make(chan struct{}), batch: batchBytes - delivery.Overhead,
	}
	p.settled = p.settle
	return p
}

// end stops the publisher for good: the incarnation has ended.
func (p *publisher) end() { p.endOnce.Do(func() { close(p.done) }) }

func (p *publisher) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// push queues a section, in pieces if it is large. It never waits: what finds
// no room cuts the node, what finds the node cut is dropped, and either is a
// gap that the gateway reads from the feed topic.
func (p *publisher) push(b *book, sec stream.Section) {
	if p.ended() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.health == cut {
		p.metrics.dropped.Inc()
		return
	}
	p.queueLocked(b, sec)
	if p.q.bytes > p.limit {
		p.cutLocked(cutQueue)
	}
	if !p.busy {
		p.busy = true
		p.round.note(p)
	}
}

// pack makes the node's next batch, if it is an everyday one of up to room bytes;
// else the node is run's.
func (p *publisher) pack(room int) (o broker.Outgoing, ok bool) {
	p.mu.Lock()
	if ok = p.health == healthy && p.q.bytes <= room && p.linger() == 0 && p.fence.open(time.Now()); ok {
		p.sections = p.q.take(p.sections[:0], p.batch)
	}
	p.mu.Unlock()
	if ok && !p.ended() && p.encode() == nil {
		return broker.Outgoing{Topic: p.topic, Value: *p.parcel.buf, Done: p.settled}, true
	}
	p.hand(ok)
	return o, false
}

// hand hands the node to run, and puts back what was taken for the next batch.
func (p *publisher) hand(taken bool) {
	if taken {
		p.mu.Lock()
		p.q.retake()
		p.mu.Unlock()
	}
	signal(p.wake)
}

// settle has the verdict on what pack has made. A batch that was not written, or
// of which nobody knows, is run's to write alone, until ackWithin is over from when
// it was packed: about a second where the broker was silent. If the node does
// not acknowledge that either, it is cut, and none that shared its request.
func (p *publisher) settle(err error) {
	if err != nil {
		if !errors.Is(err, errNotSent) {
			p.metrics.writeRetries.Inc()
			p.log.Debug("batch was not written with others", "node", p.node, "topic", p.topic, "error", err)
		}
		p.hand(false)
		return
	}
	p.acked()
	if p.waiting() {
		p.round.note(p)
	}
}

// queueLocked queues a section, in pieces that fit into a batch. A record that
// fits into none is left out with its offset: the gateway reads it from the feed.
func (p *publisher) queueLocked(b *book, sec stream.Section) {
	if len(sec.Deliveries) == 0 || delivery.Size(&sec) <= p.batch {
		p.q.push(b, sec)
		return
	}
	for _, piece := range coverage.Split(sec, p.batch, delivery.RecordSize) {
		p.q.push(b, piece)
	}
}

// cutLocked drops the queue. A write in flight may still be acknowledged.
func (p *publisher) cutLocked(reason string) {
	p.metrics.dropped.Add(float64(p.q.drop()))
	if p.health == healthy {
		p.metrics.cuts[reason].Inc()
		p.log.Warn("node is cut: its gateway reads the feed itself until it is back",
			"node", p.node, "incarnation", p.incarnation, "topic", p.topic, "reason", reason)
	}
	p.health = cut
}

// load is what is queued and in flight, in bytes, and the node's health.
func (p *publisher) load() (bytes int, h health) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.q.bytes, p.health
}

// halfFull tells whether a partition that has time should give it to this node.
func (p *publisher) halfFull() bool {
	bytes, h := p.load()
	return h == healthy && bytes > p.limit/2
}

// unacked is the first offset of b that this node has not acknowledged.
// holds=false: the node is cut, and nobody waits for it.
func (p *publisher) unacked(b *book) (from int64, pending, holds bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.health != healthy || p.ended() {
		return 0, false, false
	}
	from, pending = p.q.unacked(b)
	return from, pending, true
}

// run publishes what is no everyday matter, until ctx or the incarnation ends.
func (p *publisher) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var retry backoff
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.done:
			p.forget()
			return nil
		case <-p.wake:
		}
		if d := p.linger(); d > 0 && p.parcel == nil && !sleep(ctx, d) {
			return nil
		}
		for p.waiting() && !p.ended() {
			err := p.publish(ctx)
			if ctx.Err() != nil {
				return nil
			}
			if err == nil {
				retry.reset()
				continue
			}
			p.log.Debug("batch was not written", "node", p.node, "topic", p.topic, "error", err)
			p.rest(ctx, retry.next())
		}
	}
}

// rest waits while the node is cut, then lets the next sections try.
func (p *publisher) rest(ctx context.Context, d time.Duration) {
	select {
	case <-p.done:
	default:
		sleep(ctx, d)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.health == cut {
		p.health = probing
	}
}

func (p *publisher) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.q.drop()
}

// waiting tells whether there is something to write. If not, nobody needs to see
// to the node.
func (p *publisher) waiting() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.parcel != nil {
		return true
	}
	if p.q.waiting() == 0 && p.health == cut {
		p.health = probing // cut by a full queue while the last write came through
	}
	p.busy = p.q.waiting() > 0
	return p.busy
}

// buffers holds encoding buffers. One whose write failed is not put back:
// the transport may still be reading it.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// encode makes a parcel of the sections in flight.
func (p *publisher) encode() error {
	buf := buffers.Get().(*[]byte)
	now := time.Now()
	payload, err := delivery.Append((*buf)[:0], &delivery.Batch{
		Incarnation: p.incarnation, Writer: p.writer, WrittenUs: now.UnixMicro(), Sections: p.sections,
	})
	if err != nil {
		return fmt.Errorf("encode batch for node %s: %w", p.node, err)
	}
	*buf = payload
	p.parcel = &parcel{buf: buf, sent: now}
	return nil
}

// publish writes one batch, or what a round could not write. An error means that
// the node is cut.
func (p *publisher) publish(ctx context.Context) error {
	if p.parcel == nil {
		p.mu.Lock()
		p.sections = p.q.take(p.sections[:0], p.batch)
		p.mu.Unlock()
	}
	// Right before it is written: a process that was frozen finds out here.
	fenced := !p.fence.open(time.Now())
	if !p.fence.wait(ctx) {
		return ctx.Err()
	}
	if p.parcel == nil {
		if err := p.encode(); err != nil {
			return p.failed(cutRefused, err)
		}
	} else if fenced {
		p.parcel.sent = time.Now() // that was not the node's fault
	}
	if err := p.write(ctx); err != nil {
		return p.judge(ctx, err)
	}
	p.acked()
	return nil
}

// acked is the end of a parcel that was written.
func (p *publisher) acked() {
	p.metrics.published(time.Since(p.parcel.sent), len(p.sections), len(*p.parcel.buf))
	buffers.Put(p.parcel.buf)
	p.parcel = nil
	clear(p.sections) // lets go of the records
	p.mu.Lock()
	defer p.mu.Unlock()
	p.q.ack()
	if p.health != healthy {
		p.log.Info("node is back", "node", p.node, "incarnation", p.incarnation, "topic", p.topic)
	}
	p.health = healthy
}

// write tries until the acknowledgement is overdue, counted from when the batch was
// encoded. A double does no harm: gateways know by its offsets what they have.
func (p *publisher) write(ctx context.Context) error {
	ctx, cancel := context.WithDeadline(ctx, p.parcel.sent.Add(ackWithin))
	defer cancel()
	for delay := retryWrite; ; delay = min(2*delay, 10*retryWrite) {
		err := p.append(ctx, p.topic, *p.parcel.buf)
		if err == nil || !again(err) || p.ended() {
			return err
		}
		p.metrics.writeRetries.Inc()
		if !sleep(ctx, delay) {
			return fmt.Errorf("delivery topic %s not acknowledged within %s: %w", p.topic, ackWithin, err)
		}
	}
}

// again tells whether the same bytes may be taken the next time.
func again(err error) bool {
	return broker.Retryable(err) && !errors.Is(err, stream.ErrUnknownTopic) && !errors.Is(err, broker.ErrRecordTooLarge)
}

// judge is the end of a parcel that was not written, and never will be.
func (p *publisher) judge(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	defer clear(p.sections)
	p.parcel = nil // its memory is not put back: see buffers
	switch {
	case errors.Is(err, broker.ErrRecordTooLarge):
		return p.shrink(err)
	case errors.Is(err, stream.ErrUnknownTopic):
		return p.failed(cutGone, err)
	case broker.Retryable(err) || errors.Is(err, context.DeadlineExceeded):
		return p.failed(cutTimeout, err)
	}
	return p.failed(cutRefused, err)
}

// shrink makes smaller batches, and sections, where the topic takes no larger
// ones. A section that is refused alone is dropped: a hole in the chain, but no
// reason to cut.
func (p *publisher) shrink(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.metrics.tooLarge.Inc()
	smaller := p.batch > smallestBatch
	if smaller {
		p.batch = max(p.batch/2, smallestBatch)
		p.log.Warn("delivery topic takes no larger batches, they are made smaller",
			"node", p.node, "topic", p.topic, "bytes", p.batch, "error", err)
	}
	if smaller && len(p.sections) > 1 {
		p.q.retake()
		return nil
	}
	p.metrics.dropped.Add(float64(len(p.sections)))
	p.q.ack()
	return nil
}

func (p *publisher) failed(reason string, err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutLocked(reason)
	return err
}
