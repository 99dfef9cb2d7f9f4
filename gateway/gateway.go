// Package gateway is stage 3 of 3: Batch to Frame to socket. It holds the
// sessions: WebSocket, SSE and NDJSON, over the feed (package feed).
//
//	                readers  ──commands──▶ mailbox ┐
//	socket ◀─bytes─ loop: conversation ◀────wake────┤
//	                 │    subscriptions, cursors     └──wake── feed
//	                 └──Read(cursor)──▶ tape
//
// A session has no queue of messages. It owns cursors; its loop reads from the
// tapes what they have not passed yet, gathers shared, prebuilt frames into one
// buffer and writes that with one call. Nothing shared ever waits for a
// session: the feed only wakes it.
//
// What is decided without I/O is apart from what is done: place says where a
// subscription begins, conversation says what leaves in the next write.
//
// The loops of plain TCP sockets are shards: about one goroutine per core owns
// its part of the sessions and writes without waiting (see shard). TLS, HTTP
// streams and other connections have a loop each. Sessions of a shard that
// stand at one place of a topic sit in a lane, which reads and writes for all
// of them at once (see lane); only what is special to one of them, and whoever
// is behind, is turned by itself. Who replays, and what clients say, stands behind
// who is live: shards and readers share all cores but one for it (see cores).
//
// On Linux the same sockets have no goroutine that reads either: they are parked
// in an epoll set, and about one worker per core reads what comes (see readers).
// Package net and the runtime's poller have let go of them (see bare).
//
// Goroutines: a shard and a worker per core; per WebSocket session one that
// waits with the rest of a write while its socket is full, one that waits for
// the rest of a command while half of it is there, one that says goodbye while
// it ends; a readLoop where there is no epoll set, and a loop where there is no
// shard; one per HTTP stream beside its handler; up to four short tasks per
// session while positions are looked up that the bounds of the topic's logs do
// not tell. Service.Run waits for all of them.
package gateway

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/gateway/feed"
)

// Options of a Service.
type Options struct {
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Feed       *feed.Feed

	Origins        []string       // allowed besides the same origin; exact scheme://host[:port]; "*" = any
	RequireOrigin  bool           // refuse requests without Origin
	TrustedProxies []netip.Prefix // whose X-Forwarded-For counts for MaxPerIP
	MaxSessions    int            // default 20,000
	MaxPerIP       int            // default 0 = no limit
	MaxSubs        int            // subscriptions per session; default 256
	MaxPartitions  int            // partitions followed per session; default 8,192
	MaxCommand     int            // bytes of a client frame; default 64 KiB
	CommandRate    float64        // per second, sustained; default 20
	CommandBurst   int            // default 256
	MaxLag         time.Duration  // a live subscription that is behind for longer ends its session; default 0 = no limit
	SnapshotKeys   int            // keys of one snapshot; default 100,000
	SnapshotBytes  int64          // bytes of one snapshot; default 32 MiB
	SnapshotsBytes int64          // bytes of all snapshots of the node; default 256 MiB
	Hold           time.Duration  // events wait that long after a write, to leave in one; default 10 ms, negative = none
	Holds          []TopicHold    // of topics whose events wait another time than Hold; the first that names a topic counts
	Heartbeat      time.Duration  // default 5 s
	Ping           time.Duration  // default 30 s
	Drain          time.Duration  // clients are sent away, and then come back, spread over this at most; default 8 s
	WriteTimeout   time.Duration  // a socket that takes nothing for that long is closed; default 30 s
	Ready          func() error   // nobody comes in before it has once returned nil; default Feed.Ready
	Inspector      Inspector      // what operators are told of Kafka; nil = nothing

	source   feedSource   // tests: instead of Feed
	portable bool         // tests: every socket has a goroutine that reads
	terms    func(*terms) // tests: changes them
}

func (o *Options) defaults() {
	set(&o.MaxSessions, 20_000)
	set(&o.MaxSubs, 256)
	set(&o.MaxPartitions, 8192)
	set(&o.MaxCommand, 64<<10)
	set(&o.CommandRate, 20)
	set(&o.CommandBurst, 256)
	set(&o.SnapshotKeys, 100_000)
	set(&o.SnapshotBytes, 32<<20)
	set(&o.SnapshotsBytes, 256<<20)
	set(&o.Hold, 10*time.Millisecond)
	set(&o.Heartbeat, 5*time.Second)
	set(&o.Ping, 30*time.Second)
	set(&o.Drain, 8*time.Second)
	set(&o.WriteTimeout, 30*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.source == nil && o.Feed != nil {
		o.source = realFeed{o.Feed}
		if o.Ready == nil {
			o.Ready = o.Feed.Ready
		}
	}
	if o.Ready == nil {
		o.Ready = func() error { return nil }
	}
}

func set[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (o *Options) validate() error {
	var errs []error
	if o.source == nil {
		errs = append(errs, errors.New("gateway: Feed is missing"))
	}
	for _, n := range []struct {
		name  string
		value int64
	}{
		{"MaxSessions", int64(o.MaxSessions)}, {"MaxSubs", int64(o.MaxSubs)}, {"MaxPartitions", int64(o.MaxPartitions)},
		{"MaxCommand", int64(o.MaxCommand)}, {"CommandBurst", int64(o.CommandBurst)}, {"MaxPerIP", int64(o.MaxPerIP)},
		{"Heartbeat", int64(o.Heartbeat)}, {"Ping", int64(o.Ping)}, {"Drain", int64(o.Drain)}, {"WriteTimeout", int64(o.WriteTimeout)},
		{"MaxLag", int64(o.MaxLag)}, {"SnapshotKeys", int64(o.SnapshotKeys)}, {"SnapshotBytes", o.SnapshotBytes},
	} {
		if n.value < 0 {
			errs = append(errs, errors.New("gateway: "+n.name+" must not be negative"))
		}
	}
	errs = append(errs, checkHolds(o.Holds))
	for _, origin := range o.Origins {
		if origin != "*" && normalOrigin(origin) == "" {
			errs = append(errs, errors.New("gateway: an origin must be scheme://host[:port], not "+origin))
		}
	}
	return errors.Join(errs...)
}

// Service is the gateway room.
type Service struct {
	// static after construction
	o       Options
	rules   *rules
	door    *door
	metrics *metrics
	bounds  *boundsCache
	terms   *terms

	mu       sync.Mutex
	shards   []*shard              // guarded by mu
	readers  *readers              // guarded by mu; nil = every socket has a goroutine that reads
	turn     int                   // guarded by mu: the shard that the next session joins
	group    *errgroup.Group       // guarded by mu; nil = Run does not run
	sessions map[*session]struct{} // guarded by mu
	started  uint64                // guarded by mu: sessions ever
	closed   []closedView          // guarded by mu: the latest last

	surveying sync.Mutex
	surveyed  surveyed // guarded by surveying
	topics    topicsSurvey
}

// New checks the options and starts nothing.
func New(o Options) (*Service, error) {
	o.defaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	snapshots := &snapshotLimits{keys: o.SnapshotKeys, bytes: o.SnapshotBytes, total: o.SnapshotsBytes}
	m := newMetrics(o.Registerer, snapshots)
	d := &door{
		requireOrigin: o.RequireOrigin, trusted: o.TrustedProxies, maxSessions: o.MaxSessions, maxPerIP: o.MaxPerIP,
		metrics: m, perIP: map[netip.Addr]int{}, shut: startingDoor,
	}
	d.leaveAny = func() { d.leave(netip.Addr{}) }
	for _, origin := range o.Origins {
		if origin == "*" {
			d.anyOrigin = true
			continue
		}
		d.origins = append(d.origins, normalOrigin(origin))
	}
	terms := newTerms(&o)
	if o.terms != nil {
		o.terms(terms)
	}
	return &Service{
		o: o, door: d, metrics: m, terms: terms, bounds: newBoundsCache(o.source), sessions: map[*session]struct{}{},
		rules: &rules{
			feed: o.source, metrics: m, snapshots: snapshots, heartbeat: o.Heartbeat,
			maxSubs: o.MaxSubs, maxParts: o.MaxPartitions, maxLag: o.MaxLag,
			hold: max(o.Hold, 0), holds: o.Holds,
		},
	}, nil
}

// Run lets sessions in once the node is ready, and serves until ctx ends. Then
// it drains: bye frames, then closes, spread over at most Options.Drain. It may
// be called once. It returns when every session has ended.
func (s *Service) Run(ctx context.Context) error {
	if !s.awaitReady(ctx) {
		return nil
	}
	group := &errgroup.Group{}
	shards := make([]*shard, runtime.GOMAXPROCS(0))
	cores := newCores(len(shards))
	for i := range shards {
		shards[i] = newShard(group, cores, s.metrics, s.o.Logger)
		group.Go(shards[i].run)
	}
	readers := s.newReaders(cores)
	s.mu.Lock()
	s.group, s.shards, s.readers = group, shards, readers
	s.door.set(nil)
	s.mu.Unlock()
	s.o.Logger.Info("gateway takes sessions", slog.Int("max_sessions", s.o.MaxSessions))
	<-ctx.Done()

	s.door.set(drainingDoor)
	s.mu.Lock()
	s.group = nil // no session starts any more: Wait may be called
	s.mu.Unlock()
	for _, sh := range shards {
		sh.finish()
	}
	open := s.open()
	spread := min(s.o.Drain, time.Duration(len(open))*drainPace)
	s.o.Logger.Info("gateway drains", slog.Int("sessions", len(open)), slog.Duration("spread", spread))
	for _, sess := range open {
		sess.drain(spread)
	}
	timer := time.AfterFunc(spread+cutGrace, func() {
		for _, sess := range s.open() {
			sess.cut()
			sess.out.abort()
		}
	})
	defer timer.Stop()
	_ = group.Wait() // sessions return no errors
	if readers != nil {
		readers.stop()
	}
	s.o.Logger.Info("gateway drained")
	return nil
}

// Ready tells whether sessions are let in; nil = they are.
func (s *Service) Ready() error {
	if shut := s.door.closed(); shut != nil {
		return errors.New("gateway: no sessions: " + shut.reason)
	}
	return nil
}

// awaitReady waits until the node can serve. False: ctx ended before.
func (s *Service) awaitReady(ctx context.Context) bool {
	ask := time.NewTicker(readyEvery)
	defer ask.Stop()
	for s.o.Ready() != nil {
		select {
		case <-ctx.Done():
			return false
		case <-ask.C:
		}
	}
	return true
}

const (
	readyEvery = 50 * time.Millisecond
	// drainPace is how far apart closes are, and after them returns: few sessions
	// need no long drain.
	drainPace = time.Millisecond
	// cutGrace is how long a session may take beyond the drain.
	cutGrace = 3 * time.Second
)

// open lists the sessions.
func (s *Service) open() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.sessions))
}

// start runs a session under Run: its loop, if it is in no shard, and its
// reader if it has one. The last of them to end calls sess.ended. False: Run
// does not run.
func (s *Service) start(sess *session, transport string, leave func(), bodies ...func() error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.group == nil {
		return false
	}
	s.metrics.sessions.of(transport).Inc()
	s.sessions[sess] = struct{}{}
	s.started++
	sess.card.number, sess.card.transport, sess.card.since = s.started, transport, momentOf(time.Now())
	sess.service, sess.leave = s, leave
	sess.closed = make(chan struct{})
	if sess.socket == nil {
		sess.woken = make(chan struct{}, 1)
	} else if s.enter(sess) {
		return true
	}
	for _, body := range bodies {
		s.group.Go(body)
	}
	return true
}

// ended is called when nothing of the session runs any more.
func (s *session) ended() {
	room := s.service
	room.mu.Lock()
	delete(room.sessions, s)
	room.remember(s)
	room.mu.Unlock()
	room.metrics.sessions.of(s.card.transport).Dec()
	s.leave()
}

// enter gives a session to a shard, and its socket to the readers. parked=false:
// it has to have a reader of its own. s.mu is held.
func (s *Service) enter(sess *session) (parked bool) {
	t := sess.socket
	if s.readers != nil && s.readers.join(t) == nil {
		sess.closed = nil
	}
	s.turn = (s.turn + 1) % len(s.shards)
	sess.shard = s.shards[s.turn]
	t.attempt = &sess.shard.attempt
	sess.shard.join(sess)
	if t.readers == nil {
		return false
	}
	t.readers.push(t)
	return true
}

// newReaders makes the readers; nil: this system has none.
func (s *Service) newReaders(all *cores) *readers {
	if s.o.portable {
		return nil
	}
	r, err := newReaders(s.terms, all)
	if err != nil {
		s.o.Logger.Info("every socket has a goroutine that reads", slog.Any("reason", err))
		return nil
	}
	return r
}

// Register mounts /ws, GET /v1/topics, GET /v1/topics/{topic} and GET /v1/topics/{topic}/events.
func (s *Service) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /ws", s.serveSocket)
	mux.HandleFunc("GET /v1/topics", s.serveTopics)
	mux.HandleFunc("GET /v1/topics/{topic}", s.serveTopic)
	mux.HandleFunc("GET /v1/topics/{topic}/events", s.serveStream)
}
