package gateway

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/gateway/feed"
	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/protocol"
	"github.com/tapecast/tapecast/internal/stream"
)

// ring is a hold over events that are always at hand: what is left is the
// conversation's own work.
type ring struct {
	events []*feed.Event
	frame  []byte
	head   int64
}

func newRing(n, size int) *ring {
	r := &ring{frame: appendFrame(nil, opText, make([]byte, size))}
	for i := range n {
		r.events = append(r.events, &feed.Event{Offset: int64(i), Accepted: 1})
	}
	return r
}

func (r *ring) Close()                                                        {}
func (r *ring) Epoch() stream.TopicID                                         { return epochOf(1) }
func (r *ring) Partitions() []int32                                           { return onePartition }
func (r *ring) Live() (map[int32]int64, bool)                                 { return map[int32]int64{0: r.head}, true }
func (r *ring) Bounds(context.Context) (map[int32]broker.Bounds, error)       { return nil, nil }
func (r *ring) AskBounds(func(map[int32]broker.Bounds, error))                {}
func (r *ring) OffsetsAt(context.Context, time.Time) (map[int32]int64, error) { return nil, nil }
func (r *ring) Source() any                                                   { return nil }
func (r *ring) Park()                                                         {}
func (r *ring) Tap(func()) tap                                                { return nil }
func (r *ring) Head(int32) (int64, bool)                                      { return r.head, true }
func (*ring) Held(int32, int64) (broker.Bounds, bool)                         { return broker.Bounds{}, false }
func (r *ring) Frame(*feed.Event, feed.Form) ([]byte, error)                  { return r.frame, nil }
func (r *ring) Scan(context.Context, int32, int64, int64, func(feed.Chunk) bool) (int64, error) {
	return 0, nil
}

func (r *ring) Read(_ int32, cursor int64, limit int) feed.Chunk {
	if cursor >= r.head {
		return feed.Chunk{Status: feed.AtHead, From: cursor, To: cursor}
	}
	to := min(r.head, cursor+int64(limit))
	return feed.Chunk{From: cursor, To: to, Events: r.events[cursor:to]}
}

var onePartition = []int32{0}

func newRingConversation(tb testing.TB, r *ring) (*conversation, *subscription) {
	tb.Helper()
	limits := &snapshotLimits{}
	c := &conversation{rules: &rules{metrics: newMetrics(nil, limits), heartbeat: time.Hour, maxSubs: 10, maxParts: 10}, wire: textWire{}, notify: func() {}}
	s := &subscription{topic: "t", hold: r, wish: &protocol.Subscribe{}}
	s.due.Store(true)
	c.subs = append(c.subs, s)
	return c, s
}

func TestDeliveryAllocatesNothing(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector makes sync.Pool drop its contents at random")
	}
	r := newRing(100_000, 150)
	c, s := newRingConversation(t, r)
	now := time.Now()
	var b block // a session keeps its own too
	pass := func() {
		r.head += 10
		s.due.Store(true)
		require.False(t, c.compose(&b, now))
		if b.events != 10 && s.cursors[0].next != 10 {
			t.Fatal(b.events)
		}
		b.release()
	}
	pass()
	require.Less(t, testing.AllocsPerRun(1000, pass), 0.5)
}

func BenchmarkCompose(b *testing.B) {
	for _, k := range []int64{1, 10, 100} {
		b.Run(fmt.Sprintf("%d events a write", k), func(b *testing.B) {
			r := newRing(1_000_000, 150)
			c, s := newRingConversation(b, r)
			now := time.Now()
			var blk block
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if r.head+k > int64(len(r.events)) {
					r.head, s.cursors[0].next = 0, 0
				}
				r.head += k
				s.due.Store(true)
				c.compose(&blk, now)
				blk.release()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(k), "ns/event")
		})
	}
}
