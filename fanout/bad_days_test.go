package fanout

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/coverage"
	"github.com/tapecast/tapecast/internal/stream"
)

// trim removes what lies before an offset, as retention does.
func (r *rig) trim(topic string, partition int32, before int64) {
	r.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(r.env.Addrs...))
	require.NoError(r.t, err)
	defer cl.Close()
	offsets := kadm.Offsets{}
	offsets.AddOffset(topic, partition, before, -1)
	_, err = kadm.NewClient(cl).DeleteRecords(r.t.Context(), offsets)
	require.NoError(r.t, err)
}

func TestACommitThatRetentionHasPassedGoesOnAtTheFirstRecord(t *testing.T) {
	r := newRig(t)
	topic := r.topic(1)
	f := r.start("f1")
	f.owns(1)
	g := r.gate("n1", time.Hour)
	e := g.want(topic, "")
	g.answered(topic, 0, e)
	r.write(topic, 0, 100)
	g.covered(topic, 0, e, 0, 100)
	f.stop()
	r.write(topic, 0, 100)
	r.trim(topic, 0, 150)
	r.start("f1").owns(1)
	g.covered(topic, 0, e, 150, 200)
	g.check()
	for _, s := range g.all() {
		require.False(t, s.From < 150 && s.To > 100, "nothing is claimed about what is gone")
	}
}

func TestRetentionThatPassesARunningPartitionLeavesAHole(t *testing.T) {
	retentionThatPassesARunningPartitionLeavesAHole(t, newRig(t))
}

func retentionThatPassesARunningPartitionLeavesAHole(t *testing.T, r *rig) {
	t.Helper()
	topic := r.topic(1)
	f := r.start("f1")
	f.owns(1)
	g := r.gate("n1", time.Hour)
	e := g.want(topic, "")
	g.answered(topic, 0, e)
	r.write(topic, 0, 100)
	g.covered(topic, 0, e, 0, 100)
	f.line.set(true)
	r.write(topic, 0, 100)
	r.trim(topic, 0, 170)
	f.line.set(false)
	g.covered(topic, 0, e, 170, 200)
	r.write(topic, 0, 10)
	g.covered(topic, 0, e, 170, 210)
	g.check()
	require.Positive(t, testutil.ToFloat64(f.metrics.outOfRange))
}

func TestKafkaAwayForAWhile(t *testing.T) {
	r := newRig(t)
	topic := r.topic(2)
	f := r.start("f1")
	f.owns(2)
	g := r.gate("n1", time.Hour)
	e := g.want(topic, "")
	g.answered(topic, 0, e)
	g.answered(topic, 1, e)
	for range 3 {
		f.line.set(true)
		r.write(topic, 0, 50)
		r.write(topic, 1, 50)
		f.await("it noticed", func(Stats) bool { return testutil.ToFloat64(f.metrics.readErrors) > 0 })
		f.line.set(false)
	}
	// A node that was cut meanwhile lost sections: that is a gap, and said so
	// by the chain. From here on everything comes again.
	f.await("all is read", func(s Stats) bool {
		for _, p := range s.Partitions {
			if p.Next != 150 {
				return false
			}
		}
		return len(s.Nodes) == 1 && !s.Nodes[0].Cut && s.Ready == nil
	})
	r.write(topic, 0, 50)
	r.write(topic, 1, 50)
	g.covered(topic, 0, e, 150, 200)
	g.covered(topic, 1, e, 150, 200)
	g.check()
	r.committed(topic, 0, func(c broker.Committed) bool { return c.Offset == 200 })
}

func TestTheWatchdogMakesAStuckReaderAnew(t *testing.T) {
	m, err := newMetrics(nil)
	require.NoError(t, err)
	now := time.Now()
	rebuilt := 0
	f := newFence(time.Hour)
	f.renew(now)
	fresh := func() *partition {
		p := &partition{parts: parts{metrics: m, log: testLog("p"), fence: f}}
		p.book = &book{chains: coverage.NewChains(stream.TopicID{1}, 0, 1, 100)}
		p.rebuild = func() { rebuilt++ }
		p.end, p.progress = 100, now
		return p
	}
	p := fresh()
	p.watch(now.Add(time.Hour))
	require.Zero(t, rebuilt, "nothing to read")

	p.end = 101
	p.watch(now.Add(stallAfter))
	require.Zero(t, rebuilt, "not yet")
	p.watch(now.Add(stallAfter + 1))
	require.Equal(t, 1, rebuilt)
	p.watch(now.Add(time.Hour))
	require.Equal(t, 1, rebuilt, "once per reader")

	p = fresh()
	p.reading = now
	p.watch(now.Add(stallAfter + 1))
	require.Equal(t, 2, rebuilt, "a read that never ends")
	require.EqualValues(t, 2, testutil.ToFloat64(m.watchdog))
}

func TestMetricsAreThereFromTheStart(t *testing.T) {
	r := newRig(t)
	topic := r.topic(1)
	reg := prometheus.NewPedanticRegistry()
	f := r.start("f1", func(o *Options) { o.Registerer = reg })
	f.owns(1)
	g := r.gate("n1", time.Hour)
	e := g.want(topic, "")
	g.answered(topic, 0, e)
	r.write(topic, 0, 10)
	g.covered(topic, 0, e, 0, 10)
	got, err := reg.Gather()
	require.NoError(t, err)
	byName := map[string]float64{}
	for _, mf := range got {
		for _, m := range mf.Metric {
			byName[mf.GetName()] += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	require.EqualValues(t, 1, byName["tapecast_fanout_ready"])
	require.EqualValues(t, 1, byName["tapecast_fanout_nodes"])
	require.EqualValues(t, 1, byName["tapecast_fanout_owned_partitions"])
	require.EqualValues(t, 10, byName["tapecast_fanout_records_read_total"])
	require.EqualValues(t, 10, byName["tapecast_fanout_deliveries_total"])
	require.Contains(t, byName, "tapecast_fanout_cuts_total")
	require.Contains(t, byName, "tapecast_fanout_topic_lag_records")
	_, err = New(Options{Catalog: f.opt.Catalog, Client: f.opt.Client, Registerer: reg})
	require.Error(t, err, "the same metrics twice")
}

func TestRoomsEndWithTheirContextWhateverHappens(t *testing.T) {
	r := newRig(t)
	topic := r.topic(3)
	g := r.gate("n1", time.Hour)
	g.want(topic, "")
	for range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		in := r.start("f1")
		r.write(topic, 0, 10)
		cancel()
		<-ctx.Done()
		in.stop()
	}
	g.check()
}

func TestAPartitionThatOthersCastFurtherGoesOnWhereTheyAre(t *testing.T) {
	id := stream.TopicID{1}
	p := &partition{book: &book{id: id, chains: coverage.NewChains(id, 0, 1, 100)}}
	require.False(t, p.overtaken(broker.Committed{Offset: -1}))
	require.False(t, p.overtaken(broker.Committed{Offset: 100, Metadata: id.String()}))
	require.True(t, p.overtaken(broker.Committed{Offset: 101, Metadata: id.String()}))
	require.False(t, p.overtaken(broker.Committed{Offset: 101, Metadata: "another"}))
	require.False(t, (&partition{}).overtaken(broker.Committed{Offset: 101, Metadata: id.String()}))
}

// Instances come, go, crash and lose their line while interests change and
// events are written. Every section that anybody ever wrote must be true, and
// in the end everything is covered again.
func TestSectionsStayTrueWhateverHappens(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			r := newRig(t)
			rng := rand.New(rand.NewPCG(seed, 7))
			topics := []string{r.topic(2), r.topic(1)}
			parts := map[string]int{topics[0]: 2, topics[1]: 1}
			gates := []*gate{r.gate("n1", time.Hour), r.gate("n2", time.Hour)}
			for _, g := range gates {
				g.want(topics[0], "k0")
				g.want(topics[1], "k0")
			}
			insts := []*instance{r.start("f0"), r.start("f1")}
			insts[0].await("joined", func(s Stats) bool { return s.Ready == nil })
			for range 150 {
				g, topic := gates[rng.IntN(2)], topics[rng.IntN(2)]
				i := rng.IntN(2)
				switch rng.IntN(12) {
				case 0:
					g.want(topic, fmt.Sprint("k", rng.IntN(10)))
				case 1:
					g.withdraw(rng.IntN(20))
				case 2:
					g.want(topic, "")
				case 3:
					insts[i].stop()
					insts[i] = r.start(fmt.Sprint("f", i))
				case 4:
					insts[i].crash()
					insts[i] = r.start(fmt.Sprint("f", i))
				case 5:
					insts[i].line.set(true)
					r.write(topic, 0, 5)
					insts[i].line.set(false)
				default:
					r.write(topic, int32(rng.IntN(parts[topic])), 1+rng.IntN(40))
				}
			}
			starts := map[string][]int64{}
			for topic, n := range parts {
				for p := range int32(n) {
					r.write(topic, p, 1)
					b, err := r.env.Client.Bounds(t.Context(), topic, []int32{p})
					require.NoError(t, err)
					starts[topic] = append(starts[topic], b[p].End)
				}
			}
			for _, g := range gates {
				for topic, n := range parts {
					e := g.want(topic, "k7")
					for p := range int32(n) {
						g.answered(topic, p, e)
						r.write(topic, p, 10)
						end := starts[topic][p] + 10
						g.covered(topic, p, e, end-1, end)
						starts[topic][p] = end
					}
				}
			}
			for _, g := range gates {
				g.check()
			}
		})
	}
}
