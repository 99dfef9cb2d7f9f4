package gateway

import (
	"context"
	"fmt"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/gateway/feed"
	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/protocol"
)

// answer is a hold whose events are pieces of one large answer of Kafka's.
type answer struct {
	ring
	memory []byte
}

func newAnswer(n int) *answer {
	a := &answer{memory: make([]byte, 1<<20)}
	for i := range n {
		a.events = append(a.events, &feed.Event{
			Offset: int64(i), Time: int64(i), Key: a.piece(i*100, fmt.Sprintf("k%d", i%10)), Value: a.piece(i*100+10, fmt.Sprintf("v%d", i)),
		})
	}
	a.frame, a.head = appendFrame(nil, opText, []byte("{}")), int64(n)
	return a
}

func (a *answer) piece(at int, text string) []byte {
	return a.memory[at : at+copy(a.memory[at:], text)]
}

func (a *answer) Read(p int32, cursor int64, limit int) feed.Chunk {
	c := a.ring.Read(p, cursor, limit)
	c.Replayed = true
	return c
}

func (a *answer) Scan(_ context.Context, p int32, from, to int64, fn func(feed.Chunk) bool) (int64, error) {
	for ; from < to; from += 7 {
		c := a.Read(p, from, 7)
		if !fn(c) {
			break
		}
	}
	return to, nil
}

func (a *answer) Live() (map[int32]int64, bool) { return map[int32]int64{0: a.head}, true }

// holds tells whether some event is a piece of the answer.
func (a *answer) holds(events []*feed.Event) bool {
	from := uintptr(unsafe.Pointer(unsafe.SliceData(a.memory)))
	within := func(b []byte) bool {
		at := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
		return len(b) > 0 && at >= from && at < from+uintptr(len(a.memory))
	}
	for _, e := range events {
		if within(e.Key) || within(e.Value) {
			return true
		}
	}
	return false
}

// What is kept of a fetch must not keep all of it: it counts as what it is.
func TestASnapshotKeepsNoAnswerOfKafkas(t *testing.T) {
	a := newAnswer(1000)
	require.True(t, a.holds(a.events))
	s, err := takeSnapshot(t.Context(), a, map[int32]broker.Bounds{0: {Start: 0, End: 1000}}, &snapshotLimits{keys: 100, bytes: 1 << 20, total: 1 << 20})
	require.NoError(t, err)
	require.Len(t, s.events, 10)
	require.False(t, a.holds(s.events))
	for i, e := range s.events {
		require.Equal(t, fmt.Sprintf("k%d v%d", i, 990+i), fmt.Sprintf("%s %s", e.Key, e.Value))
		require.EqualValues(t, []int64{int64(990 + i), int64(990 + i)}, []int64{e.Offset, e.Time})
	}
	charged := s.bytes
	require.EqualValues(t, charged, s.limits.used.Load())
	s.free()
	require.Zero(t, s.limits.used.Load())
}

func TestAConflationKeepsNoAnswerOfKafkas(t *testing.T) {
	a := newAnswer(1000)
	c, s := newRingConversation(t, &a.ring)
	s.hold, s.wish = a, &protocol.Subscribe{Mode: protocol.ModeLatest, Interval: time.Hour}
	s.state, s.cursors = positioned, []cursor{{until: noEnd, ready: true, fresh: &conflation{}}}
	var b block
	for c.collect(&b, s, &s.cursors[0]) {
	}
	f := s.cursors[0].fresh
	require.Len(t, f.byKey, 10)
	require.False(t, a.holds(ascending(f.byKey)))
	size := 0
	for _, e := range f.byKey {
		size += eventSize(e)
	}
	require.Equal(t, size, f.bytes)
}
