package coverage

import "github.com/tapecast/tapecast/internal/stream"

// maxMerged bounds the deliveries of a merged section, so that merging a long
// queue piece by piece does not copy it again and again.
const maxMerged = 512

// Merge makes one section of two that follow each other in a node's queue; E is
// the lower. ok=false: they are no neighbours, or should stay apart. It leaves
// both inputs as they are. Bytes are the caller's to bound.
func Merge(a, b stream.Section) (m stream.Section, ok bool) {
	switch {
	case a.Topic != b.Topic || a.Partition != b.Partition || a.To != b.From,
		a.Interests.Log != b.Interests.Log,
		len(a.Deliveries)+len(b.Deliveries) > maxMerged:
		return m, false
	case b.Interests.Offset > a.Interests.Offset && a.From < a.To:
		// The second one announces new interests. Under the lower E it would
		// not, and they would wait for the next.
		return m, false
	}
	m = b
	m.From = a.From
	m.End = max(a.End, b.End)
	m.Interests.Offset = min(a.Interests.Offset, b.Interests.Offset)
	if a.ReadFirst != 0 {
		m.ReadFirst = a.ReadFirst
	}
	m.ReadLast = max(a.ReadLast, b.ReadLast)
	if a.From == a.To {
		// An empty one says nothing about the log; where the other begins, its E holds.
		m.Interests = b.Interests
	}
	switch {
	case len(a.Deliveries) == 0:
	case len(b.Deliveries) == 0:
		m.Deliveries = a.Deliveries
	default:
		m.Deliveries = make([]stream.Record, 0, len(a.Deliveries)+len(b.Deliveries))
		m.Deliveries = append(append(m.Deliveries, a.Deliveries...), b.Deliveries...)
	}
	return m, true
}

// Split cuts a section so that no part's deliveries are more than limit by
// size. A delivery that is more than limit by itself is left out with its
// offset: no part speaks of it, and the gateway reads it from the feed. The
// parts share the deliveries of s.
func Split(s stream.Section, limit int, size func(*stream.Record) int) []stream.Section {
	var parts []stream.Section
	part, first, sum := s, 0, 0
	cut := func(at int64, end, next int, from int64) {
		part.To, part.Deliveries = at, s.Deliveries[first:end:end]
		parts = append(parts, part)
		part.From, first, sum = from, next, 0
	}
	for i := range s.Deliveries {
		n, o := size(&s.Deliveries[i]), s.Deliveries[i].Offset
		switch {
		case n > limit:
			cut(o, i, i+1, o+1)
		case sum+n > limit:
			cut(o, i, i, o)
			sum = n
		default:
			sum += n
		}
	}
	if len(parts) == 0 {
		return []stream.Section{s}
	}
	cut(s.To, len(s.Deliveries), len(s.Deliveries), s.To)
	return parts
}
