package feed

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
	ilog "github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/stream"
	"github.com/tapecast/tapecast/schemas"
)

func upFrom(from, to int64) (out []int64) {
	for o := from; o < to; o++ {
		out = append(out, o)
	}
	return out
}

func TestOpenRefusesWhatIsNoFeed(t *testing.T) {
	b := newBench(t, nil)
	_, err := b.feed.Open("nothing", nil, func() {})
	require.ErrorIs(t, err, stream.ErrUnknownTopic)
	_, err = b.feed.Open(ilog.Topic, nil, func() {})
	require.ErrorIs(t, err, stream.ErrUnknownTopic)
}

func TestSectionsBecomeEvents(t *testing.T) {
	b := newBench(t, nil)
	topic := b.topic(1)
	c := b.open(topic, "a")
	f := b.fan()
	inc := f.wants(topic, "a")
	b.produce(topic, 0, repeat(20, "a", "b")...)
	// Announced at 4, then what matches, in two sections; a third is empty.
	f.send(inc, f.section(c.sub, 0, 4, 4, 4))
	c.goLive()
	require.Equal(t, map[int32]int64{0: 4}, c.at)
	f.send(inc,
		f.section(c.sub, 0, 4, 8, 8, event(4, "a"), event(6, "a")),
		f.section(c.sub, 0, 8, 10, 10, event(8, "a")),
		f.section(c.sub, 0, 10, 11, 11))
	c.upTo(0, 11)
	require.Equal(t, []int64{4, 6, 8}, c.got[0])
	require.Zero(t, testutil.ToFloat64(b.feed.metrics.replay.fetches))
}

func TestGapsDuplicatesAndDisorderAreMended(t *testing.T) {
	b := newBench(t, nil)
	topic := b.topic(1)
	c := b.open(topic, "a")
	f := b.fan()
	inc := f.wants(topic, "a")
	b.produce(topic, 0, repeat(40, "a")...)
	all := func(from, to int64) stream.Section {
		var rs []stream.Record
		for o := from; o < to; o++ {
			rs = append(rs, event(o, "a"))
		}
		return f.section(c.sub, 0, from, to, 40, rs...)
	}
	f.send(inc, all(0, 2))
	c.goLive()
	c.at[0] = 0
	f.send(inc, all(0, 4), all(2, 6), all(2, 6))       // doubled
	f.send(inc, all(10, 12))                           // [6, 10) was lost
	f.send(inc, all(20, 25), all(15, 20), all(12, 15)) // disorder
	f.send(inc, all(24, 40), all(30, 35))
	// What nobody should look at.
	foreign := all(0, 40)
	foreign.Deliveries[3].Key = []byte("b")
	require.NoError(t, f.write(t.Context(), "another", inc.Delivery, foreign))
	_, err := b.env.Client.Append(t.Context(), inc.Delivery, 0, []broker.AppendRecord{{Value: []byte("rubbish")}, {Value: nil}})
	require.NoError(t, err)
	other := all(0, 40)
	other.Topic[0]++
	f.send(inc, other)
	c.upTo(0, 40)
	require.Equal(t, upFrom(0, 40), c.got[0])
	b.until("rubbish is counted", func() bool { return testutil.ToFloat64(b.feed.metrics.undecodable) == 3 })
	b.until("foreign topic is counted", func() bool { return testutil.ToFloat64(b.feed.metrics.unknown) == 1 })
	require.NotZero(t, testutil.ToFloat64(b.feed.metrics.verdicts["gap"]))
}

// TestTheTapeIsNotReadBelowX is hole S1: a key that is new to the node is not on
// the tape, although the tape spans the offsets.
func TestTheTapeIsNotReadBelowX(t *testing.T) {
	b := newBench(t, nil)
	topic := b.topic(1)
	b.produce(topic, 0, repeat(20, "a", "k")...)
	first := b.open(topic, "a")
	f := b.fan()
	inc := f.wants(topic, "a")
	var as []stream.Record
	for o := int64(0); o < 20; o += 2 {
		as = append(as, event(o, "a"))
	}
	f.send(inc, f.section(first.sub, 0, 0, 20, 20, as...))
	first.goLive()
	second := b.open(topic, "k")
	inc = f.wants(topic, "k")
	f.send(inc, f.section(first.sub, 0, 20, 20, 20))
	second.goLive()
	require.Equal(t, int64(20), second.at[0])
	second.at[0] = 4
	second.upTo(0, 20)
	require.Equal(t, []int64{5, 7, 9, 11, 13, 15, 17, 19}, second.got[0])
	require.NotZero(t, testutil.ToFloat64(b.feed.metrics.replay.fetches), "from Kafka")
	both := b.open(topic, "a", "k").goLive()
	both.at[0] = 0
	both.upTo(0, 20)
	require.Equal(t, upFrom(0, 20), both.got[0])
}

func TestLateSectionsWithOldInterestsCoverNothing(t *testing.T) {
	b := newBench(t, nil)
	topic := b.topic(1)
	a := b.open(topic, "a")
	f := b.fan()
	inc := f.wants(topic, "a")
	old := f.pos()
	k := b.open(topic, "k")
	f.wants(topic, "k")
	f.send(inc, f.section(a.sub, 0, 0, 0, 0))
	k.goLive()
	a.goLive()
	b.produce(topic, 0, "a", "k", "a", "k")
	s := f.section(a.sub, 0, 0, 4, 4, event(0, "a"), event(2, "a"))
	s.Interests = old
	f.send(inc, s)
	k.upTo(0, 4)
	a.upTo(0, 4)
	require.Equal(t, []int64{1, 3}, k.got[0])
	require.Equal(t, []int64{0, 2}, a.got[0])
}

func TestWithoutAnyFanoutTheFeedIsRead(t *testing.T) {
	b := newBench(t, func(o *Options) { o.Silence = 300 * time.Millisecond })
	topic := b.topic(2)
	b.produce(topic, 0, repeat(10, "a", "b")...)
	began := time.Now()
	c := b.open(topic, "a").goLive()
	whole := b.open(topic).goLive()
	t.Logf("live after %v", time.Since(began))
	require.Equal(t, map[int32]int64{0: 10, 1: 0}, c.at)
	for range 20 {
		b.produce(topic, 0, "a", "b")
		b.produce(topic, 1, "b", "a", "a")
	}
	c.upTo(0, 50)
	c.upTo(1, 60)
	whole.upTo(0, 50)
	whole.upTo(1, 60)
	require.Equal(t, upFrom(10, 50), whole.got[0])
	require.Equal(t, upFrom(0, 60), whole.got[1])
	require.Len(t, c.got[0], 20)
	require.Len(t, c.got[1], 40)
	require.NotZero(t, testutil.ToFloat64(b.feed.metrics.bypassBytes))
	b.until("bypass is counted", func() bool { return b.feed.Stats().Bypassing == 2 })
}

func TestReplayHandsOverExactlyOnceWhileProducing(t *testing.T) {
	b := newBench(t, nil)
	topic := b.topic(2)
	for range 20 {
		b.produce(topic, 0, repeat(50, "a", "b", "c")...)
		b.produce(topic, 1, repeat(50, "c", "a")...)
	}
	rnd, starts := rand.New(rand.NewPCG(1, 2)), rand.New(rand.NewPCG(3, 4))
	b.runFan(topic, func(secs []stream.Section) []stream.Section {
		switch rnd.IntN(10) {
		case 0: // lost
			return secs[:rnd.IntN(len(secs)+1)]
		case 1: // doubled
			return append(secs, secs...)
		case 2:
			rnd.Shuffle(len(secs), func(i, j int) { secs[i], secs[j] = secs[j], secs[i] })
		}
		return secs
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil && i < 150; i++ {
			for p := range int32(2) {
				_, err := b.env.Client.Append(ctx, topic, p, []broker.AppendRecord{
					{Key: []byte("a"), Value: []byte("a")}, {Key: []byte("b"), Value: []byte("b")},
				})
				if err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		}
	})
	defer func() { cancel(); wg.Wait() }()
	var cs []*client
	var begin []map[int32]int64
	for _, keys := range [][]string{nil, {"a"}, {"a", "b"}, {"c"}, {"nobody"}} {
		c := b.open(topic, keys...)
		for p := range int32(2) {
			c.at[p] = starts.Int64N(1000)
		}
		begin = append(begin, maps.Clone(c.at))
		c.read() // from Kafka, before X is known
		cs = append(cs, c)
		time.Sleep(20 * time.Millisecond)
	}
	wg.Wait()
	for p := range int32(2) {
		want := b.oracle(topic, p)
		end := want[len(want)-1].Offset + 1
		for i, c := range cs {
			c.upTo(p, end)
			var offs []int64
			for _, r := range want {
				if newFilter(c.keys).match(&Event{Key: r.Key}) && r.Offset >= begin[i][p] {
					offs = append(offs, r.Offset)
				}
			}
			require.Equal(t, offs, c.got[p])
			require.Empty(t, c.gaps[p])
		}
	}
}

// oracle reads a partition with a reader of its own.
func (b *bench) oracle(topic string, p int32) (out []stream.Record) {
	b.t.Helper()
	r := b.env.Client.NewReader(topic, stream.TopicID{}, p)
	defer r.Close()
	for at := int64(0); ; {
		s, err := r.Read(b.t.Context(), at, 1<<20, 0)
		require.NoError(b.t, err)
		for _, x := range s.Records {
			out = append(out, stream.Record{Offset: x.Offset, Key: append([]byte(nil), x.Key...)})
		}
		if at = s.To; at >= s.End {
			return out
		}
	}
}

func TestWhatRetentionRemovedIsAGap(t *testing.T) {
	b := newBench(t, nil)
	topic := b.topic(1)
	b.produce(topic, 0, repeat(10, "a")...)
	b.produce(topic, 0, repeat(10, "a")...)
	c := b.open(topic)
	b.deleteBefore(topic, 0, 10)
	c.at[0] = 3
	c.upTo(0, 20)
	require.Equal(t, []Gap{{3, 10, CauseRetention}}, c.gaps[0])
	require.Equal(t, upFrom(10, 20), c.got[0])

	// The same in front of the tape's head: nobody told of [20, 30) in time.
	f := b.fan()
	inc := f.wants(topic, "")
	f.send(inc, f.section(c.sub, 0, 20, 20, 20))
	live := b.open(topic).goLive()
	b.produce(topic, 0, repeat(10, "a")...)
	b.produce(topic, 0, repeat(10, "a")...)
	b.deleteBefore(topic, 0, 30)
	f.send(inc, f.section(c.sub, 0, 40, 40, 40))
	live.upTo(0, 40)
	require.Equal(t, []Gap{{20, 30, CauseRetention}}, live.gaps[0])
	require.Equal(t, upFrom(30, 40), live.got[0])
	require.NotZero(t, testutil.ToFloat64(b.feed.metrics.verdicts["retention"]))
}

// A cursor may stand beyond the tape's head and below what Kafka still has. It
// asks once, and not in a circle until the tape has come there.
func TestACursorBeyondTheTapeBelowWhatIsRetained(t *testing.T) {
	b := newBench(t, func(o *Options) { o.Silence = time.Minute }) // nobody moves the tape
	topic := b.topic(1)
	b.produce(topic, 0, repeat(10, "a")...)
	f := b.fan()
	c := b.open(topic)
	f.send(f.wants(topic, ""), f.section(c.sub, 0, 3, 3, 3))
	c.goLive()
	b.deleteBefore(topic, 0, 9)
	c.at[0] = 7
	c.upTo(0, 10)
	require.Equal(t, []Gap{{7, 9, CauseRetention}}, c.gaps[0])
	require.Equal(t, []int64{9}, c.got[0])
}

func TestATopicThatIsMadeAgainResets(t *testing.T) {
	b := newBench(t, func(o *Options) { o.Silence = 300 * time.Millisecond })
	topic := b.topic(1)
	b.produce(topic, 0, repeat(30, "a")...)
	c := b.open(topic, "a").goLive()
	old := c.sub.Epoch()
	require.NoError(t, b.env.Client.DeleteTopic(t.Context(), topic))
	b.env.Create(t, topic, 2)
	b.produce(topic, 0, "a", "b", "a")
	b.produce(topic, 1, "a")
	c.wait("reset", func() bool { c.read(); return c.reset > 0 })
	require.NotEqual(t, old, c.sub.Epoch())
	c.upTo(0, 3)
	c.upTo(1, 1)
	require.Equal(t, 1, c.reset)
	require.Equal(t, map[int32][]int64{0: {0, 2}, 1: {0}}, c.got)
}

func TestATopicThatIsDeletedIsGone(t *testing.T) {
	b := newBench(t, nil)
	topic := b.topic(1)
	c := b.open(topic, "a")
	require.NoError(t, b.env.Client.DeleteTopic(t.Context(), topic))
	c.wait("gone", func() bool { return c.read()[0] == Gone })
	_, err := b.feed.Open(topic, nil, func() {})
	require.ErrorIs(t, err, stream.ErrUnknownTopic)
}

func TestAnAddedPartitionStartsAtZero(t *testing.T) {
	b := newBench(t, nil)
	topic := b.topic(1)
	b.runFan(topic, nil) // it does not see the new partition
	c := b.open(topic, "a").goLive()
	require.NoError(t, b.env.Client.AddPartitions(t.Context(), topic, 3))
	b.produce(topic, 2, "a", "b", "a")
	c.wait("partitions", func() bool { return len(c.sub.Partitions()) == 3 })
	c.upTo(2, 3)
	require.Equal(t, []int64{0, 2}, c.got[2])
	require.Empty(t, c.got[1])
}

func TestACursorBeyondTheEnd(t *testing.T) {
	b := newBench(t, nil)
	topic := b.topic(1)
	b.produce(topic, 0, "a", "a", "a")
	c := b.open(topic, "a")
	status := func(cursor int64) Status {
		var st Status
		c.wait("an answer", func() bool { st = c.sub.Read(0, cursor, 10).Status; return st != Pending || cursor == 3 })
		return st
	}
	require.Equal(t, Beyond, status(100), "before X is known")
	require.Equal(t, Pending, status(3), "at the end, X not known")
	b.runFan(topic, nil)
	c.goLive()
	require.Equal(t, Beyond, status(100))
	require.Equal(t, AtHead, status(3))
	require.Equal(t, More, status(0))
}

func TestManySubsShareFetchesAndFrames(t *testing.T) {
	b := newBench(t, nil)
	topic := b.topic(1)
	for range 20 {
		b.produce(topic, 0, repeat(100, "a", "b", "c", "d")...)
	}
	var cs []*client
	for i := range 300 {
		c := b.open(topic, []string{"a", "b", "c", "d"}[i%4])
		cs = append(cs, c)
	}
	b.runFan(topic, nil)
	for _, c := range cs {
		c.upTo(0, 2000)
		require.Len(t, c.got[0], 500)
	}
	fetches := testutil.ToFloat64(b.feed.metrics.replay.fetches)
	require.LessOrEqual(t, fetches, 20.0)
	t.Logf("%v fetches for 300 subs", fetches)
	// Once at most on the tape, and once in a replayed block.
	require.LessOrEqual(t, testutil.ToFloat64(b.feed.metrics.frames.encoded[FormText]), 2*2000.0)
}

func TestInterestsLingerAndAreShared(t *testing.T) {
	b := newBench(t, nil)
	topic := b.topic(1)
	f := b.fan()
	a1, a2 := b.open(topic, "a"), b.open(topic, "a", "b")
	inc := f.wants(topic, "b")
	require.Equal(t, 2, inc.Count())
	a1.sub.Close()
	a2.sub.Close()
	b.until("interests end", func() bool {
		require.NoError(t, f.sync(t.Context()))
		return inc.Count() == 0 && b.feed.Stats().Topics == 0
	})
	require.Zero(t, b.feed.Stats().Interests)
	b.until("loops end", func() bool { return testutil.ToFloat64(b.feed.metrics.followed) == 0 })
	// A later one takes another id (S9).
	whole := b.open(topic)
	f.wants(topic, "")
	b.open(topic, "z")
	require.Equal(t, 1, b.feed.Stats().Interests, "the whole topic serves keys")
	whole.sub.Close()
}

func TestAnIncarnationThatIsEndedIsFollowedByAnother(t *testing.T) {
	for name, end := range map[string]func(b *bench, inc *ilog.Incarnation){
		"end record": func(b *bench, inc *ilog.Incarnation) {
			k, v, err := ilog.Record{Kind: ilog.KindEnd, Incarnation: inc.Name}.Encode()
			require.NoError(b.t, err)
			_, err = b.env.Client.Append(b.t.Context(), ilog.Topic, 0, []broker.AppendRecord{{Key: k, Value: v}})
			require.NoError(b.t, err)
		},
		"delivery topic gone": func(b *bench, inc *ilog.Incarnation) {
			require.NoError(b.t, b.env.Client.DeleteTopic(b.t.Context(), inc.Delivery))
		},
		"interest topic made again": func(b *bench, _ *ilog.Incarnation) {
			require.NoError(b.t, b.env.Client.DeleteTopic(b.t.Context(), ilog.Topic))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, func(o *Options) { o.Silence = 500 * time.Millisecond })
			topic := b.topic(1)
			stop := b.runFan(topic, nil)
			c := b.open(topic, "a").goLive()
			f := b.fan()
			inc := f.wants(topic, "a")
			b.produce(topic, 0, repeat(50, "a", "b")...)
			c.upTo(0, 50)
			stop()
			end(b, inc)
			b.produce(topic, 0, repeat(50, "a", "b")...)
			b.until("another incarnation", func() bool {
				i := b.feed.Stats().Incarnation
				return i != "" && i != inc.Name && b.feed.Ready() == nil
			})
			b.runFan(topic, nil)
			b.produce(topic, 0, repeat(50, "a", "b")...)
			c.upTo(0, 150)
			require.Len(t, c.got[0], 75)
			f = b.fan()
			now := f.wants(topic, "a")
			require.NotEqual(t, inc.Name, now.Name)
			if old := f.state.Get(inc.Name); old != nil {
				require.True(t, old.Ended)
			}
			require.Zero(t, testutil.ToFloat64(b.feed.metrics.replay.fetches), "the tape went on")
		})
	}
}

func TestOldSectionsAreNotTakenByANewIncarnation(t *testing.T) {
	b := newBench(t, nil)
	topic := b.topic(1)
	c := b.open(topic, "a")
	p := c.sub.inst.Load().part(0)
	b.until("loop knows its incarnation", func() bool { return p.box.section(tagged{99, stream.Section{Topic: c.sub.Epoch()}}) })
	b.until("foreign section is counted", func() bool { return testutil.ToFloat64(b.feed.metrics.foreign) >= 1 })
}

func TestStoppingWithdrawsEverything(t *testing.T) {
	reg := prometheus.NewRegistry()
	b := newBench(t, func(o *Options) { o.Registerer = reg })
	topic := b.topic(1)
	b.open(topic, "a")
	f := b.fan()
	inc := f.wants(topic, "a")
	b.stop()
	require.NoError(t, f.sync(t.Context()))
	require.True(t, inc.Ended)
	for range inc.IDs {
		t.Fatal("an interest has no tombstone")
	}
	ts, err := b.env.Client.Topics(t.Context(), inc.Delivery)
	require.NoError(t, err)
	require.Empty(t, ts)
	require.Error(t, b.feed.Run(t.Context()), "once only")
	_, err = reg.Gather()
	require.NoError(t, err)
}

func TestOpenBeforeRun(t *testing.T) {
	b := newBench(t, nil)
	topic := b.topic(1)
	b.produce(topic, 0, "a", "a")
	cat, err := catalog.New(catalog.Options{Client: b.env.Client, Rules: []catalog.Rule{{Pattern: "*", Format: "string"}}})
	require.NoError(t, err)
	require.NoError(t, cat.Refresh(t.Context()))
	feed, err := New(Options{Catalog: cat, Client: b.env.Client, Node: "n2"})
	require.NoError(t, err)
	require.Error(t, feed.Ready())
	b2 := &bench{t: t, env: b.env, feed: feed}
	c := b2.open(topic, "a")
	c.read()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = feed.Run(ctx) })
	defer func() { cancel(); wg.Wait() }()
	c.upTo(0, 2)
	require.Equal(t, []int64{0, 1}, c.got[0])
}

func TestScanReadsToTheEnd(t *testing.T) {
	b := newBench(t, nil)
	topic := b.topic(1)
	c := b.open(topic, "a")
	scan := func(from, to int64) (got []int64, end int64, err error) {
		end, err = c.sub.Scan(t.Context(), 0, from, to, func(ch Chunk) bool {
			got = append(got, offsets(ch.Events)...)
			return true
		})
		return got, end, err
	}
	got, end, err := scan(0, 1<<62)
	require.NoError(t, err)
	require.Zero(t, end)
	require.Empty(t, got)
	b.produce(topic, 0, repeat(3000, "a", "b")...)
	got, end, err = scan(0, 1<<62)
	require.NoError(t, err)
	require.Equal(t, int64(3000), end)
	require.Len(t, got, 1500)
	b.produce(topic, 0, "a")
	got, end, err = scan(2990, 1<<62)
	require.NoError(t, err)
	require.Equal(t, int64(3001), end, "asked afresh")
	require.Equal(t, []int64{2990, 2992, 2994, 2996, 2998, 3000}, got)
	got, _, err = scan(10, 15)
	require.NoError(t, err)
	require.Equal(t, []int64{10, 12, 14}, got)
	n := 0
	_, err = c.sub.Scan(t.Context(), 0, 0, 3000, func(Chunk) bool { n++; return false })
	require.NoError(t, err)
	require.Equal(t, 1, n)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.sub.Scan(ctx, 0, 3001, 1<<62, func(Chunk) bool { return true })
	if err != nil {
		require.True(t, errors.Is(err, context.Canceled))
	}
	at, err := c.sub.OffsetsAt(t.Context(), time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.Equal(t, map[int32]int64{0: 3001}, at, "past the newest is the end")
	at, err = c.sub.OffsetsAt(t.Context(), time.Unix(0, 0))
	require.NoError(t, err)
	require.Equal(t, map[int32]int64{0: 0}, at)
	bs, err := c.sub.Bounds(t.Context())
	require.NoError(t, err)
	require.Equal(t, broker.Bounds{Start: 0, End: 3001}, bs[0])
}

func TestSubsAreWokenWhenASchemaCame(t *testing.T) {
	var away atomic.Bool
	away.Store(true)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if away.Load() {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte(`{"schema":"\"long\""}`))
	}))
	t.Cleanup(srv.Close)
	reg, err := schemas.NewRegistry(schemas.RegistryOptions{URL: srv.URL})
	require.NoError(t, err)
	b := newBench(t, func(o *Options) {
		o.Registry = reg
		o.Catalog, err = catalog.New(catalog.Options{Client: o.Client, Rules: []catalog.Rule{{Pattern: "*"}}})
		require.NoError(t, err)
	})
	topic := b.topic(1)
	_, err = b.env.Client.Append(t.Context(), topic, 0, []broker.AppendRecord{
		{Value: append(schemas.AppendWireHeader(nil, 1), 4)}, {Value: nil}, {Value: []byte("rubbish")},
	})
	require.NoError(t, err)
	c := b.open(topic)
	var evs []*Event
	c.wait("events", func() bool {
		evs = append(evs, c.sub.Read(0, 0, 10).Events...)
		return len(evs) > 0
	})
	_, err = evs[0].Frame(FormText)
	require.ErrorIs(t, err, errSchemaAway)
	null, err := evs[1].Frame(FormText)
	require.NoError(t, err)
	require.Contains(t, string(null), `"data":null`)
	_, err = evs[2].Frame(FormText)
	require.ErrorAs(t, err, new(*schemas.PoisonError))
	away.Store(false)
	var frame []byte
	c.wait("schema", func() bool {
		frame, err = evs[0].Frame(FormText)
		return err == nil
	})
	require.Contains(t, string(frame), `"data":2`)
}
