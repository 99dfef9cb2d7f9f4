package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tapecast/tapecast/internal/delivery"
	"github.com/tapecast/tapecast/internal/interest"
)

// step is one thing done to the world, at a time, with luck of its own: a step
// can be left out and the others stay what they are.
type step struct {
	at   time.Duration
	kind string
	seed uint64
}

// action does a step. It may block; steps run side by side.
type action func(w *world, rng *rand.Rand)

var actions = map[string]action{
	"requests refused":          refuse,
	"answers lost after append": loseAnswers,
	"connections cut":           cutConnections,
	"rough network":             rough,
	"process cut off":           cutOff,
	"one-way network":           oneWay,
	"leaders moved":             moveLeaders,
	"coordinators moved":        func(w *world, _ *rand.Rand) { w.kfake.RehashCoordinators() },
	"broker down":               brokerDown,
	"fan-out crashed":           crashFanout,
	"fan-out stopped":           stopFanout,
	"fan-outs crashed":          crashAllFanouts,
	"gateway crashed":           crashGateway,
	"gateway stopped":           stopGateway,
	"delivery doubled":          doubleDelivery,
	"delivery dropped":          dropDelivery,
	"delivery topic deleted":    deleteDelivery,
	"topic made again":          recreate,
	"partitions added":          addPartition,
	"records deleted":           retention,
	"compacted":                 compact,
	"interest topic deleted":    func(w *world, _ *rand.Rand) { _ = w.kfake.DeleteTopic(interest.Topic) },
}

// weights say how often what comes; 1 where nothing is said.
var weights = map[string]int{
	"requests refused": 4, "answers lost after append": 3, "connections cut": 3, "rough network": 2, "process cut off": 3, "one-way network": 2,
	"leaders moved": 2, "fan-out crashed": 3, "gateway crashed": 2, "delivery doubled": 3, "delivery dropped": 2, "records deleted": 2,
	"interest topic deleted": 1,
}

// pace is how long a history's parts take, in virtual time, and how much is
// done to it.
type pace struct {
	start  time.Duration // before clients come, and again before the first fault
	chaos  time.Duration // in which the faults begin
	faults [2]int        // at least, fewer than
}

// Histories of `make prove` are brief, with twice the faults in a second; those
// of `make soak` (TAPECAST_TEST_SIM_LONG=1) are of both kinds.
var (
	brief = pace{start: 700 * time.Millisecond, chaos: 8 * time.Second, faults: [2]int{5, 13}}
	long  = pace{start: 3 * time.Second, chaos: 30 * time.Second, faults: [2]int{8, 20}}
)

// history is what is done to a world; it follows from its seed.
type history struct {
	seed  uint64
	pace  pace
	steps []step
	bad   string // a known-bad behaviour; "" = none
	plain bool   // nobody writes in transactions
}

func plan(seed uint64, kinds []string, pc pace) history {
	rng := rand.New(rand.NewPCG(seed, 2))
	var bag []string
	for _, k := range kinds {
		n, ok := weights[k]
		if !ok {
			n = 1
		}
		for range n {
			bag = append(bag, k)
		}
	}
	steps := make([]step, pc.faults[0]+rng.IntN(pc.faults[1]-pc.faults[0]))
	for i := range steps {
		steps[i] = step{at: time.Duration(rng.Int64N(int64(pc.chaos))), kind: bag[rng.IntN(len(bag))], seed: rng.Uint64()}
	}
	return history{seed: seed, pace: pc, steps: steps}
}

// with is the same history of a known-bad build.
func (h history) with(bad string) history {
	h.bad = bad
	return h
}

// without leaves a step out.
func (h history) without(i int) history {
	h.steps = slices.Delete(slices.Clone(h.steps), i, i+1)
	return h
}

func between(rng *rand.Rand, from, to time.Duration) time.Duration {
	return from + time.Duration(rng.Int64N(int64(to-from)))
}

func pick[T any](rng *rand.Rand, s []T) T { return s[rng.IntN(len(s))] }

func (w *world) hosts() []*host { return append(append([]*host(nil), w.fanouts...), w.gateways...) }

// refuse has brokers refuse some requests of a kind, for a while.
func refuse(w *world, rng *rand.Rand) {
	kinds := []kmsg.Key{kmsg.Fetch, kmsg.Produce, kmsg.Metadata, kmsg.ListOffsets, kmsg.OffsetCommit, kmsg.OffsetFetch, kmsg.FindCoordinator, kmsg.JoinGroup, kmsg.SyncGroup, kmsg.Heartbeat, kmsg.InitProducerID}
	errs := map[kmsg.Key][]*kerr.Error{
		kmsg.Fetch:           {kerr.NotLeaderForPartition, kerr.UnknownTopicOrPartition, kerr.KafkaStorageError, kerr.UnknownServerError, kerr.FencedLeaderEpoch, kerr.OffsetNotAvailable},
		kmsg.Produce:         {kerr.NotLeaderForPartition, kerr.NotEnoughReplicas, kerr.RequestTimedOut, kerr.UnknownTopicOrPartition, kerr.KafkaStorageError},
		kmsg.Metadata:        {kerr.LeaderNotAvailable, kerr.UnknownServerError},
		kmsg.ListOffsets:     {kerr.NotLeaderForPartition, kerr.OffsetNotAvailable, kerr.UnknownServerError},
		kmsg.OffsetCommit:    {kerr.CoordinatorLoadInProgress, kerr.NotCoordinator, kerr.RequestTimedOut},
		kmsg.OffsetFetch:     {kerr.CoordinatorLoadInProgress, kerr.NotCoordinator},
		kmsg.FindCoordinator: {kerr.CoordinatorNotAvailable},
		kmsg.JoinGroup:       {kerr.CoordinatorLoadInProgress, kerr.NotCoordinator, kerr.UnknownMemberID},
		kmsg.SyncGroup:       {kerr.RebalanceInProgress, kerr.UnknownMemberID, kerr.IllegalGeneration},
		kmsg.Heartbeat:       {kerr.RebalanceInProgress, kerr.UnknownMemberID, kerr.IllegalGeneration, kerr.NotCoordinator},
		kmsg.InitProducerID:  {kerr.CoordinatorLoadInProgress, kerr.NotCoordinator},
	}
	key := pick(rng, kinds)
	n := 1 + rng.IntN(20)
	w.fault(key, pick(rng, errs[key]), n)
}

func (w *world) fault(key kmsg.Key, err *kerr.Error, n int) {
	h := w.kfake.Fault(kfake.Fault{Keys: []kmsg.Key{key}, Err: err, Count: n})
	time.Sleep(6 * time.Second)
	w.mu.Lock()
	w.counts["requests refused, hits"] += h.Hits()
	w.mu.Unlock()
	h.Remove()
}

// loseAnswers has brokers append and then say that they could not.
func loseAnswers(w *world, rng *rand.Rand) {
	w.fault(kmsg.Produce, pick(rng, []*kerr.Error{kerr.NotEnoughReplicasAfterAppend, kerr.RequestTimedOut}), 1+rng.IntN(30))
}

func cutConnections(w *world, rng *rand.Rand) {
	pick(rng, w.hosts()).network().cut()
}

func rough(w *world, rng *rand.Rand) {
	l := pick(rng, w.hosts()).network()
	every := int64(0)
	if rng.IntN(2) == 0 {
		every = 2000 + rng.Int64N(20000)
	}
	l.rough(every, between(rng, time.Millisecond, 200*time.Millisecond))
	l.cut()
	time.Sleep(between(rng, time.Second, 8*time.Second))
	l.rough(0, 0)
	l.cut()
}

// cutOff freezes a process's network, for less or more than its lease or session.
func cutOff(w *world, rng *rand.Rand) {
	l := pick(rng, w.hosts()).network()
	l.hold(true, true)
	time.Sleep(between(rng, 500*time.Millisecond, 15*time.Second))
	l.hold(false, false)
}

func oneWay(w *world, rng *rand.Rand) {
	l := pick(rng, w.hosts()).network()
	in := rng.IntN(2) == 0
	l.hold(in, !in)
	time.Sleep(between(rng, 500*time.Millisecond, 8*time.Second))
	l.hold(false, false)
}

func moveLeaders(w *world, rng *rand.Rand) {
	for range 1 + rng.IntN(4) {
		w.kfake.ShufflePartitionLeaders()
		time.Sleep(between(rng, time.Millisecond, 500*time.Millisecond))
	}
}

// brokerDown takes a broker's network away; its partitions get other leaders,
// now or never.
func brokerDown(w *world, rng *rand.Rand) {
	i := rng.IntN(3)
	w.net.setDown(w.addrs[i], true)
	if rng.IntN(3) > 0 {
		time.Sleep(between(rng, time.Millisecond, time.Second))
		for _, t := range append([]string{interest.Topic}, w.names()...) {
			for p := range int32(8) {
				if w.kfake.LeaderFor(t, p) == int32(i) { //nolint:gosec // small
					_ = w.kfake.MoveTopicPartition(t, p, int32((i+1)%3)) //nolint:gosec // small
				}
			}
		}
	}
	time.Sleep(between(rng, time.Second, 8*time.Second))
	w.net.setDown(w.addrs[i], false)
}

func (w *world) names() (out []string) {
	for _, t := range w.topics {
		out = append(out, t.name)
	}
	for _, g := range w.gateways {
		if d := g.delivery(); d != "" {
			out = append(out, d)
		}
	}
	return out
}

func crashFanout(w *world, rng *rand.Rand) {
	w.again(pick(rng, w.fanouts), rng, true)
}

func stopFanout(w *world, rng *rand.Rand) {
	w.again(pick(rng, w.fanouts), rng, false)
}

func crashAllFanouts(w *world, rng *rand.Rand) {
	for _, f := range w.fanouts {
		f.turn.Lock()
		f.crash()
	}
	time.Sleep(between(rng, 100*time.Millisecond, 10*time.Second))
	for _, f := range w.fanouts {
		f.start()
		f.turn.Unlock()
	}
}

func crashGateway(w *world, rng *rand.Rand) {
	w.again(pick(rng, w.gateways), rng, true)
}

func stopGateway(w *world, rng *rand.Rand) {
	w.again(pick(rng, w.gateways), rng, false)
}

// again ends a process and starts it again, after a while.
func (w *world) again(h *host, rng *rand.Rand, crash bool) {
	h.turn.Lock()
	defer h.turn.Unlock()
	if crash {
		h.crash()
		time.Sleep(between(rng, 10*time.Millisecond, 10*time.Second))
	} else {
		h.stop()
	}
	h.start()
}

func (h *host) delivery() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.feed == nil {
		return ""
	}
	return h.feed.Stats().DeliveryTopic
}

// doubleDelivery writes sections of a delivery topic again, in any order, and rubbish between them.
func doubleDelivery(w *world, rng *rand.Rand) {
	topic := pick(rng, w.gateways).delivery()
	if topic == "" || w.kfake.TopicInfo(topic) == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r, err := kgo.NewClient(kgo.SeedBrokers(w.addrs...), kgo.DisableClientMetrics(), kgo.Dialer(w.clean.dial), kgo.FetchMaxWait(200*time.Millisecond),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))
	if err != nil {
		return
	}
	defer r.Close()
	pctx, done := context.WithTimeout(ctx, time.Second)
	recs := r.PollFetches(pctx).Records()
	done()
	rng.Shuffle(len(recs), func(i, j int) { recs[i], recs[j] = recs[j], recs[i] })
	for i, rec := range recs[:min(len(recs), 1+rng.IntN(40))] {
		v := append([]byte(nil), rec.Value...)
		if i%7 == 6 && len(v) > 0 {
			v[rng.IntN(len(v))] ^= 1 << rng.IntN(8) // must be seen to be broken
			if _, err := delivery.Decode(v); err == nil {
				continue // the flip fell where nothing is said
			}
		}
		w.oracle.Produce(ctx, &kgo.Record{Topic: topic, Partition: 0, Value: v}, nil)
	}
	_ = w.oracle.Flush(ctx)
}

// dropDelivery deletes what a gateway has not read yet.
func dropDelivery(w *world, rng *rand.Rand) {
	g := pick(rng, w.gateways)
	topic := g.delivery()
	if topic == "" {
		return
	}
	l := g.network()
	l.hold(true, false)
	time.Sleep(between(rng, 100*time.Millisecond, 2*time.Second))
	_ = w.kfake.DeleteRecords(topic, 0, -1)
	l.hold(false, false)
}

func deleteDelivery(w *world, rng *rand.Rand) {
	if topic := pick(rng, w.gateways).delivery(); topic != "" {
		_ = w.kfake.DeleteTopic(topic)
	}
}

// recreate deletes a topic and makes it again, sometimes at once.
func recreate(w *world, rng *rand.Rand) {
	t := pick(rng, w.topics)
	t.pause.Lock()
	defer t.pause.Unlock()
	if err := w.dump(t); err != nil {
		w.fail("dump of %s before it is deleted: %v", t.name, err)
		return
	}
	w.mu.Lock()
	w.truth.logs[t.epoch].past = true
	w.mu.Unlock()
	if err := w.kfake.DeleteTopic(t.name); err != nil {
		w.fail("delete %s: %v", t.name, err)
		return
	}
	if rng.IntN(2) == 0 {
		time.Sleep(between(rng, time.Millisecond, 4*time.Second))
	}
	if rng.IntN(3) == 0 {
		t.parts = 1 + rng.IntN(3)
	}
	if err := w.create(t); err != nil {
		w.fail("make %s again: %v", t.name, err)
	}
}

func addPartition(w *world, rng *rand.Rand) {
	t := pick(rng, w.topics)
	t.pause.Lock()
	defer t.pause.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if t.parts < 5 {
		t.parts++
		_, _ = w.admin().CreatePartitions(ctx, 1, t.name)
	}
}

// retention deletes records, up to anywhere.
func retention(w *world, rng *rand.Rand) {
	t := pick(rng, w.topics)
	t.pause.Lock()
	defer t.pause.Unlock()
	if err := w.dump(t); err != nil {
		w.fail("dump of %s before records are deleted: %v", t.name, err)
		return
	}
	w.mu.Lock()
	l := w.truth.logs[t.epoch]
	w.mu.Unlock()
	p := int32(rng.IntN(t.parts)) //nolint:gosec // small
	if from, to := l.start[p], l.end[p]; to > from {
		_ = w.kfake.DeleteRecords(t.name, p, from+1+rng.Int64N(to-from))
	}
}

// compact compacts the feed topics that are, and the interest topic.
func compact(w *world, _ *rand.Rand) {
	for _, t := range w.topics {
		if !t.compacted {
			continue
		}
		t.pause.Lock()
		defer t.pause.Unlock()
		if err := w.dump(t); err != nil {
			w.fail("dump of %s before it is compacted: %v", t.name, err)
			return
		}
	}
	w.kfake.Compact()
}

// script does a plan. It returns when everything is up again.
func (w *world) script(steps []step) {
	done := make(chan struct{}, len(steps))
	for _, s := range steps {
		time.AfterFunc(max(s.at, 1), func() {
			w.note(s.kind, "%s", fmt.Sprint(s.seed))
			deed(s.kind)(w, rand.New(rand.NewPCG(s.seed, 3)))
			done <- struct{}{}
		})
	}
	for range steps {
		<-done
	}
}
