package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tapecast/tapecast/gateway/feed"
	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/internal/stream"
	"github.com/tapecast/tapecast/schemas"
)

// fakeFeed is a feed in memory: logs that tests append to.
type fakeFeed struct {
	mu     sync.Mutex
	topics map[string]*fakeTopic
	away   error         // Bounds and OffsetsAt fail with it
	gate   chan struct{} // a Scan waits for it after its first chunk; nil = does not
	held   bool          // what is on a tape is resumed without asking Kafka
	late   bool          // answers to AskBounds come when answer is called
	owed   []func()      // those answers
	opened int
	open   int
	asked  int
	tapped int          // open taps
	passes int          // reads of taps
	reads  int          // of holds
	solo   bool         // holds share no taps
	fresh  func() error // what Refresh does; nil = nothing
}

// Refresh asks the "cluster" for new topics.
func (f *fakeFeed) Refresh(context.Context) error {
	f.mu.Lock()
	f.asked++
	fresh := f.fresh
	f.mu.Unlock()
	if fresh == nil {
		return nil
	}
	return fresh()
}

type fakeTopic struct {
	name   string
	id     stream.TopicID
	parts  []*fakeLog
	subs   map[*fakeHold]bool
	taps   map[*fakeTap]bool
	gone   bool
	latest int64            // when the newest event was accepted: another time for each, by which its copies are known
	frames map[int64]string // by that: data as JSON; "poison", "wait"
	homes  map[int64]int    // by that: their partitions
}

type fakeLog struct {
	start, end int64
	tape       int64 // below it reads are Replayed
	events     []*feed.Event
	pending    bool // reads below tape do not come
}

func newFakeFeed() *fakeFeed { return &fakeFeed{topics: map[string]*fakeTopic{}} }

func epochOf(n byte) (id stream.TopicID) {
	for i := range id {
		id[i] = n
	}
	return id
}

func (f *fakeFeed) add(name string, partitions int) *fakeTopic {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := &fakeTopic{name: name, id: epochOf(1), subs: map[*fakeHold]bool{}, taps: map[*fakeTap]bool{}, frames: map[int64]string{}, homes: map[int64]int{}}
	for range partitions {
		t.parts = append(t.parts, &fakeLog{})
	}
	f.topics[name] = t
	return t
}

// produce appends one event and wakes.
func (f *fakeFeed) produce(topic string, partition int, key, data string) int64 {
	return f.append(topic, partition, key, data, data).Offset
}

// produceLate appends one event whose schema is known once come is called.
func (f *fakeFeed) produceLate(topic string, partition int, key, data string) (come func()) {
	e := f.append(topic, partition, key, data, "wait")
	return func() { f.change(topic, func(t *fakeTopic) { t.frames[e.Accepted] = data }) }
}

// append appends one event that is shown as frame, and wakes.
func (f *fakeFeed) append(topic string, partition int, key, data, frame string) *feed.Event {
	f.mu.Lock()
	t := f.topics[topic]
	l := t.parts[partition]
	t.latest = max(time.Now().UnixMicro(), t.latest+1)
	e := &feed.Event{Offset: l.end, Time: 1_546_383_600_000 + l.end, Accepted: t.latest, Value: []byte(data)}
	if key != "" {
		e.Key = []byte(key)
	}
	if data == "null" {
		e.Value = nil
	}
	t.frames[e.Accepted], t.homes[e.Accepted] = frame, partition
	l.events = append(l.events, e)
	l.end++
	subs := t.wakes(false)
	f.mu.Unlock()
	wake(subs)
	return e
}

// wakes lists whom an event wakes, or with all whatever else may happen.
func (t *fakeTopic) wakes(all bool) (out []func()) {
	for h := range t.subs {
		if all || !h.parked.Load() {
			out = append(out, h.wake)
		}
	}
	for tap := range t.taps {
		out = append(out, tap.wake)
	}
	return out
}

func wake(fns []func()) {
	for _, fn := range fns {
		fn()
	}
}

// change does something to a topic under the lock, and wakes.
func (f *fakeFeed) change(topic string, fn func(t *fakeTopic)) {
	f.mu.Lock()
	t := f.topics[topic]
	fn(t)
	subs := t.wakes(true)
	f.mu.Unlock()
	wake(subs)
}

func (t *fakeTopic) retain(partition int, start int64) {
	l := t.parts[partition]
	l.start = start
	l.end = max(l.end, start)
	l.events = slices.DeleteFunc(l.events, func(e *feed.Event) bool { return e.Offset < start })
}

func (f *fakeFeed) Topics() (out []catalog.Feed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.topics {
		c := catalog.Feed{Name: t.name, Format: "json"}
		c.Topic = broker.Topic{Name: t.name, ID: t.id}
		for i := range t.parts {
			c.Partitions = append(c.Partitions, broker.Partition{ID: int32(i)})
		}
		out = append(out, c)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

func (f *fakeFeed) Open(topic string, keys [][]byte, wake func()) (hold, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, ok := f.topics[topic]
	if !ok || t.gone {
		return nil, fmt.Errorf("open: %w", stream.ErrUnknownTopic)
	}
	h := &fakeHold{feed: f, topic: t, wake: wake, id: t.id, parts: len(t.parts), all: keys == nil, keys: map[string]bool{}, logs: t.parts}
	for _, k := range keys {
		h.keys[string(k)] = true
	}
	t.subs[h] = true
	f.opened++
	f.open++
	return h, nil
}

type fakeHold struct {
	feed   *fakeFeed
	topic  *fakeTopic
	wake   func()
	id     stream.TopicID
	parts  int
	logs   []*fakeLog // of its incarnation, as last seen
	all    bool
	keys   map[string]bool
	closed bool
	parked atomic.Bool
}

func (h *fakeHold) lock() func() {
	h.feed.mu.Lock()
	if h.closed {
		panic("a closed hold is used")
	}
	return h.feed.mu.Unlock
}

// own lists the logs of the hold's incarnation.
func (h *fakeHold) own() []*fakeLog {
	if h.id == h.topic.id {
		h.logs = h.topic.parts
	}
	return h.logs
}

func (h *fakeHold) Close() {
	defer h.lock()()
	h.closed = true
	delete(h.topic.subs, h)
	h.feed.open--
}

func (h *fakeHold) Epoch() stream.TopicID {
	defer h.lock()()
	return h.id
}

func (h *fakeHold) Partitions() (out []int32) {
	defer h.lock()()
	if h.id == h.topic.id {
		h.parts = len(h.topic.parts)
	}
	for i := range h.parts {
		out = append(out, int32(i))
	}
	return out
}

func (h *fakeHold) Live() (map[int32]int64, bool) {
	defer h.lock()()
	out := map[int32]int64{}
	for i, l := range h.own() {
		out[int32(i)] = l.end
	}
	return out, true
}

func (h *fakeHold) Bounds(context.Context) (map[int32]broker.Bounds, error) {
	defer h.lock()()
	return h.bounds()
}

// bounds is what the cluster says, whatever became of the hold. The feed's lock is held.
func (h *fakeHold) bounds() (map[int32]broker.Bounds, error) {
	if h.feed.away != nil {
		return nil, h.feed.away
	}
	if h.id != h.topic.id {
		return nil, stream.ErrTopicChanged
	}
	out := map[int32]broker.Bounds{}
	for i, l := range h.topic.parts {
		out[int32(i)] = broker.Bounds{Start: l.start, End: l.end}
	}
	return out, nil
}

func (h *fakeHold) AskBounds(then func(map[int32]broker.Bounds, error)) {
	h.feed.mu.Lock()
	late := h.feed.late
	if late {
		h.feed.owed = append(h.feed.owed, func() {
			h.feed.mu.Lock()
			b, err := h.bounds()
			h.feed.mu.Unlock()
			then(b, err)
		})
	}
	h.feed.mu.Unlock()
	if !late {
		then(h.Bounds(context.Background()))
	}
}

// answer gives the answers that are owed.
func (f *fakeFeed) answer() {
	f.mu.Lock()
	owed := f.owed
	f.owed = nil
	f.mu.Unlock()
	for _, fn := range owed {
		fn()
	}
}

func (h *fakeHold) OffsetsAt(_ context.Context, t time.Time) (map[int32]int64, error) {
	defer h.lock()()
	if h.feed.away != nil {
		return nil, h.feed.away
	}
	if h.id != h.topic.id {
		return nil, stream.ErrTopicChanged
	}
	out := map[int32]int64{}
	for i, l := range h.topic.parts {
		out[int32(i)] = l.end
		for _, e := range l.events {
			if e.Time >= t.UnixMilli() {
				out[int32(i)] = e.Offset
				break
			}
		}
	}
	return out, nil
}

func (h *fakeHold) matches(e *feed.Event) bool { return h.all || e.Key != nil && h.keys[string(e.Key)] }

func (h *fakeHold) Read(partition int32, cursor int64, limit int) feed.Chunk {
	h.parked.Store(false)
	defer h.lock()()
	h.feed.reads++
	c := feed.Chunk{From: cursor, To: cursor}
	switch {
	case h.topic.gone:
		c.Status = feed.Gone
		return c
	case h.id != h.topic.id:
		h.id, h.parts, h.logs = h.topic.id, len(h.topic.parts), h.topic.parts
		c.Status = feed.Reset
		return c
	}
	l := h.topic.parts[partition]
	switch {
	case cursor < l.start:
		c.To = l.start
		c.Gap = &feed.Gap{From: cursor, To: l.start, Cause: "retention"}
	case cursor > l.end:
		c.Status = feed.Beyond
	case cursor == l.end:
		c.Status = feed.AtHead
	case cursor < l.tape && l.pending:
		c.Status = feed.Pending
	default:
		c.Replayed = cursor < l.tape
		h.fill(&c, l, limit)
	}
	return c
}

func (h *fakeHold) fill(c *feed.Chunk, l *fakeLog, limit int) {
	c.To = l.end
	at, _ := slices.BinarySearchFunc(l.events, c.From, func(e *feed.Event, o int64) int { return int(e.Offset - o) })
	for _, e := range l.events[at:] {
		if len(c.Events) == limit {
			c.To = e.Offset
			return
		}
		if h.matches(e) {
			c.Events = append(c.Events, e)
		}
	}
}

func (h *fakeHold) Scan(ctx context.Context, partition int32, from, to int64, fn func(feed.Chunk) bool) (int64, error) {
	for {
		unlock := h.lock()
		l := h.own()[partition]
		end := l.end
		c := feed.Chunk{From: from, To: from}
		if from < l.start {
			c.To = min(l.start, to)
			c.Gap = &feed.Gap{From: from, To: c.To, Cause: "retention"}
		} else if from < end {
			h.fill(&c, l, 10)
		}
		unlock()
		if c.To > to {
			c.To = to
			c.Events = clip(c.Events, to)
		}
		if c.To == c.From || ctx.Err() != nil {
			return end, ctx.Err()
		}
		if !fn(c) || c.To >= to {
			return end, nil
		}
		if h.feed.gate != nil {
			select {
			case <-h.feed.gate:
			case <-ctx.Done():
			}
		}
		from = c.To
	}
}

func (h *fakeHold) Head(partition int32) (int64, bool) {
	defer h.lock()()
	return h.own()[partition].end, true
}

func (h *fakeHold) Held(partition int32, offset int64) (broker.Bounds, bool) {
	defer h.lock()()
	l := h.own()[partition]
	b := broker.Bounds{Start: max(l.start, l.tape), End: l.end}
	return b, h.feed.held && h.id == h.topic.id && b.Start <= offset && offset <= b.End
}

var errWait = errors.New("the schema is not known yet")

func (h *fakeHold) Frame(e *feed.Event, form feed.Form) ([]byte, error) {
	defer h.lock()()
	data := h.topic.frames[e.Accepted]
	switch data {
	case "poison":
		return nil, &schemas.PoisonError{Reason: "test"}
	case "wait":
		return nil, errWait
	}
	b := []byte(`{"topic":` + strconv.Quote(h.topic.name))
	if p := h.topic.homes[e.Accepted]; p > 0 {
		b = fmt.Appendf(b, `,"partition":%d`, p)
	}
	if e.Key != nil {
		b = fmt.Appendf(b, `,"key":%q`, e.Key)
	}
	if form == feed.FormBinary {
		b = fmt.Appendf(b, `,"offset":%d,"ts":%d}`, e.Offset, e.Time)
		body := append([]byte{0, 0, 0, byte(len(b))}, b...)
		body = append(body, e.Value...)
		return appendFrame(nil, 0x82, body), nil
	}
	b = fmt.Appendf(b, `,"data":%s,"offset":%d,"ts":%d}`, data, e.Offset, e.Time)
	return appendFrame(nil, opText, b), nil
}

// Source tells of which topic, and of which incarnation.
func (h *fakeHold) Source() any {
	defer h.lock()()
	if h.feed.solo {
		return nil
	}
	return fakeSource{h.topic, h.id}
}

type fakeSource struct {
	topic *fakeTopic
	id    stream.TopicID
}

func (h *fakeHold) Park() { h.parked.Store(true) }

// Tap reads for many holds.
func (h *fakeHold) Tap(wake func()) tap {
	defer h.lock()()
	t := &fakeTap{feed: h.feed, source: fakeSource{h.topic, h.id}, wake: wake}
	h.topic.taps[t] = true
	h.feed.tapped++
	return t
}

type fakeTap struct {
	feed   *fakeFeed
	source fakeSource
	wake   func()
}

func (t *fakeTap) Close() {
	t.feed.mu.Lock()
	defer t.feed.mu.Unlock()
	delete(t.source.topic.taps, t)
	t.feed.tapped--
}

func (t *fakeTap) Arm() {}

func (t *fakeTap) Read(buf []*feed.Event, partition int32, from int64, limit int) (evs []*feed.Event, to int64, more, ok bool) {
	t.feed.mu.Lock()
	defer t.feed.mu.Unlock()
	topic := t.source.topic
	if topic.gone || topic.id != t.source.id {
		return buf, from, false, false
	}
	l := topic.parts[partition]
	if from < max(l.start, l.tape) || from > l.end {
		return buf, from, false, false
	}
	c := feed.Chunk{From: from}
	(&fakeHold{all: true}).fill(&c, l, limit)
	t.feed.passes++
	return append(buf, c.Events...), c.To, c.To < l.end, true
}

func (t *fakeTap) Frame(e *feed.Event, form feed.Form) ([]byte, error) {
	return (&fakeHold{feed: t.feed, topic: t.source.topic}).Frame(e, form)
}

// holds tells how many holds are open.
func (f *fakeFeed) holds() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

// fill appends n numbered events.
func (f *fakeFeed) fill(_ testing.TB, topic string, partition, n int, key func(i int) string) {
	for i := range n {
		f.produce(topic, partition, key(i), strconv.Itoa(i))
	}
}

func noKey(int) string { return "" }
