// Package inspect answers what operators ask of Kafka itself: how a topic
// stands, and to which gateways an event was sent. It only reads, and every
// answer is bounded in time and bytes.
package inspect

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/delivery"
	"github.com/tapecast/tapecast/internal/stream"
)

const (
	topicTime   = 2 * time.Second        // for all that is asked about one topic
	traceTime   = 4 * time.Second        // for all that is asked about one event
	readWait    = 200 * time.Millisecond // of one read
	timesOf     = 16                     // partitions of a topic whose first and last record are looked at
	mostNodes   = 64                     // delivery topics that are searched for an event
	nodeBytes   = 8 << 20                // read of one of them, about
	readBytes   = 1 << 20
	atOnce      = 8
	traces      = 2               // at a time
	searchSlack = 2 * time.Second // clocks of producers, fan-outs and brokers differ
	// searchFor is how long after its time an event is searched for: a fan-out
	// that was away casts late.
	searchFor = time.Minute
	keptTimes = 4096 // partitions whose first and last times are remembered
)

// Options of an Inspector.
type Options struct {
	Client *broker.Client
	Group  string // the fan-out's consumer group
}

// Inspector asks Kafka. Its methods may be called by any goroutine.
type Inspector struct {
	o       Options
	tracing chan struct{} // holds one for each trace that runs

	mu    sync.Mutex
	times map[partitionKey]knownTimes // guarded by mu; at most keptTimes
}

type partitionKey struct {
	id        stream.TopicID
	partition int32
}

// knownTimes are the times of the records at the ends of a partition. They
// hold as long as the ends stay where they are.
type knownTimes struct {
	bounds         broker.Bounds
	oldest, newest int64
}

// New returns an Inspector.
func New(o Options) *Inspector {
	return &Inspector{o: o, tracing: make(chan struct{}, traces), times: map[partitionKey]knownTimes{}}
}

// Topic is how a topic stands in Kafka. Times are milliseconds since the Unix
// epoch by the records' timestamps; 0 = not known.
type Topic struct {
	Lag    int64 // records that the fan-out has not committed; -1 = not known
	Oldest int64 // of the first record that is kept, of the first 16 partitions
	Newest int64 // of the last record, of the same
}

// Topic asks about a topic whose bounds are known.
func (i *Inspector) Topic(ctx context.Context, topic broker.Topic, bounds map[int32]broker.Bounds) (Topic, error) {
	ctx, cancel := context.WithTimeout(ctx, topicTime)
	defer cancel()
	out := Topic{Lag: -1}
	var g errgroup.Group
	g.Go(func() error { i.lag(ctx, topic, bounds, &out.Lag); return nil })
	var mu sync.Mutex
	for n, p := range topic.Partitions {
		b, ok := bounds[p.ID]
		if n >= timesOf || !ok || b.End == b.Start {
			continue
		}
		g.Go(func() error {
			k, err := i.ends(ctx, topic, p.ID, b)
			mu.Lock()
			defer mu.Unlock()
			if k.oldest > 0 && (out.Oldest == 0 || k.oldest < out.Oldest) {
				out.Oldest = k.oldest
			}
			out.Newest = max(out.Newest, k.newest)
			return err
		})
	}
	return out, g.Wait()
}

// lag is what the fan-out's group has not committed yet. A partition that it
// has never committed counts from where it begins.
func (i *Inspector) lag(ctx context.Context, topic broker.Topic, bounds map[int32]broker.Bounds, out *int64) {
	parts := make([]int32, 0, len(bounds))
	for p := range bounds {
		parts = append(parts, p)
	}
	committed, err := i.o.Client.GroupOffsets(ctx, i.o.Group, topic.Name, parts)
	if err != nil { // most likely there is no such group yet: then the lag is not known
		return
	}
	var sum int64
	known := false
	for p, b := range bounds {
		if c, ok := committed[p]; ok && c.Offset >= 0 {
			known = true
			sum += max(0, b.End-max(c.Offset, b.Start))
		}
	}
	if known || len(bounds) == 0 {
		*out = sum
	}
}

// ends reads a partition's first and last record, if they are not known.
func (i *Inspector) ends(ctx context.Context, topic broker.Topic, p int32, b broker.Bounds) (knownTimes, error) {
	key := partitionKey{topic.ID, p}
	i.mu.Lock()
	k, had := i.times[key]
	i.mu.Unlock()
	if had && k.bounds == b {
		return k, nil
	}
	r := i.o.Client.NewReader(topic.Name, topic.ID, p)
	defer r.Close()
	var err error
	if !had || k.bounds.Start != b.Start || k.oldest == 0 {
		k.oldest, err = timeAt(ctx, r, b.Start)
	}
	if err == nil {
		// The very last offset may be a transaction's marker: then it is not known.
		k.newest, err = timeAt(ctx, r, b.End-1)
	}
	k.bounds = b
	var gone *stream.OutOfRangeError
	if errors.As(err, &gone) { // retention was faster
		return k, nil
	}
	if err != nil {
		return k, fmt.Errorf("times of %s/%d: %w", topic.Name, p, err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.times) >= keptTimes {
		clear(i.times)
	}
	i.times[key] = k
	return k, nil
}

// timeAt is the time of the first record from an offset on, 0 = none at once.
func timeAt(ctx context.Context, r *broker.Reader, offset int64) (int64, error) {
	span, err := r.Read(ctx, offset, 1, readWait)
	if err != nil || len(span.Records) == 0 {
		return 0, err
	}
	return span.Records[0].Time, nil
}

// Event is what Kafka has of an event.
type Event struct {
	Found    bool
	Key      []byte // nil = none
	Time     int64  // ms
	Accepted int64  // us; 0 = not known
}

// Delivery is one gateway's delivery of an event.
type Delivery struct {
	Node        string
	Incarnation string
	Writer      string // the fan-out instance
	// The fan-out read it between these two, and wrote its batch then: us; 0 = not known.
	ReadFirst, ReadLast, Written int64
}

// Trace finds an event, and the gateways that the fan-out sent it to, in the
// delivery topics as far as Kafka keeps them (10 minutes). searched is how many
// of those were looked at. A delivery topic that cannot be read is left out
// with an error beside what was found.
func (i *Inspector) Trace(ctx context.Context, topic broker.Topic, partition int32, offset int64) (e Event, found []Delivery, searched int, err error) {
	ctx, cancel := context.WithTimeout(ctx, traceTime)
	defer cancel()
	select {
	case i.tracing <- struct{}{}:
		defer func() { <-i.tracing }()
	case <-ctx.Done():
		return e, nil, 0, fmt.Errorf("trace: others are being traced: %w", ctx.Err())
	}
	if e, err = i.event(ctx, topic, partition, offset); err != nil || !e.Found {
		return e, nil, 0, err
	}
	names, err := i.deliveryTopics(ctx)
	if err != nil {
		return e, nil, 0, err
	}
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(atOnce)
	s := search{topic: topic.ID, partition: partition, offset: offset, from: since(e), bounded: e.Accepted > 0}
	for _, t := range names {
		g.Go(func() error {
			d, ok, err := i.find(ctx, t, s)
			mu.Lock()
			defer mu.Unlock()
			if ok {
				found = append(found, d)
			}
			return err
		})
	}
	err = g.Wait()
	return e, found, len(names), err
}

func (i *Inspector) event(ctx context.Context, topic broker.Topic, partition int32, offset int64) (Event, error) {
	r := i.o.Client.NewReader(topic.Name, topic.ID, partition)
	defer r.Close()
	span, err := r.Read(ctx, offset, 1, readWait)
	var gone *stream.OutOfRangeError
	if errors.As(err, &gone) {
		return Event{}, nil
	}
	if err != nil {
		return Event{}, err // it says what was read, and where
	}
	if len(span.Records) == 0 || span.Records[0].Offset != offset {
		return Event{}, nil
	}
	rec := span.Records[0]
	e := Event{Found: true, Time: rec.Time, Accepted: rec.Accepted}
	if rec.Key != nil {
		e.Key = append([]byte{}, rec.Key...) // rec aliases the reader's buffer
	}
	return e, nil
}

// since is from when on an event can have been delivered. Its own time is its
// producer's word: a recording that is played has old ones.
func since(e Event) time.Time {
	if e.Accepted > 0 {
		return time.UnixMicro(e.Accepted).Add(-searchSlack)
	}
	return time.UnixMilli(e.Time).Add(-searchSlack)
}

func (i *Inspector) deliveryTopics(ctx context.Context) ([]broker.Topic, error) {
	all, err := i.o.Client.Topics(ctx)
	if err != nil {
		return nil, err
	}
	var out []broker.Topic
	for _, t := range all {
		if strings.HasPrefix(t.Name, deliveryPrefix) && len(out) < mostNodes {
			out = append(out, t)
		}
	}
	return out, nil
}

var deliveryPrefix = strings.TrimSuffix(delivery.TopicName("", ""), ".")

// search is what is looked for in a delivery topic.
type search struct {
	topic     stream.TopicID
	partition int32
	offset    int64
	from      time.Time
	bounded   bool // from is when it was accepted, not what its producer says
}

// find reads a delivery topic from the event's time on. The first batch that
// has it is how it got there: a later one is a repetition.
func (i *Inspector) find(ctx context.Context, t broker.Topic, s search) (d Delivery, ok bool, err error) {
	starts, err := i.o.Client.OffsetsAt(ctx, t.Name, []int32{0}, s.from)
	if err != nil || starts[0] < 0 {
		return d, false, err
	}
	bounds, err := i.o.Client.Bounds(ctx, t.Name, []int32{0})
	if err != nil {
		return d, false, err
	}
	r := i.o.Client.NewReader(t.Name, t.ID, 0)
	defer r.Close()
	read := 0
	for next := starts[0]; next < bounds[0].End && read < nodeBytes; {
		span, err := r.Read(ctx, next, readBytes, readWait)
		if err != nil {
			return d, false, fmt.Errorf("search %s: %w", t.Name, err)
		}
		for _, rec := range span.Records {
			b, err := delivery.Decode(rec.Value)
			if err != nil {
				continue // another version's, or broken: the gateway counts it
			}
			if s.bounded && time.UnixMicro(b.WrittenUs).Sub(s.from) > searchFor {
				return d, false, nil
			}
			if sec := s.in(b); sec != nil {
				return told(t.Name, b, sec), true, nil
			}
		}
		if span.To == next {
			break
		}
		read += span.Bytes
		next = span.To
	}
	return d, false, nil
}

// in returns the section that delivers the event.
func (s *search) in(b *delivery.Batch) *stream.Section {
	for n := range b.Sections {
		sec := &b.Sections[n]
		if sec.Topic != s.topic || sec.Partition != s.partition || s.offset < sec.From || s.offset >= sec.To {
			continue
		}
		for k := range sec.Deliveries {
			if sec.Deliveries[k].Offset == s.offset {
				return sec
			}
		}
	}
	return nil
}

func told(topic string, b *delivery.Batch, s *stream.Section) Delivery {
	node := strings.TrimPrefix(topic, deliveryPrefix)
	return Delivery{
		Node: strings.TrimSuffix(node, "."+b.Incarnation), Incarnation: b.Incarnation, Writer: b.Writer,
		ReadFirst: s.ReadFirst, ReadLast: s.ReadLast, Written: b.WrittenUs,
	}
}
