package feed

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSubsLeaveTheListsOfTheirKeys has subs leave in any order; each knows its
// place in each list at every step, or it could not be taken out without a look
// at the others.
func TestSubsLeaveTheListsOfTheirKeys(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 5))
	var x subIndex
	var subs []*Sub
	for i := range 300 {
		f := wholeTopic
		if i%10 > 0 {
			var want []string
			for range 1 + rnd.IntN(8) {
				want = append(want, fmt.Sprint(rnd.IntN(20)))
			}
			f = keys(want...)
		}
		s := &Sub{filter: f}
		x.add(s)
		subs = append(subs, s)
	}
	rnd.Shuffle(len(subs), func(i, j int) { subs[i], subs[j] = subs[j], subs[i] })
	for n := range subs {
		x.remove(subs[n])
		want, whole := map[string]int{}, 0
		for _, s := range subs[n+1:] {
			if s.filter.all {
				whole++
			}
			for i, key := range s.filter.keys {
				want[key]++
				require.Same(t, s, x.byKey[key][s.places[i]])
			}
		}
		got := map[string]int{}
		for key, list := range x.byKey {
			got[key] = len(list)
		}
		require.Equal(t, want, got)
		require.Len(t, x.whole, whole)
		require.Equal(t, len(subs)-n-1, x.len())
	}
}

// BenchmarkIndexRemove is how long the subs that leave hold up the wakes of their
// topic, each that wants the same 50 keys.
func BenchmarkIndexRemove(b *testing.B) {
	var want []string
	for k := range 50 {
		want = append(want, fmt.Sprintf("key%04d", k))
	}
	f := keys(want...)
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("%d subs", n), func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				var x subIndex
				subs := make([]*Sub, n)
				for i := range subs {
					subs[i] = &Sub{filter: f}
					x.add(subs[i])
				}
				b.StartTimer()
				for i := len(subs) - 1; i >= 0; i-- {
					x.remove(subs[i])
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/sub")
		})
	}
}
