package coverage

// The model: fan-outs with the real Chains, gateways with the real View, and
// small stand-ins for everything around them, driven by a seed. Each step one
// of them does something, at random. A checker follows every client's history:
// whenever a cursor moves from a to b, the delivered offsets are exactly the
// committed, matching ones of [a, b), less what a gap frame named.
//
// One seed again, with its story:
//
//	TAPECAST_MODEL_SEED=4711 go test ./internal/coverage -run 'TestModel$' -v
//
// More of them: TAPECAST_MODEL_SEEDS=100000.

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/stream"
)

// holes are the rules that a negative control takes back outside of Chains and
// View (mut is for those inside).
type holes struct {
	mut mutation

	noX          bool // S1: the tape serves whatever it holds, also below the interest's X
	reuseIDs     bool // S3, S4: an interest's id is its key; a retry or a re-add takes it again
	partialLoad  bool // S4: a fan-out routes before it has read the interest log to its end
	purge        bool // S5: a lease that runs out empties the map, and the incarnation goes on
	oneHistory   bool // S6: topic ids are not looked at
	oneLog       bool // S7: interest log ids are not looked at
	shareClosing bool // S9: an interest whose tombstone is under way is found and shared
	startLow     bool // S10: a cursor begins at min(R, X)
	lateEnd      bool // a fan-out tells its chains of an end when it tells of new interests, not at once
	newAtEnd     bool // S11: a partition that nobody knew starts at its end
}

// plan is what may happen in a run.
type plan struct {
	holes  holes
	faults []string
	steps  int
	pace   int  // milliseconds that a step takes at most
	calm   bool // no rough edges besides faults: writes in order, nothing lost
	dead   bool // the quiet end has no fan-out: bypass only
}

var allFaults = []string{
	"rebalance", "crash", "pause", "interest compaction", "compaction", "retention", "evict", "end incarnation",
	"notice end", "gateway crash", "metadata", "recreate", "add partition", "recreate interests", "generation reset", "long pause",
	"housekeeping",
}

// violation is what the checker panics with.
type violation string

type state uint8

const (
	committed state = iota
	open            // of a transaction that has not ended
	aborted
	marker    // of a transaction's end
	compacted // was committed, was delivered perhaps, is gone
)

type record struct {
	key   byte
	state state
}

// feedPart is one partition of one incarnation of the feed topic.
type feedPart struct {
	records []record
	stable  int64 // last stable offset
	start   int64 // first retained offset
	txn     int64 // where the open transaction began; -1 = none
}

type partKey struct {
	topic stream.TopicID
	part  int32
}

// logRecord is one record of the interest log; nil in the log = compacted away.
type logRecord struct {
	rec interest.Record
	key string
}

type world struct {
	plan  plan
	r     *rand.Rand
	now   time.Time
	rough bool // lost acks, lost records, reordered writes

	topic stream.TopicID // the feed's id now
	epoch int
	parts int32
	feed  map[partKey]*feedPart

	logID  stream.TopicID
	log    []*logRecord
	commit map[partKey]int64
	owners map[int32]owner
	gen    int32

	fans     []*fan
	gates    []*gate
	delivery map[string]*[][]stream.Section // by incarnation: each record is a batch
	nextID   int
	clients  int

	last  map[history]int64 // the last offset delivered
	n     map[string]int
	story []string // kept when told is set
	told  bool
}

type owner struct{ fan, gen int32 }

type history struct {
	client int
	key    partKey
}

func id(kind byte, n int) stream.TopicID { return stream.TopicID{kind, byte(n), byte(n >> 8)} }

func newWorld(seed uint64, p plan) *world {
	w := &world{
		plan: p, r: rand.New(rand.NewPCG(seed, 0x7a9e)), now: time.Unix(1_700_000_000, 0), rough: !p.calm,
		topic: id('t', 0), feed: map[partKey]*feedPart{}, logID: id('i', 0), commit: map[partKey]int64{},
		owners: map[int32]owner{}, delivery: map[string]*[][]stream.Section{}, last: map[history]int64{}, n: map[string]int{},
	}
	w.parts = int32(1 + w.r.IntN(5)/3)
	for i := range w.parts {
		w.makePart(i)
	}
	for i := range int32(2 + w.r.IntN(2)) {
		w.fans = append(w.fans, newFan(w, i))
	}
	for i := range 2 {
		g := &gate{w: w, index: i, topic: w.topic, parts: w.parts}
		g.boot()
		w.gates = append(w.gates, g)
	}
	w.rebalance()
	return w
}

func (w *world) tell(format string, args ...any) {
	if w.told {
		w.story = append(w.story, fmt.Sprintf("%8.2f ", w.now.Sub(time.Unix(1_700_000_000, 0)).Seconds())+fmt.Sprintf(format, args...))
	}
}

func (w *world) bad(kind, format string, args ...any) {
	v := violation(kind + ": " + fmt.Sprintf(format, args...))
	w.tell("VIOLATION %s", v)
	panic(v)
}

func (w *world) chance(p float64) bool { return w.r.Float64() < p }

// ---- the feed

func (w *world) makePart(i int32) { w.feed[partKey{w.topic, i}] = &feedPart{txn: -1} }

func (w *world) part(i int32) *feedPart { return w.feed[partKey{w.topic, i}] }

func (w *world) produce() {
	i := w.r.Int32N(w.parts)
	p := w.part(i)
	switch {
	case p.txn >= 0 && w.chance(0.5):
		for range 1 + w.r.IntN(2) {
			p.records = append(p.records, record{"ab"[w.r.IntN(2)], open})
		}
	case p.txn >= 0:
		w.endTxn(p, w.chance(0.4))
	case w.chance(0.15):
		p.txn = int64(len(p.records))
		p.records = append(p.records, record{"ab"[w.r.IntN(2)], open})
	default:
		for range 1 + w.r.IntN(3) {
			p.records = append(p.records, record{"abc"[w.r.IntN(3)], committed})
		}
		p.stable = int64(len(p.records))
	}
	w.tell("feed %d: end %d, stable %d", i, len(p.records), p.stable)
}

func (w *world) endTxn(p *feedPart, abort bool) {
	for i := p.txn; i < int64(len(p.records)); i++ {
		if p.records[i].state == open {
			p.records[i].state = committed
			if abort {
				p.records[i].state = aborted
			}
		}
	}
	p.records = append(p.records, record{0, marker})
	p.txn, p.stable = -1, int64(len(p.records))
}

func (w *world) compact(i int32) {
	p := w.part(i)
	seen := map[byte]bool{}
	for o := p.stable - 2; o >= 0; o-- {
		r := &p.records[o]
		if r.state == committed {
			if seen[r.key] && w.chance(0.5) {
				r.state = compacted
			}
			seen[r.key] = true
		}
	}
}

// value names a record's topic, partition and offset: what a client checks.
func value(topic stream.TopicID, part int32, offset int64) []byte {
	return []byte{topic[1], topic[2], byte(part), byte(offset), byte(offset >> 8)}
}

// read is a range read of the topic as it is now; ok=false: from is not in it.
func (w *world) read(part int32, from int64, n int) (to int64, recs []stream.Record, ok bool) {
	p := w.part(part)
	if p == nil || from < p.start || from > p.stable {
		return 0, nil, false
	}
	to = min(from+int64(n), p.stable)
	for o := from; o < to; o++ {
		if r := p.records[o]; r.state == committed {
			recs = append(recs, stream.Record{Offset: o, Key: []byte{r.key}, Value: value(w.topic, part, o)})
		}
	}
	return to, recs, true
}

// ---- the interest log

func (w *world) append(r interest.Record) stream.InterestPos {
	key, _, err := r.Encode()
	if err != nil {
		panic(err)
	}
	w.log = append(w.log, &logRecord{r, string(key)})
	return stream.InterestPos{Log: w.logID, Offset: int64(len(w.log) - 1)}
}

func tombstone(k interest.Kind) bool { return k == interest.KindEnd1 || k == interest.KindGone }

func (w *world) compactInterests() {
	hi := w.r.IntN(len(w.log) + 1)
	last := map[string]int{}
	for i, r := range w.log[:hi] {
		if r != nil {
			last[r.key] = i
		}
	}
	for i, r := range w.log[:hi] {
		if r != nil && (last[r.key] != i || tombstone(r.rec.Kind) && w.chance(0.5)) {
			w.log[i] = nil
		}
	}
}

// ---- steps

func (w *world) run() {
	w.told = os.Getenv("TAPECAST_MODEL_SEED") != ""
	for range w.plan.steps {
		w.now = w.now.Add(time.Duration(w.r.IntN(w.plan.pace)) * time.Millisecond)
		w.step()
	}
	w.quiet()
}

func (w *world) step() {
	gate := w.gates[w.r.IntN(len(w.gates))]
	switch x := w.r.Float64(); {
	case x < 0.12:
		w.produce()
	case x < 0.40:
		w.fans[w.r.IntN(len(w.fans))].step()
	case x < 0.57:
		gate.readDelivery()
	case x < 0.65:
		gate.write()
	case x < 0.84:
		gate.session()
	case x < 0.90:
		gate.feedReads()
	case x < 0.93:
		gate.tick()
	case x < 0.97:
		w.client()
	default:
		if len(w.plan.faults) > 0 {
			w.fault(w.plan.faults[w.r.IntN(len(w.plan.faults))])
		}
	}
}

// client subscribes, leaves, or comes back with its position.
func (w *world) client() {
	g := w.gates[w.r.IntN(len(w.gates))]
	switch x := w.r.Float64(); {
	case x < 0.45 && len(g.subs) < 4:
		w.clients++
		from := map[int32]int64{}
		if w.chance(0.5) {
			for i := range g.parts {
				if p := w.part(i); p != nil {
					from[i] = p.start + w.r.Int64N(p.stable-p.start+1)
				}
			}
		}
		g.subscribe(w.clients, "abT"[w.r.IntN(3)], from, w.topic)
	case x < 0.80 && len(g.subs) > 0:
		s := g.subs[w.r.IntN(len(g.subs))]
		g.leave(s)
		if w.chance(0.5) {
			to := g
			if w.chance(0.7) {
				to = w.gates[1-g.index]
			}
			to.subscribe(s.client, s.item, s.position(), s.topic)
		}
	default:
		g.linger()
	}
}

func (w *world) fault(kind string) {
	w.n["fault "+kind]++
	w.tell("FAULT %s", kind)
	f := w.fans[w.r.IntN(len(w.fans))]
	g := w.gates[w.r.IntN(len(w.gates))]
	part := w.r.Int32N(w.parts)
	switch kind {
	case "rebalance":
		w.rebalance()
	case "crash":
		f.boot()
		if w.chance(0.7) {
			w.rebalance()
		}
	case "pause":
		f.paused = !f.paused
	case "long pause":
		w.now = w.now.Add(time.Duration(w.r.IntN(3000)) * time.Millisecond)
	case "interest compaction":
		w.compactInterests()
	case "compaction":
		w.compact(part)
	case "retention":
		p := w.part(part)
		p.start += w.r.Int64N(p.stable - p.start + 1)
	case "evict":
		g.evict()
	case "end incarnation":
		w.endIncarnation(g, f)
	case "notice end":
		g.noticeEnd()
	case "housekeeping":
		w.housekeeping()
	case "gateway crash":
		g.crash()
	case "metadata":
		for _, g := range w.gates {
			g.metadata()
		}
	case "recreate":
		w.epoch++
		w.topic = id('t', w.epoch)
		for i := range w.parts {
			w.makePart(i)
		}
	case "add partition":
		if w.parts < 3 {
			w.makePart(w.parts)
			w.parts++
			if w.chance(0.5) {
				w.rebalance()
			}
		}
	case "recreate interests":
		w.log, w.logID = nil, id('i', int(w.logID[1])+1)
		for _, g := range w.gates {
			g.interestsRecreated()
		}
	case "generation reset":
		w.gen = 0
		w.rebalance()
	}
}

// endIncarnation: somebody sees a lease run out, rightly or not.
func (w *world) endIncarnation(g *gate, f *fan) {
	if w.plan.holes.purge {
		f.purge(g.incarnation)
		return
	}
	if w.chance(0.3) {
		w.append(interest.Record{Kind: interest.KindEnd, Incarnation: g.incarnation})
		w.n["incarnation ended"]++
	}
}

// housekeeping removes what an ended incarnation left in the log.
func (w *world) housekeeping() {
	var s interest.State
	for i, r := range w.log {
		if r != nil {
			s.Apply(stream.InterestPos{Log: w.logID, Offset: int64(i)}, r.rec, true, w.now)
		}
	}
	for _, inc := range sorted(&s) {
		if !inc.Ended {
			continue
		}
		for _, id := range sortedIDs(inc) {
			w.append(interest.Record{Kind: interest.KindEnd1, Incarnation: inc.Name, ID: id})
		}
		w.append(interest.Record{Kind: interest.KindGone, Incarnation: inc.Name, ID: interest.GoneLease})
	}
}

// rebalance hands out the partitions. Some owners keep theirs, some lose them
// and do not know it yet.
func (w *world) rebalance() {
	w.gen++
	var live []*fan
	for _, f := range w.fans {
		if f.alive && !f.paused {
			live = append(live, f)
		}
	}
	w.owners = map[int32]owner{}
	if len(live) == 0 {
		return
	}
	for i := range w.parts {
		f := live[w.r.IntN(len(live))]
		w.owners[i] = owner{f.index, w.gen}
		f.own(i, w.gen)
	}
	for _, f := range live {
		for _, i := range f.owned() {
			if w.owners[i].fan != f.index && w.chance(0.6) {
				delete(f.parts, i)
			}
		}
	}
}

// quiet ends all trouble; then every client must arrive at the end.
func (w *world) quiet() {
	w.tell("QUIET")
	w.rough = false
	for i := range w.parts {
		if p := w.part(i); p.txn >= 0 {
			w.endTxn(p, false)
		}
	}
	w.fault("metadata")
	for _, g := range w.gates {
		g.noticeEnd()
	}
	for _, f := range w.fans {
		f.paused = false
	}
	w.rebalance()
	if w.plan.dead {
		for _, f := range w.fans {
			f.alive = false
		}
	}
	for round := range 400 {
		w.now = w.now.Add(50 * time.Millisecond)
		for _, f := range w.fans {
			for range 12 {
				f.step()
			}
		}
		for _, g := range w.gates {
			for len(g.wire) > 0 {
				g.write()
			}
			for range 40 {
				g.readDelivery()
			}
			g.tick()
			for range 4 {
				g.feedReads()
			}
			for range 6 * len(g.subs) {
				g.session()
			}
		}
		if round%10 == 9 && w.arrived() == "" && (w.plan.dead || w.settled() == "") {
			w.n["rounds"] += round
			return
		}
	}
	if why := w.arrived(); why != "" {
		w.bad("HANG", "%s", why)
	}
	w.bad("UNSETTLED", "%s", w.settled())
}

// arrived names a client that is not at the last stable offset.
func (w *world) arrived() string {
	for _, g := range w.gates {
		for _, s := range g.subs {
			for i := range w.parts {
				if c, ok := s.cursor[i]; !ok || s.topic != w.topic || c < w.part(i).stable {
					v := g.views[i]
					return fmt.Sprintf("gateway %d client %d item %c partition %d: cursor %d, stable %d, view %+v", g.index, s.client, s.item, i, c, w.part(i).stable, v)
				}
			}
		}
	}
	return ""
}

// settled names a view that goes on reading though the fan-outs are well.
func (w *world) settled() string {
	for _, g := range w.gates {
		for i := range g.parts {
			v := g.views[i]
			if v.gapOpen() || v.followed() && len(v.waiters) > 0 {
				return fmt.Sprintf("gateway %d partition %d: %+v", g.index, i, v)
			}
		}
	}
	return ""
}

// ---- running seeds

// try runs one seed and returns what the checker said, "" if nothing.
func try(seed uint64, p plan) (w *world, v violation) {
	p.dead = seed%3 == 0
	w = newWorld(seed, p)
	defer func() {
		switch x := recover().(type) {
		case nil:
		case violation:
			v = x
		default:
			if p.holes == (holes{}) {
				panic(x)
			}
			v = violation(fmt.Sprintf("PANIC: %v", x))
		}
	}()
	w.run()
	return w, ""
}

// randomPlan draws which faults a seed may meet: all of them at once hide
// what two of them do.
func randomPlan(seed uint64) plan {
	r := rand.New(rand.NewPCG(seed, 1))
	p := plan{steps: []int{300, 300, 800, 1500}[r.IntN(4)], pace: []int{2, 10, 40, 40}[r.IntN(4)], calm: r.IntN(6) == 0}
	for _, f := range allFaults {
		if r.IntN(2) == 0 {
			p.faults = append(p.faults, f)
		}
	}
	return p
}

func envInt(t testing.TB, name string, or uint64) uint64 {
	s := os.Getenv(name)
	if s == "" {
		return or
	}
	n, err := strconv.ParseUint(s, 10, 64)
	require.NoError(t, err, name)
	return n
}

func TestModel(t *testing.T) {
	if os.Getenv("TAPECAST_MODEL_SEED") != "" {
		seed := envInt(t, "TAPECAST_MODEL_SEED", 0)
		w, v := try(seed, randomPlan(seed))
		t.Log(strings.Join(w.story, "\n"))
		require.Empty(t, v)
		return
	}
	t.Parallel()
	seeds := envInt(t, "TAPECAST_MODEL_SEEDS", 1000)
	first := envInt(t, "TAPECAST_MODEL_FIRST", 0)
	sum := map[string]int{}
	for seed := first; seed < first+seeds; seed++ {
		w, v := try(seed, randomPlan(seed))
		require.Empty(t, v, "seed %d: run it again with TAPECAST_MODEL_SEED=%d", seed, seed)
		for k, n := range w.n {
			sum[k] += n
		}
	}
	t.Logf("%d seeds: %v", seeds, sum)
	// A run in which something never happened shows nothing about it.
	for _, what := range append(append([]string{}, Counts...), "delivered", "gap frame", "from the tape", "from the feed", "merged", "split", "queue cut", "incarnation ended", "new incarnation") {
		if what == CountShrunk {
			continue // the model's logs never shrink; see TestALogThatWasCutIsBegunAnewAtItsEnd
		}
		require.NotZero(t, sum[what], "never happened: %s", what)
	}
	for _, f := range allFaults {
		require.NotZero(t, sum["fault "+f], "never happened: %s", f)
	}
}

func TestTheModelRepeatsItself(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		a, _ := try(seed, randomPlan(seed))
		b, _ := try(seed, randomPlan(seed))
		require.Equal(t, a.n, b.n)
		require.Equal(t, a.last, b.last)
	}
}
