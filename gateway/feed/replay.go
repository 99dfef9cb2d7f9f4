package feed

import (
	"container/list"
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/stream"
)

const (
	// blockAlign rounds the start of a cold read down, so that cursors that
	// come one by one in falling order do not make a fetch each.
	blockAlign = 256
	// firstBytes is asked for with the first fetch of a stretch, as most who
	// come back missed little; fetchBytes with those that follow it.
	firstBytes = 256 << 10
	fetchBytes = 1 << 20
	// aheadFrom is from which block of a stretch on the next one is read ahead.
	aheadFrom = 3
	// maxWalks bounds the replay fetches under way on a node, and maxSlow those
	// that wait for a leader that is slow or away: those take nothing from the
	// others but a connection each.
	maxWalks = 8
	maxSlow  = 32
	// slowAfter is when a fetch counts as slow.
	slowAfter = 300 * time.Millisecond
	// maxCorrupt is how often a batch that cannot be read is asked for until
	// what it spans becomes a gap.
	maxCorrupt = 3
)

// reader is what the feed needs of a broker.Reader.
type reader interface {
	Read(ctx context.Context, from int64, maxBytes int, maxWait time.Duration) (broker.Span, error)
	Close()
}

// cache holds the blocks that were replayed from Kafka, for all partitions,
// within one byte budget; the least recently used go first. For each partition
// at most one walk reads forward from the cursors that wait, so that the
// number of fetches depends on the ranges and not on the sessions.
type cache struct {
	// static after construction
	limit  int64
	rate   *rate
	spawn  func(fn func(ctx context.Context))
	log    *slog.Logger
	counts *replayCounts
	walks  chan struct{} // one token per fetch under way of a partition that answers
	slow   chan struct{} // the same for those that lately did not

	used atomic.Int64 // bytes of all blocks, frames included

	mu  sync.Mutex
	lru *list.List // of entry, most recent first; guarded by mu
}

// entry is a block's place in the cache.
type entry struct {
	sh *shelf
	b  *block
}

// shelf holds the blocks of one partition, and who waits for more.
type shelf struct {
	// static after construction
	src  *source
	open func() reader // makes the reader that walks this partition

	// guarded by the cache's mu
	blocks  []*block // ascending, disjoint
	wants   []*want
	walking bool
	bad     int64 // where the corrupt batch ends that was met last
	met     int   // how often

	start  int64 // first retained offset as far as known: there is nothing below
	end    int64 // last stable offset as of the last answer
	closed bool

	slow bool // owned by the walk: its last fetch was slow, or failed
}

// want is a cursor that waits for Kafka.
type want struct {
	cursor int64
	notify func() // called, without waiting and without the lock, when it is done; nil = nobody waits: it is read ahead

	// guarded by the cache's mu
	asked bool // the fetch under way began after it
	done  bool
	res   fetchResult
}

// fetchResult tells what became of a want: none of these if its block came.
type fetchResult struct {
	at      time.Time
	atEnd   bool  // the log has nothing at or beyond the cursor; it ends at end
	end     int64 // with atEnd
	changed bool  // the topic was deleted or made again
}

func newCache(limit, perSecond int, spawn func(func(ctx context.Context)), log *slog.Logger, counts *replayCounts) *cache {
	return &cache{
		limit: int64(limit), rate: newRate(perSecond), spawn: spawn, log: log, counts: counts,
		walks: make(chan struct{}, maxWalks), slow: make(chan struct{}, maxSlow), lru: list.New(),
	}
}

// find returns the block in which the cursor stands, nil if there is none, and
// below which offset nothing is retained.
func (c *cache) find(sh *shelf, cursor int64) (b *block, start int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b = sh.at(cursor); b != nil {
		c.lru.MoveToFront(b.lru)
		c.counts.hits.Inc()
		c.shrink() // cursors made events and frames since
		c.readAhead(sh, b)
	}
	return b, sh.start
}

// readAhead asks for what follows a block as soon as somebody comes to it who
// reads on and on: the next one is there, then, when this one is written. It is
// one block, and none when the cache is nearly full.
func (c *cache) readAhead(sh *shelf, b *block) {
	if b.run < aheadFrom || b.ahead {
		return
	}
	b.ahead = true
	if b.to >= b.end || c.used.Load() > c.limit/4*3 || sh.closed || sh.at(b.to) != nil {
		return
	}
	sh.wants = append(sh.wants, &want{cursor: b.to})
	c.begin(sh)
}

// begin starts the walk of a shelf that has wants.
func (c *cache) begin(sh *shelf) {
	if !sh.walking {
		sh.walking = true
		c.spawn(func(ctx context.Context) { c.walk(ctx, sh) })
	}
}

// ask makes the cursor wait for its block.
func (c *cache) ask(sh *shelf, cursor int64, notify func()) *want {
	w := &want{cursor: cursor, notify: notify}
	c.mu.Lock()
	defer c.mu.Unlock()
	if sh.closed {
		w.done, w.res = true, fetchResult{at: time.Now(), changed: true}
		return w
	}
	sh.wants = append(sh.wants, w)
	c.begin(sh)
	return w
}

// result tells whether a want is done, and how.
func (c *cache) result(w *want) (fetchResult, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return w.res, w.done
}

// forget withdraws a want.
func (c *cache) forget(sh *shelf, w *want) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.done {
		return
	}
	sh.wants = slices.DeleteFunc(sh.wants, func(x *want) bool { return x == w })
}

// close drops a partition: who waits is told that it changed.
func (c *cache) close(sh *shelf) {
	c.mu.Lock()
	sh.closed = true
	for _, b := range sh.blocks {
		c.drop(b)
	}
	sh.blocks = nil
	done := sh.finish(func(*want) (fetchResult, bool) { return fetchResult{changed: true}, true })
	c.mu.Unlock()
	tell(done)
}

// truncate drops what was read of a log beyond the end that it was cut to.
func (c *cache) truncate(sh *shelf, topic string, partition int32, end int64) {
	c.log.Warn("the log was cut: sessions that stood beyond its end are reset",
		slog.String("topic", topic), slog.Int("partition", int(partition)), slog.Int64("end", end))
	c.mu.Lock()
	defer c.mu.Unlock()
	sh.blocks = slices.DeleteFunc(sh.blocks, func(b *block) bool {
		if b.to > end {
			c.drop(b)
		}
		return b.to > end
	})
}

// at returns the block in which the offset lies.
func (sh *shelf) at(offset int64) *block {
	i := sort.Search(len(sh.blocks), func(i int) bool { return sh.blocks[i].to > offset })
	if i < len(sh.blocks) && sh.blocks[i].from <= offset {
		return sh.blocks[i]
	}
	return nil
}

// behind tells how many blocks, one after the other, end at an offset.
func (sh *shelf) behind(offset int64) int {
	i := sort.Search(len(sh.blocks), func(i int) bool { return sh.blocks[i].from >= offset })
	if i == 0 || sh.blocks[i-1].to != offset {
		return 0
	}
	return sh.blocks[i-1].run
}

// around returns where the hole around an offset that is in no block begins and ends.
func (sh *shelf) around(offset int64) (from, to int64) {
	i := sort.Search(len(sh.blocks), func(i int) bool { return sh.blocks[i].to > offset })
	from, to = offset-offset%blockAlign, int64(math.MaxInt64)
	if i > 0 {
		from = max(from, sh.blocks[i-1].to)
	}
	if i < len(sh.blocks) {
		to = sh.blocks[i].from
	}
	return max(from, min(sh.start, offset)), to
}

// finish takes out the wants that judge says are done, and returns them.
func (sh *shelf) finish(judge func(w *want) (fetchResult, bool)) (done []*want) {
	now := time.Now()
	sh.wants = slices.DeleteFunc(sh.wants, func(w *want) bool {
		res, ok := judge(w)
		if !ok {
			return false
		}
		res.at = now
		w.res, w.done = res, true
		done = append(done, w)
		return true
	})
	return done
}

// served judges the wants that need no fetch any more.
func (sh *shelf) served(w *want) (fetchResult, bool) {
	return fetchResult{}, w.cursor < sh.start || sh.at(w.cursor) != nil
}

func tell(ws []*want) {
	for _, w := range ws {
		if w.notify != nil {
			w.notify()
		}
	}
}

// walk reads forward until nobody waits any more: always from the next cursor
// at or behind where it stands, then from the lowest again.
func (c *cache) walk(ctx context.Context, sh *shelf) {
	r := sh.open()
	defer r.Close()
	back := newBackoff(50*time.Millisecond, 2*time.Second)
	for pos := int64(0); ; {
		from, limit, size, ok := c.next(sh, pos)
		if !ok {
			return
		}
		span, err := c.fetch(ctx, sh, r, from, size)
		if ctx.Err() != nil {
			return // Run has ended, and with it every sub
		}
		progress := c.take(sh, from, limit, span, err)
		if progress {
			back.reset()
			pos = max(from, span.To)
			continue
		}
		if err != nil {
			c.log.Debug("replay read failed", "offset", from, "err", err)
		}
		if back.wait(ctx) != nil {
			return
		}
	}
}

// next finishes what needs no fetch and tells where to read. ok=false: nobody
// waits, and the walk is over.
func (c *cache) next(sh *shelf, pos int64) (from, limit int64, size int, ok bool) {
	c.mu.Lock()
	done := sh.finish(sh.served)
	var pick *want
	for _, w := range sh.wants {
		w.asked = true
		if pick == nil || before(w.cursor, pick.cursor, pos) {
			pick = w
		}
	}
	if pick == nil {
		sh.walking = false
	} else {
		from, limit = sh.around(pick.cursor)
		size = firstBytes
		if sh.behind(from) > 0 {
			size = fetchBytes
		}
	}
	c.mu.Unlock()
	tell(done)
	return from, limit, size, pick != nil
}

// before orders cursors as a walk that stands at pos meets them.
func before(a, b, pos int64) bool {
	if (a >= pos) != (b >= pos) {
		return a >= pos
	}
	return a < b
}

// take files an answer and tells those who waited for it. It returns false if
// the same has to be asked again after a while.
func (c *cache) take(sh *shelf, from, limit int64, span broker.Span, err error) (progress bool) {
	c.mu.Lock()
	judge := sh.served
	oor, isRange := errors.AsType[*stream.OutOfRangeError](err)
	corrupt, isCorrupt := errors.AsType[*broker.CorruptError](err)
	switch {
	case sh.closed || errors.Is(err, stream.ErrTopicChanged) || errors.Is(err, stream.ErrUnknownTopic):
		progress = true
		judge = func(*want) (fetchResult, bool) { return fetchResult{changed: true}, true }
	case isRange && from < oor.Start:
		progress = oor.Start > sh.start
		sh.start = max(sh.start, oor.Start)
	case isRange && from > oor.End:
		progress, sh.end = true, oor.End
		judge = sh.judge(from, oor.End)
	case isCorrupt && corrupt.To > from:
		progress = c.spoiled(sh, from, min(corrupt.To, limit), corrupt)
	case err != nil:
		sh.wants = slices.DeleteFunc(sh.wants, func(w *want) bool { return w.notify == nil })
	default:
		progress = span.To > from || span.End <= from
		sh.end = span.End
		sh.start = max(sh.start, span.Start)
		if to := min(span.To, limit); to > from {
			c.insert(sh, from, to, span)
		}
		if span.To >= span.End {
			judge = sh.judge(from, span.End)
		}
	}
	done := sh.finish(judge)
	c.mu.Unlock()
	tell(done)
	return progress
}

// judge is served, after an answer that reached the log's end: who stands
// there, and asked before, is told.
func (sh *shelf) judge(from, end int64) func(w *want) (fetchResult, bool) {
	return func(w *want) (fetchResult, bool) {
		if w.asked && w.cursor >= from && w.cursor >= end {
			return fetchResult{atEnd: true, end: end}, true
		}
		return sh.served(w)
	}
}

// spoiled makes a gap of what a batch spans that cannot be read, once it was
// asked for a few times: another replica may have become the leader meanwhile.
func (c *cache) spoiled(sh *shelf, from, to int64, err *broker.CorruptError) (progress bool) {
	if sh.bad != err.To {
		sh.bad, sh.met = err.To, 0
	}
	if sh.met++; sh.met < maxCorrupt {
		return false
	}
	c.counts.corrupt.Inc()
	c.log.Error("a batch cannot be read: it is passed over as a gap",
		slog.Int64("from", from), slog.Int64("to", to), slog.Any("error", err))
	b := newBlock(sh.src, &c.used, from, to, max(sh.end, to), nil)
	b.corrupt = true
	c.put(sh, b)
	return true
}

// insert keeps an answer.
func (c *cache) insert(sh *shelf, from, to int64, span broker.Span) {
	recs := span.Records
	for len(recs) > 0 && recs[len(recs)-1].Offset >= to {
		recs = recs[:len(recs)-1]
	}
	for len(recs) > 0 && recs[0].Offset < from {
		recs = recs[1:]
	}
	c.put(sh, newBlock(sh.src, &c.used, from, to, span.End, recs))
}

// put puts a block where nothing is.
func (c *cache) put(sh *shelf, b *block) {
	b.lru = c.lru.PushFront(entry{sh, b})
	i := sort.Search(len(sh.blocks), func(i int) bool { return sh.blocks[i].from >= b.from })
	b.run = sh.behind(b.from) + 1
	sh.blocks = slices.Insert(sh.blocks, i, b)
	c.counts.blocks.Inc()
	c.shrink()
}

// trim keeps the budget also when frames were made since the last insert.
func (c *cache) trim() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shrink()
}

// shrink lets the least recently used blocks go, never the latest.
func (c *cache) shrink() {
	for c.used.Load() > c.limit && c.lru.Len() > 1 {
		old := c.lru.Back().Value.(entry) //nolint:forcetypeassert // the list holds nothing else
		old.sh.blocks = slices.DeleteFunc(old.sh.blocks, func(x *block) bool { return x == old.b })
		c.drop(old.b)
	}
}

// drop takes a block out of the budget; its shelf has forgotten it.
func (c *cache) drop(b *block) {
	c.lru.Remove(b.lru)
	b.release()
	c.counts.blocks.Dec()
}
