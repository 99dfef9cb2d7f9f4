package fanout

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/stream"
)

func key(topic, k string) interest.Want { return interest.Want{Feed: topic, Key: k} }
func all(topic string) interest.Want    { return interest.Want{Feed: topic, All: true} }

func at(offset int64) stream.InterestPos { return stream.InterestPos{Offset: offset} }

func testTarget(b *builder, name string) *target { return &target{slot: b.slot(), incarnation: name} }

func names(ts []*target) []string {
	var out []string
	for _, t := range ts {
		out = append(out, t.incarnation)
	}
	return out
}

func TestASnapshotDoesNotChangeWhenTheNextIsBuilt(t *testing.T) {
	b := newBuilder()
	n1, n2 := testTarget(b, "n1"), testTarget(b, "n2")
	b.add(n1, key("quotes", "EURUSD"), 1)
	b.add(n1, all("trades"), 2)
	first := b.publish(at(2))

	b.add(n2, key("quotes", "EURUSD"), 3)
	b.drop(n1, key("quotes", "EURUSD"))
	b.drop(n1, all("trades"))
	second := b.publish(at(5))

	require.Equal(t, []string{"n1"}, names(first.topics["quotes"].lookup([]byte("EURUSD"))))
	require.Equal(t, []string{"n1"}, names(first.topics["trades"].whole))
	require.Equal(t, at(2), first.pos)
	require.Equal(t, []string{"n2"}, names(second.topics["quotes"].lookup([]byte("EURUSD"))))
	require.Nil(t, second.topics["trades"], "nobody wants it any more")
	require.Equal(t, at(5), second.pos)
}

func TestASnapshotSharesWhatDidNotChange(t *testing.T) {
	b := newBuilder()
	n := testTarget(b, "n")
	b.add(n, all("quotes"), 1)
	b.add(n, all("trades"), 2)
	first := b.publish(at(2))
	second := b.publish(at(9))
	require.Same(t, first.topics["quotes"], second.topics["quotes"])
	require.Equal(t, at(9), second.pos)
	b.add(n, key("trades", "x"), 10)
	third := b.publish(at(10))
	require.Same(t, first.topics["quotes"], third.topics["quotes"])
	require.NotSame(t, first.topics["trades"], third.topics["trades"])
}

func TestRoutesTellWhereANodesInterestsLastGrew(t *testing.T) {
	b := newBuilder()
	n1, n2 := testTarget(b, "n1"), testTarget(b, "n2")
	b.add(n1, key("quotes", "a"), 3)
	b.add(n2, key("quotes", "a"), 4)
	b.add(n1, key("quotes", "b"), 7)
	b.drop(n2, key("quotes", "nothing"))
	r := b.publish(at(8)).topics["quotes"]
	require.Len(t, r.nodes, 2)
	require.EqualValues(t, 7, r.nodes[0].changed)
	require.EqualValues(t, 4, r.nodes[1].changed)
}

func TestSlotsOfTheDeadAreUsedAgain(t *testing.T) {
	b := newBuilder()
	n1, n2 := testTarget(b, "n1"), testTarget(b, "n2")
	b.release(n1)
	n3 := testTarget(b, "n3")
	require.Equal(t, n1.slot, n3.slot)
	require.NotEqual(t, n2.slot, n3.slot)
}

// Random changes against a plain map of wants: each snapshot must answer like
// the map did when it was made, also later.
func TestSnapshotsAgreeWithAPlainMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	type want struct {
		node int
		w    interest.Want
	}
	b := newBuilder()
	var nodes []*target
	for i := range 4 {
		nodes = append(nodes, testTarget(b, fmt.Sprint("n", i)))
	}
	wants := map[want]bool{}
	check := func(s *snapshot, wants map[want]bool) {
		for topic := range 2 {
			r := s.topics[fmt.Sprint("t", topic)]
			if r == nil {
				r = &topicRoutes{}
			}
			for n, target := range nodes {
				any := false
				for k := range 20 {
					w := key(fmt.Sprint("t", topic), fmt.Sprint("k", k))
					require.Equal(t, wants[want{n, w}], contains(r.lookup([]byte(w.Key)), target))
					any = any || wants[want{n, w}]
				}
				whole := wants[want{n, all(fmt.Sprint("t", topic))}]
				require.Equal(t, whole, contains(r.whole, target))
				listed := false
				for _, nr := range r.nodes {
					listed = listed || nr.target == target
				}
				require.Equal(t, any || whole, listed)
			}
		}
	}
	var past []func()
	for step := range 3000 {
		n := rng.IntN(len(nodes))
		w := key(fmt.Sprint("t", rng.IntN(2)), fmt.Sprint("k", rng.IntN(20)))
		if rng.IntN(10) == 0 {
			w = all(w.Feed)
		}
		if rng.IntN(2) == 0 {
			b.add(nodes[n], w, int64(step))
			wants[want{n, w}] = true
		} else {
			b.drop(nodes[n], w)
			delete(wants, want{n, w})
		}
		if rng.IntN(100) == 0 {
			s, then := b.publish(at(int64(step))), map[want]bool{}
			for k, v := range wants {
				then[k] = v
			}
			check(s, then)
			past = append(past, func() { check(s, then) })
		}
	}
	for _, again := range past {
		again()
	}
}

func contains(ts []*target, t *target) bool {
	for _, x := range ts {
		if x == t {
			return true
		}
	}
	return false
}

func TestRecordsGoToWhoWantsThemByTopicAndKey(t *testing.T) {
	b := newBuilder()
	whole, keyed, both, none := testTarget(b, "whole"), testTarget(b, "keyed"), testTarget(b, "both"), testTarget(b, "none")
	b.add(whole, all("quotes"), 1)
	b.add(keyed, key("quotes", "a"), 2)
	b.add(keyed, key("quotes", ""), 3)
	b.add(both, all("quotes"), 4)
	b.add(both, key("quotes", "a"), 5)
	b.add(none, key("trades", "a"), 6)
	routes := b.publish(at(6)).topics["quotes"]

	buffer := []byte("a1b2c3")
	recs := []stream.Record{
		{Offset: 1, Key: buffer[0:1], Value: buffer[1:2]},
		{Offset: 2, Key: buffer[2:3], Value: buffer[3:4]},
		{Offset: 4, Key: nil, Value: buffer[5:6]},      // no key: whole-topic interests only
		{Offset: 5, Key: buffer[0:0], Value: nil},      // empty key, tombstone
		{Offset: 6, Key: buffer[0:1], Value: []byte{}}, // empty value
	}
	var r router
	for range 2 { // the second time with used scratch
		got := r.route(routes, recs)
		for i := range buffer {
			buffer[i] = '!' // the read buffer is used again
		}
		require.Equal(t, []int64{1, 2, 4, 5, 6}, offsets(got["whole"]))
		require.Equal(t, []int64{1, 2, 4, 5, 6}, offsets(got["both"]))
		require.Equal(t, []int64{1, 5, 6}, offsets(got["keyed"]))
		require.NotContains(t, got, "none")
		require.Equal(t, "a", string(got["keyed"][0].Key))
		require.Equal(t, "1", string(got["keyed"][0].Value))
		require.Nil(t, got["whole"][2].Key)
		require.Nil(t, got["keyed"][1].Value)
		require.NotNil(t, got["keyed"][1].Key)
		require.NotNil(t, got["keyed"][2].Value)
		copy(buffer, "a1b2c3")
	}
	require.Empty(t, r.route(nil, recs))
	require.Empty(t, r.route(routes, nil))
}

func TestOnlyWhatIsRoutedIsCopied(t *testing.T) {
	b := newBuilder()
	n1, n2 := testTarget(b, "n1"), testTarget(b, "n2")
	b.add(n1, key("quotes", "a"), 1)
	b.add(n2, key("quotes", "a"), 2)
	routes := b.publish(at(2)).topics["quotes"]
	recs := []stream.Record{{Offset: 1, Key: []byte("a"), Value: []byte("1")}, {Offset: 2, Key: []byte("b"), Value: []byte("2")}}
	var r router
	got := r.route(routes, recs)
	require.Len(t, got, 2)
	require.Same(t, &got["n1"][0].Value[0], &got["n2"][0].Value[0], "one copy for all nodes")
	require.Equal(t, chunkBytes-2, len(r.arena.free))
}

func offsets(recs []stream.Record) []int64 {
	var out []int64
	for _, r := range recs {
		out = append(out, r.Offset)
	}
	return out
}

func BenchmarkRoute(b *testing.B) {
	bu := newBuilder()
	n1, n2, n3 := testTarget(bu, "n1"), testTarget(bu, "n2"), testTarget(bu, "n3")
	bu.add(n1, all("quotes"), 1)
	bu.add(n2, all("quotes"), 1)
	for i := range 500 {
		bu.add(n3, key("quotes", fmt.Sprint("K", i)), 1)
	}
	routes := bu.publish(at(1)).topics["quotes"]
	recs := make([]stream.Record, 1000)
	for i := range recs {
		recs[i] = stream.Record{Offset: int64(i), Key: fmt.Append(nil, "K", i), Value: make([]byte, 120)}
	}
	var r router
	b.ReportAllocs()
	for b.Loop() {
		r.route(routes, recs)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(recs)), "ns/record")
}

// A million interests of ten nodes, as at a start.
func BenchmarkLoadInterests(b *testing.B) {
	for b.Loop() {
		bu := newBuilder()
		var nodes []*target
		for i := range 10 {
			nodes = append(nodes, testTarget(bu, fmt.Sprint("n", i)))
		}
		for i := range 1_000_000 {
			bu.add(nodes[i%10], key("quotes", fmt.Sprint("K", i/3)), int64(i))
		}
		bu.publish(at(1_000_000))
		bu.add(nodes[0], key("quotes", "one more"), 1_000_001)
		bu.publish(at(1_000_001))
	}
}
