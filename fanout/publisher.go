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
	// its node is cut.
	ackWithin = 2 * time.Second
	// batchBytes bounds a batch's body so that its record fits into what Kafka
	// takes by default (max.message.bytes 1 MiB), also if snappy gains nothing.
	batchBytes = 900 << 10
	// smallestBatch is how far batchBytes shrinks where a topic takes less.
	smallestBatch = 16 << 10
	// retryWrite is the delay before a refused write is tried again.
	retryWrite = 20 * time.Millisecond
)

// appendFunc writes one record to a delivery topic and waits for the verdict.
type appendFunc func(ctx context.Context, topic string, payload []byte, with company) error

// company says whether a write may share its request with others.
type company uint8

const (
	alone     company = iota // who is in doubt: others must not wait with it
	together                 // with who writes at the same moment
	announced                // the same, and they may be waiting for it
)

// gathering is told who is about to write, so that batches that are made at the
// same moment leave in one request; see broker.Appender.
type gathering interface {
	Announce()
	Withdraw()
}

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
	gather  gathering // nil = nobody shares
	fence   *fence
	linger  func() time.Duration
	metrics *metrics
	log     *slog.Logger
}

// publisher writes one node's sections to its delivery topic: one request in
// flight, everything that waits meanwhile goes into the next batch.
type publisher struct {
	// static after construction
	publisherParts
	incarnation string
	node        string
	topic       string
	wake        chan struct{} // cap 1
	done        chan struct{} // closed when the incarnation has ended
	endOnce     sync.Once

	// owned by run
	sections []stream.Section

	// guarded by mu
	mu        sync.Mutex
	q         queue
	health    health
	batch     int  // what the sections of a batch may take, bytes
	busy      bool // run is past its wait
	announced bool // to gather: a write will come now
	over      bool // run has ended
}

func newPublisher(incarnation, node, topic string, parts publisherParts) *publisher {
	return &publisher{
		publisherParts: parts, incarnation: incarnation, node: node, topic: topic,
		wake: make(chan struct{}, 1), done: make(chan struct{}), batch: batchBytes - delivery.Overhead,
	}
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
	if !p.busy && !p.over {
		p.busy = true
		if p.gather != nil && p.health == healthy {
			p.announced = true
			p.gather.Announce()
		}
	}
	signal(p.wake)
}

// arrive takes the announcement, and says how to write.
func (p *publisher) arrive() company {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.announced {
		p.announced = false
		return announced
	}
	if p.gather == nil || p.health != healthy {
		return alone
	}
	return together
}

// withdraw takes the announcement back: no write comes now.
func (p *publisher) withdraw() {
	if p.arrive() == announced {
		p.gather.Withdraw()
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

// finish is the end of run: nothing is announced any more.
func (p *publisher) finish() {
	p.mu.Lock()
	p.over = true
	p.mu.Unlock()
	p.withdraw()
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

// run publishes until ctx or the incarnation ends.
func (p *publisher) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer p.finish()
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
		if d := p.linger(); d > 0 {
			p.withdraw()
			if !sleep(ctx, d) {
				return nil
			}
		}
		for p.waiting() {
			if p.ended() {
				break
			}
			err := p.publish(ctx)
			if ctx.Err() != nil {
				return nil
			}
			if err == nil {
				retry.reset()
				continue
			}
			p.withdraw()
			p.log.Debug("batch was not written", "node", p.node, "topic", p.topic, "error", err)
			p.rest(ctx, retry.next())
		}
		p.withdraw()
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

func (p *publisher) waiting() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.q.waiting() == 0 && p.health == cut {
		p.health = probing // cut by a full queue while the last write came through
	}
	p.busy = p.q.waiting() > 0
	return p.busy
}

// buffers holds encoding buffers. One whose write failed is not put back:
// the transport may still be reading it.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// publish writes one batch. An error means that the node is cut.
func (p *publisher) publish(ctx context.Context) error {
	p.mu.Lock()
	p.sections = p.q.take(p.sections[:0], p.batch)
	p.mu.Unlock()
	defer func() { clear(p.sections) }() // lets go of the records

	// Right before it is written: a process that was frozen finds out here.
	if !p.fence.open(time.Now()) {
		p.withdraw()
	}
	if !p.fence.wait(ctx) {
		return ctx.Err()
	}
	buf := buffers.Get().(*[]byte)
	payload, err := delivery.Append((*buf)[:0], &delivery.Batch{
		Incarnation: p.incarnation, Writer: p.writer, WrittenUs: time.Now().UnixMicro(), Sections: p.sections,
	})
	if err != nil {
		return p.failed(cutRefused, fmt.Errorf("encode batch for node %s: %w", p.node, err))
	}
	*buf = payload
	start := time.Now()
	if err := p.write(ctx, payload); err != nil {
		return p.judge(ctx, err)
	}
	p.metrics.published(time.Since(start), len(p.sections), len(payload))
	buffers.Put(buf)

	p.mu.Lock()
	defer p.mu.Unlock()
	p.q.ack()
	if p.health != healthy {
		p.log.Info("node is back", "node", p.node, "incarnation", p.incarnation, "topic", p.topic)
	}
	p.health = healthy
	return nil
}

// write tries until the acknowledgement is overdue. A double does no harm.
func (p *publisher) write(ctx context.Context, payload []byte) error {
	ctx, cancel := context.WithTimeout(ctx, ackWithin)
	defer cancel()
	delay := retryWrite
	for with := p.arrive(); ; with = alone {
		err := p.append(ctx, p.topic, payload, with)
		if err == nil || !again(err) || p.ended() {
			return err
		}
		p.metrics.writeRetries.Inc()
		if !sleep(ctx, delay) {
			return fmt.Errorf("delivery topic %s not acknowledged within %s: %w", p.topic, ackWithin, err)
		}
		delay = min(2*delay, 10*retryWrite)
	}
}

// again tells whether the same bytes may be taken the next time.
func again(err error) bool {
	return broker.Retryable(err) && !errors.Is(err, stream.ErrUnknownTopic) && !errors.Is(err, broker.ErrRecordTooLarge)
}

// judge settles a write that failed for good.
func (p *publisher) judge(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
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
