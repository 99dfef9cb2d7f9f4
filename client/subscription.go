package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"iter"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"
)

// From says where a subscription begins. The zero value is live.
type From struct{ wire json.RawMessage }

// Live begins with what is written from now on.
func Live() From { return From{} }

// Earliest begins at the first retained offset.
func Earliest() From { return From{json.RawMessage(`"earliest"`)} }

// Last begins n matching events back.
func Last(n int) From { return From{json.RawMessage(`{"last":` + strconv.Itoa(n) + `}`)} }

// Time begins at the first event at or after t.
func Time(t time.Time) From {
	return From{mustJSON(map[string]string{"time": t.UTC().Format(time.RFC3339Nano)})}
}

// Offset begins at an offset of a topic with one partition.
func Offset(o int64) From { return From{mustJSON(map[string]int64{"offset": o})} }

// Offsets begins at the next offsets that a client holds; epoch is the topic's
// identity that they belong to ("" = do not check).
func Offsets(next map[int32]int64, epoch string) From {
	m := map[string]any{"offsets": wireOffsets(next)}
	if epoch != "" {
		m["epoch"] = epoch
	}
	return From{mustJSON(m)}
}

// Raw is any `from` or `until` of the protocol, as JSON.
func Raw(j json.RawMessage) From { return From{j} }

func wireOffsets(next map[int32]int64) map[string]int64 {
	m := make(map[string]int64, len(next))
	for p, o := range next {
		m[strconv.Itoa(int(p))] = o
	}
	return m
}

func mustJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only maps of strings and numbers come here
	}
	return b
}

// SubscribeOptions of one subscription.
type SubscribeOptions struct {
	Keys       []string // nil = all keys
	From       From
	Until      From   // zero = no end
	Mode       string // "", "all", "latest" or "snapshot"
	IntervalMs int    // latest: at most one event per key in that time
	Extra      map[string]any
}

// Violation is a breach of the feed's promise that the client noticed.
type Violation struct {
	Topic     string
	Partition int32
	Offset    int64 // of the offending frame
	Next      int64 // what the client held
}

// Subscription is one subscription of a Client. Its methods are for one
// goroutine at a time, except Close, Positions and Violations.
type Subscription struct {
	c     *Client
	id    string
	topic string
	opt   SubscribeOptions
	keys  map[string]bool // nil = all
	limit int

	mu       sync.Mutex
	more     sync.Cond // frames or err changed, or room was made
	frames   []Frame
	bytes    int
	err      error
	closed   bool
	epoch    string
	received map[int32]int64 // next offset, of what came
	handed   map[int32]int64 // next offset, of what Next has returned
	bad      []Violation
	badCount int
}

// Subscribe starts a subscription. An error of the gateway (unknown topic, say)
// comes from Next.
func (c *Client) Subscribe(topic string, o SubscribeOptions) (*Subscription, error) {
	s := &Subscription{c: c, topic: topic, opt: o, limit: c.opt.Buffer, handed: map[int32]int64{}}
	s.more.L = &s.mu
	if o.Keys != nil {
		s.keys = make(map[string]bool, len(o.Keys))
		for _, k := range o.Keys {
			s.keys[k] = true
		}
	}
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return nil, c.err
	}
	c.nextID++
	s.id = strconv.Itoa(c.nextID)
	c.subs[s.id] = s
	c.mu.Unlock()
	c.send(s.command())
	return s, nil
}

// command is the `sub` command that goes on where the subscription stands.
func (s *Subscription) command() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, _ := strconv.Atoi(s.id)
	m := map[string]any{"cmd": "sub", "id": id, "topic": s.topic}
	maps.Copy(m, s.opt.Extra)
	if s.opt.Keys != nil {
		m["keys"] = s.opt.Keys
	}
	if s.opt.Until.wire != nil {
		m["until"] = s.opt.Until.wire
	}
	mode := s.opt.Mode
	switch {
	case s.received != nil:
		m["from"] = Offsets(s.received, s.epoch).wire
		if mode == "snapshot" {
			mode = "all" // the snapshot was taken; what is owed is what came after it
		}
	case s.opt.From.wire != nil:
		m["from"] = s.opt.From.wire
	}
	if mode != "" {
		m["mode"] = mode
	}
	if s.opt.IntervalMs > 0 {
		m["interval_ms"] = s.opt.IntervalMs
	}
	return mustJSON(m)
}

func (s *Subscription) wants(w *wire) bool {
	if s.keys == nil {
		return true
	}
	return s.keys[frameKey(w)]
}

func frameKey(w *wire) string {
	if w.KeyBase64 != "" {
		if b, err := base64.StdEncoding.DecodeString(w.KeyBase64); err == nil {
			return string(b)
		}
	}
	return w.Key
}

// take judges a frame and queues it; it waits while the buffer is full.
func (s *Subscription) take(ctx context.Context, msg []byte, w *wire) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := Frame{Raw: msg, Topic: s.topic, Partition: w.Partition, Kind: KindData}
	if w.Event != "" {
		k, known := kindNames[w.Event]
		if !known {
			return // a newer gateway may say more; ignored, as the protocol asks
		}
		f.Kind = k
	}
	switch f.Kind {
	case KindData:
		f.Offset, f.Key, f.Value, f.Time, f.Snapshot = w.Offset, frameKey(w), w.Data, w.Time, w.Snapshot
		if !s.judge(&f) {
			return
		}
	case KindSubscribed:
		s.subscribed(&f, w)
	case KindGap:
		var from int64
		_ = json.Unmarshal(w.From, &from)
		f.GapFrom, f.GapTo, f.Cause = from, w.To, w.Cause
		s.advance(w.Partition, w.To)
	case KindReset:
		s.received, s.handed, s.epoch = map[int32]int64{}, map[int32]int64{}, w.Epoch
		f.Epoch = w.Epoch
		var from offsets
		if json.Unmarshal(w.From, &from) == nil {
			maps.Copy(s.received, from)
		}
	case KindLive:
		f.LiveAt = w.At
		for p, o := range w.At {
			s.advance(p, o)
		}
	}
	s.push(ctx, f)
}

// judge checks a data frame against what the client holds; false = keep it back.
func (s *Subscription) judge(f *Frame) bool {
	if f.Snapshot || s.opt.Mode == "latest" && s.received == nil {
		return true
	}
	next, known := s.received[f.Partition]
	if known && f.Offset < next {
		s.badCount++
		if len(s.bad) < 100 {
			s.bad = append(s.bad, Violation{Topic: s.topic, Partition: f.Partition, Offset: f.Offset, Next: next})
		}
		return false
	}
	s.advance(f.Partition, f.Offset+1)
	return true
}

func (s *Subscription) advance(p int32, next int64) {
	if s.received == nil {
		return // not positioned yet (a snapshot under way)
	}
	if next > s.received[p] {
		s.received[p] = next
	}
}

func (s *Subscription) subscribed(f *Frame, w *wire) {
	var from offsets
	_ = json.Unmarshal(w.From, &from)
	f.From, f.LiveAt, f.Epoch, f.Resume = from, w.Live, w.Epoch, w.Resume
	if w.Resume == "reset" || s.epoch != "" && s.epoch != w.Epoch {
		s.received, s.handed = nil, map[int32]int64{}
	}
	s.epoch = w.Epoch
	if s.received == nil {
		s.received = make(map[int32]int64, len(from))
		maps.Copy(s.received, from)
		return
	}
	for p, o := range from {
		s.advance(p, o)
	}
}

func (s *Subscription) covered(ctx context.Context, msg []byte, at offsets) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, o := range at {
		s.advance(p, o)
	}
	s.push(ctx, Frame{Kind: KindHeartbeat, Raw: msg, Topic: s.topic, LiveAt: at})
}

// push waits for room and queues; s.mu is held.
func (s *Subscription) push(ctx context.Context, f Frame) {
	if s.bytes >= s.limit {
		stop := context.AfterFunc(ctx, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.more.Broadcast()
		})
		defer stop()
	}
	for s.bytes >= s.limit && !s.closed && ctx.Err() == nil {
		s.more.Wait()
	}
	if s.closed || ctx.Err() != nil {
		return
	}
	s.frames = append(s.frames, f)
	s.bytes += len(f.Raw)
	s.more.Broadcast()
}

func (s *Subscription) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.more.Broadcast()
}

// Next returns the next frame, in order. It waits; ctx ends the wait. After the
// subscription's end it returns the error that ended it, ErrClosed after Close.
func (s *Subscription) Next(ctx context.Context) (Frame, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.frames) == 0 && s.err == nil {
		stop := context.AfterFunc(ctx, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.more.Broadcast()
		})
		defer stop()
	}
	for len(s.frames) == 0 {
		if s.err != nil {
			return Frame{}, s.err
		}
		if err := ctx.Err(); err != nil {
			return Frame{}, err
		}
		s.more.Wait()
	}
	f := s.frames[0]
	s.frames[0] = Frame{}
	s.frames = s.frames[1:]
	s.bytes -= len(f.Raw)
	s.more.Broadcast()
	s.hand(&f)
	return f, nil
}

// hand moves the position that the caller holds; s.mu is held.
func (s *Subscription) hand(f *Frame) {
	move := func(p int32, next int64) {
		if next > s.handed[p] {
			s.handed[p] = next
		}
	}
	switch f.Kind {
	case KindData:
		if !f.Snapshot {
			move(f.Partition, f.Offset+1)
		}
	case KindGap:
		move(f.Partition, f.GapTo)
	case KindSubscribed:
		for p, o := range f.From {
			move(p, o)
		}
	case KindLive, KindHeartbeat:
		for p, o := range f.LiveAt {
			move(p, o)
		}
	}
}

// Frames iterates over Next until an error ends it; ctx's end is not reported.
func (s *Subscription) Frames(ctx context.Context) iter.Seq2[Frame, error] {
	return func(yield func(Frame, error) bool) {
		for {
			f, err := s.Next(ctx)
			if err != nil {
				if ctx.Err() == nil {
					yield(Frame{}, err)
				}
				return
			}
			if !yield(f, nil) {
				return
			}
		}
	}
}

// Positions returns the next offset per partition after what Next has returned,
// and the topic's epoch: hand them to [Offsets] to go on there later, here or anywhere.
func (s *Subscription) Positions() (next map[int32]int64, epoch string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.handed), s.epoch
}

// Violations returns how often the feed broke its promise, and the first hundred.
func (s *Subscription) Violations() (int, []Violation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.badCount, slices.Clone(s.bad)
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.c.mu.Lock()
	delete(s.c.subs, s.id)
	s.c.mu.Unlock()
	s.mu.Lock()
	done := s.closed
	s.closed = true
	if s.err == nil {
		s.err = ErrClosed
	}
	s.more.Broadcast()
	s.mu.Unlock()
	if !done {
		id, _ := strconv.Atoi(s.id)
		s.c.send(mustJSON(map[string]any{"cmd": "unsub", "id": id}))
	}
}

// Buffered is how many frames Next can return without waiting.
func (s *Subscription) Buffered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.frames)
}
