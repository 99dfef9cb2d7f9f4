package gateway

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/protocol"
)

// pickAll is the rule of from {"last":N}, in plain: of the partitions' last
// events always the newest, the lower partition at the same time.
func pickAll(byPart [][]seen, n int) (out []seen) {
	for len(out) < n {
		best := -1
		for part, list := range byPart {
			if len(list) > 0 && (best < 0 || list[len(list)-1].time > byPart[best][len(byPart[best])-1].time) {
				best = part
			}
		}
		if best < 0 {
			break
		}
		list := byPart[best]
		out, byPart[best] = append(out, list[len(list)-1]), list[:len(list)-1]
	}
	return out
}

func TestTheLastOfManyPartitionsArePickedOneByOne(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 300 {
		n := 1 + r.IntN(40)
		byPart := make([][]seen, 1+r.IntN(12))
		var picked []seen
		for part := range byPart {
			for o := range r.IntN(30) { // times go up and down: producers set them
				byPart[part] = append(byPart[part], seen{int32(part), int64(o), int64(r.IntN(50))})
			}
			picked = pick(picked, byPart[part], n)
			require.LessOrEqual(t, cap(picked), max(n, 64), "no more is held than is wanted")
		}
		require.Equal(t, pickAll(byPart, n), picked)
	}
}

func TestLookupsOfTheLastNShareTheRoom(t *testing.T) {
	f := newFakeFeed()
	f.add("price", 2)
	for range 50 {
		f.produce("price", 0, "k", "1")
	}
	hold, err := f.Open("price", nil, func() {})
	require.NoError(t, err)
	defer hold.Close()
	bounds, err := hold.Bounds(t.Context())
	require.NoError(t, err)
	lim := &snapshotLimits{total: 10 * seenBytes * lastHeld}
	at, found, err := findLast(t.Context(), hold, 10, bounds, lim)
	require.NoError(t, err)
	require.Equal(t, 10, found)
	require.Zero(t, lim.used.Load(), "the room is given back")
	var back int64
	for part, b := range bounds {
		back += b.End - at[part]
	}
	require.GreaterOrEqual(t, back, int64(10))

	lim.used.Store(1) // somebody else's
	_, _, err = findLast(t.Context(), hold, 10, map[int32]broker.Bounds{0: bounds[0]}, lim)
	var refused *protocol.Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, protocol.CodeBusy, refused.Code)
	require.Equal(t, int64(1), lim.used.Load())
}
