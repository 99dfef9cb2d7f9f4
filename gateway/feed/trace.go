package feed

import (
	"sync"
	"time"

	"github.com/tapecast/tapecast/internal/stream"
)

// What happened to an event, as far as this node knows. Hop times are kept per
// section, not per event, so that they cost nothing worth mentioning; the rest
// is on the event itself while the tape has it.

// keptHops bounds the hops that are remembered, of each kind: about 1 MiB.
const keptHops = 8192

// hop is a stretch of a partition that did one step together.
type hop struct {
	part     *partition
	from, to int64
	at       int64    // us: arrived, or taken
	written  int64    // us: the batch's WrittenUs; 0 = it came from Kafka
	read     [2]int64 // us: the section's ReadFirst and ReadLast; 0 = not known
	writer   string
	direct   bool // read around the fan-out
}

func (h *hop) has(p *partition, offset int64) bool {
	return h.part == p && h.from <= offset && offset < h.to
}

// hops remembers the latest of what arrived and what was put on a tape.
type hops struct {
	mu      sync.Mutex
	arrived hopRing // guarded by mu
	taken   hopRing // guarded by mu
}

type hopRing struct {
	buf  []hop
	next int
}

func (r *hopRing) add(h hop) {
	if len(r.buf) < keptHops {
		r.buf = append(r.buf, h)
		return
	}
	r.buf[r.next] = h
	r.next = (r.next + 1) % keptHops
}

// first finds the earliest that is remembered of an offset: what came again
// later (a retried batch) is not how the event got here.
func (r *hopRing) first(p *partition, offset int64) (hop, bool) {
	for i := range r.buf {
		if h := &r.buf[(r.next+i)%len(r.buf)]; h.has(p, offset) {
			return *h, true
		}
	}
	return hop{}, false
}

// arrive notes a section that holds something.
func (h *hops) arrive(p *partition, s *stream.Section, writer string, written int64) {
	if len(s.Deliveries) == 0 {
		return
	}
	now := time.Now().UnixMicro()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.arrived.add(hop{
		part: p, from: s.From, to: s.To, at: now, written: written, read: [2]int64{s.ReadFirst, s.ReadLast}, writer: writer,
	})
}

// take notes events that were put on a tape.
func (h *hops) take(p *partition, evs []Event, to int64, direct bool) {
	if len(evs) == 0 {
		return
	}
	now := time.Now().UnixMicro()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.taken.add(hop{part: p, from: evs[0].Offset, to: to, at: now, direct: direct})
}

// Trace is what this node knows of one event. Times are microseconds since the
// Unix epoch by the clock of whoever did it; 0 = not known (any more).
type Trace struct {
	Followed    bool  // the topic and partition are followed here
	Start, Head int64 // what the tape spans: [Start, Head)
	OnTape      bool

	Key      []byte
	Time     int64 // of the event, ms
	Accepted int64 // by ingest, or by whoever wrote it with tapecast's header
	// The fan-out read it from the feed topic between these two; the same where
	// its section did not wait for others.
	ReadFirst, ReadLast int64
	Batched             int64  // the fan-out wrote the batch it came in
	Writer              string // which fan-out instance that was
	Arrived             int64  // the batch was read from the delivery topic
	Taken               int64  // it was put on the tape
	Direct              bool   // it was read from Kafka, around the fan-out
	Encoded             int64  // a frame of it was made, for the first session that came to it
}

// Trace tells what is known of an event. topic is as clients call it.
func (f *Feed) Trace(topic string, partition int32, offset int64) Trace {
	var t Trace
	p := f.followedPartition(topic, partition)
	if p == nil {
		return t
	}
	t.Followed = true
	t.Start, t.Head, _ = p.tape.bounds()
	f.env.hops.mu.Lock()
	if h, ok := f.env.hops.arrived.first(p, offset); ok {
		t.Batched, t.Writer, t.Arrived = h.written, h.writer, h.at
		t.ReadFirst, t.ReadLast = h.read[0], h.read[1]
	}
	if h, ok := f.env.hops.taken.first(p, offset); ok {
		t.Taken, t.Direct = h.at, h.direct
	}
	f.env.hops.mu.Unlock()
	if e := p.tape.find(offset); e != nil {
		t.OnTape = true
		t.Key, t.Time, t.Accepted = e.Key, e.Time, e.Accepted
		e.mu.Lock()
		t.Encoded = e.encoded
		e.mu.Unlock()
	}
	return t
}

// followedPartition finds a partition by the names that clients use, nil if it
// is not followed.
func (f *Feed) followedPartition(topic string, partition int32) *partition {
	for _, t := range f.followed() {
		if t.client == topic {
			return t.inst.Load().part(partition)
		}
	}
	return nil
}

// find returns the event at an offset, nil if the tape does not have it.
func (t *tape) find(offset int64) *Event {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if i := t.all.search(offset); i < t.all.n && t.all.at(i).Offset == offset {
		return t.all.at(i)
	}
	return nil
}

// Node is this node's name.
func (f *Feed) Node() string { return f.opt.Node }

// Stat is how this node's tapes of a topic stand.
type Stat struct {
	Partitions int // with a tape
	Events     int // on those tapes
	Keys       int // of those events, counted per partition
}

// Stat tells how the tapes of a topic stand. topic is as clients call it.
func (f *Feed) Stat(topic string) (s Stat) {
	for _, t := range f.followed() {
		if t.client != topic {
			continue
		}
		for _, p := range *t.inst.Load().parts.Load() {
			events, keys := p.tape.stat()
			s.Partitions++
			s.Events += events
			s.Keys += keys
		}
	}
	return s
}

func (t *tape) stat() (events, keys int) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.all.n, len(t.byKey)
}
