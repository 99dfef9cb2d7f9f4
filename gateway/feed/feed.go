// Package feed is the gateway's side of Kafka: its interests, its delivery
// topic, the coverage of every followed partition, the tapes, and replay.
// Sessions own cursors and read through it; nothing here waits for a session.
//
//	interest log ◀─ writer ◀─ book ◀─ Open, Close
//	delivery topic ─▶ consumer ─▶ partition loop (view) ─▶ tape ─┐
//	feed topic ─▶ gap and bypass reads ──▲                       ├─▶ Sub.Read
//	feed topic ─▶ walk ─▶ blocks, shared by all cursors ─────────┘
//
// Goroutines, all of them Run's: one interest writer, one delivery consumer,
// one watcher of the interest log, one that follows the catalogue, one for
// lingering interests and lazy wakes, one loop per followed partition, one per
// gap or bypass read under way, one per partition that is being replayed, one
// per schema that is being fetched, one per topic whose bounds are being asked.
package feed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/internal/interestlog"
	"github.com/tapecast/tapecast/internal/stream"
	"github.com/tapecast/tapecast/schemas"
)

// Options of a Feed.
type Options struct {
	Logger     *slog.Logger          // nil = none
	Registerer prometheus.Registerer // nil = none
	Catalog    *catalog.Catalog      // required; its Run is the caller's
	Client     *broker.Client        // required
	Registry   *schemas.Registry     // nil = feeds of format "avro" are poison

	Node        string        // node name, of a-z A-Z 0-9 . _ -; default host name
	Lease       time.Duration // default 10 s
	TapeBytes   int           // all tapes together; default 256 MiB
	ReplayBytes int           // the cache of replayed blocks; default 128 MiB
	ReplayRate  int           // bytes/s read from Kafka for replay, per node; default 64 MiB/s
	BypassRate  int           // bytes/s for bypass; default 16 MiB/s
	Linger      time.Duration // an interest without subscription lives on for; default 5 s

	// Silence is how long a partition may go unconfirmed until it is read
	// around the fan-out, and how long an interest waits for a section; default 2 s.
	Silence time.Duration
	// Replicas of the topics that a Feed makes; default 0 = the broker's.
	Replicas int
}

func (o Options) withDefaults() (Options, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Node == "" {
		o.Node, _ = os.Hostname()
	}
	var errs []error
	if o.Node == "" || len(o.Node) > maxNode || strings.ContainsFunc(o.Node, notInNode) {
		errs = append(errs, fmt.Errorf("node name %.80q must be 1 to %d of a-z A-Z 0-9 . _ -", o.Node, maxNode))
	}
	if o.Catalog == nil {
		errs = append(errs, errors.New("no catalog"))
	}
	if o.Client == nil {
		errs = append(errs, errors.New("no client"))
	}
	defaultTo(&o.Lease, 10*time.Second)
	defaultTo(&o.Linger, 5*time.Second)
	defaultTo(&o.Silence, 2*time.Second)
	defaultTo(&o.TapeBytes, 256<<20)
	defaultTo(&o.ReplayBytes, 128<<20)
	defaultTo(&o.ReplayRate, 64<<20)
	defaultTo(&o.BypassRate, 16<<20)
	if err := errors.Join(errs...); err != nil {
		return o, fmt.Errorf("feed: %w", err)
	}
	return o, nil
}

// maxNode leaves room for the prefix and the incarnation in a topic's name.
const maxNode = 200

func notInNode(c rune) bool {
	return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-'
}

func defaultTo[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Feed is safe for concurrent use.
type Feed struct {
	// static after construction
	opt     Options
	log     *slog.Logger
	catalog *catalog.Catalog
	client  *broker.Client
	env     *env
	book    *book
	life    *life
	metrics *metrics
	spawner spawner
	decoder func(format string) (decoder, error)
	running atomic.Bool
	stale   chan struct{} // to catalogLoop: ask the catalogue now

	byID sync.Map // stream.TopicID to *instance; of the followed topics
}

// New checks the options and starts nothing.
func New(o Options) (*Feed, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	f := &Feed{
		opt: o, log: o.Logger, catalog: o.Catalog, client: o.Client, metrics: newMetrics(o.Registerer),
		book: newBook(o.Linger), stale: make(chan struct{}, 1),
	}
	f.decoder = func(format string) (decoder, error) { return schemas.NewDecoder(format, o.Registry) }
	f.env = &env{
		open: func(topic string, id stream.TopicID, partition int32) reader {
			return o.Client.NewReader(topic, id, partition)
		},
		bounds:     o.Client.BoundsOf,
		asker:      newAsker(f.spawner.spawn, o.Client.BoundsOf),
		refresh:    f.refresh,
		spawn:      f.spawner.spawn,
		budget:     newBudget(o.TapeBytes),
		cache:      newCache(o.ReplayBytes, o.ReplayRate, f.spawner.spawn, o.Logger, &f.metrics.replay),
		metrics:    f.metrics,
		silence:    o.Silence,
		bypassRate: newRate(o.BypassRate),
		reads:      make(chan struct{}, maxReads),
	}
	var reg registry
	if o.Registry != nil {
		reg = o.Registry
	}
	f.env.resolver = newResolver(reg, f.spawner.spawn, f.wakeWaiting)
	f.life = &life{
		node: o.Node, lease: o.Lease, cluster: o.Client, book: f.book, deliver: f.deliver, log: o.Logger, counts: &f.metrics.life,
		replicas: o.Replicas,
		ensure: func(ctx context.Context) (stream.TopicID, error) {
			return interestlog.Ensure(ctx, o.Client, o.Replicas)
		},
		open: func(topic string, id stream.TopicID) reader { return f.env.open(topic, id, 0) },
	}
	f.metrics.observe(o.Registerer, f)
	return f, nil
}

// Run follows the delivery topic and keeps the tapes until ctx ends; then it
// withdraws its interests, ends its incarnation and deletes its delivery
// topic, within 5 s. A cluster that is away is waited for. It may be called
// once, and returns only after every goroutine has ended: nil, or an
// *interestlog.UnfitError if the interest topic could lose interests.
func (f *Feed) Run(ctx context.Context) error {
	if f.running.Swap(true) {
		return errors.New("feed: Run was called twice")
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.life.run(gctx) })
	g.Go(func() error { return f.catalogLoop(gctx) })
	g.Go(func() error { return f.tickLoop(gctx) })
	f.spawner.begin(gctx, g)
	g.Go(func() error {
		<-gctx.Done()
		f.spawner.end()
		return nil
	})
	return g.Wait()
}

// Ready tells what is missing; nil = the catalogue is known, and incarnation
// and lease stand.
func (f *Feed) Ready() error {
	if f.catalog.Synced().IsZero() {
		return errors.New("feed: the topics of the cluster are not known yet")
	}
	if err := f.life.ready(); err != nil {
		return fmt.Errorf("feed: %w", err)
	}
	return nil
}

// Topics lists the feeds.
func (f *Feed) Topics() []catalog.Feed { return f.catalog.Feeds() }

// ErrNotSynced says that the cluster has not been heard of for a while: nobody
// can tell whether a topic exists that is not known here. It may, later.
var ErrNotSynced = errors.New("the cluster's topics are not known now")

// staleAfter is how long the catalogue's last answer proves that a topic is not there.
const staleAfter = 5 * time.Second

// Refresh asks the cluster for its topics now; callers share one question.
func (f *Feed) Refresh(ctx context.Context) error { return f.catalog.Refresh(ctx) }

// Open starts a subscription to all keys (nil) or some (an empty, non-nil
// list is none). wake is called, without waiting, whenever a Read, Live or
// Partitions may give more than the last one did; it comes from any goroutine,
// also before Open has returned and, once, after Close, stands for all
// partitions, and must not block. Open never blocks and may
// be called before Run. stream.ErrUnknownTopic if there is no such feed, as the
// cluster said a moment ago; ErrNotSynced if it has not said so for a while.
func (f *Feed) Open(topic string, keys [][]byte, wake func()) (*Sub, error) {
	f.book.mu.Lock()
	defer f.book.mu.Unlock()
	// Under the lock, so that nobody goes back to an older answer of the catalogue.
	cf, ok := f.catalog.Feed(topic)
	if !ok {
		err := stream.ErrUnknownTopic
		if time.Since(f.catalog.Synced()) > staleAfter {
			err = ErrNotSynced
		}
		return nil, fmt.Errorf("open %.80q: %w", topic, err)
	}
	t, err := f.follow(cf)
	if err != nil {
		return nil, err
	}
	s := &Sub{feed: f, topic: t, filter: newFilter(keys), wake: wake}
	s.inst.Store(t.inst.Load())
	s.interests = f.book.acquire(t, s.filter)
	s.arm()
	t.subs.add(s)
	f.metrics.subs.Inc()
	return s, nil
}

// Stats are a Feed's figures at a moment, for people and tests.
type Stats struct {
	Node, Incarnation, DeliveryTopic string
	LeaseAge                         time.Duration
	Topics, Partitions, Interests    int
	Subscriptions                    int
	Bypassing                        int // partitions
	TapeBytes, TapeEvents            int64
	ReplayBytes                      int64
}

// Stats tells the figures.
func (f *Feed) Stats() Stats {
	s := Stats{
		Node: f.opt.Node, LeaseAge: f.life.age(), Bypassing: int(f.env.bypassing.Load()),
		TapeBytes: f.env.budget.used.Load(), TapeEvents: f.env.budget.events.Load(), ReplayBytes: f.env.cache.used.Load(),
	}
	if inc := f.life.incarnation(); inc != nil {
		s.Incarnation, s.DeliveryTopic = inc.id, inc.delivery
	}
	f.book.mu.Lock()
	defer f.book.mu.Unlock()
	s.Topics, s.Interests = len(f.book.topics), f.book.count
	for _, t := range f.book.topics {
		s.Partitions += len(*t.inst.Load().parts.Load())
		s.Subscriptions += t.subs.len()
	}
	return s
}
