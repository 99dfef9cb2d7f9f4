package coverage

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/stream"
)

var t0 = time.Unix(1000, 0)

// said is a section without what is always the same.
type said struct {
	from, to, e, end int64
	n                int
}

func short(outs []Out) []said {
	var s []said
	for _, o := range outs {
		x := o.Section
		s = append(s, said{x.From, x.To, x.Interests.Offset, x.End, len(x.Deliveries)})
	}
	return s
}

func routed(r ...stream.Record) map[string][]stream.Record {
	return map[string][]stream.Record{"n": r}
}

func TestANewInterestIsAnsweredByTwoSections(t *testing.T) {
	c := NewChains(topicA, 3, 7, 10)
	require.Equal(t, []said{{10, 10, 4, 10, 0}}, short(c.Interests("n", at(4), true)))
	require.Empty(t, c.Routed(20, 30, at(4), nil, t0), "nothing matched: the chain grows")
	outs := c.Interests("n", at(9), true)
	require.Equal(t, []said{{10, 20, 4, 30, 0}, {20, 20, 9, 30, 0}}, short(outs))
	require.Equal(t, stream.Section{Topic: topicA, Partition: 3, Interests: at(9), Generation: 7, From: 20, To: 20, End: 30}, outs[1].Section)
	c.SetGeneration(8)
	outs = c.Routed(30, 30, at(12), routed(recs(21, 25)...), t0)
	require.Equal(t, []said{{20, 30, 9, 30, 2}}, short(outs))
	require.EqualValues(t, 8, outs[0].Section.Generation)
	require.EqualValues(t, 30, c.Next())
}

func TestEIsALowerBoundWhateverWasAppliedMeanwhile(t *testing.T) {
	c := NewChains(topicA, 0, 1, 0)
	c.Interests("n", at(4), true)
	c.Routed(10, 10, at(4), nil, t0)
	// Others' changes moved the position; the section began by 4.
	require.Equal(t, []said{{0, 20, 4, 20, 1}}, short(c.Routed(20, 20, at(50), routed(recs(15)...), t0)))
	require.Equal(t, []said{{20, 20, 60, 20, 0}}, short(c.Cover(t0.Add(time.Second), at(60))), "an empty one begins where the next will")
}

func TestAFanOutThatLoadedItsMapAnewDoesNotClaimTheOldPosition(t *testing.T) {
	for _, lower := range []stream.InterestPos{at(3), {Log: logB, Offset: 900}} {
		c := NewChains(topicA, 0, 1, 0)
		c.Interests("n", at(40), true)
		c.Routed(10, 10, at(40), nil, t0)
		outs := c.Routed(20, 20, lower, routed(recs(15)...), t0)
		require.Equal(t, []said{{0, 10, 40, 10, 0}, {10, 20, lower.Offset, 20, 1}}, short(outs))
		require.Equal(t, lower, outs[1].Section.Interests)
	}
}

func TestCoveringSections(t *testing.T) {
	c := NewChains(topicA, 0, 1, 0)
	require.Empty(t, c.Cover(t0, at(4)))
	c.Interests("n", at(4), true)
	require.Empty(t, c.Cover(t0.Add(time.Minute), at(4)), "no fetch so far")
	c.Routed(10, 15, at(4), routed(recs(5)...), t0)
	require.Empty(t, c.Cover(t0.Add(999*time.Millisecond), at(4)), "it got one")
	c.Routed(15, 25, at(4), nil, t0.Add(900*time.Millisecond))
	require.Equal(t, []said{{10, 15, 4, 25, 0}}, short(c.Cover(t0.Add(time.Second), at(4))), "busy, but nothing matched")
	require.Empty(t, c.Cover(t0.Add(1500*time.Millisecond), at(4)))
	require.Empty(t, c.Cover(t0.Add(2*time.Second), at(4)), "the last fetch is too old to speak of")
	c.Routed(15, 25, at(4), nil, t0.Add(2*time.Second))
	require.Equal(t, []said{{15, 15, 4, 25, 0}}, short(c.Cover(t0.Add(2*time.Second), at(4))))
}

func TestANodeThatWantsNothingIsForgotten(t *testing.T) {
	c := NewChains(topicA, 0, 1, 0)
	c.Interests("n", at(4), true)
	require.Empty(t, c.Interests("n", at(5), false))
	c.Routed(10, 10, at(5), nil, t0)
	require.Empty(t, c.Cover(t0, at(5)))
	require.Equal(t, []said{{10, 10, 6, 10, 0}}, short(c.Interests("n", at(6), true)), "it begins anew where the partition stands")
}

func TestWhatRetentionTookIsNotSpokenOf(t *testing.T) {
	c := NewChains(topicA, 0, 1, 0)
	c.Interests("n", at(4), true)
	c.Routed(10, 10, at(4), nil, t0)
	require.Equal(t, []said{{0, 10, 4, 10, 0}}, short(c.Skip(50)))
	require.Equal(t, []said{{50, 60, 4, 60, 1}}, short(c.Routed(60, 60, at(4), routed(recs(55)...), t0)))
	require.Empty(t, c.Skip(60))
}

func TestMergeJoinsNeighboursUnderTheLowerE(t *testing.T) {
	m, ok := Merge(sec(10, 20, 5, 11, 15), sec(20, 30, 5, 22))
	require.True(t, ok)
	require.Equal(t, sec(10, 30, 5, 11, 15, 22), m)
	m, ok = Merge(sec(10, 20, 5, 11), sec(20, 30, 4, 22))
	require.True(t, ok)
	require.Equal(t, sec(10, 30, 4, 11, 22), m)
	m, ok = Merge(sec(20, 20, 5), sec(20, 30, 6, 22))
	require.True(t, ok)
	require.Equal(t, sec(20, 30, 6, 22), m, "an empty one holds nothing back")

	other := sec(20, 30, 5)
	other.Topic = topicB
	foreign := sec(20, 30, 5)
	foreign.Interests.Log = logB
	part := sec(20, 30, 5)
	part.Partition = 1
	var many []int64
	for i := range int64(maxMerged) {
		many = append(many, 20+i)
	}
	for name, b := range map[string]stream.Section{
		"a hole": sec(21, 30, 5), "an overlap": sec(19, 30, 5), "an announcement": sec(20, 20, 6), "an announcement, merged before": sec(20, 30, 6),
		"another topic": other, "another log": foreign, "another partition": part, "too much": sec(20, 20+maxMerged, 5, many...),
	} {
		_, ok := Merge(sec(10, 20, 5, 11), b)
		require.False(t, ok, name)
	}
}

func TestMergeLeavesItsInputsAsTheyAre(t *testing.T) {
	backing := recs(11, 99)
	a := sec(10, 20, 5)
	a.Deliveries = backing[:1]
	_, ok := Merge(a, sec(20, 30, 5, 22))
	require.True(t, ok)
	require.EqualValues(t, 99, backing[1].Offset)
}

func TestSplitKeepsEverySentenceTrue(t *testing.T) {
	size := func(r *stream.Record) int { return len(r.Value) }
	r := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		s := sec(0, 0, 5)
		for range r.IntN(9) {
			s.To += r.Int64N(3)
			s.Deliveries = append(s.Deliveries, stream.Record{Offset: s.To, Value: make([]byte, r.IntN(14))})
			s.To++
		}
		s.To += r.Int64N(3)
		covered := map[int64]bool{}
		var got []stream.Record
		next := s.From
		for _, p := range Split(s, 10, size) {
			require.GreaterOrEqual(t, p.From, next)
			require.GreaterOrEqual(t, p.To, p.From)
			sum := 0
			for _, d := range p.Deliveries {
				require.True(t, d.Offset >= p.From && d.Offset < p.To)
				sum += size(&d)
			}
			require.LessOrEqual(t, sum, 10)
			for o := p.From; o < p.To; o++ {
				covered[o] = true
			}
			got, next = append(got, p.Deliveries...), p.To
		}
		var want []stream.Record
		for _, d := range s.Deliveries {
			if len(d.Value) <= 10 {
				want = append(want, d)
			}
			require.Equal(t, len(d.Value) <= 10, covered[d.Offset], "a record too large is in no part")
			delete(covered, d.Offset)
		}
		require.Equal(t, want, got)
		for _, d := range s.Deliveries {
			covered[d.Offset] = true
		}
		for o := s.From; o < s.To; o++ {
			require.True(t, covered[o], "offset %d of [%d, %d)", o, s.From, s.To)
			delete(covered, o)
		}
		require.Empty(t, covered)
	}
}
