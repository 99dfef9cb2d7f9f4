package gateway

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/internal/protocol"
)

// crowd sits n sessions in one lane that want what wants tells for each.
func crowd(tb testing.TB, n int, wants func(i int) []string) (*lane, []*session) {
	tb.Helper()
	sh := newShard(&errgroup.Group{}, newCores(1), newMetrics(nil, &snapshotLimits{}), slog.New(slog.DiscardHandler))
	l := &lane{shard: sh, closed: true} // its end closes nothing
	var all []*session
	for i := range n {
		keys, perr := protocol.NormalKeys(wants(i))
		require.Nil(tb, perr)
		s := newSession(&rules{}, textWire{}, takesAll{}, slog.New(slog.DiscardHandler))
		s.socket, s.shard = &socket{}, sh
		l.sit(s, &subscription{wish: &protocol.Subscribe{Keys: keys}}, false)
		all = append(all, s)
	}
	return l, all
}

func sameKeys(n int) []string {
	var out []string
	for k := range n {
		out = append(out, fmt.Sprintf("key%04d", k))
	}
	return out
}

// TestMembersLeaveTheListsOfTheirKeys has members come and leave in any order;
// each knows its place in each list at every step, or it could not be taken out
// without a look at the others.
func TestMembersLeaveTheListsOfTheirKeys(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 5))
	l, all := crowd(t, 300, func(int) []string {
		var keys []string
		for range 1 + rnd.IntN(8) {
			keys = append(keys, fmt.Sprint(rnd.IntN(20)))
		}
		return keys
	})
	rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for n := range all {
		l.leave(all[n])
		want := map[string]int{}
		for _, s := range all[n+1:] {
			for i, key := range s.keyed.keys {
				want[string(key)]++
				require.Same(t, s.keyed, l.byKey[string(key)][s.keyed.places[i]])
			}
		}
		got := map[string]int{}
		for key, list := range l.byKey {
			got[key] = len(list)
		}
		require.Equal(t, want, got)
	}
}

// BenchmarkLeave is what a lane's end costs its shard, for each member that
// wants the same 50 keys.
func BenchmarkLeave(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("%d members", n), func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				l, all := crowd(b, n, func(int) []string { return sameKeys(50) })
				b.StartTimer()
				for _, s := range all {
					l.leave(s)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/member")
		})
	}
}
