// Package market is the synthetic demo market: random walks that look like
// quotes and trades of a handful of symbols, and `price`, one long. It owns
// three feed topics and nothing else; a demo must never write anywhere else.
//
// The walk itself is pure and repeats for a seed; Run gives it time and Kafka.
package market

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/schemas"
)

// The demo's topics. Quotes and trades are keyed by symbol; price has no key.
const (
	TopicQuotes = "quotes"
	TopicTrades = "trades"
	TopicPrice  = "price"
)

var discard = slog.New(slog.DiscardHandler)

// Topics lists the demo's topics.
func Topics() []string { return []string{TopicPrice, TopicQuotes, TopicTrades} }

const (
	defaultRate = 50
	maxRate     = 100_000
	// tick is the market's pulse: events of one pulse are written as one.
	tick = 20 * time.Millisecond
	// retryAfter is the pause after something failed.
	retryAfter = time.Second
	// A GiB of each topic is enough: about a week of quotes. There is no limit
	// by age, as recordings that are published here have timestamps of years ago.
	retentionMillis = "-1"
	retentionBytes  = "1073741824"
)

// Setup creates the topics that are not there (one partition, 1 GiB of
// retention) and registers their schemas. It tries once; doing it again
// does no harm.
func Setup(ctx context.Context, client *broker.Client, registry *schemas.Registry) error {
	for _, name := range Topics() {
		_, _, err := client.CreateTopic(ctx, broker.TopicSpec{
			Name:       name,
			Partitions: 1,
			Config: map[string]string{
				"cleanup.policy":  "delete",
				"retention.ms":    retentionMillis,
				"retention.bytes": retentionBytes,
			},
		})
		if err != nil {
			return fmt.Errorf("demo market: create topic %s: %w", name, err)
		}
		if _, err := newTape(ctx, registry, name); err != nil {
			return err
		}
	}
	return nil
}

// Options of Run.
type Options struct {
	Client   *broker.Client
	Registry *schemas.Registry
	Logger   *slog.Logger // nil = none
	Rate     int          // events per second, over all topics; default 50, at most 100,000
	Symbols  []string     // default: four currency pairs and four coins
	Seed     uint64       // of the walk; 0 = by the clock
}

// tape is one topic that is written.
type tape struct {
	topic string
	id    uint32
	codec *schemas.Codec
}

// newTape registers a topic's schema.
func newTape(ctx context.Context, registry *schemas.Registry, topic string) (tape, error) {
	text, ok := schemas.Embedded(topic)
	if !ok {
		return tape{}, fmt.Errorf("demo market: no schema for %s", topic)
	}
	codec, err := schemas.Compile(text)
	if err != nil {
		return tape{}, fmt.Errorf("demo market: schema of %s: %w", topic, err)
	}
	id, err := registry.Register(ctx, schemas.Subject(topic), text)
	if err != nil {
		return tape{}, fmt.Errorf("demo market: register the schema of %s: %w", topic, err)
	}
	return tape{topic: topic, id: id, codec: codec}, nil
}

// Run writes the market until ctx ends, and returns nil then. While Kafka or
// the registry is away it waits; what would have happened then does not.
func Run(ctx context.Context, o Options) error {
	if o.Client == nil || o.Registry == nil {
		return errors.New("demo market: a Client and a Registry are required")
	}
	if o.Rate <= 0 {
		o.Rate = defaultRate
	}
	o.Rate = min(o.Rate, maxRate)
	if len(o.Symbols) == 0 {
		o.Symbols = DefaultSymbols()
	}
	if o.Seed == 0 {
		o.Seed = uint64(time.Now().UnixNano())
	}
	if o.Logger == nil {
		o.Logger = discard
	}
	producer := o.Client.NewProducer(broker.ProducerOptions{})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return producer.Run(ctx) })
	g.Go(func() error {
		m := &maker{o: o, produce: producer.Produce, walk: newWalk(o.Seed, o.Symbols)}
		m.loop(ctx)
		return nil
	})
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("demo market: %w", err)
	}
	return nil
}

// maker writes the walk. Owned by its loop.
type maker struct {
	o       Options
	produce func(ctx context.Context, topic string, recs []broker.ProduceRecord) ([]broker.Produced, error)
	walk    *walk
	tapes   map[string]tape
	away    bool // the last attempt failed, and the log knows
}

func (m *maker) loop(ctx context.Context) {
	for ctx.Err() == nil {
		if err := m.open(ctx); err != nil {
			m.failed(ctx, err)
			continue
		}
		if err := m.trade(ctx); err != nil {
			m.failed(ctx, err)
		}
	}
}

// open registers the schemas.
func (m *maker) open(ctx context.Context) error {
	if m.tapes != nil {
		return nil
	}
	tapes := make(map[string]tape)
	for _, name := range Topics() {
		t, err := newTape(ctx, m.o.Registry, name)
		if err != nil {
			return err
		}
		tapes[name] = t
	}
	m.tapes = tapes
	return nil
}

// failed logs the first failure of a row, and pauses.
func (m *maker) failed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	if !m.away {
		m.o.Logger.Warn("the demo market waits", "err", err)
	}
	m.away = true
	t := time.NewTimer(retryAfter)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// trade writes pulse after pulse until one fails. A pulse that comes late, as
// Kafka was slow, makes up for no more than a second.
func (m *maker) trade(ctx context.Context) error {
	pulse := time.NewTicker(tick)
	defer pulse.Stop()
	last, due := time.Now(), 0.0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-pulse.C:
		}
		now := time.Now()
		due += min(now.Sub(last).Seconds(), 1) * float64(m.o.Rate)
		last = now
		n := int(due)
		due -= float64(n)
		if err := m.write(ctx, n, now); err != nil {
			return err
		}
		if m.away {
			m.o.Logger.Info("the demo market goes on")
			m.away = false
		}
	}
}

// write makes n events and waits for all of Kafka's verdicts.
func (m *maker) write(ctx context.Context, n int, now time.Time) error {
	recs := make(map[string][]broker.ProduceRecord)
	for range n {
		e := m.walk.next(now)
		t := m.tapes[e.topic]
		value, err := t.codec.AppendAvro(schemas.AppendWireHeader(nil, t.id), e.json)
		if err != nil {
			return fmt.Errorf("encode a %s event: %w", e.topic, err)
		}
		r := broker.ProduceRecord{Value: value, Time: now, Partition: -1, Accepted: now.UnixMicro()}
		if e.key != "" {
			r.Key = []byte(e.key)
		} else {
			r.Partition = 0
		}
		recs[e.topic] = append(recs[e.topic], r)
	}
	for _, topic := range Topics() {
		if len(recs[topic]) == 0 {
			continue
		}
		produced, err := m.produce(ctx, topic, recs[topic])
		if err != nil {
			return fmt.Errorf("write to %s: %w", topic, err)
		}
		for _, r := range produced {
			if r.Err != nil {
				return fmt.Errorf("write to %s: %w", topic, r.Err)
			}
		}
	}
	return nil
}
