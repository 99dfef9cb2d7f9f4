package gateway

import (
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/internal/protocol"
)

// takesAll is a transport that takes everything.
type takesAll struct{}

func (takesAll) write(*block) error       { return nil }
func (takesAll) hurry()                   {}
func (takesAll) abort()                   {}
func (takesAll) close(protocol.CloseCode) {}

func TestWhoReplaysIsServedBehindWhoIsLive(t *testing.T) {
	limits := &snapshotLimits{}
	m := newMetrics(nil, limits)
	sh := newShard(&errgroup.Group{}, newCores(1), m, slog.New(slog.DiscardHandler))
	f := newFakeFeed()
	f.add("t", 1)
	makeOne := func(live bool) *session {
		s := newSession(&rules{feed: f, metrics: m, snapshots: limits}, textWire{}, takesAll{}, slog.New(slog.DiscardHandler))
		s.socket, s.shard = &socket{}, sh
		for range 2 { // with two it sits in no lane: there is no socket
			hold, err := f.Open("t", nil, s.wake)
			require.NoError(t, err)
			t.Cleanup(hold.Close)
			s.conv.subs = append(s.conv.subs, &subscription{topic: "t", hold: hold, state: positioned, live: live, cursors: []cursor{{live: 5, until: noEnd}}})
		}
		s.queued.Store(true)
		return s
	}
	past, present := makeOne(false), makeOne(true)
	sh.taken = []*session{past, past, present}[1:]
	sh.serveTaken()
	require.False(t, present.queued.Load(), "it had its turn")
	require.True(t, past.queued.Load(), "it waits for its moment")
	require.Equal(t, []*session{past}, sh.bulk)

	sh.serveBulk()
	require.False(t, past.queued.Load())

	other := makeOne(true)
	require.False(t, other.behind())
	other.again = true // it has more to write than a write takes
	require.True(t, other.behind())
	other.gone = true // its conversation is no longer the loop's
	require.False(t, other.behind())
}

func TestACoreIsLeftToWhoIsLive(t *testing.T) {
	all := newCores(3)
	shards := make([]*shard, 3)
	for i := range shards {
		shards[i] = newShard(&errgroup.Group{}, all, newMetrics(nil, &snapshotLimits{}), slog.New(slog.DiscardHandler))
		require.Nil(t, shards[i].core(), "who has no bulk asks for no moment")
		shards[i].bulk = []*session{{shardState: shardState{gone: true}}}
		shards[i].bulkAt = time.Now().Add(time.Hour) // not due, however slow the machine is
	}
	all <- struct{}{}
	all <- struct{}{}
	last := shards[2]
	select {
	case last.core() <- struct{}{}:
		t.Fatal("no core is left")
	default:
	}
	last.tryBulk()
	require.Len(t, last.bulk, 1, "the others have their moments")
	last.bulkAt = time.Now().Add(-2 * bulkEach)
	last.tryBulk()
	require.Empty(t, last.bulk, "nobody who replays waits for ever")

	<-all
	shards[1].tryBulk()
	require.Empty(t, shards[1].bulk)
	require.Len(t, all, 1, "it was given back")
	require.Equal(t, 1, cap(newCores(1)), "a shard alone has its moment")
}
