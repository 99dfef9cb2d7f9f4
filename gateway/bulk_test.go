package gateway

import (
	"log/slog"
	"testing"

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
	sh := newShard(&errgroup.Group{}, m, slog.New(slog.DiscardHandler))
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
