package coverage

import (
	"cmp"
	"maps"
	"slices"

	"github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/stream"
)

// fan is a fan-out instance: the interest log folded, the partitions that it
// believes to own, and a queue for each incarnation.
type fan struct {
	w      *world
	index  int32
	alive  bool
	paused bool

	state  interest.State
	pos    int             // next record of the interest log
	dirty  map[string]bool // changed, not announced yet
	parts  map[int32]*ownedPart
	queues map[string][]stream.Section
}

type ownedPart struct {
	chains *Chains
	gen    int32
}

func newFan(w *world, index int32) *fan {
	f := &fan{w: w, index: index, alive: true}
	f.boot()
	return f
}

func (f *fan) boot() {
	f.state.Reset(f.w.logID)
	f.pos, f.dirty = 0, map[string]bool{}
	f.parts, f.queues = map[int32]*ownedPart{}, map[string][]stream.Section{}
	if !f.w.plan.holes.partialLoad {
		f.load()
	}
}

func (f *fan) owned() []int32 { return slices.Sorted(maps.Keys(f.parts)) }

func sorted(s *interest.State) []*interest.Incarnation {
	var out []*interest.Incarnation
	for i := range s.All {
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b *interest.Incarnation) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func sortedIDs(i *interest.Incarnation) []string {
	var out []string
	for id := range i.IDs {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// apply takes one record of the interest log; false: there is none.
func (f *fan) apply() bool {
	if f.state.Pos().Log != f.w.logID && !f.w.plan.holes.oneLog {
		for _, i := range sorted(&f.state) {
			f.dirty[i.Name] = true
		}
		f.state.Reset(f.w.logID)
		f.pos = 0
		f.announce()
		return true
	}
	if f.pos >= len(f.w.log) {
		return false
	}
	r := f.w.log[f.pos]
	pos := stream.InterestPos{Log: f.state.Pos().Log, Offset: int64(f.pos)}
	f.pos++
	if r == nil {
		f.state.Apply(pos, interest.Record{}, false, f.w.now)
		return true
	}
	c := f.state.Apply(pos, r.rec, true, f.w.now)
	if c.Ended { // at once: what is routed from here on is not routed for it
		delete(f.queues, c.Incarnation.Name)
		for _, p := range f.owned() {
			if !f.w.plan.holes.lateEnd {
				f.parts[p].chains.Interests(c.Incarnation.Name, pos, false)
			}
		}
	}
	if c.Incarnation != nil && (c.Edge || c.Born || c.Ended || r.rec.Kind == interest.KindAdd) {
		f.dirty[c.Incarnation.Name] = true
	}
	return true
}

func (f *fan) load() {
	for f.apply() {
	}
	f.announce()
}

// announce answers changed interests, at some time after they were applied.
func (f *fan) announce() {
	for _, inc := range slices.Sorted(maps.Keys(f.dirty)) {
		i := f.state.Get(inc)
		wants := i != nil && i.Alive() && i.Count() > 0
		for _, p := range f.owned() {
			f.queue(f.parts[p].chains.Interests(inc, f.state.Pos(), wants))
		}
	}
	clear(f.dirty)
}

// purge is hole S5: what the incarnation wants is forgotten, and no more.
func (f *fan) purge(incarnation string) {
	if i := f.state.Get(incarnation); i != nil {
		for _, id := range sortedIDs(i) {
			f.state.Apply(f.state.Pos(), interest.Record{Kind: interest.KindEnd1, Incarnation: incarnation, ID: id}, true, f.w.now)
		}
	}
}

// own takes over a partition, or keeps it.
func (f *fan) own(part, gen int32) {
	w := f.w
	if o := f.parts[part]; o != nil && w.chance(0.7) {
		o.gen = gen
		o.chains.SetGeneration(gen)
		return
	}
	if !w.plan.holes.partialLoad {
		f.load()
	}
	start, ok := w.commit[partKey{w.topic, part}]
	if w.plan.holes.oneHistory {
		start, ok = w.commit[partKey{stream.TopicID{}, part}]
	}
	if !ok && w.plan.holes.newAtEnd {
		start = w.part(part).stable
	}
	f.begin(part, gen, start)
}

func (f *fan) begin(part, gen int32, start int64) {
	c := NewChains(f.w.topic, part, gen, start)
	c.mut = f.w.plan.holes.mut
	f.parts[part] = &ownedPart{c, gen}
	for _, i := range sorted(&f.state) {
		if i.Alive() && i.Count() > 0 {
			f.queue(c.Interests(i.Name, f.state.Pos(), true))
		}
	}
	f.w.tell("fan %d: owns %d from %d by %d, generation %d", f.index, part, start, f.state.Pos().Offset, gen)
}

// queue adds sections to the nodes' queues; neighbours are merged at times.
func (f *fan) queue(outs []Out) {
	slices.SortStableFunc(outs, func(a, b Out) int { return cmp.Compare(a.Incarnation, b.Incarnation) })
	for _, o := range outs {
		q := f.queues[o.Incarnation]
		s := o.Section
		f.w.tell("fan %d -> %s: %d [%d, %d) E %d, %d deliveries", f.index, o.Incarnation, s.Partition, s.From, s.To, s.Interests.Offset, len(s.Deliveries))
		if len(q) > 0 && f.w.chance(0.5) {
			if m, ok := Merge(q[len(q)-1], s); ok {
				f.w.n["merged"]++
				q[len(q)-1] = m
				continue
			}
		}
		parts := []stream.Section{s}
		if f.w.chance(0.05) { // too much for one batch; what is too large by itself is left out
			large := s.From + f.w.r.Int64N(8)
			parts = Split(s, 2, func(r *stream.Record) int {
				if r.Offset == large {
					return 3
				}
				return 1
			})
			f.w.n["split"] += len(parts) - 1
		}
		f.queues[o.Incarnation] = append(q, parts...)
	}
}

func (f *fan) step() {
	if !f.alive || f.paused {
		return
	}
	switch x := f.w.r.Float64(); {
	case x < 0.22:
		f.apply()
	case x < 0.30:
		f.announce()
	case x < 0.60:
		f.route()
	case x < 0.85:
		f.publish()
	case x < 0.92:
		f.commit()
	default:
		f.cover()
	}
	if f.w.chance(0.05) { // it learns what it lost
		for _, p := range f.owned() {
			if o, ok := f.w.owners[p]; ok && o.fan != f.index {
				delete(f.parts, p)
			}
		}
	}
}

// route reads on in one partition.
func (f *fan) route() {
	w := f.w
	if len(f.parts) == 0 {
		return
	}
	part := f.owned()[w.r.IntN(len(f.parts))]
	o := f.parts[part]
	c := o.chains
	if c.Topic() != w.topic && !w.plan.holes.oneHistory {
		f.begin(part, o.gen, 0)
		return
	}
	if c.Topic() != w.topic {
		c.topic = w.topic // hole S6: it reads on by name
	}
	p := w.part(part)
	if c.Next() < p.start {
		f.queue(c.Skip(p.start))
		return
	}
	to, recs, ok := w.read(part, c.Next(), 1+w.r.IntN(5))
	if !ok {
		return
	}
	at := f.state.Pos()
	routed := map[string][]stream.Record{}
	cut := len(recs)
	if w.rough && w.chance(0.3) { // the map changes while a batch is routed
		cut = w.r.IntN(len(recs) + 1)
	}
	f.routeBy(recs[:cut], routed)
	if cut < len(recs) {
		f.apply()
		f.routeBy(recs[cut:], routed)
	}
	if w.plan.holes.mut&mutS2Stamp != 0 {
		at = f.state.Pos()
	}
	f.queue(c.Routed(to, p.stable, at, routed, w.now))
}

func (f *fan) routeBy(recs []stream.Record, routed map[string][]stream.Record) {
	for i := range f.state.All {
		if !i.Alive() {
			continue
		}
		all, keys := false, map[string]bool{}
		for want := range i.Wants {
			all = all || want.All
			keys[want.Key] = true
		}
		for _, r := range recs {
			if all || keys[string(r.Key)] {
				routed[i.Name] = append(routed[i.Name], r)
			}
		}
	}
}

func (f *fan) cover() {
	for _, p := range f.owned() {
		f.queue(f.parts[p].chains.Cover(f.w.now, f.state.Pos()))
	}
}

// publish writes the head of one queue, as one record, with all that can happen to it.
func (f *fan) publish() {
	w := f.w
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(f.queues)), func(n string) bool { return len(f.queues[n]) == 0 })
	if len(names) == 0 {
		return
	}
	inc := names[w.r.IntN(len(names))]
	q := f.queues[inc]
	if w.rough && w.chance(0.03) {
		w.n["queue cut"]++
		f.queues[inc] = nil
		return
	}
	k := 1 + w.r.IntN(len(q))
	batch := slices.Clone(q[:k])
	log := w.delivery[inc]
	x := w.r.Float64()
	if log != nil && (!w.rough || x > 0.04) { // below: the record is lost
		*log = append(*log, batch)
		if w.rough && x > 0.97 { // doubled
			*log = append(*log, batch)
		}
		if n := len(*log); w.rough && x > 0.90 && x < 0.93 && n > 1 { // reordered
			(*log)[n-1], (*log)[n-2] = (*log)[n-2], (*log)[n-1]
		}
		if w.rough && x > 0.985 { // the answer is lost: sent again later
			return
		}
	}
	f.queues[inc] = q[k:]
}

// commit notes how far this owner is, with or without regard to what is queued.
func (f *fan) commit() {
	w := f.w
	for _, part := range f.owned() {
		o := f.parts[part]
		at := o.chains.Next()
		if !w.rough || w.chance(0.5) {
			for _, q := range f.queues {
				for _, s := range q {
					if s.Partition == part && s.Topic == o.chains.Topic() {
						at = min(at, s.From)
					}
				}
			}
		}
		key := partKey{o.chains.Topic(), part}
		if w.plan.holes.oneHistory {
			key.topic = stream.TopicID{}
		}
		if w.owners[part] == (owner{f.index, o.gen}) && at >= w.commit[key] {
			w.commit[key] = at
		}
	}
}
