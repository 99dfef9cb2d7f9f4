package coverage

import (
	"bytes"
	"maps"
	"slices"
	"strconv"

	"github.com/tapecast/tapecast/internal/stream"
)

// sub is one subscription: a cursor for each partition.
type sub struct {
	g      *gate
	client int
	item   byte
	want   *want
	topic  stream.TopicID
	known  int32           // partitions at the ack
	resume map[int32]int64 // R
	cursor map[int32]int64
}

func (g *gate) subscribe(client int, item byte, from map[int32]int64, topic stream.TopicID) {
	w := g.w
	if topic != g.topic {
		g.metadata() // a position of a topic that it does not know: asked afresh
	}
	s := &sub{g: g, client: client, item: item, topic: g.topic, known: g.parts, resume: maps.Clone(from), cursor: map[int32]int64{}}
	if topic != g.topic && !w.plan.holes.oneHistory {
		s.reset(g.topic, g.parts)
	}
	all := g.wants['T']
	it := g.wants[item]
	switch {
	case it != nil:
	case all != nil && !all.closing && w.chance(0.5):
		it = all // shares the whole topic's
	default:
		w.nextID++
		it = &want{name: InterestID("w" + strconv.Itoa(w.nextID)), item: item}
		g.wants[item] = it
		for i := range g.parts {
			g.do(i, g.views[i].Add(it.name, keyOf(item), w.now))
		}
		g.add(it)
	}
	s.want = it
	g.subs = append(g.subs, s)
	w.tell("gate %d: client %d subscribes to %c from %v, interest %s", g.index, client, item, s.resume, it.name)
}

// reset: the topic was made again; everything starts at 0.
func (s *sub) reset(topic stream.TopicID, parts int32) {
	s.topic, s.known = topic, parts
	s.resume, s.cursor = map[int32]int64{}, map[int32]int64{}
	for i := range parts {
		s.resume[i] = 0
	}
}

// position is what the client resumes with.
func (s *sub) position() map[int32]int64 {
	d := maps.Clone(s.resume)
	maps.Copy(d, s.cursor)
	return d
}

func (g *gate) leave(s *sub) {
	g.subs = slices.DeleteFunc(g.subs, func(x *sub) bool { return x == s })
}

// linger lets go of interests that nobody uses any more.
func (g *gate) linger() {
	for _, item := range slices.Sorted(maps.Keys(g.wants)) {
		w := g.wants[item]
		if !g.used(w) && !w.closing && g.w.chance(0.5) {
			g.drop(w)
		}
	}
}

func (g *gate) used(w *want) bool {
	return slices.ContainsFunc(g.subs, func(s *sub) bool { return s.want == w })
}

// serving is what hole S8 takes for "served live".
func (g *gate) serving(id InterestID, part int32) bool {
	x, ok := g.views[part].X(id)
	return ok && slices.ContainsFunc(g.subs, func(s *sub) bool {
		c, began := s.cursor[part]
		return s.want.name == id && began && c >= x
	})
}

// session moves one cursor on.
func (g *gate) session() {
	if len(g.subs) == 0 {
		return
	}
	s := g.subs[g.w.r.IntN(len(g.subs))]
	part := g.w.r.Int32N(g.parts)
	v, t := g.views[part], g.tapes[part]
	x, hasX := v.X(s.want.name)
	next, followed := v.Next()
	c, began := s.cursor[part]
	if !began {
		if c, began = s.start(part, x, next, hasX); !began {
			return
		}
		s.cursor[part] = c
	}
	lo := max(t.start, x)
	if g.w.plan.holes.noX {
		lo, hasX = t.start, true
	}
	if !followed || !hasX || c < lo {
		s.fromFeed(part, c)
		return
	}
	if c >= next {
		return
	}
	to := next
	if g.w.chance(0.5) {
		to = min(next, c+2)
	}
	var recs []stream.Record
	var gaps [][2]int64
	for _, e := range t.entries {
		switch {
		case e.gapTo > 0:
			if lo, hi := max(e.Offset, c), min(e.gapTo, to); lo < hi {
				gaps = append(gaps, [2]int64{lo, hi})
			}
		case e.Offset >= c && e.Offset < to && s.matches(e.Key[0]):
			recs = append(recs, e.Record)
		}
	}
	g.w.n["from the tape"]++
	s.advance(part, to, recs, gaps)
}

// start is where a cursor begins; false: not known yet.
func (s *sub) start(part int32, x, next int64, hasX bool) (int64, bool) {
	w := s.g.w
	r, resumed := s.resume[part]
	live := max(x, next)
	switch {
	case resumed && w.plan.holes.startLow && hasX:
		return min(r, live), true
	case resumed:
		return r, true
	case part >= s.known || len(s.resume) > 0:
		// It did not exist at the ack, or in the cursor.
		if w.plan.holes.newAtEnd && hasX {
			s.check(part, 0, live, nil, nil)
			return live, true
		}
		return 0, !w.plan.holes.newAtEnd
	}
	return live, hasX
}

func (s *sub) fromFeed(part int32, c int64) {
	w := s.g.w
	if s.g.topic != w.topic && !w.plan.holes.oneHistory {
		s.g.metadata()
		return
	}
	p := w.part(part)
	if p == nil || c > p.stable {
		return
	}
	w.n["from the feed"]++
	if c < p.start {
		s.advance(part, p.start, nil, [][2]int64{{c, p.start}})
		return
	}
	to, recs, _ := w.read(part, c, 3)
	s.advance(part, to, slices.DeleteFunc(recs, func(r stream.Record) bool { return !s.matches(r.Key[0]) }), nil)
}

func (s *sub) matches(key byte) bool { return s.item == 'T' || s.item == key }

func (s *sub) advance(part int32, to int64, recs []stream.Record, gaps [][2]int64) {
	w := s.g.w
	from := s.cursor[part]
	w.tell("client %d: %d [%d, %d) %d events, gaps %v", s.client, part, from, to, len(recs), gaps)
	s.check(part, from, to, recs, gaps)
	h := history{s.client, partKey{s.topic, part}}
	for _, r := range recs {
		if last, ok := w.last[h]; ok && r.Offset <= last {
			w.bad("DOUBLED", "client %d partition %d: offset %d after %d", s.client, part, r.Offset, last)
		}
		w.last[h] = r.Offset
	}
	s.cursor[part] = to
	w.n["delivered"] += len(recs)
	w.n["gap frame"] += len(gaps)
}

// check holds a move of the cursor to the promise.
func (s *sub) check(part int32, from, to int64, recs []stream.Record, gaps [][2]int64) {
	w := s.g.w
	p := w.feed[partKey{s.topic, part}]
	prev := from - 1
	got := map[int64]bool{}
	for _, r := range recs {
		switch {
		case r.Offset <= prev || r.Offset >= to:
			w.bad("DISORDER", "client %d partition %d: offset %d after %d in [%d, %d)", s.client, part, r.Offset, prev, from, to)
		case !bytes.Equal(r.Value, value(s.topic, part, r.Offset)):
			w.bad("MIXED", "client %d partition %d offset %d: another record's value", s.client, part, r.Offset)
		case r.Offset >= int64(len(p.records)):
			w.bad("PHANTOM", "client %d partition %d offset %d", s.client, part, r.Offset)
		}
		if c := p.records[r.Offset]; c.state != committed && c.state != compacted || !s.matches(c.key) {
			w.bad("FOREIGN", "client %d partition %d offset %d: %+v", s.client, part, r.Offset, c)
		}
		prev, got[r.Offset] = r.Offset, true
	}
	for _, gap := range gaps {
		if gap[1] > p.start {
			w.bad("FALSE GAP", "client %d partition %d: [%d, %d), retained from %d", s.client, part, gap[0], gap[1], p.start)
		}
	}
	for o := from; o < min(to, int64(len(p.records))); o++ {
		c := p.records[o]
		missing := c.state == committed && s.matches(c.key) && !got[o]
		if missing && !slices.ContainsFunc(gaps, func(g [2]int64) bool { return g[0] <= o && o < g[1] }) {
			w.bad("LOST", "gateway %d client %d item %c partition %d: offset %d of [%d, %d)", s.g.index, s.client, s.item, part, o, from, to)
		}
	}
}
