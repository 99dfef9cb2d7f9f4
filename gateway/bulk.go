package gateway

import (
	"runtime"
	"time"
)

// Sessions that replay have much to write and nobody waits for the very next
// frame of it; and what thousands say at once is not more urgent. A shard does
// such for a moment at a time, a block of frames and a command in turn, and looks
// at all others in between: ten thousand that come back at once delay those that
// are live by about that moment, not by a round of all.
//
// A core is left to those who are live: the shards that have their moment and the
// readers that read (see worker) are together one fewer than there are cores (but
// one at least), and a shard takes the last one for a moment only, and leaves it
// for as long. What brings live events, the reads from Kafka and the
// partitions' loops, would else stand in line behind loops that never sleep, which
// the runtime puts aside every 10 ms, and that at each of several steps on an
// event's way; and it looks at the network only where a core has nothing to do.

// lookEach is that moment. One turn, a block of frames to one socket, can be
// longer; it is not cut.
const lookEach = time.Millisecond

// bulkEach is how often a shard takes a moment that nobody gives it: it is busy
// with those who are live whenever there is one.
const bulkEach = 10 * time.Millisecond

// cores are what shards that have their moment and workers that read share.
type cores struct {
	most  chan struct{} // static: one for each that has one of them, of all but the last
	last  chan struct{} // static: one while a shard has the last; nil = there is one core only
	freed time.Time     // when it was given back; owned by who puts one into last
}

func newCores(n int) *cores {
	if n < 2 {
		return &cores{most: make(chan struct{}, 1)}
	}
	return &cores{most: make(chan struct{}, n-1), last: make(chan struct{}, 1)}
}

// takeLast gets the last core, which is left for as long as it was taken.
func (c *cores) takeLast() bool {
	select {
	case c.last <- struct{}{}:
	default:
		return false
	}
	if time.Since(c.freed) < lookEach {
		<-c.last
		return false
	}
	return true
}

func (c *cores) giveLast() {
	c.freed = time.Now()
	<-c.last
}

// backlog is what is done in moments.
type backlog struct {
	asked  []*session // something was said to them
	behind []*session // they have much to write
	since  time.Time  // the last moment's end, or when there was something first
	even   bool       // whose turn it is, where there are both
}

func (b *backlog) empty() bool { return len(b.asked)+len(b.behind) == 0 }

// next takes a session out; nil = there is none.
func (b *backlog) next() *session {
	b.even = !b.even
	from := &b.asked
	if len(*from) == 0 || b.even && len(b.behind) > 0 {
		from = &b.behind
	}
	if len(*from) == 0 {
		return nil
	}
	s := (*from)[0]
	(*from)[0] = nil
	if *from = (*from)[1:]; len(*from) == 0 {
		*from = nil
	}
	return s
}

// putOff leaves a session that was woken to the next moments, if it does not
// only follow what is live.
func (sh *shard) putOff(s *session, now time.Time) bool {
	b := &sh.backlog
	into := &b.behind
	if !s.behind() {
		if s.gone || s.lent || !s.posted.Load() {
			return false
		}
		into = &b.asked
	}
	if b.empty() {
		b.since = now
	}
	*into = append(*into, s)
	return true
}

// core is where a shard asks for one; nil if it needs none.
func (sh *shard) core() chan<- struct{} {
	if sh.backlog.empty() {
		return nil
	}
	return sh.cores.most
}

// useCore serves the backlog, and gives the core back that the shard got for it.
func (sh *shard) useCore() {
	sh.serveBacklog()
	<-sh.cores.most
	runtime.Gosched() // where all cores are busy, it is the others' turn
}

// tryBacklog has a shard that is busy serve the backlog, too, if it may.
func (sh *shard) tryBacklog() {
	select {
	case sh.core() <- struct{}{}:
		sh.useCore()
	default:
		if !sh.tryLast() && !sh.backlog.empty() && time.Since(sh.backlog.since) > bulkEach {
			sh.serveBacklog()
		}
	}
}

// behind tells whether a session has more to write than a write takes, or
// begins with the past.
func (s *session) behind() bool {
	return !s.gone && !s.lent && (s.again || s.conv.replaying()) // else the conversation is somebody else's
}

// replaying tells whether a subscription reads what came before it was made.
func (c *conversation) replaying() bool {
	for _, s := range c.subs {
		if s.busy || s.state == positioned && !s.live {
			return true
		}
	}
	return false
}

// tryLast serves the backlog on the last core, if it may.
func (sh *shard) tryLast() bool {
	if sh.backlog.empty() || !sh.cores.takeLast() {
		return false
	}
	sh.serveBacklog()
	sh.cores.giveLast()
	return true
}

// serveTaken looks after those who were woken.
func (sh *shard) serveTaken() {
	looked := time.Now()
	now := looked
	for i, s := range sh.taken {
		sh.taken[i] = nil
		if sh.putOff(s, looked) {
			continue
		}
		s.queued.Store(false) // before it looks: what comes after wakes
		sh.visit(s, now)
		if now = time.Now(); now.Sub(looked) > lookEach {
			sh.serveDue()
			now = time.Now()
			looked = now
		}
	}
}

// serveDue looks after lanes that were woken and whose rest is over.
func (sh *shard) serveDue() {
	sh.mu.Lock()
	sh.called, sh.due = sh.due, sh.called[:0]
	sh.mu.Unlock()
	for i, l := range sh.called {
		l.queued.Store(false) // as above
		sh.visitLane(l, time.Now())
		sh.called[i] = nil
	}
	sh.turnDue(time.Now())
}

// serveBacklog does what was put off for a moment, one session's at least.
func (sh *shard) serveBacklog() {
	began := time.Now()
	for now := began; now.Sub(began) < lookEach; now = time.Now() {
		s := sh.backlog.next()
		if s == nil {
			break
		}
		s.queued.Store(false) // as above
		sh.visit(s, now)
	}
	sh.backlog.since = time.Now()
}
