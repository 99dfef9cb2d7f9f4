// Package fanout is stage 2 of 3: Record to Delivery. It reads the feed topics'
// partitions, routes each record by topic and key to the gateway nodes that
// want it, and writes batches to their delivery topics.
//
//	[interest topic] ─▶ follower ─▶ tracker ─▶ snapshot (who wants what)
//	                                               │ atomic
//	[feed topic p] ─▶ partition loop ─▶ router ─▶ chains ─▶ publisher of node A ─▶ [delivery A]
//	                                                  └───▶ publisher of node B ─▶ [delivery B]
//
// What it guarantees: every section is a true sentence about the log (see
// [coverage.Chains]), whoever wrote it and however late. It guarantees nothing
// else: a node that cannot be written to is cut, its queue dropped, and its
// gateway reads the feed itself. Nothing here waits for a node for long, and
// nothing is decoded.
//
// What it does not do: it never writes a feed topic, never judges records, and
// keeps nothing that is not in Kafka.
//
// Requests and wake-ups are what costs: a partition has no read of its own, and a
// node no write. What lies at one broker is asked for together (broker.Puller), at
// a pace that grows with the load (pacer); the goroutine that got the answer routes
// it, and sends the batches of all nodes together (round, broker.Sender) before it
// asks again.
//
// Goroutines: one follower of the interest log, one janitor, one group member,
// one for commits, one pacer; one per owned partition and one per node, which
// only wait while all is well; the puller's and the sender's.
package fanout

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/interestlog"
)

// Defaults of Options.
const (
	DefaultGroup      = "tapecast.fanout"
	DefaultSession    = 6 * time.Second
	DefaultQueueBytes = 16 << 20
)

const (
	// drainWithin is how long Run goes on publishing what is queued when it ends.
	drainWithin = time.Second
	// nodesPerSecond is how many nodes' batches an instance means to write in
	// a second when it chooses its linger itself; shortLinger is what is not
	// worth waiting for.
	nodesPerSecond = 5000
	shortLinger    = 5 * time.Millisecond
)

// Options of a Service. Catalog and Client are required.
type Options struct {
	Logger     *slog.Logger          // nil = none
	Registerer prometheus.Registerer // nil = metrics count for nobody
	Catalog    *catalog.Catalog      // somebody else runs it
	Client     *broker.Client

	Group      string        // consumer group; default "tapecast.fanout"
	Instance   string        // static member name; default random
	Session    time.Duration // of the group; default 6 s
	QueueBytes int           // per node; default 16 MiB
	Linger     time.Duration // before a batch is written; 0 = by the number of nodes, none below 25
	Replicas   int           // of the interest topic, if it has to be made; 0 = the broker's default
}

func (o *Options) validate() error {
	var errs []error
	if o.Catalog == nil {
		errs = append(errs, errors.New("fanout: Options.Catalog is missing"))
	}
	if o.Client == nil {
		errs = append(errs, errors.New("fanout: Options.Client is missing"))
	}
	if o.Session < 0 || o.QueueBytes < 0 || o.Linger < 0 || o.Replicas < 0 {
		errs = append(errs, errors.New("fanout: Session, QueueBytes, Linger and Replicas may not be negative"))
	}
	if o.QueueBytes > 0 && o.QueueBytes < 2*batchBytes {
		errs = append(errs, fmt.Errorf("fanout: QueueBytes %d is less than two batches (%d)", o.QueueBytes, 2*batchBytes))
	}
	return errors.Join(errs...)
}

func (o *Options) defaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Group == "" {
		o.Group = DefaultGroup
	}
	if o.Instance == "" {
		var b [6]byte
		_, _ = rand.Read(b[:]) // never fails
		o.Instance = "fanout-" + hex.EncodeToString(b[:])
	}
	if o.Session == 0 {
		o.Session = DefaultSession
	}
	if o.QueueBytes == 0 {
		o.QueueBytes = DefaultQueueBytes
	}
}

// Service is the fan-out room. Run is called once; the rest is safe for
// concurrent use.
type Service struct {
	// static after construction
	opt      Options
	log      *slog.Logger
	graces   graces
	metrics  *metrics
	fence    *fence
	tracker  *tracker
	history  *history
	follower *interestlog.Follower
	member   atomic.Pointer[member]
}

// New checks the options and starts nothing.
func New(o Options) (*Service, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	o.defaults()
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, fmt.Errorf("fanout: register metrics: %w", err)
	}
	s := &Service{opt: o, log: o.Logger.With("room", "fanout"), graces: defaultGraces, history: newHistory(), metrics: m, fence: newFence(o.Session)}
	s.tracker = newTracker(m, s.log)
	s.follower = interestlog.NewFollower(o.Client, s.tracker, s.log)
	if o.Registerer != nil {
		if err := o.Registerer.Register(newGauges(s.Stats)); err != nil {
			return nil, fmt.Errorf("fanout: register metrics: %w", err)
		}
	}
	return s, nil
}

// publisherMaker makes and starts the nodes' publishers. Each ends with its
// incarnation or with ctx.
func (s *Service) publisherMaker(ctx context.Context, pubs *errgroup.Group, r *round) func(*interest.Incarnation) *publisher {
	common := publisherParts{
		writer: s.opt.Instance, limit: s.opt.QueueBytes, fence: s.fence, linger: s.linger, metrics: s.metrics, log: s.log,
		round: r,
		append: func(ctx context.Context, topic string, payload []byte) error {
			_, err := s.opt.Client.Append(ctx, topic, 0, []broker.AppendRecord{{Value: payload}})
			return err
		},
	}
	return func(inc *interest.Incarnation) *publisher {
		p := newPublisher(inc.Name, inc.Node, inc.Delivery, common)
		pubs.Go(func() error { return p.run(ctx) })
		return p
	}
}

// linger is how long a publisher waits for more before it writes.
func (s *Service) linger() time.Duration {
	if s.opt.Linger > 0 {
		return s.opt.Linger
	}
	d := time.Duration(s.tracker.live.Load()) * time.Second / nodesPerSecond
	if d < shortLinger {
		return 0
	}
	return d
}

// Run joins the group and casts until ctx ends. Kafka may be away, at the
// start or later: that is retried for ever. The only other error is an interest
// topic that cannot be used (*interestlog.UnfitError). When Run returns, every
// goroutine it started has ended, what was read is published as far as a second
// allows, committed, and the group left.
func (s *Service) Run(ctx context.Context) error {
	if err := s.ensureInterests(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	// Three lives, each outlasting the one before: the loops, the membership
	// under which the last commit is made, and the publishers, which the
	// follower of the interest log may still start.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pubsCtx, endPubs := context.WithCancel(context.WithoutCancel(ctx))
	defer endPubs()
	groupCtx, leave := context.WithCancel(pubsCtx)
	defer leave()

	var pubs errgroup.Group
	r := &round{}
	sender := s.opt.Client.NewSender(r.flush)
	r.send = sender.Send
	pubs.Go(func() error { return sender.Run(pubsCtx) })
	s.tracker.newPub = s.publisherMaker(pubsCtx, &pubs, r)
	base, baseCtx := errgroup.WithContext(groupCtx)
	loops, loopsCtx := errgroup.WithContext(ctx)
	pace := &pacer{at: time.Now()}
	puller := s.opt.Client.NewPuller(pace.pause, readBurst, r.flush)
	m := newMember(loopsCtx, parts{
		client: s.opt.Client, puller: puller, round: r, pacer: pace, follower: s.follower, tracker: s.tracker,
		fence: s.fence, metrics: s.metrics, log: s.log, group: s.opt.Group,
		history: s.history, begun: make(chan struct{}, 1),
	}, loops)
	s.member.Store(m)

	base.Go(func() error { return s.follower.Run(baseCtx) })
	base.Go(func() error { return puller.Run(baseCtx) })
	base.Go(func() error { return newJanitor(s.opt.Client, s.tracker, s.graces, s.metrics, s.log).run(baseCtx) })
	base.Go(func() error { return s.join(ctx, baseCtx, m) })
	var commits errgroup.Group
	lastCommit := make(chan struct{})
	commits.Go(func() error { return m.commitLoop(baseCtx, lastCommit) })
	loops.Go(func() error { return m.pace(loopsCtx) })

	select {
	case <-ctx.Done():
	case <-baseCtx.Done(): // one of them failed
		cancel()
	}
	m.shut()
	err := loops.Wait()
	s.drain()
	close(lastCommit)
	err = errors.Join(err, commits.Wait())
	leave()
	err = errors.Join(err, base.Wait())
	endPubs()
	return errors.Join(err, pubs.Wait())
}

// ensureInterests makes or checks the interest topic, as often as it takes.
func (s *Service) ensureInterests(ctx context.Context) error {
	var retry backoff
	said := false
	for {
		_, err := interestlog.Ensure(ctx, s.opt.Client, s.opt.Replicas)
		var unfit *interestlog.UnfitError
		if err == nil || errors.As(err, &unfit) {
			return err
		}
		if !said && ctx.Err() == nil {
			said = true
			s.log.Warn("interest topic cannot be made or checked, trying again", "topic", interest.Topic, "error", err)
		}
		if !retry.wait(ctx) {
			return nil
		}
	}
}

// join stays in the group from when the interests are loaded until leave ends.
func (s *Service) join(ctx, leave context.Context, m *member) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.tracker.loaded:
	}
	changed := make(chan struct{}, 1)
	watch, stop := context.WithCancel(leave)
	defer stop()
	g, gctx := errgroup.WithContext(watch)
	g.Go(func() error {
		for {
			next := s.opt.Catalog.Changed()
			select {
			case <-gctx.Done():
				return nil
			case <-next:
				signal(changed)
			}
		}
	})
	g.Go(func() error {
		defer stop()
		return s.opt.Client.JoinGroup(gctx, broker.GroupOptions{
			Group: s.opt.Group, Instance: s.opt.Instance, Session: s.opt.Session, Logger: s.log,
			Topics: s.topics, Changed: changed,
			// Others take over at once. The static name is for crashes: whoever
			// comes back under it within the session finds its partitions kept.
			Leave: true,
		}, m.assigned)
	})
	if err := g.Wait(); err != nil && leave.Err() == nil {
		return fmt.Errorf("group %s: %w", s.opt.Group, err)
	}
	return nil
}

// topics lists the Kafka topics of all feeds.
func (s *Service) topics(ctx context.Context) ([]string, error) {
	if s.opt.Catalog.Synced().IsZero() {
		if err := s.opt.Catalog.Refresh(ctx); err != nil {
			return nil, fmt.Errorf("list feeds: %w", err)
		}
	}
	feeds := s.opt.Catalog.Feeds()
	names := make([]string, 0, len(feeds))
	for i := range feeds {
		names = append(names, feeds[i].Topic.Name)
		s.history.note(feeds[i].Topic.Name, feeds[i].Topic.ID)
	}
	return names, nil
}

// drain lets the publishers write what is queued, for a bounded time.
func (s *Service) drain() {
	for until := time.Now().Add(drainWithin); time.Now().Before(until) && s.tracker.queued(); {
		time.Sleep(5 * time.Millisecond)
	}
}

// Ready tells what is missing; nil = interests loaded, in the group, and
// publishing.
func (s *Service) Ready() error {
	var errs []error
	age, ok := s.tracker.following(time.Now())
	switch {
	case !ok:
		errs = append(errs, errors.New("interest log is not loaded"))
	case age > 2*DefaultSession:
		errs = append(errs, fmt.Errorf("interest log was not read to its end for %s", age.Round(time.Second)))
	}
	m := s.member.Load()
	switch {
	case m == nil || !m.isJoined():
		errs = append(errs, fmt.Errorf("not in the group %s", s.opt.Group))
	case m.size() > 0 && !s.fence.open(time.Now()):
		errs = append(errs, errors.New("publishing stopped: no commit succeeded for most of the session"))
	}
	return errors.Join(errs...)
}
