package gateway

import (
	"container/heap"
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
// its hold, and then writes what came meanwhile.
type shard struct {
	// static after construction
	group *errgroup.Group
	hold  time.Duration // of all its sessions
	woken chan struct{} // to run; holds one; never closed

	mu     sync.Mutex
	ready  []*session // guarded by mu: woken, each once
	asleep bool       // guarded by mu: a token in woken makes run look
	over   bool       // guarded by mu: run ends with the last session
	ended  bool       // guarded by mu: run has ended
	live   int        // guarded by mu: sessions

	// owned by run
	taken   []*session // what was ready, with the room of the last
	resting restQueue
	timers  timerHeap
	attempt attempt
}

// shardState is what a session in a shard has for it.
type shardState struct {
	shard  *shard // static; nil = the session has a loop of its own
	socket *socket
	queued atomic.Bool // it is in ready
	home   atomic.Bool // it comes back from being lent
	back   error       // with what; written before home

	// owned by the shard's loop
	lent    bool      // somebody else has it
	gone    bool      // it has ended
	again   bool      // its last turn left something
	wanted  bool      // it was woken while it rests
	timerAt time.Time // in timers
	timerNo int       // its place there + 1; 0 = it is not there
}

func newShard(group *errgroup.Group, hold time.Duration) *shard {
	sh := &shard{group: group, hold: hold, woken: make(chan struct{}, 1)}
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
		now := time.Now()
		busy, over := sh.takeReady()
		if over {
			return nil
		}
		for i, s := range sh.taken {
			s.queued.Store(false) // before it looks: what comes after wakes
			sh.visit(s, now)
			sh.taken[i] = nil
		}
		sh.turnDue(time.Now())
		if busy {
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
		}
	}
}

// takeReady takes who was woken.
func (sh *shard) takeReady() (some, over bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.asleep = false
	sh.taken, sh.ready = sh.ready, sh.taken[:0]
	if len(sh.taken) == 0 && sh.over && sh.live == 0 {
		sh.ended = true
	}
	return len(sh.taken) > 0, sh.ended
}

// sleep tells whether nobody has come meanwhile; the next one then wakes.
func (sh *shard) sleep() bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.asleep = len(sh.ready) == 0 && (!sh.over || sh.live > 0)
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
	case !now.Before(s.holdTill):
		s.wanted = false
		sh.turn(s)
	default:
		s.wanted = true // turnDue comes to it when its rest is over
		if s.again || s.posted.Load() {
			sh.turn(s)
		}
	}
}

// turn turns a session, once.
func (sh *shard) turn(s *session) {
	before := s.holdTill
	e, again := s.turn()
	if e != nil {
		sh.end(s, e)
		return
	}
	if s.hold > 0 && !s.holdTill.IsZero() && s.holdTill != before {
		sh.resting.push(s)
	}
	if s.again = again; again {
		sh.wake(s) // behind the others
	}
	if s.socket.waits() {
		sh.lend(s)
		return
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
	s.gone = true
	if s.timerNo > 0 {
		heap.Remove(&sh.timers, s.timerNo-1)
	}
	sh.mu.Lock()
	sh.live--
	sh.mu.Unlock()
	sh.group.Go(func() error {
		s.finish(e)
		return nil
	})
}

// turnDue turns those whose rest is over and that were woken meanwhile, and
// those whose time has come.
func (sh *shard) turnDue(now time.Time) {
	for sh.resting.n > 0 && !now.Before(sh.resting.first().till) {
		r := sh.resting.pop()
		if s := r.s; r.till == s.holdTill && s.wanted && !s.lent && !s.gone {
			s.wanted = false
			sh.turn(s)
		}
	}
	for len(sh.timers) > 0 && !now.Before(sh.timers[0].timerAt) {
		s := sh.timers[0]
		heap.Pop(&sh.timers)
		switch {
		case s.lent: // it is turned when it comes back
		case now.Before(s.holdTill) && !s.at.After(now):
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

// grain is how exactly rests end, so that many end together.
func (sh *shard) grain() time.Duration { return max(sh.hold/16, 500*time.Microsecond) }

// pause tells how long nothing is due.
func (sh *shard) pause(now time.Time) (wait time.Duration, some bool) {
	if sh.resting.n > 0 {
		wait, some = sh.resting.first().till.Sub(now)+sh.grain(), true
	}
	if len(sh.timers) > 0 {
		if t := sh.timers[0].timerAt.Sub(now); !some || t < wait {
			wait, some = t, true
		}
	}
	return max(wait, 0), some
}

// rest is a session that wrote events and waits for more.
type rest struct {
	s    *session
	till time.Time // its holdTill; another one meanwhile = not valid
}

// restQueue is a queue of rests in the order in which they end.
type restQueue struct {
	buf  []rest // length is a power of two
	head int
	n    int
}

func (q *restQueue) first() *rest { return &q.buf[q.head] }

func (q *restQueue) push(s *session) {
	if q.n == len(q.buf) {
		buf := make([]rest, max(64, 2*len(q.buf)))
		for i := range q.n {
			buf[i] = q.buf[(q.head+i)&(len(q.buf)-1)]
		}
		q.buf, q.head = buf, 0
	}
	q.buf[(q.head+q.n)&(len(q.buf)-1)] = rest{s, s.holdTill}
	q.n++
}

func (q *restQueue) pop() rest {
	r := q.buf[q.head]
	q.buf[q.head] = rest{}
	q.head = (q.head + 1) & (len(q.buf) - 1)
	q.n--
	return r
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
