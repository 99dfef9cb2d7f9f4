package feed

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/stream"
)

// Gap is a stretch that a session must report.
type Gap struct {
	From, To int64
	Cause    string // retention, epoch, slow, poison, revoked
}

// The causes of a gap that a Feed itself finds.
const (
	CauseRetention = "retention" // Kafka does not have it any more
	CausePoison    = "poison"    // Kafka has it, and it cannot be read
)

// Chunk is what a cursor gets: all matching events of [From, To), or a gap.
type Chunk struct {
	Status   Status
	From, To int64
	Events   []*Event // matching the sub's keys, ascending; do not keep the slice
	Gap      *Gap     // instead of events: [From, To) is missing
	Replayed bool     // came from Kafka, not from the tape
}

// Status of a Chunk.
type Status uint8

// The statuses.
const (
	More    Status = iota // something was read, if only that nothing matches; ask again from To
	AtHead                // nothing beyond From yet; wake follows
	Pending               // being fetched from Kafka, or waiting for the hand-over to the tape; wake follows
	Reset                 // the topic was deleted or made again: Epoch() and Partitions() are new, start at 0
	Gone                  // the topic is no feed any more (deleted, or not allowed)
	Beyond                // From is beyond the log's end (asked afresh)
)

// Sub is one subscription's hold on a topic: it keeps the interests alive and
// reads for cursors. Its methods are called by one goroutine (but for those
// that say otherwise), wake from any.
type Sub struct {
	// static after construction
	feed      *Feed
	topic     *topic
	filter    *filter
	interests []*interest
	wake      func()

	// guarded by the topic's subIndex
	place, placeWhole int
	places            []int32 // by key of the filter

	armed   atomic.Bool // the last Read found nothing more: a wake is due when there is
	pending atomic.Bool // the last Read waits for Kafka or for a hand-over

	inst atomic.Pointer[instance] // stored by the caller's goroutine

	// owned by the caller's goroutine
	parts  []subPart // by partition
	buf    []*Event
	closed bool
}

// subPart is what a sub keeps of a partition.
type subPart struct {
	x      int64 // max X of its interests, once hasX: it does not change then
	hasX   bool
	knownX int // how many of the interests are in x
	want   *want
	owed   int64 // how far the log was known to go when want was asked
}

// arm asks for a wake. It comes before looking, so that what comes after wakes.
func (s *Sub) arm() {
	if s.armed.Load() {
		return
	}
	s.topic.subs.armed.Add(1) // first: there is never one less than are armed
	if s.armed.Swap(true) {
		s.topic.subs.armed.Add(-1)
	}
}

// disarm tells whether the sub is to be woken, once per time that it asked.
func (s *Sub) disarm() bool {
	if !s.armed.Load() || !s.armed.Swap(false) {
		return false
	}
	s.topic.subs.armed.Add(-1)
	return true
}

// Close lets go of the interests (they linger). It may be called twice.
func (s *Sub) Close() {
	if s.closed {
		return
	}
	s.closed = true
	s.disarm()
	s.topic.subs.remove(s)
	for i := range s.parts {
		s.abandon(int32(i)) //nolint:gosec // a partition's id
	}
	s.feed.book.release(s.interests, time.Now())
	s.feed.metrics.subs.Dec()
}

// abandon withdraws what a partition's cursor waits for.
func (s *Sub) abandon(id int32) {
	sp := &s.parts[id]
	if sp.want == nil {
		return
	}
	if p := s.inst.Load().part(id); p != nil {
		s.feed.env.cache.forget(p.shelf, sp.want)
	}
	sp.want = nil
}

// Epoch is the topic's id, as last seen by this sub: it changes when a Read
// returns Reset, and only then.
func (s *Sub) Epoch() stream.TopicID { return s.inst.Load().id }

// Partitions of the topic, ascending; they may grow (wake is called): a new
// one starts at 0. After a Reset they are the new topic's. The slice is shared:
// nobody may change it.
func (s *Sub) Partitions() []int32 {
	s.arm()
	return firstIDs(len(*s.inst.Load().parts.Load()))
}

// partitionIDs are the ids from 0 on, shared by all who ask for them.
var partitionIDs atomic.Pointer[[]int32]

// firstIDs lists n partition ids. Nobody may change the slice.
func firstIDs(n int) []int32 {
	if p := partitionIDs.Load(); p != nil && len(*p) >= n {
		return (*p)[:n:n]
	}
	out := make([]int32, max(n, 64))
	for i := range out {
		out[i] = int32(i) //nolint:gosec // a partition's id
	}
	partitionIDs.Store(&out)
	return out[:n:n]
}

// Live returns, once known for every partition, max(X, next): where a live
// subscription begins. ok=false: not yet, wake follows (at most about 2 s
// while Kafka answers).
func (s *Sub) Live() (at map[int32]int64, ok bool) {
	s.arm()
	ps := *s.inst.Load().parts.Load()
	if len(ps) == 0 {
		return nil, false
	}
	at = make(map[int32]int64, len(ps))
	for i, p := range ps {
		if at[int32(i)], ok = s.head(p); !ok { //nolint:gosec // a partition's id
			s.pending.Store(true)
			return nil, false
		}
	}
	return at, true
}

// Head returns max(X, next) of one partition: where a cursor that skips
// everything there is goes on, and nothing is owed before it. ok=false: not
// known yet.
func (s *Sub) Head(partition int32) (int64, bool) {
	p := s.inst.Load().part(partition)
	if p == nil {
		return 0, false
	}
	return s.head(p)
}

// Held tells what the tape holds for this sub, if an offset lies on it or at
// its head: reading on from there asks nothing of Kafka.
func (s *Sub) Held(partition int32, offset int64) (b broker.Bounds, ok bool) {
	p := s.inst.Load().part(partition)
	if p == nil || s.inst.Load().replaced.Load() || s.topic.gone.Load() {
		return b, false
	}
	x, ok := s.x(p)
	if !ok {
		return b, false
	}
	start, next, ok := p.tape.bounds()
	b = broker.Bounds{Start: max(start, x), End: next}
	return b, ok && b.Start <= offset && offset <= b.End
}

func (s *Sub) head(p *partition) (int64, bool) {
	x, ok := s.x(p)
	if !ok {
		return 0, false
	}
	_, next, ok := p.tape.bounds()
	return max(x, next), ok
}

// x returns from where on the tape is complete for all of the sub's interests.
// An interest that is alive keeps its X as long as the topic is the same.
func (s *Sub) x(p *partition) (int64, bool) {
	sp := s.part(p.id)
	for !sp.hasX {
		if sp.knownX == len(s.interests) {
			sp.hasX = true
			break
		}
		x, ok := p.x(s.interests[sp.knownX].id)
		if !ok {
			return 0, false
		}
		sp.x = max(sp.x, x)
		sp.knownX++
	}
	return sp.x, true
}

func (s *Sub) part(id int32) *subPart {
	for len(s.parts) <= int(id) {
		s.parts = append(s.parts, subPart{})
	}
	return &s.parts[id]
}

// Bounds asks Kafka afresh for first retained and end offsets.
// stream.ErrTopicChanged: they would be those of another incarnation than Epoch.
// The answer is shared with whoever asks at the same time: nobody may change it.
func (s *Sub) Bounds(ctx context.Context) (map[int32]broker.Bounds, error) {
	return s.bounds(ctx, s.Partitions())
}

func (s *Sub) bounds(ctx context.Context, ids []int32) (map[int32]broker.Bounds, error) {
	b, err := s.feed.env.asker.bounds(ctx, s.topic.name, s.Epoch(), len(ids))
	if errors.Is(err, stream.ErrTopicChanged) {
		s.feed.refresh()
	}
	if err != nil {
		return nil, fmt.Errorf("bounds of topic %s: %w", s.topic.name, err)
	}
	return b, nil
}

// OffsetsAt looks a time up: for each partition the first offset whose event
// is not older than t. The end is taken first, and stands for "past the newest".
func (s *Sub) OffsetsAt(ctx context.Context, t time.Time) (map[int32]int64, error) {
	ids := s.Partitions()
	b, err := s.bounds(ctx, ids)
	if err != nil {
		return nil, err
	}
	at, err := s.feed.client.OffsetsAt(ctx, s.topic.name, ids, t)
	if err != nil {
		return nil, fmt.Errorf("offsets of topic %s by time: %w", s.topic.name, err)
	}
	for _, id := range ids {
		if o, ok := at[id]; !ok || o < 0 {
			at[id] = b[id].End
		}
	}
	return at, nil
}

// Read reads from a cursor without waiting: from the tape where it is
// complete for this sub, else from Kafka through shared blocks. About
// maxEvents at most; 0 or less is 256. It may return More without events: then
// nothing in [From, To) matches.
func (s *Sub) Read(partition int32, cursor int64, maxEvents int) Chunk {
	if maxEvents <= 0 {
		maxEvents = 256
	}
	s.arm()
	c := s.read(partition, cursor, maxEvents)
	s.pending.Store(c.Status == Pending)
	return c
}

func (s *Sub) read(partition int32, cursor int64, limit int) Chunk {
	none := Chunk{From: cursor, To: cursor}
	if st := s.changed(); st != More {
		none.Status = st
		return none
	}
	p := s.inst.Load().part(partition)
	if p == nil || cursor < 0 {
		none.Status = Pending
		return none
	}
	if x, ok := s.x(p); ok && cursor >= x {
		r := p.tape.read(s.take(), cursor, s.filter, limit)
		if !r.below {
			return s.fromTape(p, cursor, r, limit)
		}
	}
	return s.fromKafka(p, cursor, limit)
}

// take empties the buffer for the events of a chunk.
func (s *Sub) take() []*Event {
	clear(s.buf)
	s.buf = s.buf[:0]
	return s.buf
}

// changed tells whether the topic is still the one this sub knows, and adopts
// another one.
func (s *Sub) changed() Status {
	if s.inst.Load().replaced.Load() {
		for i := range s.parts {
			s.abandon(int32(i)) //nolint:gosec // a partition's id
		}
		s.inst.Store(s.topic.inst.Load())
		s.parts = nil
		return Reset
	}
	if s.topic.gone.Load() {
		return Gone
	}
	return More
}

func (s *Sub) fromTape(p *partition, cursor int64, r reading, limit int) Chunk {
	c := Chunk{From: cursor, To: r.to, Events: r.evs}
	switch {
	case r.gap:
		c.Gap = &Gap{From: cursor}
		c.Gap.Cause, c.Gap.To = p.spoilt.cause(cursor, r.to)
		c.To = c.Gap.To
	case r.ahead:
		return s.ahead(p, cursor, limit)
	case r.to == cursor:
		c.Status = AtHead
	}
	if r.evs != nil {
		s.buf = r.evs
	}
	if sp := s.part(p.id); sp.want != nil {
		s.abandon(p.id)
	}
	return c
}

// ahead judges a cursor beyond the tape's head: the tape will get there, or
// the log ends before it. Where somebody has read the log from there already, or
// it is known to begin behind it, that answers the question, and asking it again
// would go in a circle.
func (s *Sub) ahead(p *partition, cursor int64, limit int) Chunk {
	c := Chunk{From: cursor, To: cursor, Status: AtHead}
	if p.end.Load() >= cursor {
		return c
	}
	if b, start := s.feed.env.cache.find(p.shelf, cursor); b != nil || cursor < start {
		return s.fromKafka(p, cursor, limit)
	}
	res, done := s.ask(p, cursor)
	switch {
	case !done:
		c.Status = Pending
	case res.atEnd && res.end < cursor:
		c.Status = Beyond
	}
	return c
}

// rest is how long an answer that brought nothing holds.
const rest = time.Second

// fromKafka reads through the shared blocks.
func (s *Sub) fromKafka(p *partition, cursor int64, limit int) Chunk {
	c := Chunk{From: cursor, To: cursor, Replayed: true, Status: Pending}
	b, start := s.feed.env.cache.find(p.shelf, cursor)
	switch {
	case b != nil && b.corrupt:
		s.part(p.id).want = nil
		c.Status, c.To, c.Gap = More, b.to, &Gap{From: cursor, To: b.to, Cause: CausePoison}
		return c
	case b != nil:
		s.part(p.id).want = nil // it is done
		s.buf, c.To = b.read(s.take(), cursor, math.MaxInt64, s.filter, limit)
		c.Status, c.Events = More, s.buf
		return c
	case cursor < start:
		s.part(p.id).want = nil
		c.Status, c.To, c.Gap = More, start, &Gap{From: cursor, To: start, Cause: CauseRetention}
		return c
	}
	if res, done := s.ask(p, cursor); done {
		switch {
		case res.atEnd && res.end < cursor:
			c.Status = Beyond
		case res.changed:
			s.feed.refresh()
		}
	}
	return c
}

// ask has a cursor wait for Kafka, and tells what came of it. An answer that
// brought nothing (the log ends at the cursor, the topic is another) holds
// until there is certainly more, or for a second.
func (s *Sub) ask(p *partition, cursor int64) (fetchResult, bool) {
	sp := s.part(p.id)
	owed := s.owed(p)
	if w := sp.want; w != nil && w.cursor == cursor {
		res, done := s.feed.env.cache.result(w)
		news := res.atEnd && owed > cursor && owed > sp.owed
		if !done || (res.atEnd || res.changed) && !news && time.Since(res.at) < rest {
			return res, done
		}
	} else if w != nil {
		s.abandon(p.id)
	}
	sp.want, sp.owed = s.feed.env.cache.ask(p.shelf, cursor, s.notify), owed
	return s.feed.env.cache.result(sp.want)
}

// owed tells how far the log is known to go: to where a section or a read saw
// its end, and to where the sub's interests or the tape begin.
func (s *Sub) owed(p *partition) int64 {
	to := p.end.Load()
	if x, ok := s.x(p); ok {
		to = max(to, x)
	}
	if start, _, open := p.tape.bounds(); open {
		to = max(to, start)
	}
	return to
}

// notify wakes for a want.
func (s *Sub) notify() {
	if s.disarm() {
		s.wake()
	}
}

// Scan reads [from, to) of a partition in order, the sub's keys, from Kafka
// through shared blocks, waiting where it must (last-N, snapshot). to beyond
// the log's end reads to the end: then end is from an answer that reached it
// exactly where the scan stands. fn gets chunks with status More, events or a
// gap, and returns false to stop. end is the last stable offset of the last
// answer. Errors: ctx's, or stream.ErrTopicChanged.
//
// Unlike Read it may be called from any goroutine, as may Bounds and OffsetsAt.
func (s *Sub) Scan(ctx context.Context, partition int32, from, to int64, fn func(c Chunk) bool) (end int64, err error) {
	return s.scan(ctx, s.inst.Load(), partition, from, to, fn)
}
