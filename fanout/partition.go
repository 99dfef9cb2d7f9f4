package fanout

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/coverage"
	"github.com/tapecast/tapecast/internal/interestlog"
	"github.com/tapecast/tapecast/internal/stream"
)

const (
	readBytes = 1 << 20                // of one read
	readWait  = 500 * time.Millisecond // long poll at the log's end

	// answerEvery is how often a partition takes new interests on at most.
	answerEvery = 20 * time.Millisecond
	// stallAfter is how long a partition with something to read may make no
	// progress, or a read may last, before its reader is made anew.
	stallAfter = 10 * time.Second
	// easeFor is how long a partition that catches up waits at most, after a
	// read, for nodes whose queue is half full.
	easeFor = time.Second
)

// parts is what partitions work with. Immutable.
type parts struct {
	client   *broker.Client
	puller   *broker.Puller // all partitions' reads
	round    *round
	pacer    *pacer
	follower *interestlog.Follower
	tracker  *tracker
	history  *history
	fence    *fence
	metrics  *metrics
	log      *slog.Logger
	group    string
	begun    chan struct{} // cap 1: a book was opened, its start should be committed
}

// partition casts one owned partition of a feed topic: one loop that reads in
// offset order, routes, and hands sections to the nodes' publishers.
type partition struct {
	// static after construction
	parts
	tp        broker.TopicPartition
	committed broker.Committed // when it became ours
	followed  func(ctx context.Context, id stream.TopicID) (bool, error)
	stop      context.CancelFunc

	// owned by run
	router router
	spoilt spoilt

	// guarded by mu
	mu         sync.Mutex
	generation int32
	book       *book // nil while it is not known where to start
	routes     *topicRoutes
	pos        stream.InterestPos
	adopted    time.Time // when routes were last taken on
	end        int64     // last stable offset, as last told
	progress   time.Time // of the last read that proved something
	reading    time.Time // since when a read is under way; zero = none
	rebuild    context.CancelFunc
}

// book is what was said of a partition since one starting point, in one
// incarnation of its topic.
type book struct {
	id     stream.TopicID
	chains *coverage.Chains
	nodes  map[string]*bookNode // by incarnation: those the chains know
}

// bookNode is how far one node's sections reach.
type bookNode struct {
	target  *target
	changed int64 // the newest of its interests that was taken on
	to      int64 // of its last section
}

// run casts until ctx ends. Whatever happens is retried for ever.
func (p *partition) run(ctx context.Context) error {
	var retry backoff
	id, from, ok := p.start(ctx)
	for ok && ctx.Err() == nil {
		p.begin(id, from)
		err := p.follow(ctx, id, &retry)
		if ctx.Err() != nil {
			continue
		}
		var out *stream.OutOfRangeError
		if errors.As(err, &out) {
			p.metrics.outOfRange.Inc()
			from, ok = p.clamp(ctx, out)
			p.log.Warn("position is not in the log any more", "topic", p.tp.Topic, "partition", p.tp.Partition,
				"offset", out.Offset, "start", out.Start, "end", out.End, "next", from)
			continue
		}
		id, from, ok = p.changed(ctx, id, &retry)
	}
	p.close()
	return nil
}

// changed settles where to go on after a read said that the topic is another
// one: at the beginning of the new one. The cluster may also stand by the old
// one, then the position does too.
func (p *partition) changed(ctx context.Context, id stream.TopicID, retry *backoff) (stream.TopicID, int64, bool) {
	from := p.forget()
	if !retry.wait(ctx) {
		return id, 0, false
	}
	now, ok := p.incarnation(ctx)
	if ok && now != id {
		p.metrics.topicChanged.Inc()
		p.log.Warn("topic was made again, it is cast from its beginning", "topic", p.tp.Topic,
			"partition", p.tp.Partition, "id", now.String(), "was", id.String())
		from = 0
	}
	return now, from, ok
}

// begin opens a new book at from, and answers all interests there.
func (p *partition) begin(id stream.TopicID, from int64) {
	defer p.round.flush()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.book = &book{id: id, chains: coverage.NewChains(id, p.tp.Partition, p.generation, from), nodes: map[string]*bookNode{}}
	p.routes, p.adopted = nil, time.Time{}
	p.end, p.progress = from, time.Now()
	p.adoptLocked(time.Now(), true)
	signal(p.begun)
	p.log.Debug("partition is cast", "topic", p.tp.Topic, "partition", p.tp.Partition, "id", id.String(), "next", from)
}

// forget closes the book without a word, and without a commit: what it is
// about may be gone. It returns where it stood.
func (p *partition) forget() (next int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next = p.book.chains.Next()
	p.book = nil
	return next
}

// close ends each node's chain where the book stands, so that nothing is left
// unsaid of what was read.
func (p *partition) close() {
	defer p.round.flush()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.book == nil {
		return
	}
	for inc, n := range p.book.nodes {
		if n.to < p.book.chains.Next() {
			p.emitLocked(p.book.chains.Interests(inc, p.pos, true))
		}
	}
}

// setGeneration notes a generation that left the partition with us.
func (p *partition) setGeneration(g int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.generation = g
	if p.book != nil {
		p.book.chains.SetGeneration(g)
	}
}

// overtaken tells whether somebody else has cast the partition further than we
// did: it was theirs while nobody could tell us (a freeze, a cut line). Then it
// starts anew at their commit, rather than to say it all again.
func (p *partition) overtaken(c broker.Committed) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.book != nil && c.Metadata == p.book.id.String() && c.Offset > p.book.chains.Next()
}

// follow reads on until the topic is another one or the position is not in the
// log; that is its error. Others are retried with backoff, and a batch that
// nobody can read is passed over.
func (p *partition) follow(ctx context.Context, id stream.TopicID, retry *backoff) error {
	for ctx.Err() == nil {
		err := p.session(ctx, id, retry)
		var out *stream.OutOfRangeError
		if ctx.Err() != nil || errors.As(err, &out) || errors.Is(err, stream.ErrTopicChanged) {
			return err
		}
		p.metrics.readErrors.Inc()
		if corrupt, ok := errors.AsType[*broker.CorruptError](err); ok && p.passOver(corrupt) {
			continue
		}
		p.log.Debug("read failed, trying again", "topic", p.tp.Topic, "partition", p.tp.Partition, "error", err)
		retry.wait(ctx)
	}
	return ctx.Err()
}

// session is the life of one reader: until an error, or the watchdog.
func (p *partition) session(ctx context.Context, id stream.TopicID, retry *backoff) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reader := p.puller.NewReader(p.tp.Topic, id, p.tp.Partition)
	defer reader.Close()
	next := p.arm(cancel)
	for {
		if !p.fence.wait(ctx) {
			return ctx.Err()
		}
		crowded := false
		p.note(true)
		err := reader.Follow(ctx, next, readBytes, readWait, func(span broker.Span) bool {
			now := time.Now()
			// A process that was frozen while it read finds out here: what came
			// is read again once it may go on.
			if !p.fence.open(now) {
				return false
			}
			retry.reset()
			full := p.take(span, now)
			p.note(true)
			next = max(next, span.To)
			crowded = full && span.To < span.End
			return !crowded
		})
		p.note(false)
		if err != nil {
			return fmt.Errorf("read %s partition %d from %d: %w", p.tp.Topic, p.tp.Partition, next, err)
		}
		if crowded {
			p.ease(ctx)
		}
	}
}

// arm hands the watchdog the reader's end, and says where to read from.
func (p *partition) arm(cancel context.CancelFunc) (next int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rebuild, p.progress = cancel, time.Now()
	return p.book.chains.Next()
}

func (p *partition) note(reading bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reading = time.Time{}
	if reading {
		p.reading = time.Now()
	}
}

// take routes what one read proved and queues the sections; the puller flushes
// the round. It returns whether a node has its queue half full.
func (p *partition) take(span broker.Span, now time.Time) (full bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.adoptLocked(now, false)
	p.end = span.End
	if span.To > p.book.chains.Next() || span.To >= span.End {
		p.progress = now
	}
	routed := p.router.route(p.routes, span.Records)
	outs := p.book.chains.Routed(span.To, span.End, p.pos, routed, now)
	for i := range outs {
		if s := &outs[i].Section; len(s.Deliveries) > 0 {
			s.ReadFirst, s.ReadLast = now.UnixMicro(), now.UnixMicro()
		}
	}
	p.emitLocked(outs)
	p.pacer.read(len(span.Records))
	p.metrics.records.Add(float64(len(span.Records)))
	p.metrics.readBytes.Add(float64(span.Bytes))
	for i := range outs {
		if n := p.book.nodes[outs[i].Incarnation]; n != nil && n.target.pub.halfFull() {
			full = true
		}
	}
	return full
}

// emitLocked hands sections to the publishers.
func (p *partition) emitLocked(outs []coverage.Out) {
	for i := range outs {
		o := &outs[i]
		n := p.book.nodes[o.Incarnation]
		if n == nil {
			continue // it ended, or wants nothing here any more
		}
		n.to = o.Section.To
		if d := len(o.Section.Deliveries); d > 0 {
			p.metrics.deliveries.Add(float64(d))
		} else {
			p.metrics.covering.Inc()
		}
		n.target.pub.push(p.book, o.Section)
	}
}

// adopt takes new interests on, for partitions in which nothing happens. It
// returns false where it is too soon after the last ones. The caller flushes the
// round.
func (p *partition) adopt(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.book == nil || p.adoptLocked(now, false)
}

// adoptLocked takes on what the interest log says now: each node whose
// interests changed gets its chain up to here by the old ones, and an answer by
// the new. Changes that come too soon after the last ones wait: false.
func (p *partition) adoptLocked(now time.Time, first bool) bool {
	snap := p.tracker.snap.Load()
	if snap == nil {
		return true
	}
	routes := snap.topics[p.tp.Topic]
	if routes == p.routes && !first {
		p.pos = snap.pos
		return true
	}
	if !first && now.Sub(p.adopted) < answerEvery {
		return false
	}
	p.routes, p.pos, p.adopted = routes, snap.pos, now
	b := p.book
	wanting := 0
	if routes != nil {
		wanting = len(routes.nodes)
		for _, r := range routes.nodes {
			n := b.nodes[r.incarnation]
			if n != nil && n.target == r.target && n.changed >= r.changed {
				continue
			}
			b.nodes[r.incarnation] = &bookNode{target: r.target, changed: r.changed, to: b.chains.Next()}
			p.emitLocked(b.chains.Interests(r.incarnation, snap.pos, true))
		}
	}
	if wanting < len(b.nodes) {
		p.dismissLocked(snap.pos)
	}
	return true
}

// dismissLocked forgets the nodes that want nothing of the topic any more.
func (p *partition) dismissLocked(pos stream.InterestPos) {
	wants := map[*target]bool{}
	if p.routes != nil {
		for _, r := range p.routes.nodes {
			wants[r.target] = true
		}
	}
	for inc, n := range p.book.nodes {
		if !wants[n.target] {
			delete(p.book.nodes, inc)
			p.book.chains.Interests(inc, pos, false)
		}
	}
}

// cover gives covering sections to nodes that got none for a while. The caller
// flushes the round.
func (p *partition) cover(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.book != nil {
		p.emitLocked(p.book.chains.Cover(now, p.pos))
	}
}

// watch makes a reader that is stuck anew.
func (p *partition) watch(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.book == nil || p.rebuild == nil {
		return
	}
	hangs := !p.reading.IsZero() && now.Sub(p.reading) > stallAfter
	stalls := p.end > p.book.chains.Next() && now.Sub(p.progress) > stallAfter && p.fence.open(now)
	if hangs || stalls {
		p.metrics.watchdog.Inc()
		p.log.Warn("partition makes no progress, its reader is made anew", "topic", p.tp.Topic,
			"partition", p.tp.Partition, "next", p.book.chains.Next(), "end", p.end)
		p.rebuild()
		p.rebuild, p.progress, p.reading = nil, now, time.Time{}
	}
}

// ease lets the publishers catch up with a partition that catches up itself,
// for a bounded time: a slow node is cut by its full queue, it never holds the
// others up for long.
func (p *partition) ease(ctx context.Context) {
	for until := time.Now().Add(easeFor); time.Now().Before(until) && p.crowded(); {
		if !sleep(ctx, 5*time.Millisecond) {
			return
		}
	}
}

func (p *partition) crowded() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.book == nil {
		return false
	}
	for _, n := range p.book.nodes {
		if n.target.pub.halfFull() {
			return true
		}
	}
	return false
}
