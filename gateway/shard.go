package gateway

import (
	"container/heap"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// shard is a loop that owns many sessions: it turns whichever has something
// to do, and writes to their sockets without waiting. There is about one per
// core. A session whose socket does not take all of a write is lent to a
// goroutine that waits with the rest; so is one that ends.
//
// Under load the loop clocks itself: while it is busy, events gather, and each
// turn writes more of them. A session that has just written events rests for
// its hold, and then writes what came meanwhile. Most sessions sit in a lane,
// which does all that for them.
type shard struct {
	// static after construction
	group   *errgroup.Group
	metrics *metrics
	log     *slog.Logger
	woken   chan struct{} // to run; holds one; never closed
	cores   *cores        // of all shards, and the readers

	mu     sync.Mutex
	ready  []*session // guarded by mu: woken, each once
	due    []*lane    // guarded by mu: woken, each once
	asleep bool       // guarded by mu: a token in woken makes run look
	over   bool       // guarded by mu: run ends with the last session
	ended  bool       // guarded by mu: run has ended
	live   int        // guarded by mu: sessions

	// owned by run
	taken   []*session // what was ready, with the room of the last
	called  []*lane    // what was due, likewise
	backlog backlog    // those who were woken and wait for their moment
	lanes   map[laneKey]*lane
	rests   rests
	timers  timerHeap
	attempt attempt
	stretch stretch
	tally   tally
}

// tally is what lanes wrote since it was counted.
type tally struct {
	events, bytes, writes int
	observed              int   // writes, for the clock
	clock                 int64 // us
}

// count counts the tally.
func (sh *shard) count() {
	t := &sh.tally
	if t.writes > 0 {
		sh.metrics.events.Add(float64(t.events))
		sh.metrics.bytes.Add(float64(t.bytes))
		sh.metrics.writes.Add(float64(t.writes))
	}
	*t = tally{}
}

// clockEach is how many writes share a look at the clock.
const clockEach = 8

// observe notes how old the newest event of a write is; accepted in us, 0 = not known.
func (sh *shard) observe(accepted int64) {
	if sh.tally.observed%clockEach == 0 {
		sh.tally.clock = time.Now().UnixMicro()
	}
	sh.tally.observed++
	if accepted > 0 {
		sh.metrics.latency.Observe(float64(sh.tally.clock-accepted) / 1e6)
	}
}

// shardState is what a session in a shard has for it.
type shardState struct {
	shard  *shard // static; nil = the session has a loop of its own
	socket *socket
	queued atomic.Bool // it is in ready
	home   atomic.Bool // it comes back from being lent
	back   error       // with what; written before home

	// owned by the shard's loop
	seated
	alone   time.Time // no seat before then
	lent    bool      // somebody else has it
	gone    bool      // it has ended
	again   bool      // its last turn left something
	wanted  bool      // it was woken while it rests
	timerAt time.Time // in timers
	timerNo int       // its place there + 1; 0 = it is not there
}

func newShard(group *errgroup.Group, all *cores, m *metrics, log *slog.Logger) *shard {
	sh := &shard{group: group, cores: all, metrics: m, log: log, woken: make(chan struct{}, 1), lanes: map[laneKey]*lane{}}
	sh.attempt.init()
	return sh
}

// join takes a session in that has begun.
func (sh *shard) join(s *session) {
	sh.mu.Lock()
	sh.live++
	sh.mu.Unlock()
	sh.wake(s)
}

// wake has the loop turn a session. It never waits; from any goroutine.
func (sh *shard) wake(s *session) {
	if s.queued.Load() || s.queued.Swap(true) {
		return
	}
	sh.mu.Lock()
	if !sh.ended {
		sh.ready = append(sh.ready, s)
	}
	sh.rouse()
}

// wakeLane has the loop look after a lane. It never waits; from any goroutine.
func (sh *shard) wakeLane(l *lane) {
	if l.queued.Load() || l.queued.Swap(true) {
		return
	}
	sh.mu.Lock()
	if !sh.ended {
		sh.due = append(sh.due, l)
	}
	sh.rouse()
}

// rouse unlocks mu, and has the loop look.
func (sh *shard) rouse() {
	asleep := sh.asleep
	sh.asleep = false
	sh.mu.Unlock()
	if asleep {
		sh.poke()
	}
}

func (sh *shard) poke() {
	select {
	case sh.woken <- struct{}{}:
	default:
	}
}

// finish has the loop end with its last session. No session joins any more.
func (sh *shard) finish() {
	sh.mu.Lock()
	sh.over, sh.asleep = true, false
	sh.mu.Unlock()
	sh.poke()
}

// run is the loop. It has the form that an errgroup starts.
func (sh *shard) run() error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		busy, over := sh.takeReady()
		if over {
			return nil
		}
		sh.serveTaken()
		sh.serveDue()
		if busy {
			sh.tryBacklog()
			continue
		}
		if sh.tryLast() {
			continue
		}
		if wait, any := sh.pause(time.Now()); any {
			timer.Reset(wait)
		} else {
			timer.Reset(time.Hour)
		}
		if !sh.sleep() {
			continue
		}
		select {
		case <-sh.woken:
		case <-timer.C:
		case sh.core() <- struct{}{}:
			sh.useCore()
		}
	}
}

// takeReady takes who was woken.
func (sh *shard) takeReady() (some, over bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.asleep = false
	sh.taken, sh.ready = sh.ready, sh.taken[:0]
	some = len(sh.taken)+len(sh.due) > 0
	if !some && sh.over && sh.live == 0 {
		sh.ended = true
	}
	return some, sh.ended
}

// sleep tells whether nobody has come meanwhile; the next one then wakes.
func (sh *shard) sleep() bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.asleep = len(sh.ready)+len(sh.due) == 0 && (!sh.over || sh.live > 0)
	return sh.asleep
}

// visit looks after a session that was woken.
func (sh *shard) visit(s *session, now time.Time) {
	switch {
	case s.gone:
	case s.lent:
		if s.home.Swap(false) {
			sh.welcome(s)
		}
	case !s.rests(now):
		s.wanted = false
		sh.turn(s)
	default:
		s.wanted = true // turnDue comes to it when its rest is over
		if s.again || s.posted.Load() {
			sh.turn(s)
		}
	}
}

// visitLane looks after a lane that was woken.
func (sh *shard) visitLane(l *lane, now time.Time) {
	switch {
	case l.closed:
	case now.Before(l.holdTill):
		l.wanted = true // turnDue comes to it when its rest is over
	default:
		l.pass(now)
	}
}

// turn turns a session, once. One that sits in a lane keeps its seat if it can.
func (sh *shard) turn(s *session) {
	if s.lane != nil {
		s.lane.sync(s)
		s.loose = true
	}
	before := s.wrote
	e, again := s.turn()
	if e != nil {
		sh.end(s, e)
		return
	}
	if !s.wrote.IsZero() && s.wrote != before {
		for _, d := range s.conv.gathers {
			if d > 0 {
				sh.rests.push(rest{s: s, till: s.wrote.Add(d), wrote: s.wrote}, d)
			}
		}
	}
	if s.again = again; again {
		sh.wake(s) // behind the others
	}
	if s.socket.waits() {
		sh.unseat(s)
		sh.lend(s)
		return
	}
	if !again {
		sh.seat(s, time.Now())
	} else {
		sh.unseat(s)
	}
	sh.setTimer(s, s.at)
}

// lend gives a session to somebody who waits until its socket has taken all.
func (sh *shard) lend(s *session) {
	s.lent = true
	s.card.rest.Store(int64(len(s.socket.rest)))
	sh.group.Go(func() error {
		s.back = s.socket.await()
		s.home.Store(true)
		sh.wake(s)
		return nil
	})
}

// welcome takes a lent session back. What came meanwhile is looked at now.
func (sh *shard) welcome(s *session) {
	s.lent = false
	s.card.rest.Store(0)
	if s.back != nil {
		sh.end(s, writeEnding(s.back))
		return
	}
	s.wanted = true // turnDue may have passed it over
	sh.turn(s)
}

// end has a session ended: that may wait for its client.
func (sh *shard) end(s *session, e *ending) {
	sh.unseat(s)
	s.gone = true
	if s.timerNo > 0 {
		heap.Remove(&sh.timers, s.timerNo-1)
	}
	sh.mu.Lock()
	sh.live--
	sh.mu.Unlock()
	sh.group.Go(func() error {
		s.finish(e)
		s.socket.over()
		return nil
	})
}

// turnDue turns those whose rest is over and that were woken meanwhile, and
// those whose time has come.
func (sh *shard) turnDue(now time.Time) {
	for r, ok := sh.rests.pop(now); ok; r, ok = sh.rests.pop(now) {
		if l := r.l; l != nil {
			if !l.closed && l.wanted && r.till.Equal(l.holdTill) {
				l.pass(now)
			}
			continue
		}
		if s := r.s; s.wrote.Equal(r.wrote) && s.wanted && !s.lent && !s.gone && !s.rests(now) {
			s.wanted = false
			sh.turn(s)
		}
	}
	for len(sh.timers) > 0 && !now.Before(sh.timers[0].timerAt) {
		s := sh.timers[0]
		heap.Pop(&sh.timers)
		switch {
		case s.lent: // it is turned when it comes back
		case s.rests(now) && !s.at.After(now):
			s.wanted = true
		case s.at.After(now):
			sh.setTimer(s, s.at)
		case !s.at.IsZero():
			sh.turn(s)
		}
	}
}

// setTimer has a session turned at a time; zero = none. A timer that is there
// already and earlier stays: most of what is due is put off before it comes.
func (sh *shard) setTimer(s *session, at time.Time) {
	switch {
	case at.IsZero():
	case s.timerNo == 0:
		s.timerAt = at
		heap.Push(&sh.timers, s)
	case at.Before(s.timerAt):
		s.timerAt = at
		heap.Fix(&sh.timers, s.timerNo-1)
	}
}

// pause tells how long nothing is due.
func (sh *shard) pause(now time.Time) (wait time.Duration, some bool) {
	wait, some = sh.rests.pause(now)
	if len(sh.timers) > 0 {
		if t := sh.timers[0].timerAt.Sub(now); !some || t < wait {
			wait, some = t, true
		}
	}
	if !sh.backlog.empty() && (!some || lookEach < wait) {
		wait, some = lookEach, true // then the last core may be free
	}
	return max(wait, 0), some
}

// contain runs fn, and tells whether it came through without a panic.
func (sh *shard) contain(fn func()) (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			sh.metrics.panics.Inc()
			sh.log.Error("lane panicked", slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
		}
	}()
	fn()
	return true
}

// timerHeap orders sessions by timerAt.
type timerHeap []*session

// Len implements heap.Interface.
func (h timerHeap) Len() int { return len(h) }

// Less implements heap.Interface.
func (h timerHeap) Less(i, j int) bool { return h[i].timerAt.Before(h[j].timerAt) }

// Swap implements heap.Interface.
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].timerNo, h[j].timerNo = i+1, j+1
}

// Push implements heap.Interface.
func (h *timerHeap) Push(x any) {
	s := x.(*session) //nolint:forcetypeassert // only sessions are pushed
	*h = append(*h, s)
	s.timerNo = len(*h)
}

// Pop implements heap.Interface.
func (h *timerHeap) Pop() any {
	old := *h
	s := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	s.timerNo = 0
	return s
}
