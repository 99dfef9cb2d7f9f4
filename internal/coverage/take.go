package coverage

import (
	"slices"
	"time"

	"github.com/tapecast/tapecast/internal/stream"
)

// Section takes one section from the delivery topic of the gateway's present
// incarnation. The section is used as it is, or copied if it has to wait.
func (v *View) Section(s stream.Section, now time.Time) []Action {
	if s.Partition != v.partition || s.From < 0 || s.To < s.From {
		return nil
	}
	if s.Topic != v.topic && v.mut&mutS6 == 0 { // rule 1
		return append(v.askTopic(s.Topic, now), Count{CountTopic})
	}
	var out []Action
	if s.Generation < v.generation {
		out = append(out, Count{CountZombie})
	}
	v.generation = max(v.generation, s.Generation)
	v.seen = seen{at: now, e: s.Interests, to: s.To}
	v.end = max(v.end, s.End)
	v.stand(false, now)
	out = append(out, v.judge(s, now)...)
	return v.goOn(out, now)
}

// judge applies rules 2 to 5.
func (v *View) judge(s stream.Section, now time.Time) []Action {
	if !v.followed() {
		return v.begin(s, now)
	}
	if !v.covers(s.Interests) { // rule 3
		return append(v.gapUntil(s.To, now), Count{CountUncovered})
	}
	if s.From > v.next { // rule 4: [next, from) is a gap, the section waits
		to := s.From
		var out []Action
		if !v.wait.add(s, v.opt.WaitBytes) {
			to, out = s.To, append(out, Count{CountDropped})
		}
		if v.gapOpen() {
			return out // one after the other: what is beyond this gap is seen when it is filled
		}
		return append(out, v.gapUntil(to, now)...)
	}
	before := v.next
	var out []Action
	if s.To > v.next {
		out = append(out, v.take(s.To, trim(s.Deliveries, v.next), now), Count{CountTaken})
	} else {
		out = append(out, Count{CountStale})
	}
	if s.To >= before {
		out = append(out, v.confirm(now)...)
	}
	return append(out, v.completeBy(max(s.From, before), s.Interests)...)
}

// begin is rule 2: nobody depends on next, so a section that makes an interest
// complete sets it. Others are of no use.
func (v *View) begin(s stream.Section, now time.Time) []Action {
	done := v.completeBy(s.From, s.Interests)
	if done == nil {
		return []Action{Count{CountUnneeded}}
	}
	out := []Action{Restart{At: s.From}}
	v.start(s.From, now)
	if s.To > s.From {
		out = append(out, v.take(s.To, s.Deliveries, now))
	}
	return append(append(out, Count{CountTaken}), done...)
}

// start sets next where there was none.
func (v *View) start(at int64, now time.Time) {
	v.next, v.gapTo, v.bypass = at, 0, false
	v.confirmed = now
	v.wait.clear()
	v.stand(true, now)
}

// take moves next on.
func (v *View) take(to int64, records []stream.Record, now time.Time) Action {
	v.next = to
	v.stand(true, now)
	return Take{To: to, Records: records}
}

// confirm notes that a section reached next; that ends a bypass.
func (v *View) confirm(now time.Time) []Action {
	v.confirmed = now
	if !v.bypass {
		return nil
	}
	v.bypass = false
	return []Action{Count{CountBypassEnd}}
}

// stand keeps since when next stands below a known end.
func (v *View) stand(moved bool, now time.Time) {
	switch {
	case !v.followed() || v.next >= v.end:
		v.below = time.Time{}
	case moved || v.below.IsZero():
		v.below = now
	}
}

// gapOpen: next is being brought up by reading, to gapTo or without an end.
func (v *View) gapOpen() bool { return v.bypass || v.next < v.gapTo }

// gapUntil makes [next, to) a gap, or part of the one that is open. Too many
// of them a second are a bypass.
func (v *View) gapUntil(to int64, now time.Time) []Action {
	if to <= v.next || v.bypass {
		return nil
	}
	if v.gapOpen() {
		v.gapTo = max(v.gapTo, to)
		return nil
	}
	oldest := v.gaps[v.gapAt]
	v.gaps[v.gapAt] = now
	v.gapAt = (v.gapAt + 1) % len(v.gaps)
	if !oldest.IsZero() && now.Sub(oldest) < time.Second {
		return v.startBypass(CountBypassGaps)
	}
	v.gapTo = to
	if v.backoff == 0 {
		v.retryAt = time.Time{} // the pause after a read that found nothing is not this gap's
	}
	return []Action{Count{CountGap}}
}

func (v *View) startBypass(why string) []Action {
	v.bypass, v.gapTo = true, 0
	return []Action{Count{why}}
}

// goOn takes what waited and can be taken now, and asks for the next read.
func (v *View) goOn(out []Action, now time.Time) []Action {
	for v.followed() && v.wait.len() > 0 && (v.wait.first() <= v.next || !v.gapOpen()) {
		out = append(out, v.judge(v.wait.pop(), now)...)
	}
	return append(out, v.ask(now)...)
}

// trim skips the records below next.
func trim(records []stream.Record, next int64) []stream.Record {
	i, _ := slices.BinarySearchFunc(records, next, func(r stream.Record, o int64) int {
		switch {
		case r.Offset < o:
			return -1
		case r.Offset > o:
			return 1
		}
		return 0
	})
	return records[i:]
}

// waiting holds sections that begin beyond next, by From, copied so that a
// small one does not keep its whole batch.
type waiting struct {
	sections []stream.Section
	bytes    int
}

func (w *waiting) len() int { return len(w.sections) }

func (w *waiting) first() int64 { return w.sections[0].From }

func (w *waiting) clear() { w.sections, w.bytes = nil, 0 }

func (w *waiting) pop() stream.Section {
	s := w.sections[0]
	w.sections[0] = stream.Section{}
	w.sections = w.sections[1:]
	w.bytes -= weigh(&s)
	return s
}

func (w *waiting) add(s stream.Section, limit int) bool {
	n := weigh(&s)
	if w.bytes+n > limit {
		return false
	}
	w.bytes += n
	s.Deliveries = own(s.Deliveries)
	i := len(w.sections)
	for i > 0 && w.sections[i-1].From > s.From {
		i--
	}
	w.sections = slices.Insert(w.sections, i, s)
	return true
}

// weigh is about what a waiting section takes in memory.
func weigh(s *stream.Section) int {
	n := 144
	for i := range s.Deliveries {
		n += 80 + len(s.Deliveries[i].Key) + len(s.Deliveries[i].Value)
	}
	return n
}

// own copies records into memory of their own.
func own(records []stream.Record) []stream.Record {
	if len(records) == 0 {
		return nil
	}
	size := 0
	for i := range records {
		size += len(records[i].Key) + len(records[i].Value)
	}
	buf := make([]byte, 0, size)
	keep := func(b []byte) []byte {
		if b == nil {
			return nil
		}
		at := len(buf)
		buf = append(buf, b...)
		return buf[at:len(buf):len(buf)]
	}
	out := slices.Clone(records)
	for i := range out {
		out[i].Key, out[i].Value = keep(out[i].Key), keep(out[i].Value)
	}
	return out
}
