package gateway

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/protocol"
)

// looker is a conversation whose loop is the test.
type looker struct {
	*conversation
	feed    *fakeFeed
	results []func()
	tasks   []func(context.Context) func()
}

func newLooker(t *testing.T) *looker {
	t.Helper()
	k := &looker{feed: newFakeFeed()}
	k.feed.add("t", 2)
	for range 10 {
		k.feed.produce("t", 0, "k", "1")
		k.feed.produce("t", 1, "k", "1")
	}
	limits := &snapshotLimits{keys: 10, bytes: 1 << 20, total: 1 << 20}
	k.conversation = &conversation{
		rules:  &rules{feed: k.feed, metrics: newMetrics(nil, limits), snapshots: limits, heartbeat: time.Second, maxSubs: 10, maxParts: 100},
		wire:   lineWire{},
		notify: func() {},
		task:   func(run func(context.Context) func()) { k.tasks = append(k.tasks, run) },
		result: func(fn func()) { k.results = append(k.results, fn) },
	}
	return k
}

func (k *looker) subscribe(t *testing.T, text string) *subscription {
	t.Helper()
	cmd, err := protocol.Parse([]byte(text), time.Now())
	require.Nil(t, err)
	k.command(&cmd, time.Now())
	require.NotEmpty(t, k.subs)
	return k.subs[len(k.subs)-1]
}

// settle has the loop take what came.
func (k *looker) settle() {
	for len(k.results) > 0 {
		fn := k.results[0]
		k.results = k.results[1:]
		fn()
	}
}

func TestWhoComesBackTakesNoGoroutineToBePlaced(t *testing.T) {
	k := newLooker(t)
	epoch := protocol.EpochText(k.feed.topics["t"].id)
	for id, from := range []string{
		`"earliest"`, `{"offsets":{"0":3,"1":4}}`, `{"offsets":{"0":3,"1":4},"epoch":"` + epoch + `"}`,
	} {
		s := k.subscribe(t, `{"cmd":"sub","id":`+string(rune('1'+id))+`,"topic":"t","key":"`+string(rune('a'+id))+`","from":`+from+`}`)
		require.Equal(t, requested, s.state)
		require.True(t, s.busy, "its hold is not the loop's")
		k.settle()
		require.Equal(t, positioned, s.state, from)
		require.False(t, s.busy)
		require.Empty(t, k.tasks, from)
	}
	require.Zero(t, k.conversation.tasks)
	for id, more := range []string{`"from":{"last":2}`, `"mode":"snapshot"`, `"from":"earliest","until":{"time":"2001-01-01T00:00:00Z"}`} {
		s := k.subscribe(t, `{"cmd":"sub","id":"m`+string(rune('1'+id))+`","topic":"t","key":"m`+string(rune('a'+id))+`",`+more+`}`)
		require.Empty(t, k.results)
		require.Len(t, k.tasks, 1, "more than the bounds is asked for: %s", more)
		k.tasks[0](t.Context())()
		k.tasks = nil
		require.Equal(t, positioned, s.state)
	}
	k.closeAll()
	require.Zero(t, k.feed.holds())
}

func TestWhatTheBoundsDoNotSayIsLookedUpInATask(t *testing.T) {
	k := newLooker(t)
	k.feed.away = errors.New("Kafka is away")
	s := k.subscribe(t, `{"cmd":"sub","id":1,"topic":"t","from":"earliest"}`)
	k.settle()
	require.Equal(t, requested, s.state)
	require.Len(t, k.tasks, 1, "it tries again beside the loop")
	require.EqualValues(t, 1, k.conversation.tasks)
	k.feed.away = nil
	k.tasks[0](t.Context())()
	require.Equal(t, positioned, s.state)
	require.Zero(t, k.conversation.tasks)
	k.tasks = nil

	cursor := protocol.Cursor{Topic: protocol.CursorTopic("t"), Epoch: s.epoch, Next: []int64{99, 99}, Time: 5}
	beyond := k.subscribe(t, `{"cmd":"sub","id":2,"topic":"t","key":"other","from":{"cursor":"`+cursor.String()+`"}}`)
	require.Equal(t, protocol.CodeOverlap, k.last.Code)
	require.Same(t, s, beyond)
	k.drop(s)
	beyond = k.subscribe(t, `{"cmd":"sub","id":2,"topic":"t","key":"other","from":{"cursor":"`+cursor.String()+`"}}`)
	k.settle()
	require.Equal(t, requested, beyond.state)
	require.Len(t, k.tasks, 1, "its time has to be asked for")
	k.tasks[0](t.Context())()
	require.Equal(t, positioned, beyond.state)
	k.closeAll()
	require.Zero(t, k.feed.holds())
}

func TestWhoIsGoneBeforeTheAnswerLeavesNothing(t *testing.T) {
	k := newLooker(t)
	k.feed.late = true
	s := k.subscribe(t, `{"cmd":"sub","id":1,"topic":"t","from":"earliest"}`)
	k.drop(s)
	require.Zero(t, k.feed.holds(), "nobody waits for the answer")
	require.Zero(t, k.conversation.tasks)
	k.feed.answer()
	k.settle()
	require.Zero(t, k.feed.holds())
	require.Zero(t, k.conversation.tasks)

	for _, during := range []bool{true, false} { // the answer comes while the session ends, or never to its loop
		k.feed.away = errors.New("Kafka is away")
		k.subscribe(t, `{"cmd":"sub","id":1,"topic":"t","from":"earliest"}`)
		k.over = true
		if during {
			k.feed.answer()
			k.settle()
		}
		k.closeAll()
		require.Zero(t, k.feed.holds())
		k.feed.answer()
		k.settle()
		require.Empty(t, k.tasks, "nothing is started any more")
		require.Zero(t, k.feed.holds())
		require.Zero(t, k.conversation.tasks)
		k.over, k.feed.away = false, nil
	}
}

// TestWhoIsGoneGivesTheNextOneItsLookUp has more look-ups than are made at once,
// none of which is answered.
func TestWhoIsGoneGivesTheNextOneItsLookUp(t *testing.T) {
	k := newLooker(t)
	k.feed.late = true
	var subs []*subscription
	for i := range maxTasks + 1 {
		name := string(rune('a' + i))
		subs = append(subs, k.subscribe(t, `{"cmd":"sub","id":"`+name+`","topic":"t","key":"`+name+`","from":"earliest"}`))
	}
	last := subs[maxTasks]
	require.False(t, last.asked, "it waits for its turn")
	k.drop(subs[0])
	require.True(t, last.asked)
	require.EqualValues(t, maxTasks, k.conversation.tasks)
	k.feed.answer()
	k.settle()
	require.Equal(t, positioned, last.state)
	require.Zero(t, k.conversation.tasks)
	k.closeAll()
	require.Zero(t, k.feed.holds())
}

// TestASessionThatEndsBeforeTheAnswerLeavesNoHold has a client ask, take it back
// and go, all before the log's bounds come.
func TestASessionThatEndsBeforeTheAnswerLeavesNoHold(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 1)
	r.feed.mu.Lock()
	r.feed.late = true
	r.feed.mu.Unlock()
	for _, takenBack := range []bool{true, false} {
		c := r.connect()
		c.send(`{"cmd":"sub","id":1,"topic":"price","from":"earliest"}`)
		if takenBack {
			c.send(`{"cmd":"unsub","id":1}`)
			c.event("unsubscribed")
		} else {
			require.Eventually(t, func() bool { return r.feed.holds() == 1 }, waitLong, tick)
		}
		require.NoError(t, c.ws.Close())
		require.Eventually(t, func() bool { return len(r.service.open()) == 0 }, waitLong, tick)
		require.Eventually(t, func() bool { return r.feed.holds() == 0 }, waitLong, tick)
		r.feed.answer()
		require.Zero(t, r.feed.holds())
	}
}
