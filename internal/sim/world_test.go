package sim

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tapecast/tapecast/fanout"
	"github.com/tapecast/tapecast/gateway"
	"github.com/tapecast/tapecast/gateway/feed"
	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/internal/meddler"
	"github.com/tapecast/tapecast/internal/stream"
)

// turn is a lock that may be held while time passes: who waits for a mutex
// keeps the bubble's clock from going on.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

func (t turn) Lock() { t <- struct{}{} }

func (t turn) Unlock() { <-t }

// keys is how many keys events have.
const keys = 6

// topic is a feed topic in its present incarnation.
type topic struct {
	name      string
	compacted bool
	parts     int
	epoch     string
	pause     turn // held while the topic is made again: its producers wait
}

type goal struct {
	epoch string
	at    map[int32]int64
}

// world is one simulated history.
type world struct {
	seed    uint64
	bad     string           // the known-bad behaviour of this world; "" = none
	meddler *meddler.Meddler // between clients and gateways; nil = none
	rng     *rand.Rand
	net     *network
	kfake   *kfake.Cluster
	addrs   []string
	clean   *line // nothing happens to it
	oracle  *kgo.Client
	topics  []*topic
	fanouts []*host
	seq     atomic.Int64

	delivered, gapped atomic.Int64
	quiet             atomic.Bool

	gateways []*host

	mu     sync.Mutex
	truth  *truth
	lives  []*life
	found  []string
	did    []string // what was done, for the reader
	counts map[string]int
	goals  map[string]*goal
	began  time.Time
}

func (w *world) fail(format string, a ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.found) < 40 {
		w.found = append(w.found, fmt.Sprintf("%7.3fs ", time.Since(w.began).Seconds())+fmt.Sprintf(format, a...))
	}
}

func (w *world) note(kind, format string, a ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[kind]++
	w.did = append(w.did, fmt.Sprintf("%7.3fs %s %s", time.Since(w.began).Seconds(), kind, fmt.Sprintf(format, a...)))
}

func (w *world) calm() bool { return w.quiet.Load() }

func (w *world) goal(topic string) *goal {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.goals[topic]
}

func logger(name string) *slog.Logger {
	if os.Getenv("SIM_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("who", name)
}

func newWorld(seed uint64, bad string) (*world, error) {
	w := &world{
		seed: seed, bad: bad, rng: rand.New(rand.NewPCG(seed, 1)), net: newNetwork(seed), truth: newTruth(),
		counts: map[string]int{}, goals: map[string]*goal{}, began: time.Now(),
	}
	w.clean = w.net.line()
	if slices.Contains(meddler.Kinds(), meddler.Kind(bad)) {
		w.meddler = meddler.New(meddler.Kind(bad), 200)
	}
	var err error
	w.kfake, err = kfake.NewCluster(kfake.NumBrokers(3), kfake.ListenFn(w.net.listen), kfake.BrokerConfigs(map[string]string{
		"log.cleaner.backoff.ms": "3600000", "group.min.session.timeout.ms": "1000",
	}))
	if err != nil {
		return nil, err
	}
	w.addrs = w.kfake.ListenAddrs()
	w.oracle, err = kgo.NewClient(kgo.SeedBrokers(w.addrs...), kgo.DisableClientMetrics(), kgo.Dialer(w.clean.dial), kgo.RequestRetries(1000),
		kgo.DisableIdempotentWrite()) // waits for its producer id with a mutex held, which stops the bubble's clock
	if err != nil {
		return nil, err
	}
	for i, parts := range []int{1 + w.rng.IntN(3), 1, 1} {
		t := &topic{pause: newTurn(), name: fmt.Sprint("feed-", i), parts: parts, compacted: i == 2}
		if err := w.create(t); err != nil {
			return nil, err
		}
		w.topics = append(w.topics, t)
	}
	for i := range 2 {
		w.fanouts = append(w.fanouts, &host{turn: newTurn(), w: w, name: fmt.Sprint("fan-", i)})
	}
	for i := range 2 {
		w.gateways = append(w.gateways, &host{turn: newTurn(), w: w, name: fmt.Sprint("gate-", i), addr: fmt.Sprintf("127.0.0.1:%d", 8000+i), gateway: true})
	}
	return w, nil
}

func (w *world) create(t *topic) error {
	cfg := map[string]string{"retention.ms": "-1"}
	if t.compacted {
		cfg["cleanup.policy"] = "compact"
	}
	if err := w.kfake.CreateTopic(t.name, int32(t.parts), cfg); err != nil { //nolint:gosec // small
		return err
	}
	t.epoch = stream.TopicID(w.kfake.TopicInfo(t.name).TopicID).String()
	return nil
}

func (w *world) admin() *kadm.Client { return kadm.NewClient(w.oracle) }

// host is one process: a fan-out or a gateway, over all its lives.
type host struct {
	w       *world
	name    string
	addr    string // of a gateway
	gateway bool

	turn turn // one step at a time
	// guarded by mu, written with the turn
	mu     sync.Mutex
	line   *line
	cancel context.CancelFunc
	done   chan struct{} // nil = down
	server *http.Server
	feed   *feed.Feed
	lives  int
	all    sync.WaitGroup
}

func (h *host) start() {
	h.lives++
	line := h.w.net.line()
	log := logger(fmt.Sprintf("%s.%d", h.name, h.lives))
	client, err := broker.New(broker.Options{Addrs: h.w.addrs, ClientID: h.name, Dial: line.dial})
	if err != nil {
		h.w.fail("%s: %v", h.name, err)
		return
	}
	cat, err := catalog.New(catalog.Options{Client: client, Rules: []catalog.Rule{{Pattern: "feed-*", Format: catalog.FormatString}}, Logger: log})
	if err != nil {
		h.w.fail("%s: %v", h.name, err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	h.mu.Lock()
	h.line, h.cancel, h.done = line, cancel, done
	h.mu.Unlock()
	var parts []func(context.Context) error
	if h.gateway {
		parts, err = h.gatewayParts(cat, client, log)
	} else {
		var s *fanout.Service
		s, err = fanout.New(fanout.Options{Catalog: cat, Client: client, Instance: h.name, Logger: log})
		parts = append(parts, func(ctx context.Context) error { return s.Run(ctx) })
	}
	if err != nil {
		h.w.fail("%s: %v", h.name, err)
		close(done)
		return
	}
	parts = append(parts, cat.Run)
	var wg sync.WaitGroup
	for _, run := range parts {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				h.w.fail("%s ended: %v", h.name, err)
			}
		})
	}
	h.all.Go(func() {
		defer close(done)
		wg.Wait()
		client.Close()
	})
}

// network is the line of its present life.
func (h *host) network() *line {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.line
}

func (h *host) gatewayParts(cat *catalog.Catalog, client *broker.Client, log *slog.Logger) ([]func(context.Context) error, error) {
	f, err := feed.New(feed.Options{Catalog: cat, Client: client, Node: h.name, Logger: log, TapeBytes: 64 << 10, Linger: 2 * time.Second})
	if err != nil {
		return nil, err
	}
	s, err := gateway.New(gateway.Options{Feed: f, Logger: log, Drain: time.Second, Heartbeat: 2 * time.Second})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	s.Register(mux)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	h.mu.Lock()
	h.feed, h.server = f, server
	h.mu.Unlock()
	l, err := h.w.net.listen("tcp", h.addr)
	if err != nil {
		return nil, err
	}
	return []func(context.Context) error{f.Run, s.Run, func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { _ = server.Close() })
		defer stop()
		_ = server.Serve(l)
		return nil
	}}, nil
}

// crash takes the network away before anything can be said.
func (h *host) crash() {
	h.line.kill()
	if h.gateway {
		_ = h.server.Close()
		h.w.net.each(nil, h.addr, func(c *conn) { c.reset() })
	}
	h.cancel()
}

// stop ends it in good order, and waits.
func (h *host) stop() {
	h.cancel()
	<-h.done
}

// produce writes to a topic until ctx ends.
func (w *world) produce(ctx context.Context, t *topic, rng *rand.Rand, l *line) {
	client, err := broker.New(broker.Options{Addrs: w.addrs, ClientID: "producer", Dial: l.dial})
	if err != nil {
		w.fail("producer: %v", err)
		return
	}
	defer client.Close()
	run, cancel := context.WithCancel(context.Background())
	p := client.NewProducer(broker.ProducerOptions{})
	var wg sync.WaitGroup
	wg.Go(func() { _ = p.Run(run) })
	defer func() { cancel(); wg.Wait() }()
	for ctx.Err() == nil {
		t.pause.Lock()
		w.burst(client, p, t, rng)
		t.pause.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(rng.ExpFloat64() * float64(250*time.Millisecond))):
		}
	}
}

func (w *world) burst(client *broker.Client, p *broker.Producer, t *topic, rng *rand.Rand) {
	var recs []broker.ProduceRecord
	for range 1 + rng.IntN(8) {
		r := broker.ProduceRecord{Key: fmt.Append(nil, "k", rng.IntN(keys)), Value: fmt.Append(nil, "v", w.seq.Add(1)), Partition: -1}
		if rng.IntN(12) == 0 && !t.compacted {
			r.Key = nil
		}
		recs = append(recs, r)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if w.bad == plainProducer {
		w.plain(ctx, client, t, recs)
		return
	}
	out, err := p.Produce(ctx, t.name, recs)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, o := range out {
		if o.Err == nil {
			w.truth.acked[t.epoch] = append(w.truth.acked[t.epoch], ack{o.Partition, o.Offset, string(recs[i].Value)})
		}
	}
}

// transact writes with transactions, some of which it aborts.
func (w *world) transact(ctx context.Context, t *topic, rng *rand.Rand, l *line) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.addrs...), kgo.DisableClientMetrics(), kgo.Dialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
		return l.dial(ctx, network, addr)
	}), kgo.TransactionalID("txn-"+t.name), kgo.TransactionTimeout(5*time.Second), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
	if err != nil {
		w.fail("transactions: %v", err)
		return
	}
	defer cl.Close()
	for ctx.Err() == nil {
		t.pause.Lock()
		w.transaction(cl, t, rng)
		t.pause.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(rng.ExpFloat64() * float64(2*time.Second))):
		}
	}
}

func (w *world) transaction(cl *kgo.Client, t *topic, rng *rand.Rand) {
	if cl.BeginTransaction() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	commit := kgo.TransactionEndTry(rng.IntN(2) == 0)
	for range 1 + rng.IntN(4) {
		prefix := "t"
		if !commit {
			prefix = "aborted"
		}
		r := &kgo.Record{Topic: t.name, Key: fmt.Append(nil, "k", rng.IntN(keys)), Value: fmt.Append(nil, prefix, w.seq.Add(1))}
		if cl.ProduceSync(ctx, r).FirstErr() != nil {
			commit = kgo.TryAbort
		}
	}
	if !commit {
		w.mu.Lock()
		w.counts["aborted transactions"]++
		w.mu.Unlock()
	}
	_ = cl.EndTransaction(ctx, commit)
}
