package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/schemas"
)

const (
	defaultMaxBody     = 8 << 20
	defaultMaxEvent    = 64 << 10
	defaultMaxBuffered = 64 << 20
	defaultTimeout     = 10 * time.Second

	maxMaxEvent = 16 << 20
	// maxBatch is the producer's default. An event that may be larger needs a
	// larger batch, and topics whose max.message.bytes allows that.
	maxBatch = 512 << 10
	// drainTime is how long requests may end by themselves when Run ends.
	drainTime = 5 * time.Second
	// staleAfter is the age of the cluster's last answer beyond which a
	// request asks whether the cluster is there before it waits for it.
	staleAfter = 5 * time.Second
	// askTime bounds that question, and that for an unknown topic.
	askTime = time.Second
)

// Options of a Service.
type Options struct {
	Logger     *slog.Logger          // nil = none
	Registerer prometheus.Registerer // nil = no metrics
	Catalog    *catalog.Catalog
	Client     *broker.Client
	Registry   *schemas.Registry // nil: only feeds that need none

	MaxBody     int64 // bytes of one request that is not streamed; default 8 MiB
	MaxEvent    int   // bytes of one encoded event with its key; default 64 KiB, at most 16 MiB (above 512 KiB Kafka's max.message.bytes must be raised too)
	MaxBuffered int   // bytes waiting for Kafka, over all requests; default 64 MiB
	Compression string

	// Timeout is how long a request waits for Kafka's verdict; default 10 s.
	Timeout time.Duration
	// Origins whose pages may post, e.g. "https://desk.example.com". Pages of
	// the same origin always may, and so may whoever is no browser.
	Origins []string
}

// withDefaults fills what is not set and checks the rest; its error names
// every mistake.
func (o Options) withDefaults() (Options, error) {
	if o.MaxBody == 0 {
		o.MaxBody = defaultMaxBody
	}
	if o.MaxEvent == 0 {
		o.MaxEvent = defaultMaxEvent
	}
	if o.MaxBuffered == 0 {
		o.MaxBuffered = defaultMaxBuffered
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	var errs []error
	if o.MaxEvent < 1 || o.MaxEvent > maxMaxEvent {
		errs = append(errs, fmt.Errorf("ingest: MaxEvent %d is not within 1 and %d", o.MaxEvent, maxMaxEvent))
	}
	if o.MaxBody < 1 || 4*o.MaxBody > int64(o.MaxBuffered) {
		errs = append(errs, fmt.Errorf("ingest: MaxBuffered %d is not at least four times MaxBody %d", o.MaxBuffered, o.MaxBody))
	}
	if o.Timeout < 0 {
		errs = append(errs, errors.New("ingest: Timeout is negative"))
	}
	return o, errors.Join(errs...)
}

// feeds is what the room needs of a catalog.Catalog.
type feeds interface {
	Feed(name string) (catalog.Feed, bool)
	Refresh(ctx context.Context) error
	Synced() time.Time
}

// producer is what the room needs of a broker.Producer.
type producer interface {
	Run(ctx context.Context) error
	Produce(ctx context.Context, topic string, recs []broker.ProduceRecord) ([]broker.Produced, error)
}

// Service is the ingest room. Its handlers are safe for concurrent use.
type Service struct {
	// static after construction
	o        Options
	log      *slog.Logger
	feeds    feeds
	producer producer
	forms    *forms
	limits   *limits
	budget   *budget
	gate     *gate
	metrics  *metrics
	origins  *http.CrossOriginProtection
	trusted  map[string]bool // Options.Origins
}

// New checks the options and starts nothing.
func New(o Options) (*Service, error) {
	if o.Catalog == nil || o.Client == nil {
		return nil, errors.New("ingest: a Catalog and a Client are required")
	}
	p := o.Client.NewProducer(broker.ProducerOptions{
		MaxBuffered: o.MaxBuffered,
		MaxBatch:    max(maxBatch, o.MaxEvent+batchOverhead),
		Compression: o.Compression,
	})
	return newService(o, o.Catalog, p, o.Client.TopicConfig)
}

func newService(o Options, f feeds, p producer, config configFunc) (*Service, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Service{
		o:        o,
		log:      o.Logger,
		feeds:    f,
		producer: p,
		forms:    newForms(o.Registry),
		limits:   newLimits(config, o.MaxEvent),
		gate:     newGate(),
		origins:  http.NewCrossOriginProtection(),
		trusted:  make(map[string]bool),
	}
	for _, origin := range o.Origins {
		if err := s.origins.AddTrustedOrigin(origin); err != nil {
			return nil, fmt.Errorf("ingest: origin %q: %w", origin, err)
		}
		s.trusted[origin] = true
	}
	s.budget = newBudget(int64(o.MaxBuffered))
	if s.metrics, err = newMetrics(o.Registerer, s.budget); err != nil {
		return nil, fmt.Errorf("ingest: metrics: %w", err)
	}
	return s, nil
}

// Run runs the producer until ctx ends. Then it refuses new requests, lets
// those that are there end within 5 s, and returns nil. It runs once.
func (s *Service) Run(ctx context.Context) error {
	// The producer outlives ctx by the drain: what is queued may still be acked.
	pctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	failed := make(chan struct{})
	var g errgroup.Group
	g.Go(func() error {
		defer close(failed)
		err := s.producer.Run(pctx)
		if pctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("ingest: producer: %w", err)
	})
	g.Go(func() error {
		defer stop()
		s.gate.open()
		select {
		case <-ctx.Done():
		case <-failed:
		}
		idle := s.gate.close()
		t := time.NewTimer(drainTime)
		defer t.Stop()
		select {
		case <-idle:
		case <-failed:
		case <-t.C:
			s.log.Warn("requests were cut off by the end")
		}
		return nil
	})
	return g.Wait()
}

// Ready says what is missing before events can be written; nil = nothing.
func (s *Service) Ready() error {
	if !s.gate.isOpen() {
		return errors.New("ingest: not running")
	}
	at := s.feeds.Synced()
	if at.IsZero() {
		return errors.New("ingest: Kafka has not answered yet")
	}
	if age := time.Since(at); age > 2*staleAfter {
		return fmt.Errorf("ingest: Kafka has not answered for %s", age.Round(time.Second))
	}
	return nil
}

// feed finds the feed that a request names. Unknown, denied and internal
// topics take the same way and get the same answer.
func (s *Service) feed(ctx context.Context, name string) (catalog.Feed, *problem) {
	fresh := time.Since(s.feeds.Synced()) < staleAfter
	f, ok := s.feeds.Feed(name)
	if ok && fresh {
		return f, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	if err := s.feeds.Refresh(ctx); err != nil {
		return catalog.Feed{}, unavailable("Kafka does not answer")
	}
	if f, ok = s.feeds.Feed(name); !ok {
		return catalog.Feed{}, unknownTopic()
	}
	return f, nil
}
