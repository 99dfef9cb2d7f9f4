package fanout

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/stream"
)

func TestEachNodeGetsWhatItWantsInSectionsThatChain(t *testing.T) {
	eachNodeGetsWhatItWantsInSectionsThatChain(t, newRig(t))
}

func eachNodeGetsWhatItWantsInSectionsThatChain(t *testing.T, r *rig) {
	t.Helper()
	topic := r.topic(2)
	f := r.start("f1")
	f.owns(2)
	whole, keyed := r.gate("n1", time.Hour), r.gate("n2", time.Hour)
	ew, ek := whole.want(topic, ""), keyed.want(topic, "k3")
	for p := range int32(2) {
		whole.answered(topic, p, ew)
		keyed.answered(topic, p, ek)
	}
	for range 20 {
		r.write(topic, 0, 50)
		r.write(topic, 1, 30)
	}
	for p, n := range map[int32]int64{0: 1000, 1: 600} {
		whole.covered(topic, p, ew, 0, n)
		keyed.covered(topic, p, ek, 0, n)
	}
	e2 := keyed.want(topic, "k5") // later: from where the partition stands
	keyed.answered(topic, 0, e2)
	r.write(topic, 0, 100)
	keyed.covered(topic, 0, e2, 1000, 1100)
	for _, g := range []*gate{whole, keyed} {
		g.check()
		g.chained()
	}
	require.EqualValues(t, 1700, testutil.ToFloat64(f.metrics.records))
}

func TestAQuietOrSparsePartitionIsCoveredEverySecond(t *testing.T) {
	r := newRig(t)
	topic := r.topic(1)
	f := r.start("f1")
	f.owns(1)
	g := r.gate("n1", time.Hour)
	e := g.want(topic, "nothing has this key")
	g.answered(topic, 0, e)
	r.write(topic, 0, 10)
	g.covered(topic, 0, e, 0, 10)
	g.mu.Lock()
	seen := len(g.sections)
	g.mu.Unlock()
	g.await("covering sections though nothing happens", func(ss []stream.Section) bool { return len(ss) >= seen+2 })
	g.check()
	g.chained()
}

func TestATopicIsCastFromItsEndTheFirstTimeAndFromItsCommitLater(t *testing.T) {
	r := newRig(t)
	topic := r.topic(1)
	r.write(topic, 0, 500)
	g := r.gate("n1", time.Hour)
	e := g.want(topic, "")
	f := r.start("f1")
	f.owns(1)
	g.answered(topic, 0, e)
	r.write(topic, 0, 10)
	g.covered(topic, 0, e, 500, 510)
	f.stop()

	committed, err := r.env.Client.GroupOffsets(t.Context(), r.group, topic, []int32{0})
	require.NoError(t, err)
	require.Equal(t, broker.Committed{Offset: 510, Metadata: r.topicID(topic).String()}, committed[0])

	r.write(topic, 0, 40)
	r.start("f2").owns(1)
	g.covered(topic, 0, e, 500, 550)
	g.check()
	g.chained() // also over the restart: the last one was told goodbye in order
}

func TestTwoInstancesShareAndHandOver(t *testing.T) { twoInstancesShareAndHandOver(t, newRig(t)) }

func twoInstancesShareAndHandOver(t *testing.T, r *rig) {
	t.Helper()
	topic := r.topic(4)
	f1 := r.start("f1")
	f1.owns(4)
	g, k := r.gate("n1", time.Hour), r.gate("n2", time.Hour)
	e, ek := g.want(topic, ""), k.want(topic, "k1")
	for p := range int32(4) {
		g.answered(topic, p, e)
		k.answered(topic, p, ek)
	}
	writeAll := func() {
		for p := range int32(4) {
			r.write(topic, p, 25)
		}
	}
	writeAll()
	f2 := r.start("f2")
	for range 10 {
		writeAll()
	}
	f1.owns(2)
	f2.owns(2)
	writeAll()
	f1.stop()
	writeAll()
	f2.owns(4)
	writeAll()
	for p := range int32(4) {
		g.covered(topic, p, e, 0, 14*25)
		k.covered(topic, p, ek, 0, 14*25)
	}
	g.check()
	k.check()
}

func TestACrashedInstanceIsReplacedUnderItsName(t *testing.T) {
	aCrashedInstanceIsReplacedUnderItsName(t, newRig(t))
}

func aCrashedInstanceIsReplacedUnderItsName(t *testing.T, r *rig) {
	t.Helper()
	topic := r.topic(2)
	f := r.start("f1")
	f.owns(2)
	g := r.gate("n1", time.Hour)
	e := g.want(topic, "")
	g.answered(topic, 0, e)
	g.answered(topic, 1, e)
	for p := range int32(2) {
		r.committed(topic, p, func(c broker.Committed) bool { return c.Offset == 0 })
	}
	for range 4 {
		r.write(topic, 0, 100)
		r.write(topic, 1, 100)
		f.crash()
		r.write(topic, 1, 10)
		f = r.start("f1")
	}
	f.owns(2)
	g.covered(topic, 0, e, 0, 400)
	g.covered(topic, 1, e, 0, 440)
	g.check()
}

func TestAZombieStopsPublishingAndDoesNoHarm(t *testing.T) {
	r := newRig(t)
	topic := r.topic(1)
	f1 := r.start("f1")
	f1.owns(1)
	g := r.gate("n1", time.Hour)
	e := g.want(topic, "")
	g.answered(topic, 0, e)
	r.write(topic, 0, 10)
	g.covered(topic, 0, e, 0, 10)

	f1.line.set(true) // alive, but nobody hears it: the group gives its partition away
	f1.await("fenced", func(s Stats) bool { return !s.Publishing })
	require.Error(t, f1.Ready())
	f2 := r.start("f2")
	f2.owns(1)
	r.write(topic, 0, 10)
	g.covered(topic, 0, e, 0, 20)

	f1.line.set(false)
	f1.await("back in the group", func(s Stats) bool { return s.Ready == nil && s.Generation == f2.Stats().Generation })
	r.write(topic, 0, 10)
	g.covered(topic, 0, e, 0, 30)
	g.check()
	require.Positive(t, testutil.ToFloat64(f1.metrics.fenced))
}

func TestARecreatedTopicIsCastFromItsBeginning(t *testing.T) {
	aRecreatedTopicIsCastFromItsBeginning(t, newRig(t))
}

func aRecreatedTopicIsCastFromItsBeginning(t *testing.T, r *rig) {
	t.Helper()
	topic := r.topic(1)
	f := r.start("f1")
	f.owns(1)
	g := r.gate("n1", time.Hour)
	e := g.want(topic, "")
	g.answered(topic, 0, e)
	r.write(topic, 0, 100)
	g.covered(topic, 0, e, 0, 100)
	for i := range 3 {
		require.NoError(t, r.env.Client.DeleteTopic(t.Context(), topic))
		if i > 0 {
			f.owns(0) // it was away long enough for the group to forget it, as Kafka has
		}
		r.env.Create(t, topic, 1)
		r.write(topic, 0, 7)
		g.covered(topic, 0, e, 0, 7)
	}
	r.committed(topic, 0, func(c broker.Committed) bool {
		return c == broker.Committed{Offset: 7, Metadata: r.topicID(topic).String()}
	})
	g.check()
}

// Kafka forgets the commits of a topic that is deleted, so nobody knows that it
// was followed: it is cast from its end, and gateways read the rest themselves.
func TestATopicRecreatedWhileNobodyLookedIsCastAsANewOne(t *testing.T) {
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
	require.NoError(t, r.env.Client.DeleteTopic(t.Context(), topic))
	r.env.Create(t, topic, 1)
	r.write(topic, 0, 150)
	r.start("f1").owns(1)
	g.answered(topic, 0, e)
	r.write(topic, 0, 50)
	g.covered(topic, 0, e, 150, 200)
	g.check()
}

func TestNewTopicsAndPartitionsAreFound(t *testing.T) { newTopicsAndPartitionsAreFound(t, newRig(t)) }

func newTopicsAndPartitionsAreFound(t *testing.T, r *rig) {
	t.Helper()
	topic := r.topic(1)
	f := r.start("f1")
	f.owns(1)
	g := r.gate("n1", time.Hour)
	e := g.want(topic, "")
	g.answered(topic, 0, e)
	r.write(topic, 0, 5)
	r.committed(topic, 0, func(c broker.Committed) bool { return c.Offset >= 0 })

	require.NoError(t, r.env.Client.AddPartitions(t.Context(), topic, 3))
	r.write(topic, 2, 20) // before anybody looked
	g.covered(topic, 2, e, 0, 20)
	f.owns(3)

	other := r.topic(1)
	f.owns(4)
	e2 := g.want(other, "")
	g.answered(other, 0, e2)
	r.write(other, 0, 10)
	g.covered(other, 0, e2, 0, 10)
	g.check()
}

func TestAnInstanceWithoutAnyTopicWaitsForTheFirst(t *testing.T) {
	r := newRig(t)
	f := r.start("f1")
	f.owns(0)
	topic := r.topic(2)
	f.owns(2)
	g := r.gate("n1", time.Hour)
	e := g.want(topic, "k1")
	g.answered(topic, 1, e)
	r.write(topic, 1, 20)
	g.covered(topic, 1, e, 0, 20)
	g.check()
}

func TestAnEndedNodeGetsNothingMore(t *testing.T) {
	r := newRig(t)
	topic := r.topic(1)
	f := r.start("f1")
	f.owns(1)
	dead, alive := r.gate("n1", time.Hour), r.gate("n2", time.Hour)
	ed, ea := dead.want(topic, ""), alive.want(topic, "")
	dead.answered(topic, 0, ed)
	alive.answered(topic, 0, ea)
	dead.append(interest.Record{Kind: interest.KindEnd, Incarnation: dead.inc})
	f.await("ended", func(s Stats) bool { return len(s.Nodes) == 1 })
	r.write(topic, 0, 10)
	alive.covered(topic, 0, ea, 0, 10)
	alive.check()
	dead.check()
	for _, s := range dead.all() {
		require.Zero(t, s.To, "nothing of what came after the end")
	}
}

func TestANodeWhoseLeaseRunsOutIsEndedForAll(t *testing.T) {
	r := newRig(t)
	topic := r.topic(2)
	f1, f2 := r.start("f1"), r.start("f2")
	f1.owns(1)
	f2.owns(1)
	dead, alive := r.gate("n1", time.Second), r.gate("n2", time.Hour)
	dead.want(topic, "")
	e := alive.want(topic, "")
	for _, f := range []*instance{f1, f2} {
		f.await("ended", func(s Stats) bool { return len(s.Nodes) == 1 && s.Nodes[0].Incarnation == alive.inc })
	}
	ended := 0
	read := r.env.Client.NewReader(interest.Topic, stream.TopicID{}, 0)
	defer read.Close()
	span, err := read.Read(t.Context(), 0, 1<<20, 0)
	require.NoError(t, err)
	for _, rec := range span.Records {
		ir, err := interest.Decode(rec.Key, rec.Value)
		require.NoError(t, err)
		if ir.Kind == interest.KindEnd {
			require.Equal(t, dead.inc, ir.Incarnation)
			ended++
		}
	}
	require.Positive(t, ended)
	r.write(topic, 0, 10)
	alive.covered(topic, 0, e, 0, 10)
	alive.check()
}

func TestANodeThatCannotBeWrittenToStallsNobody(t *testing.T) {
	aNodeThatCannotBeWrittenToStallsNobody(t, newRig(t))
}

func aNodeThatCannotBeWrittenToStallsNobody(t *testing.T, r *rig) {
	t.Helper()
	topic := r.topic(1)
	f := r.start("f1")
	f.owns(1)
	good, bad := r.gate("n1", time.Hour), r.gate("n2", time.Hour)
	e, eb := good.want(topic, ""), bad.want(topic, "")
	good.answered(topic, 0, e)
	bad.answered(topic, 0, eb)
	require.NoError(t, r.env.Client.DeleteTopic(t.Context(), bad.topic))
	for range 10 {
		r.write(topic, 0, 100)
	}
	good.covered(topic, 0, e, 0, 1000)
	f.await("cut", func(s Stats) bool {
		for _, n := range s.Nodes {
			if n.Incarnation == bad.inc {
				return n.Cut
			}
		}
		return false
	})
	r.committed(topic, 0, func(c broker.Committed) bool { return c.Offset == 1000 }) // it does not wait for the bad one
	good.check()
	good.chained()
	require.EqualValues(t, 1, testutil.ToFloat64(f.metrics.cuts[cutGone]))
}

func TestInterestsOfManyAreAnsweredTogether(t *testing.T) {
	r := newRig(t)
	topic := r.topic(1)
	r.start("f1").owns(1)
	g := r.gate("n1", time.Hour)
	var recs []broker.AppendRecord
	for i := range 2000 {
		ir := interest.Record{Kind: interest.KindAdd, Incarnation: g.inc, ID: fmt.Sprint("x", i), Feed: topic, Key: fmt.Append(nil, "K", i)}
		key, value, err := ir.Encode()
		require.NoError(t, err)
		recs = append(recs, broker.AppendRecord{Key: key, Value: value})
	}
	base, err := r.env.Client.Append(t.Context(), interest.Topic, 0, recs)
	require.NoError(t, err)
	g.answered(topic, 0, base+1999)
	g.mu.Lock()
	defer g.mu.Unlock()
	require.Less(t, len(g.sections), 20)
}

func TestRunWithoutKafkaEndsWithItsContext(t *testing.T) {
	r := newRig(t)
	in := r.start("f1")
	in.line.set(true)
	require.Error(t, in.Ready())
	in.stop()
}

func TestMistakesInOptionsShowAtOnce(t *testing.T) {
	_, err := New(Options{QueueBytes: 1, Linger: -1})
	require.ErrorContains(t, err, "Catalog")
	require.ErrorContains(t, err, "Client")
	require.ErrorContains(t, err, "negative")
	require.ErrorContains(t, err, "QueueBytes")
}

// The fake is held to the truth.
func TestTheSameOnApacheKafka(t *testing.T) {
	env := brokertest.Kafka(t)
	for name, scenario := range map[string]func(*testing.T, *rig){
		"EachNodeGetsWhatItWantsInSectionsThatChain":      eachNodeGetsWhatItWantsInSectionsThatChain,
		"TwoInstancesShareAndHandOver":                    twoInstancesShareAndHandOver,
		"ACrashedInstanceIsReplacedUnderItsName":          aCrashedInstanceIsReplacedUnderItsName,
		"ARecreatedTopicIsCastFromItsBeginning":           aRecreatedTopicIsCastFromItsBeginning,
		"NewTopicsAndPartitionsAreFound":                  newTopicsAndPartitionsAreFound,
		"ANodeThatCannotBeWrittenToStallsNobody":          aNodeThatCannotBeWrittenToStallsNobody,
		"RetentionThatPassesARunningPartitionLeavesAHole": retentionThatPassesARunningPartitionLeavesAHole,
		"ABatchThatCannotBeReadIsLeftOut":                 aBatchThatCannotBeReadIsLeftOut,
	} {
		t.Run(name, func(t *testing.T) { scenario(t, newRigOn(t, env)) })
	}
}
