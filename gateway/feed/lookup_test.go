package feed

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/stream"
)

// TestLookupsAgreeWithAScan holds the ways to read a tape against each other:
// offsets with holes, evicted beginnings, cut chunks.
func TestLookupsAgreeWithAScan(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		tp := newTape(newBudget(1<<30), &source{counts: &newMetrics(nil).frames})
		start := r.Int64N(1000)
		tp.restart(start)
		next := start
		for range 1 + r.IntN(30) {
			recs := make([]stream.Record, r.IntN(20))
			for i := range recs {
				next += 1 + r.Int64N(3)
				recs[i] = rec(next, fmt.Sprintf("key%d", r.IntN(12)))
			}
			next++
			tp.append(recs, next, next, false)
		}
		if r.IntN(2) == 0 {
			tp.evict(1+r.Int64N(5000), next)
		}
		for range 20 {
			f := keys("key1", "key3", "key5", "nothing")
			cursor, limit := tp.start+r.Int64N(next-tp.start+1), 1+r.IntN(40)
			to := min(cursor+r.Int64N(300), tp.head)
			first, end := tp.all.search(cursor), tp.all.search(to)
			if first >= end {
				continue
			}
			want := tp.scan(nil, first, end, to, f, 1<<30)
			near := tp.lookupNear(nil, cursor, first, end, to, f, limit)
			far := tp.lookup(nil, cursor, to, f, limit)
			for name, got := range map[string]reading{"near": near, "far": far} {
				n := min(limit, len(want.evs))
				require.Equal(t, want.evs[:n], got.evs, name)
				require.LessOrEqual(t, got.to, to, name)
				if n < len(want.evs) {
					require.LessOrEqual(t, got.to, want.evs[n].Offset, name)
				} else {
					require.Equal(t, to, got.to, name)
				}
			}
		}
	}
}
