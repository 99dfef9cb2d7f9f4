package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/loadtest"
)

// envProve turns the long runs on: how long faults go on, such as 4m.
const envProve = "TAPECAST_TEST_PROVE"

func proveFor(t *testing.T) time.Duration {
	t.Helper()
	s := os.Getenv(envProve)
	if s == "" {
		t.Skipf("NOT RUN: set %s=4m, or run `make prove`", envProve)
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatalf("%s: %v", envProve, err)
	}
	return d
}

func envFloat(t *testing.T, name string, def float64) float64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return def
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return f
}

// arena is a whole tapecast on a cluster of three, with proxies on every way.
type arena struct {
	t       *testing.T
	rng     *rand.Rand
	cluster *brokertest.Cluster
	proxies *proxies
	stack   *stack
	admin   *kgo.Client // straight to the brokers
	counts  map[string]int
}

// newArena seeds by TAPECAST_TEST_PROVE_SEED, else by the clock.
func newArena(t *testing.T) (*arena, uint64) {
	t.Helper()
	seed := uint64(time.Now().UnixNano()) //nolint:gosec // positive
	if s := os.Getenv("TAPECAST_TEST_PROVE_SEED"); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err, "TAPECAST_TEST_PROVE_SEED")
	}
	t.Logf("seed %d (replay with TAPECAST_TEST_PROVE_SEED)", seed)
	a := &arena{t: t, rng: rand.New(rand.NewPCG(seed, 5)), cluster: brokertest.StartKafka(t, 3), counts: map[string]int{}}
	via, upstream := a.cluster.Proxied()
	a.proxies = newProxies(t, via, upstream)
	a.stack = newStack(t, strings.Join(a.proxies.addrs, ","), 3, 3)
	var err error
	a.admin, err = kgo.NewClient(kgo.SeedBrokers(a.cluster.Addrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	t.Cleanup(a.admin.Close)
	return a, seed
}

// faults are all that is done to an arena, by kind. Ingest is left alone: the
// load's producers write to Kafka, and would not notice its death.
func (a *arena) faults() map[string]func() {
	hold := func(from, to time.Duration) { time.Sleep(from + time.Duration(a.rng.Int64N(int64(to-from)))) }
	fan := func() *proc { return a.stack.fanouts[a.rng.IntN(len(a.stack.fanouts))] }
	gate := func() *proc { return a.stack.gateways[a.rng.IntN(len(a.stack.gateways))] }
	broker := func() int { return a.rng.IntN(3) }
	again := func(p *proc, s syscall.Signal) {
		p.stop(s)
		hold(0, 2*time.Second)
		p.restart()
	}
	freeze := func(p *proc, from, to time.Duration) {
		p.signal(syscall.SIGSTOP)
		hold(from, to)
		p.signal(syscall.SIGCONT)
	}
	toxic := func(kind, way, attributes string, from, to time.Duration) func() {
		return func() {
			heal := a.proxies.poison(broker(), kind, way, attributes)
			hold(from, to)
			heal()
		}
	}
	return map[string]func(){
		"fan-out killed":    func() { again(fan(), syscall.SIGKILL) },
		"fan-out stopped":   func() { again(fan(), syscall.SIGTERM) },
		"fan-out frozen":    func() { freeze(fan(), time.Second, 9*time.Second) },
		"gateway killed":    func() { again(gate(), syscall.SIGKILL) },
		"gateway drained":   func() { again(gate(), syscall.SIGTERM) },
		"gateway frozen":    func() { freeze(gate(), time.Second, 13*time.Second) },
		"broker killed":     func() { a.broker(a.cluster.Kill) },
		"broker terminated": func() { a.broker(a.cluster.Terminate) },
		"broker frozen": func() {
			i := broker()
			require.NoError(a.t, a.cluster.Stop(i))
			hold(time.Second, 7*time.Second)
			require.NoError(a.t, a.cluster.Cont(i))
		},
		"connections reset": func() {
			for range 5 {
				a.proxies.cut(broker())
				hold(50*time.Millisecond, 500*time.Millisecond)
			}
		},
		"requests swallowed":    toxic("timeout", "upstream", `"timeout":0`, time.Second, 5*time.Second),
		"answers swallowed":     toxic("timeout", "downstream", `"timeout":0`, time.Second, 5*time.Second),
		"slow answers":          toxic("latency", "downstream", `"latency":200,"jitter":100`, 2*time.Second, 5*time.Second),
		"sliced answers":        toxic("slicer", "downstream", `"average_size":100,"size_variation":50,"delay":10`, 2*time.Second, 5*time.Second),
		"reset while answering": toxic("reset_peer", "downstream", `"timeout":100`, time.Second, 3*time.Second),
		"membership changed": func() {
			p := a.stack.fanouts[len(a.stack.fanouts)-1]
			p.stop(syscall.SIGTERM)
			hold(time.Second, 2*time.Second)
			p.restart()
		},
		"delivery tampered": a.tamper,
	}
}

func (a *arena) broker(end func(int)) {
	i := a.rng.IntN(3)
	end(i)
	time.Sleep(time.Duration(a.rng.Int64N(int64(2 * time.Second))))
	require.NoError(a.t, a.cluster.Restart(i))
	a.insync()
}

// insync waits until every partition has all its replicas again: with two
// brokers away at once nobody could promise anything.
func (a *arena) insync() {
	adm := kadm.NewClient(a.admin)
	require.Eventually(a.t, func() bool {
		ctx, cancel := context.WithTimeout(a.t.Context(), 5*time.Second)
		defer cancel()
		ts, err := adm.ListTopicsWithInternal(ctx)
		if err != nil {
			return false
		}
		for _, t := range ts {
			for _, p := range t.Partitions {
				if len(p.ISR) < len(p.Replicas) || p.Leader < 0 {
					return false
				}
			}
		}
		return true
	}, patience, 200*time.Millisecond, "replicas come back")
}

// tamper doubles and reorders records of a delivery topic, and drops some.
func (a *arena) tamper() {
	ctx, cancel := context.WithTimeout(a.t.Context(), 20*time.Second)
	defer cancel()
	adm := kadm.NewClient(a.admin)
	ts, err := adm.ListTopics(ctx)
	if err != nil {
		return
	}
	var names []string
	for _, t := range ts.Names() {
		if strings.HasPrefix(t, "tapecast.delivery.") {
			names = append(names, t)
		}
	}
	if len(names) == 0 {
		return
	}
	topic := names[a.rng.IntN(len(names))]
	r, err := kgo.NewClient(kgo.SeedBrokers(a.cluster.Addrs()...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtEnd().Relative(-200)}}))
	if err != nil {
		return
	}
	defer r.Close()
	pctx, done := context.WithTimeout(ctx, 2*time.Second)
	recs := r.PollFetches(pctx).Records()
	done()
	a.rng.Shuffle(len(recs), func(i, j int) { recs[i], recs[j] = recs[j], recs[i] })
	for _, rec := range recs[:min(len(recs), 100)] {
		a.admin.Produce(ctx, &kgo.Record{Topic: topic, Partition: 0, Value: slices.Clone(rec.Value)}, nil)
	}
	_ = a.admin.Flush(ctx)
	ends, err := adm.ListEndOffsets(ctx, topic)
	if err != nil {
		return
	}
	_, _ = adm.DeleteRecords(ctx, ends.Offsets())
}

// chaos injects faults, one after the other, for a while.
func (a *arena) chaos(ctx context.Context, d time.Duration) {
	all := a.faults()
	var order []string
	for end := time.Now().Add(d); time.Now().Before(end) && ctx.Err() == nil && !a.t.Failed(); {
		if len(order) == 0 { // every kind before any comes again
			order = slices.Sorted(maps.Keys(all))
			a.rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		}
		kind := order[0]
		order = order[1:]
		began := time.Now()
		all[kind]()
		a.counts[kind]++
		a.t.Logf("%s: %s", kind, time.Since(began).Round(time.Millisecond))
	}
}

func (a *arena) line() string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(a.counts)) {
		parts = append(parts, fmt.Sprintf("%s=%d", strings.ReplaceAll(k, " ", "_"), a.counts[k]))
	}
	return strings.Join(parts, " ")
}

// TestProve is the commit tier on Apache Kafka: three brokers, three fan-outs,
// three gateways, proxies between all of them, faults of every kind, and every
// client's history held against the topic.
func TestProve(t *testing.T) {
	d := proveFor(t)
	a, seed := newArena(t)
	var g errgroup.Group
	var rep *loadtest.Report
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	g.Go(func() (err error) {
		defer cancel()
		rep, err = loadtest.Run(t.Context(), loadtest.Options{
			Brokers: a.proxies.addrs, RegistryURL: a.stack.registry, Gateways: a.stack.ws,
			Subscribers: int(envFloat(t, "TAPECAST_TEST_PROVE_SUBSCRIBERS", 200)), Producers: 2, Rate: envFloat(t, "TAPECAST_TEST_PROVE_RATE", 250),
			Duration: d, Resume: 10 * time.Second, Drain: patience, Seed: seed, Progress: os.Stderr,
			Oracle: javaOracle(t, a.cluster.Addrs()),
		})
		return err
	})
	a.chaos(ctx, d-10*time.Second)
	require.NoError(t, g.Wait())
	total := 0
	for _, n := range a.counts {
		total += n
	}
	line := fmt.Sprintf("prove: seed=%d faults=%d [%s] %s", seed, total, a.line(), rep)
	fmt.Println(line)
	brokertest.Report(t, line)
	require.True(t, rep.OK(), "%s", strings.Join(rep.Notes, "\n"))
	require.Positive(t, total, "a run without faults proves nothing")
	require.Zero(t, rep.Gaps, "nothing was deleted: a gap frame would be a lie")
	if want := envFloat(t, "TAPECAST_TEST_PROVE_DELIVERIES", 0); want > 0 {
		require.GreaterOrEqual(t, float64(rep.Deliveries), want)
	}
}
