package gateway

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/protocol"
)

// TestRandomHistoriesAreWhole drives conversations over a feed to which
// anything may happen, with reconnections by offsets and by cursor, and checks
// what a client sees against what was written: in order, nothing twice, nothing
// missing without a gap, no gap without a cause.
func TestRandomHistoriesAreWhole(t *testing.T) {
	seeds := 150
	if testing.Short() {
		seeds = 30
	}
	events, gaps, resumes := 0, 0, 0
	for seed := range seeds {
		h := newHistory(t, uint64(seed))
		for range 200 {
			h.step()
		}
		h.settle()
		events, gaps, resumes = events+h.events, gaps+h.gaps, resumes+h.resumes
	}
	require.Positive(t, gaps*resumes)
	t.Logf("%d histories: %d events, %d gaps, %d resumes", seeds, events, gaps, resumes)
}

type history struct {
	t    *testing.T
	seed uint64
	r    *rand.Rand
	feed *fakeFeed
	log  [][]logged // by partition: everything ever written

	conv  *conversation
	tasks []func(context.Context) func()
	now   time.Time

	keys   []string // nil = all
	pos    map[int32]int64
	cursor string
	acked  bool

	events, gaps, resumes int
}

type logged struct {
	key    string
	poison bool
	gone   bool
}

func newHistory(t *testing.T, seed uint64) *history {
	h := &history{t: t, seed: seed, r: rand.New(rand.NewPCG(seed, 1)), feed: newFakeFeed(), now: time.Unix(0, 0)}
	parts := 1 + h.r.IntN(3)
	h.feed.add("t", parts)
	h.log = make([][]logged, parts)
	if h.r.IntN(2) == 0 {
		h.keys = []string{"a", "c"}
	}
	h.connect()
	return h
}

func (h *history) fatal(format string, args ...any) {
	h.t.Helper()
	h.t.Fatalf("seed %d: "+format, append([]any{h.seed}, args...)...)
}

func (h *history) matches(l logged) bool {
	return l.key != "hole" && (h.keys == nil || l.key == "a" || l.key == "c")
}

// connect begins a conversation where the last one ended.
func (h *history) connect() {
	h.closeConv()
	h.conv = &conversation{
		rules: &rules{
			feed: h.feed, metrics: newMetrics(nil, &snapshotLimits{}), snapshots: &snapshotLimits{},
			heartbeat: time.Second, maxSubs: 10, maxParts: 100,
		},
		wire: lineWire{}, notify: func() {}, result: func(fn func()) {
			h.tasks = append(h.tasks, func(context.Context) func() { return fn })
		}, task: func(run func(context.Context) func()) { h.tasks = append(h.tasks, run) },
	}
	cmd := map[string]any{"cmd": "sub", "id": 1, "topic": "t"}
	if h.keys != nil {
		cmd["keys"] = h.keys
	}
	switch {
	case h.pos == nil:
		if h.r.IntN(2) == 0 {
			cmd["from"] = "earliest"
		}
	case h.cursor != "" && h.r.IntN(3) == 0: // an older position: that much is seen again
		cmd["from"] = map[string]any{"cursor": h.cursor}
		c, err := protocol.ParseCursor(h.cursor)
		require.NoError(h.t, err)
		h.pos = map[int32]int64{}
		for p, next := range c.Next {
			h.pos[int32(p)] = next
		}
		h.resumes++
	default:
		offsets := map[string]int64{}
		for p, next := range h.pos {
			offsets[strconv.Itoa(int(p))] = next
		}
		cmd["from"] = map[string]any{"offsets": offsets}
		h.resumes++
	}
	h.acked = false
	text, err := json.Marshal(cmd)
	require.NoError(h.t, err)
	parsed, perr := protocol.Parse(text, h.now)
	require.Nil(h.t, perr)
	h.conv.command(&parsed, h.now)
}

func (h *history) closeConv() {
	if h.conv == nil {
		return
	}
	h.runTasks()
	h.conv.over = true
	h.conv.closeAll()
	require.Zero(h.t, h.feed.holds())
}

func (h *history) runTasks() {
	for len(h.tasks) > 0 {
		run := h.tasks[0]
		h.tasks = h.tasks[1:]
		run(context.Background())()
	}
}

func (h *history) step() {
	switch p := h.r.IntN(len(h.log)); h.r.IntN(20) {
	case 0, 1, 2, 3, 4, 5, 6, 7:
		for range 1 + h.r.IntN(5) {
			h.produce(p)
		}
	case 8:
		h.retain(p)
	case 9:
		h.feed.change("t", func(tp *fakeTopic) { tp.parts[p].pending, tp.parts[p].tape = true, tp.parts[p].end })
	case 10:
		h.feed.change("t", func(tp *fakeTopic) { tp.parts[p].pending = false })
	case 11:
		if len(h.log) < 4 {
			h.feed.change("t", func(tp *fakeTopic) { tp.parts = append(tp.parts, &fakeLog{}) })
			h.log = append(h.log, nil)
		}
	case 12:
		h.connect()
	case 13:
		h.runTasks()
	default:
		h.now = h.now.Add(time.Duration(h.r.IntN(500)) * time.Millisecond)
		h.compose()
	}
}

func (h *history) produce(p int) {
	l := logged{key: string(rune('a' + h.r.IntN(4))), poison: h.r.IntN(10) == 0}
	data := "1"
	if l.poison {
		data = "poison"
	}
	if h.r.IntN(8) == 0 { // a hole: a transaction's marker
		h.feed.change("t", func(tp *fakeTopic) { tp.parts[p].end++ })
		h.log[p] = append(h.log[p], logged{key: "hole"})
	}
	h.feed.produce("t", p, l.key, data)
	h.log[p] = append(h.log[p], l)
}

func (h *history) retain(p int) {
	start := h.r.IntN(len(h.log[p]) + 1)
	h.feed.change("t", func(tp *fakeTopic) {
		if int64(start) > tp.parts[p].start {
			tp.retain(p, int64(start))
		}
	})
	for i := range start {
		h.log[p][i].gone = true
	}
}

func (h *history) compose() {
	for range 1 + h.r.IntN(3) {
		var b block
		h.conv.compose(&b, h.now)
		lines := append([]byte(nil), b.buf...)
		b.release()
		h.read(lines)
	}
}

func (h *history) read(lines []byte) {
	for len(lines) > 0 {
		i := 0
		for lines[i] != '\n' {
			i++
		}
		var f struct {
			Event     string
			Partition int32
			Offset    int64
			From      json.RawMessage
			To        int64
			Cause     string
			Cursor    json.RawMessage
			Covered   map[string]map[int32]int64
		}
		require.NoError(h.t, json.Unmarshal(lines[:i], &f))
		switch f.Event {
		case "":
			h.data(f.Partition, f.Offset)
		case "subscribed":
			var from map[int32]int64
			require.NoError(h.t, json.Unmarshal(f.From, &from))
			h.subscribed(from)
			h.keepCursor(f.Cursor, "")
		case "gap":
			var from int64
			require.NoError(h.t, json.Unmarshal(f.From, &from))
			h.gap(f.Partition, from, f.To, f.Cause)
		case "heartbeat":
			for p, covered := range f.Covered["1"] {
				h.skip(p, covered)
			}
			h.keepCursor(f.Cursor, "1")
		case "live":
		default:
			h.fatal("%s", lines[:i])
		}
		lines = lines[i+1:]
	}
}

func (h *history) keepCursor(raw json.RawMessage, label string) {
	if label == "" {
		require.NoError(h.t, json.Unmarshal(raw, &h.cursor))
		return
	}
	var all map[string]string
	require.NoError(h.t, json.Unmarshal(raw, &all))
	h.cursor = all[label]
}

func (h *history) subscribed(from map[int32]int64) {
	h.acked = true
	if h.pos == nil {
		h.pos = from
		return
	}
	for p := range h.log {
		if from[int32(p)] != h.pos[int32(p)] {
			h.fatal("resumed at %v, wished %v", from, h.pos)
		}
	}
	h.pos = from // it names partitions that were not there before
}

// skip moves a position on to where a frame says that it is.
func (h *history) skip(p int32, to int64) {
	if !h.acked || to < h.pos[p] || to > int64(len(h.log[p])) {
		h.fatal("partition %d goes from %d to %d (acked %v)", p, h.pos[p], to, h.acked)
	}
	for o := h.pos[p]; o < to; o++ {
		if h.matches(h.log[p][o]) {
			h.fatal("partition %d: %d is missing on the way to %d", p, o, to)
		}
	}
	h.pos[p] = to
}

func (h *history) data(p int32, o int64) {
	h.skip(p, o)
	if l := h.log[p][o]; l.poison || !h.matches(l) {
		h.fatal("partition %d: %d is not wanted: %+v", p, o, l)
	}
	h.pos[p] = o + 1
	h.events++
}

func (h *history) gap(p int32, from, to int64, cause string) {
	h.skip(p, from)
	for o := from; o < to; o++ {
		l := h.log[p][o]
		if cause == "poison" && !l.poison || cause == "retention" && !l.gone {
			h.fatal("partition %d: no gap of %s at %d", p, cause, o)
		}
	}
	h.pos[p] = to
	h.gaps++
}

// settle lets everything come, and looks whether it did.
func (h *history) settle() {
	for range h.log {
		h.feed.change("t", func(tp *fakeTopic) {
			for _, l := range tp.parts {
				l.pending = false
			}
		})
	}
	for range 50 {
		h.runTasks()
		h.now = h.now.Add(time.Second)
		h.compose()
	}
	for p := range h.log {
		if h.pos[int32(p)] != int64(len(h.log[p])) {
			h.fatal("partition %d stands at %d of %d", p, h.pos[int32(p)], len(h.log[p]))
		}
	}
	h.closeConv()
}
