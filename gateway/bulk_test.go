package gateway

import (
	"log/slog"
	"testing"
	"testing/synctest"
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
	require.Equal(t, []*session{past}, sh.backlog.behind)

	sh.serveBacklog()
	require.False(t, past.queued.Load())
	require.True(t, sh.backlog.empty())

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
		require.Nil(t, shards[i].core(), "who has no backlog asks for no moment")
		shards[i].backlog.behind = []*session{{shardState: shardState{gone: true}}}
		shards[i].backlog.since = time.Now().Add(time.Hour) // not due, however slow the machine is
	}
	all.most <- struct{}{}
	all.most <- struct{}{}
	last := shards[2]
	select {
	case last.core() <- struct{}{}:
		t.Fatal("no core is left")
	default:
	}
	all.freed = time.Now().Add(time.Hour) // it was taken a moment ago
	require.False(t, last.tryLast())
	last.tryBacklog()
	require.False(t, last.backlog.empty(), "the others have their moments")
	require.Empty(t, all.last)
	last.backlog.since = time.Now().Add(-2 * bulkEach)
	last.tryBacklog()
	require.True(t, last.backlog.empty(), "nobody who replays waits for ever")

	<-all.most
	shards[1].tryBacklog()
	require.True(t, shards[1].backlog.empty())
	require.Len(t, all.most, 1, "it was given back")
}

// TestTheLastCoreIsTakenForAMomentAndLeftForOne: as long as live events may need.
func TestTheLastCoreIsTakenForAMomentAndLeftForOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newCores(2)
		require.True(t, all.takeLast())
		require.False(t, all.takeLast(), "somebody has it")
		all.giveLast()
		require.False(t, all.takeLast(), "it was given back just now")
		time.Sleep(lookEach)
		require.True(t, all.takeLast())
		all.giveLast()

		sh := newShard(&errgroup.Group{}, all, newMetrics(nil, &snapshotLimits{}), slog.New(slog.DiscardHandler))
		_, some := sh.pause(time.Now())
		require.False(t, some)
		sh.backlog.asked = []*session{{shardState: shardState{gone: true}}}
		wait, some := sh.pause(time.Now())
		require.True(t, some)
		require.Equal(t, lookEach, wait, "then it may be free")
		require.False(t, sh.tryLast())
		time.Sleep(wait)
		require.True(t, sh.tryLast())
		require.True(t, sh.backlog.empty())
		require.Empty(t, all.last)
		time.Sleep(wait)
		require.False(t, sh.tryLast(), "there is nothing to do")

		one := newCores(1)
		require.False(t, one.takeLast(), "where there is one core it is shared in turn")
		require.Equal(t, 1, cap(one.most))
	})
}

// TestWhatIsSaidIsDoneInMoments: a session that was told something waits for a
// moment, in turn with those who replay, and one that only follows does not.
func TestWhatIsSaidIsDoneInMoments(t *testing.T) {
	sh := newShard(&errgroup.Group{}, newCores(2), newMetrics(nil, &snapshotLimits{}), slog.New(slog.DiscardHandler))
	make1 := func(said, past bool) *session {
		s := newSession(&rules{}, textWire{}, takesAll{}, slog.New(slog.DiscardHandler))
		s.posted.Store(said)
		s.again = past
		return s
	}
	now := time.Now()
	require.False(t, sh.putOff(make1(false, false), now))
	lent := make1(true, false)
	lent.lent = true
	require.False(t, sh.putOff(lent, now), "what is said to it waits until it comes back")
	require.Nil(t, sh.core())
	var said, past [3]*session
	for i := range said {
		said[i], past[i] = make1(true, false), make1(true, true)
		require.True(t, sh.putOff(past[i], now))
	}
	for i := range said {
		require.True(t, sh.putOff(said[i], now))
	}
	require.NotNil(t, sh.core())
	require.Equal(t, now, sh.backlog.since)
	seen := map[*session]int{}
	for i := range 6 {
		seen[sh.backlog.next()] = i
	}
	require.True(t, sh.backlog.empty())
	require.Nil(t, sh.backlog.next())
	for i := range said {
		require.Equal(t, i, seen[said[i]]/2, "one of each in turn, whoever came first before who came later")
		require.Equal(t, i, seen[past[i]]/2)
	}
}
