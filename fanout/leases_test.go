package fanout

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/internal/delivery"
	"github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/interestlog"
	"github.com/tapecast/tapecast/internal/stream"
)

// paper is an interest log on paper: what the follower would tell a tracker.
type paper struct {
	*tracker
	pos stream.InterestPos
}

func newPaper(t *testing.T) *paper {
	m, err := newMetrics(nil)
	require.NoError(t, err)
	p := &paper{tracker: newTracker(m, slog.New(slog.DiscardHandler)), pos: stream.InterestPos{Log: stream.TopicID{1}, Offset: -1}}
	p.newPub = func(inc *interest.Incarnation) *publisher {
		return newPublisher(inc.Name, inc.Node, inc.Delivery, publisherParts{metrics: m, log: p.log})
	}
	p.Reset(p.pos.Log)
	return p
}

func (p *paper) say(rs ...interest.Record) {
	for _, r := range rs {
		p.pos.Offset++
		p.Apply(p.pos, r, true)
	}
}

// follow lets time pass while the log is read, one long poll after the other.
func (p *paper) follow(d time.Duration) {
	for ; d > 0; d -= 500 * time.Millisecond {
		time.Sleep(500 * time.Millisecond)
		p.Caught(p.pos)
	}
}

func leaseOf(inc string, d time.Duration) interest.Record {
	return interest.Record{
		Kind: interest.KindLease, Incarnation: inc, Node: "n",
		Delivery: delivery.TopicName("n", inc), LeaseMs: d.Milliseconds(),
	}
}

func (p *paper) janitor() *janitor {
	return newJanitor(nil, p.tracker, defaultGraces, p.metrics, p.tracker.log)
}

func (j *janitor) mustLook(t *testing.T) chores {
	t.Helper()
	c, ok := j.look(time.Now())
	require.True(t, ok)
	return c
}

func TestALeaseRunsOnlyWhileTheLogIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPaper(t)
		j := p.janitor()
		p.say(leaseOf("a", 10*time.Second))
		_, ok := j.look(time.Now())
		require.False(t, ok, "not loaded")
		p.Caught(p.pos)
		p.follow(9 * time.Second)
		require.Empty(t, j.mustLook(t).expired)

		time.Sleep(time.Hour) // frozen, or Kafka away: nothing can be said about anybody
		_, ok = j.look(time.Now())
		require.False(t, ok)
		p.say(leaseOf("b", 10*time.Second))
		p.Caught(p.pos)
		require.Empty(t, j.mustLook(t).expired, "a may have renewed: its record was just not read yet")
		p.say(leaseOf("a", 10*time.Second))
		p.follow(9 * time.Second)
		require.Empty(t, j.mustLook(t).expired)
		p.say(leaseOf("a", 10*time.Second))
		p.follow(2 * time.Second)
		require.Equal(t, []string{"b"}, j.mustLook(t).expired)
	})
}

func TestLoadingGivesEverybodyAFullLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPaper(t)
		p.say(leaseOf("a", 5*time.Second))
		time.Sleep(time.Minute) // a long log
		p.Caught(p.pos)
		p.follow(4 * time.Second)
		require.Empty(t, p.janitor().mustLook(t).expired)
	})
}

func TestWhatTheEndedLeaveBehindIsRemovedAfterAGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPaper(t)
		j := p.janitor()
		p.say(
			interest.Record{Kind: interest.KindAdd, Incarnation: "a", ID: "1", Feed: "quotes"},
			interest.Record{Kind: interest.KindAdd, Incarnation: "a", ID: "2", Feed: "quotes", Key: []byte("k")},
			leaseOf("a", time.Hour),
		)
		p.Caught(p.pos)
		require.Len(t, p.snap.Load().topics["quotes"].nodes, 1, "interests from before the lease count")
		p.say(interest.Record{Kind: interest.KindEnd, Incarnation: "a"})
		p.Caught(p.pos)
		require.Empty(t, p.snap.Load().topics)
		j.mustLook(t)
		p.follow(defaultGraces.purge - time.Second)
		require.Empty(t, j.mustLook(t).purges)
		p.follow(defaultGraces.spread + 2*time.Second)
		purges := j.mustLook(t).purges
		require.Len(t, purges, 1)
		require.Equal(t, delivery.TopicName("n", "a"), purges[0].delivery)
		require.ElementsMatch(t, []string{"1", "2"}, purges[0].ids)
		require.True(t, purges[0].lease)

		// As if it was done, by whomever.
		j.dead["a"].topic, j.dead["a"].lease = true, true
		p.say(
			interest.Record{Kind: interest.KindEnd1, Incarnation: "a", ID: "1"},
			interest.Record{Kind: interest.KindEnd1, Incarnation: "a", ID: "2"},
			interest.Record{Kind: interest.KindGone, ID: interest.GoneLease, Incarnation: "a"},
		)
		c := j.mustLook(t)
		require.Empty(t, c.purges)
		require.Empty(t, c.ends)
		p.say(leaseOf("a", time.Hour)) // a late write of the dead
		p.follow(defaultGraces.end)
		require.Empty(t, p.snap.Load().topics)
		require.Equal(t, []string{"a"}, j.mustLook(t).ends)
		j.dead["a"].done = true
		require.Empty(t, j.mustLook(t).ends)
	})
}

func TestOnlyDeliveryTopicsOfNobodyAreOrphans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPaper(t)
		j := p.janitor()
		p.say(leaseOf("alive", time.Hour))
		p.Caught(p.pos)
		found := []string{delivery.TopicName("n", "alive"), delivery.TopicName("n", "lost")}
		require.Empty(t, j.orphans(found, time.Now()))
		p.follow(time.Minute)
		require.Equal(t, []string{delivery.TopicName("n", "lost")}, j.orphans(found, time.Now()))

		require.Empty(t, j.orphans(append(found, delivery.TopicName("n", "new")), time.Now())[1:], "new ones get their grace")
		time.Sleep(time.Hour)
		require.Empty(t, j.orphans(found, time.Now()), "the log is not followed")
	})
}

func TestALeaseForAFeedTopicIsNotBelieved(t *testing.T) {
	p := newPaper(t)
	r := leaseOf("a", time.Hour)
	r.Delivery = "quotes"
	p.say(interest.Record{Kind: interest.KindAdd, Incarnation: "a", ID: "1", Feed: "quotes"}, r)
	p.Caught(p.pos)
	require.Empty(t, p.snap.Load().topics)
	p.say(interest.Record{Kind: interest.KindEnd, Incarnation: "a"})
	p.Caught(p.pos)
	j := p.janitor()
	j.graces.purge, j.graces.spread = 0, 0
	for _, purge := range j.mustLook(t).purges {
		require.Empty(t, purge.delivery, "never a feed topic")
	}
}

func TestRemainsOfADeadNodeAreRemovedFromKafka(t *testing.T) {
	r := newRig(t)
	r.tune = func(s *Service) {
		s.graces = graces{orphan: 3 * time.Second, purge: 100 * time.Millisecond, spread: time.Millisecond, end: 3 * time.Second}
	}
	topic := r.topic(2)
	lost := delivery.TopicName("n0", "nobody")
	r.env.Create(t, lost, 1)
	f1, f2 := r.start("f1"), r.start("f2") // both clean up; that is harmless
	f1.owns(1)
	f2.owns(1)
	dead, alive := r.gate("n1", time.Second), r.gate("n2", time.Hour)
	dead.want(topic, "")
	dead.want(topic, "k1")
	e := alive.want(topic, "")

	require.Eventually(t, func() bool {
		ts, err := r.env.Client.Topics(t.Context())
		if err != nil {
			return false
		}
		for _, tp := range ts {
			if tp.Name == dead.topic || tp.Name == lost {
				return false
			}
		}
		return true
	}, patience, 50*time.Millisecond, "delivery topics removed")
	require.Eventually(t, func() bool {
		left := r.interestLog()
		for _, ir := range left {
			if ir.Incarnation == dead.inc && ir.Kind != interest.KindGone && ir.Kind != interest.KindEnd1 {
				return false
			}
		}
		return true
	}, patience, 50*time.Millisecond, "every record of the dead has its tombstone")
	r.write(topic, 0, 10)
	alive.covered(topic, 0, e, 0, 10)
	alive.check()
}

// interestLog returns the last record of each key.
func (r *rig) interestLog() map[string]interest.Record {
	r.t.Helper()
	reader := r.env.Client.NewReader(interest.Topic, stream.TopicID{}, 0)
	defer reader.Close()
	out := map[string]interest.Record{}
	for next := int64(0); ; {
		span, err := reader.Read(r.t.Context(), next, 1<<20, 0)
		require.NoError(r.t, err)
		for _, rec := range span.Records {
			ir, err := interest.Decode(rec.Key, rec.Value)
			require.NoError(r.t, err)
			out[string(rec.Key)] = ir
		}
		if next = span.To; next >= span.End {
			return out
		}
	}
}

func TestAnInterestLogThatWasMadeAgainIsFollowed(t *testing.T) {
	r := newRig(t)
	topic := r.topic(1)
	f := r.start("f1")
	f.owns(1)
	old := r.gate("n1", time.Hour)
	old.answered(topic, 0, old.want(topic, ""))
	require.NoError(t, r.env.Client.DeleteTopic(t.Context(), interest.Topic))
	id, err := interestlog.Ensure(t.Context(), r.env.Client, 1)
	require.NoError(t, err)
	g := r.gate("n1", time.Hour) // a gateway takes a new incarnation
	e := g.want(topic, "k2")
	g.answered(topic, 0, e)
	r.write(topic, 0, 30)
	g.covered(topic, 0, e, 0, 30)
	g.check()
	for _, s := range g.all() {
		require.Equal(t, id, s.Interests.Log)
	}
	f.await("the old one is forgotten", func(s Stats) bool { return len(s.Nodes) == 1 })
}

func TestAnUnfitInterestTopicEndsRun(t *testing.T) {
	env := brokertest.Start(t)
	env.Create(t, interest.Topic, 1, "cleanup.policy", "delete")
	r := &rig{t: t, env: env, group: "g", prefix: "feed."}
	in := r.start("f1")
	err := <-in.done
	in.done <- nil
	var unfit *interestlog.UnfitError
	require.ErrorAs(t, err, &unfit)
}
