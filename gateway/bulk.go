package gateway

import "time"

// Sessions that replay have much to write and nobody waits for the very next
// frame of it. A shard lets them write for a moment at a time, one after the
// other, and looks at all others in between: ten thousand that come back at
// once delay those that are live by about that moment, not by a round of all.

// lookEach is that moment. One turn, a block of frames to one socket, can be
// longer; it is not cut.
const lookEach = time.Millisecond

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
// It tells whether some are left.
func (sh *shard) serveBulk() (more bool) {
	for began, now := time.Now(), time.Now(); len(sh.bulk) > 0 && now.Sub(began) < lookEach; now = time.Now() {
		s := sh.bulk[0]
		sh.bulk[0] = nil
		sh.bulk = sh.bulk[1:]
		s.queued.Store(false) // as above
		sh.visit(s, now)
	}
	if len(sh.bulk) == 0 {
		sh.bulk = nil
	}
	return len(sh.bulk) > 0
}
