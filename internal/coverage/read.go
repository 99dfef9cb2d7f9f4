package coverage

import (
	"slices"
	"time"

	"github.com/tapecast/tapecast/internal/stream"
)

// ReadResult is the answer to a Read action: what the feed topic proves about
// [From, To), filtered by all interests when taken (the caller hands Records
// unfiltered or filtered by a superset; the view takes what any interest wants).
type ReadResult struct {
	From, To int64
	End      int64 // last stable offset
	Records  []stream.Record
	// OutOfRange: From is below the first retained offset Start.
	OutOfRange bool
	Start      int64
	// Shrunk: From is beyond the log's end, which is End: the log was cut (an
	// unclean election, a restored backup).
	Shrunk bool
	// Changed: the topic id is not the view's any more.
	Changed bool
	Err     error // transient: nothing is proved; ask again
}

// Read takes the result of the one read that is under way. A view that has
// moved on meanwhile takes what is still ahead of it, or nothing.
func (v *View) Read(r ReadResult, now time.Time) []Action {
	v.reading = false
	if v.void {
		v.void = false
		return v.goOn([]Action{Count{CountReadStale}}, now)
	}
	switch {
	case r.Changed && v.mut&mutS6 == 0:
		return append(v.failed(now), v.askTopic(stream.TopicID{}, now)...)
	case r.Shrunk:
		return v.goOn(v.shrunk(r, now), now)
	case r.Err != nil, r.OutOfRange && r.Start <= v.next && r.From == v.next:
		// The second is a position beyond the log's end: it shrank (an unclean
		// election). Nothing is known about what comes at next.
		return v.failed(now)
	case !v.followed(), r.OutOfRange && r.Start <= v.next:
		return v.goOn([]Action{Count{CountReadStale}}, now)
	case r.OutOfRange:
		return v.goOn(v.outOfRange(r, now), now)
	case r.From > v.next || r.To < v.next:
		return v.goOn([]Action{Count{CountReadStale}}, now)
	}
	v.end = r.End
	if r.To == v.next {
		// Nothing new. What is to come may take a moment: the next Tick asks again.
		v.stand(false, now)
		v.retryAt = now.Add(minBackoff)
		return v.goOn(nil, now)
	}
	v.retryAt, v.backoff = time.Time{}, 0
	return v.goOn([]Action{v.take(r.To, v.filter(r.Records, r.To), now)}, now)
}

// filter keeps what lies in [next, to) and any interest wants, in new memory
// only if something is left out.
func (v *View) filter(records []stream.Record, to int64) []stream.Record {
	records = trim(records, v.next)
	var out []stream.Record
	for i := range records {
		if records[i].Offset < to && v.wants(records[i].Key) {
			out = append(out, records[i])
		}
	}
	return out
}

// outOfRange is rule 6: what is below the first retained offset is gone. A
// waiting section may still tell some of it.
func (v *View) outOfRange(r ReadResult, now time.Time) []Action {
	from, to := v.next, r.Start
	if v.wait.len() > 0 {
		to = min(to, max(v.wait.first(), from))
	}
	v.retryAt, v.backoff = time.Time{}, 0
	if to == from {
		return nil // goOn takes it
	}
	v.next = to
	v.stand(true, now)
	if v.mut&mutS12 != 0 {
		return []Action{Take{To: to}}
	}
	return []Action{TapeGap{From: from, To: to}, Count{CountRetention}}
}

// shrunk begins anew at the end of a log that was cut. What the tape holds
// beyond is of a history that is not there any more; cursors that stand there
// find themselves beyond the end. Interests stay complete: from here on.
// A log that has grown back before anyone asked looks like one that was never
// cut: only the leader's epochs could tell.
func (v *View) shrunk(r ReadResult, now time.Time) []Action {
	if !v.followed() || r.From != v.next || r.End >= v.next {
		return []Action{Count{CountReadStale}}
	}
	v.next, v.end, v.gapTo, v.below, v.seen = r.End, r.End, 0, time.Time{}, seen{}
	v.retryAt, v.backoff = time.Time{}, 0
	v.wait.clear()
	var ids []InterestID
	for _, i := range v.ints {
		if i.hasX {
			i.x = r.End
			ids = append(ids, i.id)
		}
	}
	slices.Sort(ids)
	return []Action{Restart{At: r.End}, Complete{IDs: ids}, Count{CountShrunk}}
}

func (v *View) failed(now time.Time) []Action {
	v.backoff = min(max(2*v.backoff, minBackoff), maxBackoff)
	v.retryAt = now.Add(v.backoff)
	return []Action{Count{CountReadFailed}}
}

// ask starts the next read if one is due and none is under way.
func (v *View) ask(now time.Time) []Action {
	if v.reading || !v.followed() || !v.gapOpen() || now.Before(v.retryAt) {
		return nil
	}
	v.reading = true
	if v.bypass {
		return []Action{Read{From: v.next, To: -1, Bypass: true}}
	}
	return []Action{Read{From: v.next, To: v.gapTo}}
}

func (v *View) askTopic(id stream.TopicID, now time.Time) []Action {
	if !v.askedID.IsZero() && now.Sub(v.askedID) < time.Second {
		return nil
	}
	v.askedID = now
	return []Action{AskTopic{ID: id}}
}

// End answers an AskEnd action, asked after the command.
func (v *View) End(end int64, now time.Time) []Action {
	v.askedEnd = time.Time{}
	if v.followed() || !v.overdue(now) || end < 0 {
		return nil // a section was faster, or they went away
	}
	out := []Action{Restart{At: end}}
	since := v.waiters[0].wanted
	v.end = end
	v.start(end, now)
	v.confirmed = since // it was silent since then
	return v.goOn(append(out, v.fallback(end, now)...), now)
}

// Tick lets time act: bypass, and rule 8. Call it every 100 ms or so.
func (v *View) Tick(now time.Time) []Action {
	out := v.completeSeen(now)
	if v.overdue(now) {
		switch {
		case v.followed():
			out = append(out, v.fallback(v.next, now)...)
		case v.askedEnd.IsZero() || now.Sub(v.askedEnd) >= v.opt.Silence:
			v.askedEnd = now
			out = append(out, AskEnd{})
		}
	}
	if v.followed() && !v.gapOpen() && v.silent(now) {
		out = append(out, v.startBypass(CountBypass)...)
	}
	return v.goOn(out, now)
}

// silent is rule 7's condition.
func (v *View) silent(now time.Time) bool {
	return now.Sub(v.confirmed) >= v.opt.Silence+v.opt.Jitter ||
		!v.below.IsZero() && now.Sub(v.below) >= v.opt.Silence
}

// overdue: some interest waits for its X for too long.
func (v *View) overdue(now time.Time) bool {
	return len(v.waiters) > 0 && v.mut&mutFallback == 0 && now.Sub(v.waiters[0].wanted) >= v.opt.Silence
}

// fallback is rule 8: who waits for too long gets X = x. Rule 3 guards it from
// then on, as long as it is not acked against every section.
func (v *View) fallback(x int64, now time.Time) []Action {
	done := v.complete(x, func(i *entry) bool { return now.Sub(i.wanted) >= v.opt.Silence })
	if done == nil {
		return nil
	}
	return append(done, Count{CountFallback})
}

// completeSeen gives an X to interests whose ack came after the section that
// covers it: a section that was just seen would have given it. X = next is
// right at any time, so nothing hangs on how the section was judged.
func (v *View) completeSeen(now time.Time) []Action {
	if v.seen.at.IsZero() || now.Sub(v.seen.at) > v.opt.Silence || v.seen.e.Offset < v.low {
		return nil
	}
	if v.followed() {
		return v.completeBy(v.next, v.seen.e)
	}
	at := v.seen.to
	done := v.completeBy(at, v.seen.e)
	if done == nil {
		return nil
	}
	v.start(at, now)
	return append([]Action{Restart{At: at}}, done...)
}
