package gateway

import (
	"time"

	"github.com/tapecast/tapecast/internal/sabotage"
)

// pass reads what has come and writes it to the members, once. A lane that has
// written events rests for its hold.
func (l *lane) pass(now time.Time) {
	sh, st := l.shard, &l.shard.stretch
	defer st.release()
	l.wanted, l.holdTill = false, time.Time{}
	known := false
	if !sh.contain(func() { known = st.read(l) }) || !known {
		l.unpick()
		l.dissolve(now) // who met a panic meets it again, and ends by it
		return
	}
	if !sh.contain(l.send) {
		l.unpick()
		l.endAll()
		return
	}
	switch {
	case st.stuck:
		l.dissolve(now)
	case st.more:
		sh.wakeLane(l) // behind the others
	case len(st.events) > 0 && l.hold > 0:
		l.holdTill = now.Add(l.hold)
		sh.rests.push(rest{l: l, till: l.holdTill}, l.hold)
	}
}

// pick notes that an event of the stretch is a keyed member's.
func (l *lane) pick(m *keyedSeat, p, i int, offset int64) {
	n := len(m.due)
	if m.ahead && offset < m.cursors[p].next || n > 0 && m.due[n-1] == int32(i) { //nolint:gosec // at most maxStretch, or a partition each
		return
	}
	if n == 0 {
		l.dirty = append(l.dirty, m)
	}
	m.due = append(m.due, int32(i)) //nolint:gosec // as above
}

// unpick forgets what pick noted.
func (l *lane) unpick() {
	for i, m := range l.dirty {
		m.unpick()
		l.dirty[i] = nil
	}
	l.dirty = l.dirty[:0]
}

func (m *keyedSeat) unpick() {
	if m.due = m.due[:0]; cap(m.due) > keptDue {
		m.due = nil
	}
}

// send writes the stretch to the members.
func (l *lane) send() {
	st := &l.shard.stretch
	var b block
	if sabotage.Is(sabotage.LaneEarly) {
		l.advance()
	}
	for k := range l.whole {
		k := wireKind(k) //nolint:gosec // below wireKinds
		if l.ahead {
			l.sendAhead(k)
		}
		for from := 0; from < len(st.events) && len(l.whole[k]) > 0; {
			p := picks{from: from, to: len(st.events)}
			p.to = from + st.piece(&b, k, p)
			for i := 0; i < len(l.whole[k]); {
				if m := &l.whole[k][i]; m.ahead || l.give(m, &b, k, p) {
					i++ // else another has its place now
				}
			}
			from = p.to
		}
	}
	for _, m := range l.dirty {
		l.sendPicks(&m.seat, m.kind, m.due)
	}
	l.unpick()
	l.advance()
	l.shard.count()
}

// sendAhead writes to the members that want all and are ahead.
func (l *lane) sendAhead(k wireKind) {
	st := &l.shard.stretch
	var due []int32
	for i := 0; i < len(l.whole[k]); {
		m := &l.whole[k][i]
		if !m.ahead {
			i++
			continue
		}
		due = due[:0]
		cursors := m.s.sub.cursors
		for p, from := 0, 0; p < len(cursors); p++ {
			for n := from; n < st.ends[p]; n++ {
				if st.events[n].Offset >= cursors[p].next {
					due = append(due, int32(n)) //nolint:gosec // see pick
				}
			}
			from = st.ends[p]
		}
		if l.sendPicks(m, k, due) {
			i++
		}
	}
}

// sendPicks writes some events of the stretch to a member.
func (l *lane) sendPicks(m *seat, k wireKind, due []int32) (stays bool) {
	var b block
	for len(due) > 0 {
		n := l.shard.stretch.piece(&b, k, picks{due: due})
		if !l.give(m, &b, k, picks{due: due[:n]}) {
			return false
		}
		due = due[n:]
	}
	return true
}

// give writes a piece to a member's socket. One that does not take it all
// leaves: it owes its client the rest of one frame, and stands behind that.
func (l *lane) give(m *seat, b *block, k wireKind, p picks) (stays bool) {
	sh, s := l.shard, m.s
	n, err := sh.attempt.block(m.raw, b)
	if err != nil {
		sh.end(s, writeEnding(err))
		return false
	}
	events, size := b.events, b.size()
	var rest []byte
	if n < size {
		rest, events = sh.stretch.rest(b, k, p, n)
		if sabotage.Is(sabotage.RestByte) {
			rest = rest[1:]
		}
		size = n + len(rest)
	}
	sh.tally.events += events
	sh.tally.bytes += size
	sh.tally.writes++
	sh.observe(b.newest)
	if s.keyed != nil {
		s.keyed.note(&sh.stretch, p.due[:events])
	}
	if rest == nil {
		return true
	}
	l.syncTo(s, p.at(events-1)+1)
	s.sub.wakeAll()
	l.leave(s)
	s.socket.rest = rest
	sh.lend(s)
	return false
}

// note has the cursors know the times of the latest events.
func (m *keyedSeat) note(st *stretch, due []int32) {
	for n := len(due); n > 0; {
		i := int(due[n-1])
		p := st.partition(i)
		m.cursors[p].time = st.events[i].Time
		if p == 0 {
			return
		}
		for n > 0 && int(due[n-1]) >= st.ends[p-1] {
			n--
		}
	}
}

// advance puts the lane where the stretch ends.
func (l *lane) advance() {
	st := &l.shard.stretch
	from := 0
	for p := range l.at {
		l.at[p] = st.to[p]
		if end := st.ends[p]; end > from {
			e := st.events[end-1]
			l.last[p] = passed{e.Offset, e.Time}
			from = end
		}
	}
	if l.ahead {
		l.ahead = false
		l.meet()
	}
}

// meet looks which members are still ahead.
func (l *lane) meet() {
	for k := range l.whole {
		for i := range l.whole[k] {
			if m := &l.whole[k][i]; m.ahead {
				m.ahead = l.behind(m.s.sub.cursors)
				l.ahead = l.ahead || m.ahead
			}
		}
	}
	for _, m := range l.keyed {
		if m.ahead {
			m.ahead = l.behind(m.cursors)
			l.ahead = l.ahead || m.ahead
		}
	}
}

// behind tells whether some cursor is ahead of the lane.
func (l *lane) behind(cursors []cursor) bool {
	for p := range cursors {
		if cursors[p].next > l.at[p] {
			return true
		}
	}
	return false
}

// endAll ends all members.
func (l *lane) endAll() {
	for k := range l.whole {
		for len(l.whole[k]) > 0 {
			l.shard.end(l.whole[k][0].s, panicEnding)
		}
	}
	for len(l.keyed) > 0 {
		l.shard.end(l.keyed[0].s, panicEnding)
	}
}
