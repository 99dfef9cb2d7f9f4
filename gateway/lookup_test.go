package gateway

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/protocol"
	"github.com/tapecast/tapecast/internal/stream"
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

// TestWhatIsOnTheTapeIsResumedWithoutKafka resumes while Kafka is away.
func TestWhatIsOnTheTapeIsResumedWithoutKafka(t *testing.T) {
	f := newFakeFeed()
	f.add("t", 2)
	for range 10 {
		f.produce("t", 0, "k", "1")
		f.produce("t", 1, "k", "1")
	}
	f.topics["t"].parts[1].tape = 4
	f.held, f.away = true, errors.New("Kafka is away")
	h, err := f.Open("t", nil, func() {})
	require.NoError(t, err)
	defer h.Close()
	epoch := h.Epoch()
	cursor := func(next ...int64) protocol.From {
		return protocol.From{Kind: protocol.FromCursor, Cursor: protocol.Cursor{Topic: protocol.CursorTopic("t"), Epoch: epoch, Next: next}}
	}
	offsets := func(e stream.TopicID, at map[int32]int64) protocol.From {
		return protocol.From{Kind: protocol.FromOffsets, Offsets: at, Epoch: e}
	}
	for _, tt := range []struct {
		name string
		wish protocol.Subscribe
		held bool
	}{
		{"a cursor", protocol.Subscribe{From: cursor(3, 10)}, true},
		{"offsets", protocol.Subscribe{From: offsets(epoch, map[int32]int64{0: 0, 1: 4})}, true},
		{"offsets of nobody knows when", protocol.Subscribe{From: offsets(stream.TopicID{}, map[int32]int64{0: 0, 1: 4})}, true},
		{"below the tape", protocol.Subscribe{From: cursor(3, 3)}, false},
		{"beyond it", protocol.Subscribe{From: cursor(11, 5)}, false},
		{"a partition is missing", protocol.Subscribe{From: cursor(3)}, false},
		{"of another topic", protocol.Subscribe{From: offsets(stream.TopicID{9, 9}, map[int32]int64{0: 0, 1: 4})}, false},
		{"one offset for two partitions", protocol.Subscribe{From: protocol.From{Kind: protocol.FromOffset, Offset: 5}}, false},
		{"until live, as of now", protocol.Subscribe{From: cursor(3, 10), Until: protocol.Until{Kind: protocol.UntilLive}}, false},
		{"the last ones", protocol.Subscribe{From: protocol.From{Kind: protocol.FromLast, Last: 1}}, false},
	} {
		got, err := lookupOnce(t.Context(), h, &tt.wish, &snapshotLimits{})
		if !tt.held {
			require.ErrorIs(t, err, f.away, tt.name)
			continue
		}
		require.NoError(t, err, tt.name)
		p, refused := place("t", &tt.wish, &got)
		require.Nil(t, refused, tt.name)
		require.Equal(t, protocol.ResumeExact, p.resume, tt.name)
		require.Equal(t, map[int32]int64{0: 10, 1: 10}, p.live, tt.name)
	}
}

// TestASessionComesBackWhileKafkaIsAway resumes where the tape reaches, at
// once, and gets what it missed.
func TestASessionComesBackWhileKafkaIsAway(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 1)
	for range 5 {
		r.feed.produce("price", 0, "k", "1")
	}
	r.feed.mu.Lock()
	r.feed.held, r.feed.away = true, errors.New("Kafka is away")
	r.feed.mu.Unlock()
	c := r.connect()
	c.send(`{"cmd":"sub","id":1,"topic":"price","from":{"offset":2}}`)
	ack := c.event("subscribed")
	require.Equal(t, "exact", ack["resume"])
	require.Equal(t, map[string]any{"0": 2.0}, ack["from"])
	for offset := 2; offset < 5; offset++ {
		require.EqualValues(t, offset, c.frame()["offset"])
	}
	require.Equal(t, map[string]any{"0": 5.0}, c.event("live")["at"])
}
