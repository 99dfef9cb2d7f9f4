package coverage

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/stream"
)

// gate is a gateway: its incarnation and interests, a View and a tape for each
// partition, and the sessions' subscriptions.
type gate struct {
	w     *world
	index int
	boots int

	incarnation string
	logID       stream.TopicID // of the interest log that it writes to
	topic       stream.TopicID
	parts       int32
	read        int // of the delivery topic

	wants   map[byte]*want // by item, those that a new subscription may share
	closing []*want        // hole S9 only: tombstone sent, not acked
	wire    []*request     // interest writes that the broker has not handled
	late    []lateAck      // handled, but the gateway does not know
	views   map[int32]*View
	tapes   map[int32]*tape
	reads   map[int32]*pendingRead
	asked   map[int32]bool // AskEnd
	ask     bool           // AskTopic
	subs    []*sub
}

// want is one interest of the gateway. Its name in the views stays; its id in
// the log is fresh with each write.
type want struct {
	name    InterestID
	item    byte
	id      string   // the one whose ack counts
	ids     []string // all that were sent in this incarnation
	closing bool
}

// request is one write on its way to the interest log.
type request struct {
	rec  interest.Record
	want *want
}

type lateAck struct {
	*request
	pos stream.InterestPos
}

type pendingRead struct {
	Read
	done   bool
	result ReadResult
}

// tape is a partition's latest events, from start to the view's next.
type tape struct {
	start   int64
	head    int64
	entries []entryOnTape
}

type entryOnTape struct {
	gapTo int64 // not 0: a gap entry [Offset, gapTo)
	stream.Record
}

func (g *gate) boot() {
	g.wants, g.closing, g.wire, g.late = map[byte]*want{}, nil, nil, nil
	g.subs = nil
	g.topic, g.parts = g.w.topic, g.w.parts
	g.makeViews()
	g.incarnate()
}

func (g *gate) makeViews() {
	g.views, g.tapes, g.reads, g.asked = map[int32]*View{}, map[int32]*tape{}, map[int32]*pendingRead{}, map[int32]bool{}
	for i := range g.parts {
		g.makeView(i)
	}
}

func (g *gate) makeView(i int32) {
	v := NewView(g.topic, i, Options{
		WaitBytes: []int{0, 400, 2000}[g.w.r.IntN(3)],
		Jitter:    time.Duration(g.w.r.IntN(2000)) * time.Millisecond,
	})
	v.gaps = v.gaps[:1+g.w.r.IntN(maxGaps)] // so few are rare at this pace
	v.mut = g.w.plan.holes.mut
	v.serving = func(id InterestID) bool { return g.serving(id, i) }
	g.views[i], g.tapes[i] = v, &tape{}
	for _, w := range g.all() {
		g.do(i, v.Add(w.name, keyOf(w.item), g.w.now))
	}
}

func keyOf(item byte) []byte {
	if item == 'T' {
		return nil
	}
	return []byte{item}
}

// incarnate takes a new incarnation with a delivery topic of its own.
func (g *gate) incarnate() {
	delete(g.w.delivery, g.incarnation)
	g.boots++
	g.incarnation = "g" + strconv.Itoa(g.index) + "-" + strconv.Itoa(g.boots)
	g.w.delivery[g.incarnation] = &[][]stream.Section{}
	g.read, g.logID = 0, g.w.logID
	if g.w.chance(0.7) { // else what is on the wire may still arrive
		g.wire = nil
	}
	g.send(interest.Record{Kind: interest.KindLease, Node: "g" + strconv.Itoa(g.index), Delivery: "d." + g.incarnation, LeaseMs: 10_000}, nil)
}

// reincarnate writes all interests anew; each keeps its X.
func (g *gate) reincarnate() {
	g.w.n["new incarnation"]++
	g.w.tell("gate %d: new incarnation after %s", g.index, g.incarnation)
	g.incarnate()
	for _, w := range g.all() {
		w.ids = nil
		for i := range g.parts {
			g.views[i].Renew(w.name, w.name)
		}
		g.add(w)
	}
}

// all interests that have not been let go of.
func (g *gate) all() []*want {
	out := slices.Clone(g.closing)
	for _, item := range slices.Sorted(maps.Keys(g.wants)) {
		if !slices.Contains(out, g.wants[item]) {
			out = append(out, g.wants[item])
		}
	}
	return out
}

// ---- interest writes

func (g *gate) send(r interest.Record, w *want) {
	r.Incarnation = g.incarnation
	g.wire = append(g.wire, &request{r, w})
}

func (g *gate) add(w *want) {
	g.w.nextID++
	w.id = strconv.Itoa(g.w.nextID)
	if g.w.plan.holes.reuseIDs {
		w.id = string(w.item)
	}
	w.ids = append(w.ids, w.id)
	g.send(interest.Record{Kind: interest.KindAdd, ID: w.id, Feed: "t", Key: keyOf(w.item)}, w)
}

func (g *gate) drop(w *want) {
	w.closing = true
	slices.Sort(w.ids)
	for _, id := range slices.Compact(w.ids) {
		g.send(interest.Record{Kind: interest.KindEnd1, ID: id}, w)
	}
	g.w.tell("gate %d: drops interest %s in %c", g.index, w.name, w.item)
	if g.w.plan.holes.shareClosing {
		g.closing = append(g.closing, w)
		return
	}
	g.forget(w)
}

func (g *gate) forget(w *want) {
	if g.wants[w.item] == w {
		delete(g.wants, w.item)
	}
	for i := range g.parts {
		g.views[i].Remove(w.name)
	}
}

// write lets the broker handle one request. One that timed out at the gateway
// stays on the wire while its successor is sent.
func (g *gate) write() {
	if len(g.wire) == 0 {
		return
	}
	w := g.w
	if q := g.wire[0]; w.rough && w.chance(0.15) && q.rec.Incarnation == g.incarnation {
		switch {
		case q.rec.Kind == interest.KindAdd && q.want.id == q.rec.ID && !q.want.closing:
			g.add(q.want)
		case q.rec.Kind == interest.KindEnd1:
			g.send(q.rec, q.want)
		}
		g.wire = append(g.wire[1:], q)
		return
	}
	j := 0
	if w.rough && w.chance(0.3) {
		j = w.r.IntN(len(g.wire))
	}
	q := g.wire[j]
	g.wire = slices.Delete(g.wire, j, j+1)
	pos := w.append(q.rec)
	w.tell("interests %d: %s %d id %s", pos.Offset, q.rec.Incarnation, q.rec.Kind, q.rec.ID)
	if w.rough && w.chance(0.05) && q.rec.Kind == interest.KindAdd && !q.want.closing && q.rec.Incarnation == g.incarnation {
		g.add(q.want) // the ack is lost
		return
	}
	if w.rough && w.chance(0.3) {
		g.late = append(g.late, lateAck{q, pos}) // sections may be faster
		return
	}
	g.acked(q, pos)
}

func (g *gate) acked(q *request, pos stream.InterestPos) {
	switch q.rec.Kind {
	case interest.KindAdd:
		if q.rec.Incarnation != g.incarnation || q.rec.ID != q.want.id {
			return // of an id that was given up
		}
		for i := range g.parts {
			if v := g.views[i]; !g.w.plan.holes.reuseIDs || v.ints[q.want.name] != nil && !v.ints[q.want.name].acked {
				v.Acked(q.want.name, pos)
			}
		}
	case interest.KindEnd1:
		if i := slices.Index(g.closing, q.want); i >= 0 {
			g.closing = slices.Delete(g.closing, i, i+1)
			if g.used(q.want) {
				delete(g.wants, q.want.item) // the ones who found it go on with its X
			} else {
				g.forget(q.want)
			}
		}
	default:
	}
}

func (g *gate) interestsRecreated() {
	if !g.w.plan.holes.oneLog {
		g.reincarnate()
		return
	}
	g.send(interest.Record{Kind: interest.KindLease, Node: "g", Delivery: "d." + g.incarnation, LeaseMs: 10_000}, nil)
	for _, w := range g.all() {
		for i := range g.parts {
			g.views[i].Renew(w.name, w.name)
		}
		g.add(w)
	}
}

// noticeEnd reads its own incarnation's fate in the log.
func (g *gate) noticeEnd() {
	for _, r := range g.w.log {
		if r != nil && r.rec.Kind == interest.KindEnd && r.rec.Incarnation == g.incarnation {
			g.reincarnate()
			return
		}
	}
}

// ---- the delivery topic and the views

func (g *gate) readDelivery() {
	log := *g.w.delivery[g.incarnation]
	if g.read >= len(log) {
		return
	}
	if g.w.rough && g.w.chance(0.01) { // its head is lost to retention
		g.read += g.w.r.IntN(len(log) - g.read + 1)
		return
	}
	batch := log[g.read]
	g.read++
	for _, s := range batch {
		if v := g.views[s.Partition]; v != nil {
			g.w.tell("gate %d: section %d [%d, %d) E %d of %v, next %d", g.index, s.Partition, s.From, s.To, s.Interests.Offset, s.Topic[1], v.next)
			g.do(s.Partition, v.Section(s, g.w.now))
		}
	}
}

func (g *gate) do(part int32, actions []Action) {
	w, t := g.w, g.tapes[part]
	for _, a := range actions {
		switch a := a.(type) {
		case Restart:
			*t = tape{start: a.At, head: a.At}
		case Take:
			if a.To < t.head {
				w.bad("OWNER", "head %d moves back to %d", t.head, a.To)
			}
			for _, r := range a.Records {
				t.entries = append(t.entries, entryOnTape{Record: r})
			}
			t.head = a.To
		case TapeGap:
			t.entries = append(t.entries, entryOnTape{gapTo: a.To, Record: stream.Record{Offset: a.From}})
			t.head = a.To
		case Read:
			if g.reads[part] != nil {
				w.bad("OWNER", "two reads under way")
			}
			g.reads[part] = &pendingRead{Read: a}
		case AskEnd:
			g.asked[part] = true
		case AskTopic:
			g.ask = true
		case Count:
			w.n[a.What]++
		case Complete:
			w.tell("gate %d: %d complete %v, next %d", g.index, part, a.IDs, g.views[part].next)
		}
	}
	if next, ok := g.views[part].Next(); ok && next != t.head {
		w.bad("OWNER", "next %d, head %d", next, t.head)
	}
	if why := g.views[part].consistent(); why != "" && w.plan.holes == (holes{}) {
		w.bad("VIEW", "%s: %+v", why, g.views[part])
	}
}

// feedReads moves one thing on that was asked of the feed topic.
func (g *gate) feedReads() {
	w := g.w
	if g.ask && w.chance(0.5) {
		g.ask = false
		g.metadata()
	}
	part := w.r.Int32N(g.parts)
	v := g.views[part]
	if g.asked[part] && w.chance(0.5) {
		delete(g.asked, part)
		if p := w.part(part); p != nil && (g.topic == w.topic || w.plan.holes.oneHistory) {
			g.do(part, v.End(p.stable, w.now))
		}
		return
	}
	r := g.reads[part]
	switch {
	case r == nil:
	case !r.done:
		r.done, r.result = true, g.readFeed(part, r.Read)
		if w.chance(0.5) { // else the answer comes later
			return
		}
		fallthrough
	default:
		delete(g.reads, part)
		w.tell("gate %d: read %d [%d, %d) start %d err %v, next %d", g.index, part, r.result.From, r.result.To, r.result.Start, r.result.Err, v.next)
		g.do(part, v.Read(r.result, w.now))
	}
}

func (g *gate) readFeed(part int32, r Read) ReadResult {
	w := g.w
	p := w.part(part)
	switch {
	case w.rough && w.chance(0.05):
		return ReadResult{Err: errors.New("injected")}
	case p == nil || g.topic != w.topic && !w.plan.holes.oneHistory:
		return ReadResult{Changed: true}
	}
	to, recs, ok := w.read(part, r.From, 1+w.r.IntN(6))
	if !ok {
		return ReadResult{From: r.From, OutOfRange: true, Start: p.start, End: p.stable}
	}
	return ReadResult{From: r.From, To: to, End: p.stable, Records: recs}
}

func (g *gate) tick() {
	for _, a := range g.late {
		g.acked(a.request, a.pos)
	}
	g.late = nil
	for i := range g.parts {
		g.do(i, g.views[i].Tick(g.w.now))
	}
}

func (g *gate) evict() {
	for i := range g.parts {
		t := g.tapes[i]
		if t.head > t.start && g.w.chance(0.5) {
			t.start += g.w.r.Int64N(t.head - t.start + 1)
			t.entries = slices.DeleteFunc(t.entries, func(e entryOnTape) bool {
				return max(e.Offset+1, e.gapTo) <= t.start
			})
		}
	}
}

// metadata asks for the topic's id and partitions.
func (g *gate) metadata() {
	w := g.w
	if w.topic != g.topic && !w.plan.holes.oneHistory {
		g.topic = w.topic
		for i := range g.parts {
			g.do(i, g.views[i].Changed(g.topic, w.now))
		}
		for _, s := range g.subs {
			s.reset(g.topic, w.parts)
		}
	}
	for ; g.parts < w.parts; g.parts++ {
		g.makeView(g.parts)
		g.ackAgain(g.parts)
	}
}

// ackAgain tells a new partition's view the e's that are known.
func (g *gate) ackAgain(part int32) {
	if part == 0 {
		return
	}
	for name, e := range g.views[0].ints {
		if e.acked {
			g.views[part].Acked(name, e.e)
		}
	}
}

func (g *gate) crash() {
	subs := g.subs
	delete(g.w.delivery, g.incarnation)
	g.boot()
	other := g.w.gates[1-g.index]
	for _, s := range subs {
		other.subscribe(s.client, s.item, s.position(), s.topic)
	}
}
