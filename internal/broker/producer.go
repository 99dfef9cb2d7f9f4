package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/tapecast/tapecast/internal/stream"
)

// ProducerOptions of an idempotent Producer.
type ProducerOptions struct {
	MaxBuffered int           // bytes queued and in flight; Produce waits beyond it. Default 64 MiB
	MaxBatch    int           // bytes of one batch before compression. Default 512 KiB (broker limit 1 MiB)
	Linger      time.Duration // default 0: natural batching
	Compression string        // "snappy" (default), "none", "gzip", "zstd"
}

// Producer is an idempotent producer: one batch in flight per partition, the
// same bytes again until Kafka's verdict is known, acks=all.
//
// Each partition has a queue. While one batch is on its way the next gathers
// there, so that light load is sent at once and heavy load in large batches.
type Producer struct {
	// static after NewProducer
	client  *Client
	opts    ProducerOptions
	codec   int16
	invalid error // what is wrong with the options; every call returns it
	room    *semaphore.Weighted
	started chan struct{} // closed by Run
	turn    atomic.Uint32 // for records without key

	mu         sync.Mutex
	partitions map[TopicPartition]*partitionQueue // guarded by mu
	group      *errgroup.Group                    // guarded by mu; nil = not running
	runCtx     context.Context                    // guarded by mu; Run's, for the senders it owns
	ended      error                              // guarded by mu; why Run has ended
	identity   producerState                      // guarded by mu; the newest producer id, without sequence
}

// errNotRunning says that Produce was called after Run.
var errNotRunning = errors.New("the producer has stopped")

// NewProducer makes a producer. Run it.
func (c *Client) NewProducer(o ProducerOptions) *Producer {
	if o.MaxBuffered <= 0 {
		o.MaxBuffered = 64 << 20
	}
	if o.MaxBatch <= 0 {
		o.MaxBatch = 512 << 10
	}
	o.MaxBatch = min(o.MaxBatch, o.MaxBuffered)
	codec, err := codecOf(o.Compression)
	return &Producer{
		client: c, opts: o, codec: codec, invalid: err,
		room:       semaphore.NewWeighted(int64(o.MaxBuffered)),
		started:    make(chan struct{}),
		partitions: make(map[TopicPartition]*partitionQueue),
		identity:   noProducer,
	}
}

// Run runs the producer until ctx ends; what was queued then is failed with
// ctx's error, and what is in flight with ErrUnknownOutcome. It may be called once.
func (p *Producer) Run(ctx context.Context) error {
	if p.invalid != nil {
		return p.invalid
	}
	g, gctx := errgroup.WithContext(ctx)
	p.mu.Lock()
	if p.group != nil || p.ended != nil {
		p.mu.Unlock()
		return errors.New("the producer runs already")
	}
	p.group, p.runCtx = g, gctx
	p.mu.Unlock()
	close(p.started)

	<-ctx.Done()
	p.mu.Lock()
	p.group, p.ended = nil, errNotRunning
	p.mu.Unlock()
	return errors.Join(ctx.Err(), g.Wait())
}

// ProduceRecord is one record for a feed topic.
type ProduceRecord struct {
	Key       []byte // nil = none: partitions in turn
	Value     []byte // nil = tombstone
	Time      time.Time
	Partition int32 // -1 = by key (murmur2, as Java's default partitioner)
	Accepted  int64 // microseconds; 0 = no header
}

// Produced tells where a record went.
type Produced struct {
	Partition int32
	Offset    int64
	Err       error // this record was not written, or (ErrUnknownOutcome) nobody knows
}

// Produce queues records and waits for all their verdicts, in order of recs.
// Records of one partition keep their order. When ctx ends first the records
// without verdict have ErrUnknownOutcome (in flight) or ctx's error (never sent).
//
// The error is about the whole call, and nothing was written then: an unknown
// topic (stream.ErrUnknownTopic), Kafka not reachable until ctx ended, a
// producer that does not run. A record that is too large (ErrRecordTooLarge)
// or names a partition that does not exist (ErrNoPartition) fails alone.
func (p *Producer) Produce(ctx context.Context, topic string, recs []ProduceRecord) ([]Produced, error) {
	if p.invalid != nil {
		return nil, p.invalid
	}
	select {
	case <-p.started:
	case <-ctx.Done():
		return nil, fmt.Errorf("produce to topic %s: %w", topic, ctx.Err())
	}
	partitions, err := p.partitionsOf(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("produce to topic %s: %w", topic, err)
	}
	c := newCall(recs)
	p.route(c, partitions)
	p.enqueue(ctx, topic, c)
	select {
	case <-c.done:
	case <-ctx.Done():
		p.abandon(topic, c, ctx.Err())
	}
	return c.out, nil
}

// topicAge is how old the partition count may be with which keys are placed.
const topicAge = 10 * time.Second

// partitionsOf returns how many partitions a topic has; while Kafka is away it waits.
func (p *Producer) partitionsOf(ctx context.Context, topic string) (int, error) {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		t, err := p.client.topic(ctx, topic, topicAge)
		if err != nil && Retryable(err) {
			// What was known a while ago is better than nothing.
			if old, e := p.client.topic(ctx, topic, forever); e == nil {
				t, err = old, nil
			}
		}
		switch {
		case err == nil && len(t.Partitions) > 0:
			return len(t.Partitions), nil
		case err == nil:
			err = stream.ErrUnknownTopic
		}
		if !Retryable(err) || ctx.Err() != nil {
			return 0, err
		}
		if !sleep(ctx, pause) {
			return 0, errors.Join(ctx.Err(), err)
		}
	}
}

// route decides every record's partition, and refuses what cannot be written.
func (p *Producer) route(c *call, partitions int) {
	sticky, run := int32(-1), 0
	for i := range c.recs {
		r, out := &c.recs[i], &c.out[i]
		size := c.size(i)
		switch {
		case size > p.opts.MaxBatch-batchHeader:
			out.Err = fmt.Errorf("%w: about %d bytes, limit %d", ErrRecordTooLarge, size, p.opts.MaxBatch-batchHeader)
		case r.Partition >= 0 && int(r.Partition) >= partitions:
			out.Err = fmt.Errorf("partition %d of %d: %w", r.Partition, partitions, ErrNoPartition)
		}
		switch {
		case r.Partition >= 0:
			out.Partition = r.Partition
		case r.Key != nil:
			out.Partition = keyPartition(r.Key, partitions)
		default:
			// In turn, but 16 KiB at a time: fewer, larger batches.
			if sticky < 0 || run > 16<<10 {
				sticky, run = int32(p.turn.Add(1)%uint32(partitions)), 0
			}
			run += size
			out.Partition = sticky
		}
	}
}

// enqueue hands a call's records to their partitions' queues, waiting for room.
// Records that find none before ctx ends have its error. A partition gets its
// records at once, so that they leave in one batch: what comes a moment later
// waits until the batch before it is acknowledged.
func (p *Producer) enqueue(ctx context.Context, topic string, c *call) {
	parts := map[int32]*part{}
	var to *part
	defer func() { p.push(parts) }()
	for i := range c.recs {
		if c.out[i].Err != nil {
			c.settle(i, c.out[i].Err, -1)
			continue
		}
		size := int64(c.size(i))
		if !p.room.TryAcquire(size) {
			p.push(parts) // the room may be this call's own
			if err := p.room.Acquire(ctx, size); err != nil {
				c.settle(i, err, -1)
				continue
			}
		}
		if id := c.out[i].Partition; to == nil || to.q.tp.Partition != id {
			if to = parts[id]; to == nil {
				q, err := p.queue(TopicPartition{Topic: topic, Partition: id})
				if err != nil {
					p.room.Release(size)
					c.settle(i, err, -1)
					continue
				}
				to = &part{q: q}
				parts[id] = to
			}
		}
		to.items = append(to.items, queued{call: c, index: i, size: size})
	}
}

// part is what one partition gets of a call.
type part struct {
	q     *partitionQueue
	items []queued
}

// push queues them, and starts the senders of queues that have none.
func (p *Producer) push(parts map[int32]*part) {
	for _, o := range parts {
		if len(o.items) == 0 {
			continue
		}
		start := o.q.push(o.items)
		o.items = o.items[:0]
		if !start {
			continue
		}
		if err := p.start(o.q); err != nil {
			o.q.failAll(err)
		}
	}
}

// queue returns a partition's queue.
func (p *Producer) queue(tp TopicPartition) (*partitionQueue, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended != nil {
		return nil, p.ended
	}
	q := p.partitions[tp]
	if q == nil {
		q = &partitionQueue{producer: p, tp: tp, state: noProducer, spent: -1, searchFrom: -1}
		p.partitions[tp] = q
	}
	return q, nil
}

// start runs a queue's sender until the queue is empty.
func (p *Producer) start(q *partitionQueue) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.group == nil {
		return errNotRunning
	}
	ctx := p.runCtx
	p.group.Go(func() error {
		q.sendLoop(ctx)
		return nil
	})
	return nil
}

// abandon ends a call whose caller waits no longer. What was not sent never
// will be; what is being encoded is waited for, because it reads the caller's
// memory.
func (p *Producer) abandon(topic string, c *call, cause error) {
	seen := make(map[int32]bool)
	for i := range c.out {
		part := c.out[i].Partition
		if seen[part] {
			continue
		}
		seen[part] = true
		p.mu.Lock()
		q := p.partitions[TopicPartition{Topic: topic, Partition: part}]
		p.mu.Unlock()
		if q != nil {
			q.abandon(c, cause)
		}
	}
	c.finish(ErrUnknownOutcome)
}

// fresh returns a producer id that differs from old: the newest one, or a new
// one if old is the newest.
func (p *Producer) fresh(ctx context.Context, old int64) (producerState, error) {
	p.mu.Lock()
	id := p.identity
	p.mu.Unlock()
	if id.id >= 0 && id.id != old {
		return id, nil
	}
	got, err := p.client.initProducerID(ctx)
	if err != nil {
		return noProducer, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.identity.id == id.id {
		p.identity = got
	}
	return p.identity, nil
}

func (c *Client) initProducerID(ctx context.Context) (producerState, error) {
	a, err := c.ask(ctx, request{
		key: keyInitProducerID, version: 1, to: anyBroker, again: true, slack: lookupTimeout,
		body: func(f *frame) {
			f.nullString("") // no transaction
			f.int32(-1)
		},
	})
	if err != nil {
		return noProducer, fmt.Errorf("ask for a producer id: %w", err)
	}
	a.int32() // throttle
	err = code(a.int16())
	s := producerState{id: a.int64(), epoch: a.int16()}
	if err == nil {
		err = a.err
	}
	if err != nil {
		return noProducer, fmt.Errorf("ask for a producer id: %w", err)
	}
	return s, nil
}
