package loadtest

import (
	"fmt"
	"slices"
	"sort"
)

// Counts are the eight ways to be wrong. All must be 0.
type Counts struct {
	LostWrite    int64 // acknowledged to a producer, not in the topic
	Duplicate    int64 // the same event twice: in the topic, or to one client
	Skip         int64 // in the topic, not given to a client that had subscribed to it
	Backwards    int64 // offsets that go down at a client
	Inconsistent int64 // two values at one offset
	Phantom      int64 // given to a client, never in the topic
	LateStart    int64 // the first event is not the first after the acknowledged position
	Foreign      int64 // a key that the client did not subscribe to
}

// Total is their sum.
func (c *Counts) Total() int64 {
	return c.LostWrite + c.Duplicate + c.Skip + c.Backwards + c.Inconsistent + c.Phantom + c.LateStart + c.Foreign
}

func (c *Counts) add(o Counts) {
	c.LostWrite += o.LostWrite
	c.Duplicate += o.Duplicate
	c.Skip += o.Skip
	c.Backwards += o.Backwards
	c.Inconsistent += o.Inconsistent
	c.Phantom += o.Phantom
	c.LateStart += o.LateStart
	c.Foreign += o.Foreign
}

// String is the counts' part of the report line.
func (c Counts) String() string {
	return fmt.Sprintf("lost=%d duplicated=%d skipped=%d backwards=%d inconsistent=%d phantom=%d late_start=%d foreign=%d",
		c.LostWrite, c.Duplicate, c.Skip, c.Backwards, c.Inconsistent, c.Phantom, c.LateStart, c.Foreign)
}

// seen is one delivery as a client got it.
type seen struct {
	offset int64
	digest uint64
}

// span is a stretch of offsets [from, to).
type span struct{ from, to int64 }

// history is all that one subscriber saw of one partition.
type history struct {
	start int64 // the acknowledged position
	end   int64 // where it stood at the end
	seen  []seen
	gaps  []span // named by gap frames
}

// judge holds a history against the truth. wants is nil for all keys. It
// returns the deliveries that were right.
func (h *history) judge(events []truthEvent, wants map[string]bool) (right int64, c Counts, notes []string) {
	note := func(format string, a ...any) {
		if len(notes) < 10 {
			notes = append(notes, fmt.Sprintf(format, a...))
		}
	}
	got := h.order(&c, note)
	i := sort.Search(len(events), func(i int) bool { return events[i].offset >= h.start })
	first := true
	for ; i < len(events) && events[i].offset < h.end; i++ {
		e := &events[i]
		for len(got) > 0 && got[0].offset < e.offset {
			c.Phantom++
			note("phantom: offset %d", got[0].offset)
			got = got[1:]
		}
		here := len(got) > 0 && got[0].offset == e.offset
		switch {
		case wants != nil && !wants[e.key]:
			if here {
				c.Foreign++
				note("foreign: offset %d key %q", e.offset, e.key)
			}
		case !here && h.inGap(e.offset):
		case !here && first:
			c.LateStart++
			note("late start: offset %d after start %d", e.offset, h.start)
		case !here:
			c.Skip++
			note("skip: offset %d of [%d,%d)", e.offset, h.start, h.end)
		case got[0].digest != e.digest:
			c.Inconsistent++
			note("inconsistent: offset %d", e.offset)
		default:
			right++
		}
		if here {
			got = got[1:]
			first = false
		}
	}
	for _, g := range got {
		c.Phantom++
		note("phantom: offset %d (start %d end %d)", g.offset, h.start, h.end)
	}
	return right, c, notes
}

// order counts what goes down or comes twice and returns the rest, ascending.
func (h *history) order(c *Counts, note func(string, ...any)) []seen {
	digests := make(map[int64]uint64)
	ordered := true
	for i := 1; i < len(h.seen); i++ {
		if h.seen[i].offset <= h.seen[i-1].offset {
			ordered = false
			break
		}
	}
	if ordered {
		return h.seen
	}
	last := int64(-1)
	out := make([]seen, 0, len(h.seen))
	for _, s := range h.seen {
		d, twice := digests[s.offset]
		switch {
		case twice && d != s.digest:
			c.Inconsistent++
			note("inconsistent: offset %d twice, with two values", s.offset)
		case twice:
			c.Duplicate++
			note("duplicate: offset %d", s.offset)
		case s.offset < last:
			c.Backwards++
			note("backwards: offset %d after %d", s.offset, last)
			out = append(out, s)
		default:
			out = append(out, s)
		}
		digests[s.offset] = s.digest
		last = max(last, s.offset)
	}
	slices.SortFunc(out, func(a, b seen) int { return int(a.offset - b.offset) })
	return out
}

func (h *history) inGap(o int64) bool {
	for _, g := range h.gaps {
		if o >= g.from && o < g.to {
			return true
		}
	}
	return false
}

// judgeWrites holds what producers know against the truth.
func judgeWrites(t *truth, acked []ack, maybe map[[2]int64]bool) (c Counts, notes []string) {
	type at struct {
		part   int32
		offset int64
	}
	where := map[[2]int64]at{}
	for p, evs := range t.parts {
		for _, e := range evs {
			id := [2]int64{e.producer, e.seq}
			if was, twice := where[id]; twice {
				c.Duplicate++
				notes = append(notes, fmt.Sprintf("event %v is in the topic twice: %v and %d/%d", id, was, p, e.offset))
				continue
			}
			where[id] = at{p, e.offset}
		}
	}
	known := make(map[[2]int64]bool, len(acked))
	for _, a := range acked {
		id := [2]int64{a.producer, a.seq}
		known[id] = true
		got, ok := where[id]
		switch {
		case !ok:
			c.LostWrite++
			notes = append(notes, fmt.Sprintf("event %v was acknowledged at %d/%d and is not in the topic", id, a.part, a.offset))
		case got != at{a.part, a.offset}:
			c.Inconsistent++
			notes = append(notes, fmt.Sprintf("event %v was acknowledged at %d/%d and lies at %v", id, a.part, a.offset, got))
		}
	}
	for id := range where {
		if !known[id] && !maybe[id] {
			c.Phantom++
			notes = append(notes, fmt.Sprintf("event %v is in the topic and was never sent", id))
		}
	}
	if len(notes) > 10 {
		notes = append(notes[:10], fmt.Sprintf("... and %d more", len(notes)-10))
	}
	return c, notes
}
