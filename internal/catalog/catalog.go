// Package catalog knows which Kafka topics are feeds: the configured
// allow-list, joined with what the cluster has, refreshed while it runs. It is
// the one place where a client's topic name becomes a Kafka topic name. Its
// one goroutine is Run's.
//
// What it holds is the last answer of the cluster: a topic that one successful
// answer does not name is gone, and a cluster that does not answer changes
// nothing. Nothing a client says ever reaches Kafka from here.
package catalog

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
)

const (
	defaultRefresh = time.Second
	// minSpacing is the least time between two questions to the cluster, so
	// that clients who name unknown topics cannot flood it.
	minSpacing = 200 * time.Millisecond
	// askTimeout bounds one question to the cluster.
	askTimeout = 10 * time.Second
)

// Feed is one topic that clients may subscribe to.
type Feed struct {
	Name         string // the client's name
	Format       string // never empty, see Rule.Format
	broker.Topic        // Kafka's name, id, partitions
}

// Options of a Catalog.
type Options struct {
	Client  *broker.Client
	Rules   []Rule        // no rule = no feed
	Refresh time.Duration // default 1 s, at least 200 ms
	Logger  *slog.Logger  // nil = none
}

// cluster is what a Catalog needs of a broker.Client.
type cluster interface {
	Topics(ctx context.Context, names ...string) ([]broker.Topic, error)
}

// Catalog is safe for concurrent use.
type Catalog struct {
	// static after construction
	cluster  cluster
	rules    []rule
	interval time.Duration
	log      *slog.Logger

	snapshot atomic.Pointer[snapshot] // replaced by the caller that leads a flight

	mu      sync.Mutex
	changed chan struct{} // guarded by mu; closed and replaced by publish
	waiting *flight       // guarded by mu; announced, not asked yet: may be joined

	// turn holds one token: its holder asks the cluster.
	turn chan struct{}
	// owned by the holder of the turn
	asked time.Time           // when the cluster was asked last
	away  bool                // the last question failed
	lost  map[string]struct{} // Kafka topics that lost their name to another: logged once
}

// New validates the rules. It asks the cluster nothing yet.
func New(o Options) (*Catalog, error) {
	if o.Client == nil {
		return nil, errors.New("catalog: no client")
	}
	return newCatalog(o.Client, o)
}

func newCatalog(cl cluster, o Options) (*Catalog, error) {
	rules, err := compile(o.Rules)
	if err != nil {
		return nil, err
	}
	c := &Catalog{
		cluster:  cl,
		rules:    rules,
		interval: max(o.Refresh, minSpacing),
		log:      o.Logger,
		changed:  make(chan struct{}),
		turn:     make(chan struct{}, 1),
	}
	if o.Refresh <= 0 {
		c.interval = defaultRefresh
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.snapshot.Store(&snapshot{})
	c.turn <- struct{}{}
	return c, nil
}

// Run refreshes until ctx ends, and returns nil then. A cluster that is away
// keeps the last known feeds.
func (c *Catalog) Run(ctx context.Context) error {
	tick := time.NewTicker(c.interval)
	defer tick.Stop()
	for {
		// The error was logged by the flight; here there is nobody to tell.
		_ = c.Refresh(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Feed finds a feed by the client's name. Its Partitions must not be changed.
func (c *Catalog) Feed(name string) (Feed, bool) {
	f, ok := c.snapshot.Load().byName[name]
	return f, ok
}

// ByTopic finds a feed by the Kafka topic's name.
func (c *Catalog) ByTopic(topic string) (Feed, bool) {
	f, ok := c.snapshot.Load().byTopic[topic]
	return f, ok
}

// Feeds lists all feeds, by name. The slice is the caller's.
func (c *Catalog) Feeds() []Feed {
	s := c.snapshot.Load()
	return append([]Feed(nil), s.feeds...)
}

// Changed returns a channel that is closed at the next change of the feeds
// (a topic more or less, another id, more partitions). Take it before reading
// the feeds, else a change between the two is missed.
func (c *Catalog) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// Synced tells when the cluster last answered; zero = never.
func (c *Catalog) Synced() time.Time { return c.snapshot.Load().at }

// flight is one question to the cluster, shared by all who called before it
// was asked.
type flight struct {
	done chan struct{} // closed by the leader
	err  error         // set before done is closed
}

// Refresh asks the cluster now: when it returns nil, the feeds are as of an
// answer to a question that was asked after the call. Concurrent callers share
// one question, and there is at least 200 ms between two. The caller that
// comes first asks for all; should its ctx end, another takes over.
func (c *Catalog) Refresh(ctx context.Context) error {
	for {
		c.mu.Lock()
		f, lead := c.waiting, false
		if f == nil {
			f, lead = &flight{done: make(chan struct{})}, true
			c.waiting = f
		}
		c.mu.Unlock()
		if lead {
			f.err = c.lead(ctx, f)
			close(f.done)
			return f.err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.done:
		}
		if !errors.Is(f.err, errLeaderLeft) {
			return f.err
		}
	}
}

// errLeaderLeft marks a flight that ended for a reason of its leader's alone.
var errLeaderLeft = errors.New("refresh was abandoned by its caller")

// lead waits for the turn and for the spacing, closes the flight to further
// callers, and asks.
func (c *Catalog) lead(ctx context.Context, f *flight) error {
	err := c.takeTurn(ctx)
	c.mu.Lock()
	c.waiting = nil
	c.mu.Unlock()
	if err != nil {
		return errors.Join(errLeaderLeft, err)
	}
	defer func() { c.turn <- struct{}{} }()
	c.asked = time.Now()
	actx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	topics, err := c.cluster.Topics(actx)
	if err != nil && ctx.Err() != nil {
		return errors.Join(errLeaderLeft, ctx.Err())
	}
	if err != nil {
		c.failed(err)
		return err
	}
	c.answered(topics)
	return nil
}

// takeTurn waits until the caller may ask. With a nil error it holds the turn.
func (c *Catalog) takeTurn(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.turn:
	}
	wait := minSpacing - time.Since(c.asked)
	if wait <= 0 {
		return nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		c.turn <- struct{}{}
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// failed notes that the cluster is away; once per absence in the log.
func (c *Catalog) failed(err error) {
	if !c.away {
		c.log.Warn("cannot list topics, keeping the known feeds", "err", err)
	}
	c.away = true
}

// answered takes an answer of the cluster and wakes those who wait for a change.
func (c *Catalog) answered(topics []broker.Topic) {
	if c.away {
		c.log.Info("topics can be listed again")
	}
	c.away = false
	old := c.snapshot.Load()
	next, lost := build(c.rules, topics, old, time.Now())
	c.logLost(lost)
	c.snapshot.Store(next)
	if old.same(next) {
		return
	}
	c.log.Info("feeds changed", "feeds", len(next.feeds))
	c.mu.Lock()
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
}

// logLost names each topic once that cannot be a feed, as its name is taken.
func (c *Catalog) logLost(lost []lostName) {
	seen := make(map[string]struct{}, len(lost))
	for _, l := range lost {
		if _, ok := c.lost[l.topic]; !ok {
			c.log.Warn("two topics have one name, the first rule wins", "name", l.name, "topic", l.winner, "refused", l.topic)
		}
		seen[l.topic] = struct{}{}
	}
	c.lost = seen
}
