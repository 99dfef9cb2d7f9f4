package gateway

import (
	"runtime"
	"time"
)

// Sessions that replay have much to write and nobody waits for the very next
// frame of it. A shard lets them write for a moment at a time, one after the
// other, and looks at all others in between: ten thousand that come back at
// once delay those that are live by about that moment, not by a round of all.
//
// A core is left to those who are live: all shards but one at most have their
// moment at the same time (where there is one shard, it has). What brings live
// events, the reads from Kafka and the partitions' loops, would else stand in
// line behind shards that never sleep, which the runtime puts aside every 10 ms,
// and that at each of several steps on an event's way.

// lookEach is that moment. One turn, a block of frames to one socket, can be
// longer; it is not cut.
const lookEach = time.Millisecond

// bulkEach is how often a shard takes a moment that nobody gives it: it is busy
// with those who are live whenever there is one.
const bulkEach = 10 * time.Millisecond

// cores holds one for each shard that has its moment: a core is left.
type cores chan struct{}

func newCores(shards int) cores { return make(cores, max(1, shards-1)) }

// core is where a shard asks for one; nil if it needs none.
func (sh *shard) core() cores {
	if len(sh.bulk) == 0 {
		return nil
	}
	return sh.cores
}

// useCore serves bulk, and gives the core back that the shard got for it.
func (sh *shard) useCore() {
	sh.serveBulk()
	<-sh.cores
	runtime.Gosched() // where all cores are busy, it is the others' turn
}

// tryBulk has a shard that is busy serve bulk, too, if it may.
func (sh *shard) tryBulk() {
	select {
	case sh.core() <- struct{}{}:
		sh.useCore()
	default:
		if len(sh.bulk) > 0 && time.Since(sh.bulkAt) > bulkEach {
			sh.serveBulk()
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

// serveTaken looks after those who were woken; who is behind is put off.
func (sh *shard) serveTaken() {
	looked := time.Now()
	now := looked
	for i, s := range sh.taken {
		sh.taken[i] = nil
		if s.behind() {
			if len(sh.bulk) == 0 {
				sh.bulkAt = looked
			}
			sh.bulk = append(sh.bulk, s)
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

// serveBulk has those who are behind write for a moment, at least one of them.
func (sh *shard) serveBulk() {
	began := time.Now()
	for now := began; len(sh.bulk) > 0 && now.Sub(began) < lookEach; now = time.Now() {
		s := sh.bulk[0]
		sh.bulk[0] = nil
		sh.bulk = sh.bulk[1:]
		s.queued.Store(false) // as above
		sh.visit(s, now)
	}
	if len(sh.bulk) == 0 {
		sh.bulk = nil
	}
	sh.bulkAt = time.Now()
}
