package feed

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/internal/stream"
)

func tapRig(t *testing.T) (inst *instance, tp *tape) {
	t.Helper()
	tp = newTape(newBudget(1<<20), &source{counts: &newMetrics(nil).frames})
	tp.restart(10)
	inst = &instance{topic: &topic{}, done: make(chan struct{})}
	inst.parts.Store(&[]*partition{{inst: inst, tape: tp}})
	inst.topic.inst.Store(inst)
	return inst, tp
}

// TestTapReadsWhatIsOnTheTapes reads everything, whatever anybody wants, and
// says so where the tape does not know.
func TestTapReadsWhatIsOnTheTapes(t *testing.T) {
	inst, tp := tapRig(t)
	tap := &Tap{inst: inst, wake: func() {}}
	tp.append([]stream.Record{rec(10, "a"), rec(12, "b"), rec(13, "a"), rec(19, "c")}, 20, 1, false)
	read := func(from int64, limit int) (offsets []int64, to int64, more bool) {
		kept := &Event{}
		evs, to, more, ok := tap.Read([]*Event{kept}, 0, from, limit)
		require.True(t, ok)
		require.Same(t, kept, evs[0], "it appends")
		for _, e := range evs[1:] {
			offsets = append(offsets, e.Offset)
		}
		return offsets, to, more
	}
	unknown := func(from int64) {
		t.Helper()
		_, to, more, ok := tap.Read(nil, 0, from, 10)
		require.False(t, ok)
		require.False(t, more)
		require.Equal(t, from, to)
	}
	offsets, to, more := read(10, 10)
	require.Equal(t, []int64{10, 12, 13, 19}, offsets)
	require.EqualValues(t, 20, to)
	require.False(t, more)
	offsets, to, more = read(11, 2)
	require.Equal(t, []int64{12, 13}, offsets)
	require.EqualValues(t, 14, to)
	require.True(t, more)
	offsets, to, more = read(20, 2)
	require.Empty(t, offsets)
	require.EqualValues(t, 20, to)
	require.False(t, more)

	unknown(9)  // before the tape
	unknown(25) // beyond it, and nobody knows of more
	(*inst.parts.Load())[0].end.Store(25)
	offsets, to, _ = read(25, 2)
	require.Empty(t, offsets, "the tape will get there")
	require.EqualValues(t, 25, to)
	_, _, _, ok := tap.Read(nil, 1, 0, 1)
	require.False(t, ok, "no such partition")

	tp.gap(20, 23)
	tp.append([]stream.Record{rec(23, "a")}, 24, 1, false)
	offsets, to, more = read(19, 10)
	require.Equal(t, []int64{19}, offsets)
	require.EqualValues(t, 20, to)
	require.True(t, more, "the gap is behind it")
	unknown(20)
	offsets, _, _ = read(23, 10)
	require.Equal(t, []int64{23}, offsets)

	inst.topic.gone.Store(true)
	unknown(23)
	inst.topic.gone.Store(false)
	inst.replaced.Store(true)
	unknown(23)
}

// TestTapsAreWokenForSubsThatAreParked wakes taps for whatever comes onto a
// tape, once for each time they ask, and parked subs for nothing of that.
func TestTapsAreWokenForSubsThatAreParked(t *testing.T) {
	inst, tp := tapRig(t)
	subs, taps := 0, 0
	s := &Sub{topic: inst.topic, filter: keys("a"), wake: func() { subs++ }}
	s.inst.Store(inst)
	s.arm()
	inst.topic.subs.add(s)
	other := s.Tap(func() {})
	tap := s.Tap(func() { taps++ })
	require.Equal(t, any(inst), s.Source())
	var w waker
	x := &inst.topic.subs
	evs := tp.append([]stream.Record{rec(10, "a")}, 11, 1, false)
	w.events(x, evs)
	require.Equal(t, 1, subs)
	require.Zero(t, taps, "it did not ask")
	s.arm()
	s.Park()
	for i, wake := range []func(){
		func() { w.events(x, evs) }, func() { w.key(x, nil) }, func() { w.lazy(x, true) }, func() { w.force(x) },
	} {
		tap.Arm()
		wake()
		wake()
		require.Equal(t, i+1, taps)
	}
	w.lazy(x, false)
	w.key(x, []byte("a"))
	require.Equal(t, 3, subs, "but force wakes everybody, each time")
	tap.Arm()
	tap.Close()
	other.Arm()
	w.events(x, evs)
	require.Equal(t, 4, taps)
	other.Close()
	require.Empty(t, x.taps)
}

// TestWhoAsksWhileOthersAreWokenIsWoken has subs ask for wakes and see what has
// come, at the same time as what comes wakes those who asked: the last event
// reaches each of them.
func TestWhoAsksWhileOthersAreWokenIsWoken(t *testing.T) {
	inst, tp := tapRig(t)
	x := &inst.topic.subs
	const events = 2000
	var came atomic.Int64
	var g errgroup.Group
	for i := range 4 {
		woken := make(chan struct{}, 1)
		f := wholeTopic
		if i%2 == 0 {
			f = keys("a")
		}
		s := &Sub{topic: inst.topic, filter: f, wake: func() {
			select {
			case woken <- struct{}{}:
			default:
			}
		}}
		s.inst.Store(inst)
		x.add(s)
		g.Go(func() error {
			for {
				s.arm()
				if came.Load() == events {
					return nil
				}
				if i == 3 { // somebody else reads for it, now and then
					s.Park()
					s.arm()
					if came.Load() == events {
						return nil
					}
				}
				<-woken
			}
		})
	}
	var w waker
	evs := tp.append([]stream.Record{rec(10, "a")}, 11, 1, false)
	for range events {
		came.Add(1)
		w.events(x, evs)
	}
	require.NoError(t, g.Wait())
	w.events(x, evs)
	require.Zero(t, x.armed.Load(), "who was woken does not count")
}
