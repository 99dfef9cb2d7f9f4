package loadtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/client"
	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/schemas"
)

// Options of a load test.
type Options struct {
	Brokers     []string      // Kafka bootstrap addresses, host:port
	RegistryURL string        // schema registry
	Gateways    []string      // ws:// addresses
	Ingest      string        // http:// address to publish through; "" = straight to Kafka
	Topic       string        // "" = a new one, made and deleted here
	Partitions  int           // of a new topic; default 4
	Replicas    int           // of a new topic; default the broker's
	Subscribers int           // default 100; every second one takes all keys, the others ten
	Producers   int           // default 2
	Rate        float64       // events/s, all producers together; default 1,000
	Duration    time.Duration // of producing; default 10 s
	Keys        int           // default 100
	Pad         int           // bytes of padding in each event; default 60
	Resume      time.Duration // mean time between two resumes of one subscriber; 0 = none
	Drain       time.Duration // how long subscribers may take to reach the end; default 60 s
	Seed        uint64        // 0 = random
	Keep        bool          // keep the topic
	Progress    io.Writer     // a line a second; nil = none

	// Oracle reads the committed records of a topic from its start, each
	// partition's in order; nil = franz-go does.
	Oracle func(ctx context.Context, topic string, each func(partition int32, offset int64, key, value []byte) error) error
}

func (o *Options) defaults() error {
	if len(o.Brokers) == 0 || o.RegistryURL == "" || len(o.Gateways) == 0 {
		return errors.New("loadtest needs Kafka's address, the registry's and at least one gateway's")
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	for _, d := range []struct {
		v   *int
		def int
	}{{&o.Partitions, 4}, {&o.Subscribers, 100}, {&o.Producers, 2}, {&o.Keys, 100}, {&o.Pad, 60}} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	if o.Rate <= 0 {
		o.Rate = 1000
	}
	if o.Duration <= 0 {
		o.Duration = 10 * time.Second
	}
	if o.Drain <= 0 {
		o.Drain = time.Minute
	}
	return nil
}

// Report is the judgement.
type Report struct {
	Seed       uint64
	Sent       int64 // events acknowledged to producers
	Unknown    int64 // events whose outcome nobody knows (allowed once or not at all)
	Deliveries int64 // client-verified
	Resumes    int64
	Gaps       int64 // gap frames, honest but not free
	Counts     Counts
	P50, P99   time.Duration // live deliveries, producer's clock to subscriber
	P999, Max  time.Duration
	Notes      []string // the first findings, in words
}

// OK tells whether all counts are 0 and something was delivered.
func (r *Report) OK() bool { return r.Counts.Total() == 0 && r.Deliveries > 0 }

// String is the one line.
func (r *Report) String() string {
	return fmt.Sprintf("seed=%d sent=%d unknown=%d deliveries=%d resumes=%d gaps=%d %s p50=%s p99=%s p99.9=%s max=%s",
		r.Seed, r.Sent, r.Unknown, r.Deliveries, r.Resumes, r.Gaps, r.Counts, r.P50, r.P99, r.P999, r.Max)
}

// progress is what the running test counts.
type progress struct {
	sent, delivered, resumes, gaps, ready atomic.Int64
}

// run is one load test.
type run struct {
	o      Options
	kafka  *broker.Client
	topic  string
	count  progress
	subs   []*subscriber
	prods  []*producer
	schema uint32
}

// Run runs one load test. An error means that it could not be carried out; what
// was found wrong is in the Report.
func Run(ctx context.Context, o Options) (*Report, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	kafka, err := broker.New(broker.Options{Addrs: o.Brokers, ClientID: "tapecast-loadtest"})
	if err != nil {
		return nil, err
	}
	defer kafka.Close()
	r := &run{o: o, kafka: kafka, topic: o.Topic}
	if err := r.setup(ctx); err != nil {
		return nil, err
	}
	if o.Topic == "" && !o.Keep {
		defer func() { _ = kafka.DeleteTopic(context.WithoutCancel(ctx), r.topic) }()
	}
	if err := r.cast(ctx); err != nil {
		return nil, err
	}
	return r.report(ctx)
}

func (r *run) setup(ctx context.Context) error {
	reg, err := schemas.NewRegistry(schemas.RegistryOptions{URL: r.o.RegistryURL})
	if err != nil {
		return err
	}
	if r.topic == "" {
		r.topic = fmt.Sprintf("loadtest-%x", r.o.Seed)
		if _, _, err := r.kafka.CreateTopic(ctx, broker.TopicSpec{
			Name: r.topic, Partitions: r.o.Partitions, Replicas: r.o.Replicas,
			Config: map[string]string{"retention.ms": "86400000", "retention.bytes": "4294967296"},
		}); err != nil {
			return fmt.Errorf("create topic %s: %w", r.topic, err)
		}
	}
	ts, err := r.kafka.Topics(ctx, r.topic)
	if err != nil || len(ts) != 1 {
		return fmt.Errorf("topic %s: %w", r.topic, errors.Join(err, errors.New("not found")))
	}
	r.o.Partitions = len(ts[0].Partitions)
	if r.schema, err = reg.Register(ctx, schemas.Subject(r.topic), Schema); err != nil {
		return fmt.Errorf("register schema: %w", err)
	}
	return nil
}

// cast runs producers and subscribers to the end.
func (r *run) cast(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, gctx := errgroup.WithContext(ctx)
	if r.o.Progress != nil {
		g.Go(func() error { return r.progressLoop(gctx) })
	}
	rng := rand.New(rand.NewPCG(r.o.Seed, 1))
	ends := make([]chan map[int32]int64, r.o.Subscribers)
	sg, sctx := errgroup.WithContext(gctx)
	for i := range r.o.Subscribers {
		s := r.subscriber(i, rng)
		r.subs = append(r.subs, s)
		ends[i] = make(chan map[int32]int64, 1)
		sg.Go(func() error { return s.run(sctx, ends[i]) })
	}
	err := r.produce(sctx, rng)
	var goal map[int32]int64
	if err == nil {
		goal, err = r.ends(sctx)
	}
	if err != nil {
		cancel()
		return errors.Join(sg.Wait(), err, g.Wait())
	}
	for _, c := range ends {
		c <- goal
	}
	late := time.AfterFunc(r.o.Drain, cancel)
	defer late.Stop()
	err = sg.Wait()
	hung := ctx.Err() != nil
	cancel()
	_ = g.Wait()
	if hung {
		return nil // the judge names what is missing: histories end where they hang
	}
	return err
}

func (r *run) subscriber(i int, rng *rand.Rand) *subscriber {
	s := &subscriber{
		id: i, topic: r.topic, urls: r.o.Gateways, every: r.o.Resume, parts: map[int32]*history{},
		rng: rand.New(rand.NewPCG(r.o.Seed, uint64(i)+100)), count: &r.count,
	}
	if i%2 == 1 {
		for _, k := range rng.Perm(r.o.Keys)[:min(10, r.o.Keys)] {
			s.keys = append(s.keys, fmt.Sprintf("K%d", k))
		}
	}
	switch i % 10 {
	case 8:
		s.from = client.Raw([]byte(`"earliest"`))
	case 9:
		s.from = client.Last(50)
	}
	return s
}

// produce begins once all subscribers are positioned, so that a part of every
// history is live.
func (r *run) produce(ctx context.Context, rng *rand.Rand) error {
	if err := r.awaitReady(ctx); err != nil {
		return err
	}
	pctx, cancel := context.WithTimeout(ctx, r.o.Duration)
	defer cancel()
	g, gctx := errgroup.WithContext(pctx)
	out, stop := r.sender(ctx)
	defer stop()
	limit := int64(r.o.Rate / float64(r.o.Producers) * r.o.Duration.Seconds())
	for i := range r.o.Producers {
		p := &producer{
			id: int64(i), rate: r.o.Rate / float64(r.o.Producers), keys: r.o.Keys, pad: strings.Repeat("x", r.o.Pad),
			rng: rand.New(rand.NewPCG(r.o.Seed, rng.Uint64())), out: out, maybe: map[[2]int64]bool{}, count: &r.count,
		}
		r.prods = append(r.prods, p)
		g.Go(func() error { return p.run(gctx, limit) })
	}
	return g.Wait()
}

func (r *run) awaitReady(ctx context.Context) error {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for r.count.ready.Load() < int64(r.o.Subscribers) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d subscribers were acknowledged: %w", r.count.ready.Load(), r.o.Subscribers, context.Cause(ctx))
		case <-t.C:
		}
	}
	return nil
}

func (r *run) sender(ctx context.Context) (sender, func()) {
	if r.o.Ingest != "" {
		return &httpSender{base: r.o.Ingest, topic: r.topic, client: &http.Client{Timeout: time.Minute}}, func() {}
	}
	p := r.kafka.NewProducer(broker.ProducerOptions{})
	pctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var g errgroup.Group
	g.Go(func() error { return p.Run(pctx) })
	return &kafkaSender{producer: p, topic: r.topic, schema: r.schema}, func() { cancel(); _ = g.Wait() }
}

// ends asks for the log's ends after the last event.
func (r *run) ends(ctx context.Context) (map[int32]int64, error) {
	ps := make([]int32, r.o.Partitions)
	for i := range ps {
		ps[i] = int32(i)
	}
	b, err := r.kafka.Bounds(ctx, r.topic, ps)
	if err != nil {
		return nil, fmt.Errorf("ends of %s: %w", r.topic, err)
	}
	out := make(map[int32]int64, len(b))
	for p, x := range b {
		out[p] = x.End
	}
	return out, nil
}

func (r *run) progressLoop(ctx context.Context) error {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	var last int64
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			d := r.count.delivered.Load()
			fmt.Fprintf(r.o.Progress, "ready %d/%d  sent %d  delivered %d (%d/s)  resumes %d  gaps %d\n", r.count.ready.Load(),
				r.o.Subscribers, r.count.sent.Load(), d, d-last, r.count.resumes.Load(), r.count.gaps.Load())
			last = d
		}
	}
}

// report judges.
func (r *run) report(ctx context.Context) (*Report, error) {
	ends, err := r.ends(ctx)
	if err != nil {
		return nil, err
	}
	t, err := r.truth(ctx, ends)
	if err != nil {
		return nil, err
	}
	rep := &Report{Seed: r.o.Seed, Resumes: r.count.resumes.Load(), Gaps: r.count.gaps.Load()}
	var acked []ack
	maybe := map[[2]int64]bool{}
	for _, p := range r.prods {
		acked = append(acked, p.acked...)
		for id := range p.maybe {
			maybe[id] = true
		}
	}
	rep.Sent, rep.Unknown = int64(len(acked)), int64(len(maybe))
	c, notes := judgeWrites(t, acked, maybe)
	rep.Counts.add(c)
	rep.Notes = append(rep.Notes, notes...)
	var lat []int64
	for _, s := range r.subs {
		r.judge(s, t, ends, rep)
		lat = append(lat, s.lat...)
	}
	rep.latencies(lat)
	return rep, nil
}

// judge adds one subscriber's histories. A subscriber that hung is held to the
// log's end all the same.
func (r *run) judge(s *subscriber, t *truth, ends map[int32]int64, rep *Report) {
	for p, end := range ends {
		h := s.part(p)
		h.end = max(h.end, end)
		right, c, notes := h.judge(t.parts[p], s.wants())
		rep.Deliveries += right
		rep.Counts.add(c)
		for _, n := range notes {
			if len(rep.Notes) < 50 {
				rep.Notes = append(rep.Notes, fmt.Sprintf("subscriber %d partition %d: %s", s.id, p, n))
			}
		}
	}
	if s.broken > 0 {
		rep.Counts.Backwards += int64(s.broken)
		rep.Notes = append(rep.Notes, fmt.Sprintf("subscriber %d: the client kept back %d frames", s.id, s.broken))
	}
}

func (r *Report) latencies(us []int64) {
	if len(us) == 0 {
		return
	}
	slices.Sort(us)
	at := func(q float64) time.Duration {
		return time.Duration(us[min(len(us)-1, int(q*float64(len(us))))]) * time.Microsecond
	}
	r.P50, r.P99, r.P999, r.Max = at(0.5), at(0.99), at(0.999), at(1)
}
