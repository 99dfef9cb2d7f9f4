package gateway

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tapecast/tapecast/internal/protocol"
)

// laneWorld is a gateway, and all that was ever written to its topics.
type laneWorld struct {
	rig   *rig
	rnd   *rand.Rand
	did   map[string]int
	late  []func() // give events their schemas
	steps atomic.Int64
	calm  atomic.Bool // nothing is written any more

	mu     sync.Mutex
	topics [laneTopics][]*laneEpoch // guarded by mu; the last is the present one
}

const laneTopics = 2

// laneEpoch is an incarnation of a topic.
type laneEpoch struct {
	name  string
	parts [][]laneEvent
	start []int64 // by partition: what retention left
}

type laneEvent struct {
	key, data    string
	poison, hole bool
}

func laneTopic(i int) string { return fmt.Sprint("lane-", i) }

// begin makes a topic, or makes it again.
func (w *laneWorld) begin(topic, parts int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.topics[topic]) + 1
	id := epochOf(byte(n)) //nolint:gosec // there are not so many
	w.topics[topic] = append(w.topics[topic], &laneEpoch{protocol.EpochText(id), make([][]laneEvent, parts), make([]int64, parts)})
	if n == 1 {
		w.rig.feed.add(laneTopic(topic), parts)
		return
	}
	w.rig.feed.change(laneTopic(topic), func(t *fakeTopic) {
		t.id, t.parts = id, nil
		for range parts {
			t.parts = append(t.parts, &fakeLog{})
		}
	})
}

// now is a topic's present incarnation. mu is held, or the caller is who changes it.
func (w *laneWorld) now(topic int) *laneEpoch {
	all := w.topics[topic]
	return all[len(all)-1]
}

// step does one random thing.
func (w *laneWorld) step() {
	w.steps.Add(1)
	topic := w.rnd.IntN(laneTopics)
	e := w.now(topic)
	part := w.rnd.IntN(len(e.parts))
	n := w.rnd.IntN(200)
	switch {
	case n < 4 && len(w.topics[topic]) < 200:
		w.begin(topic, 1+w.rnd.IntN(3))
		w.did["topic made again"]++
	case n < 7 && len(e.parts) < 5:
		w.widen(topic, e)
	case n < 12:
		w.retain(topic, e, part)
	case n < 16:
		back := int64(w.rnd.IntN(50))
		w.rig.feed.change(laneTopic(topic), func(t *fakeTopic) { t.parts[part].tape = max(t.parts[part].tape, t.parts[part].end-back) })
		w.did["tape cut"]++
	case n < 18:
		w.write(topic, part, "hole", "", "")
	case n < 22:
		w.write(topic, part, "poison", w.key(), "")
	case n < 26:
		w.write(topic, part, "late schema", w.key(), "")
	case n < 28:
		w.write(topic, part, "event", w.key(), strings.Repeat("x", 70<<10)) // more than a write gathers
	case n < 70:
		w.come()
		time.Sleep(time.Duration(w.rnd.IntN(6)) * time.Millisecond) // so that sessions take their seats
	default:
		for range w.rnd.IntN(40) {
			w.write(topic, part, "event", w.key(), strings.Repeat("y", w.rnd.IntN(2000)))
		}
	}
}

func (w *laneWorld) key() string {
	if n := w.rnd.IntN(laneKeys + 1); n > 0 {
		return fmt.Sprint("k", n-1)
	}
	return ""
}

const laneKeys = 6

func (w *laneWorld) widen(topic int, e *laneEpoch) {
	w.mu.Lock()
	e.parts, e.start = append(e.parts, nil), append(e.start, 0)
	w.mu.Unlock()
	w.rig.feed.change(laneTopic(topic), func(t *fakeTopic) { t.parts = append(slices.Clone(t.parts), &fakeLog{}) })
	w.did["partition added"]++
}

func (w *laneWorld) retain(topic int, e *laneEpoch, part int) {
	start := max(e.start[part], int64(w.rnd.IntN(len(e.parts[part])+1)))
	w.mu.Lock()
	e.start[part] = start
	w.mu.Unlock()
	w.rig.feed.change(laneTopic(topic), func(t *fakeTopic) { t.retain(part, start) })
	w.did["records deleted"]++
}

// write appends an event to the model, and then to the topic.
func (w *laneWorld) write(topic, part int, kind, key, text string) {
	e, name := w.now(topic), laneTopic(topic)
	v := laneEvent{key: key, poison: kind == "poison", hole: kind == "hole"}
	v.data = fmt.Sprintf("%s/%d/%d/%s/%s", e.name, part, len(e.parts[part]), key, text)
	w.mu.Lock()
	e.parts[part] = append(e.parts[part], v)
	w.mu.Unlock()
	w.did[kind]++
	switch kind {
	case "hole":
		w.rig.feed.change(name, func(t *fakeTopic) { t.parts[part].end++ })
	case "poison":
		w.rig.feed.produce(name, part, key, "poison")
	case "late schema":
		w.late = append(w.late, w.rig.feed.produceLate(name, part, key, strconv.Quote(v.data)))
	default:
		w.rig.feed.produce(name, part, key, strconv.Quote(v.data))
	}
}

// come gives all events their schemas.
func (w *laneWorld) come() {
	for _, fn := range w.late {
		fn()
	}
	w.late = nil
}

// epoch finds an incarnation; nil = there was none of that name. mu is held.
func (w *laneWorld) epoch(topic int, name string) *laneEpoch {
	for _, e := range w.topics[topic] {
		if e.name == name {
			return e
		}
	}
	return nil
}

// data is what was written at an offset.
func (w *laneWorld) data(topic int, epoch string, p int32, offset int64) (laneEvent, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.epoch(topic, epoch)
	if e == nil || int(p) >= len(e.parts) || offset >= int64(len(e.parts[p])) {
		return laneEvent{}, false
	}
	return e.parts[p][offset], true
}

// ends are a topic's present ends.
func (w *laneWorld) ends(topic int) (epoch string, at map[int32]int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e, at := w.now(topic), map[int32]int64{}
	for p := range e.parts {
		at[int32(p)] = int64(len(e.parts[p])) //nolint:gosec // small
	}
	return e.name, at
}

// sent are the ends of a topic's logs, which may be a little behind the model.
func (w *laneWorld) sent(topic int) (epoch string, at map[int32]int64) {
	w.rig.feed.mu.Lock()
	defer w.rig.feed.mu.Unlock()
	t := w.rig.feed.topics[laneTopic(topic)]
	at = map[int32]int64{}
	for p, l := range t.parts {
		at[int32(p)] = l.end //nolint:gosec // small
	}
	return protocol.EpochText(t.id), at
}

// begins holds where a new subscription begins against where it should:
// earliest at what is retained or before, live between the ends when it was
// sent and the ends now.
func (w *laneWorld) begins(l *laneLife, from map[int32]int64) (bad string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.epoch(l.topic, l.epoch)
	if e == nil || len(from) > len(e.parts) {
		return fmt.Sprintf("lane-%d begins in %s at %v", l.topic, l.epoch, from)
	}
	for p, at := range from {
		if l.from == "earliest" && at > e.start[p] || at > int64(len(e.parts[p])) ||
			l.from == "live" && l.sentIn == l.epoch && at < l.sentAt[p] {
			return fmt.Sprintf("lane-%d from %s begins at %d of partition %d: it is [%d,%d), when it was sent its end was %d",
				l.topic, l.from, at, p, e.start[p], len(e.parts[p]), l.sentAt[p])
		}
	}
	return ""
}

// judge holds all that a client saw against the model.
func (w *laneWorld) judge(c *laneClient) (bad []string) {
	for _, l := range c.lives {
		for _, e := range w.topics[l.topic] {
			for p, s := range l.spans[e.name] {
				for _, what := range s.judge(l, e, p) {
					bad = append(bad, fmt.Sprintf("lane-%d %s/%d %v [%d,%d): %s", l.topic, e.name, p, l.keys, s.start, s.end, what))
				}
			}
		}
	}
	return bad
}

// laneSpan is what a client saw of one partition of one incarnation.
type laneSpan struct {
	start, end int64
	got        map[int64]bool
	gaps       [][2]int64
}

func (s *laneSpan) judge(l *laneLife, e *laneEpoch, p int32) (bad []string) {
	if int(p) >= len(e.parts) || s.end > int64(len(e.parts[p])) {
		return append(bad, fmt.Sprintf("beyond the topic: it has %d partitions", len(e.parts)))
	}
	for _, g := range s.gaps {
		for o := g[0]; o < g[1]; o++ {
			if !e.parts[p][o].poison && o >= e.start[p] {
				bad = append(bad, fmt.Sprintf("gap %v without a cause at %d", g, o))
			}
		}
	}
	for o := s.start; o < s.end; o++ {
		v := e.parts[p][o]
		wants := !v.hole && (l.keys == nil || slices.Contains(l.keys, v.key))
		gap := slices.ContainsFunc(s.gaps, func(g [2]int64) bool { return g[0] <= o && o < g[1] })
		switch {
		case s.got[o] && (!wants || v.poison):
			bad = append(bad, fmt.Sprintf("%d is not wanted: %q", o, v.key))
		case wants && !s.got[o] && !gap:
			bad = append(bad, fmt.Sprintf("%d is missing", o))
		}
	}
	return bad
}
