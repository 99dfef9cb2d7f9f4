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
	// fetchBytes is asked for with one replay fetch.
	fetchBytes = 1 << 20
	// maxWalks bounds the replay fetches under way on a node.
	maxWalks = 8
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
	walks  chan struct{} // one token per walk that may fetch

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
	start   int64 // first retained offset as far as known: there is nothing below
	end     int64 // last stable offset as of the last answer
	closed  bool
}

// want is a cursor that waits for Kafka.
type want struct {
	cursor int64
	notify func() // called, without waiting and without the lock, when it is done

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
		walks: make(chan struct{}, maxWalks), lru: list.New(),
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
	}
	return b, sh.start
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
	if !sh.walking {
		sh.walking = true
		c.spawn(func(ctx context.Context) { c.walk(ctx, sh) })
	}
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
	told := sh.finish(func(*want) (fetchResult, bool) { return fetchResult{changed: true}, true })
	c.mu.Unlock()
	tell(told)
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
func (sh *shelf) finish(judge func(w *want) (fetchResult, bool)) (told []*want) {
	now := time.Now()
	sh.wants = slices.DeleteFunc(sh.wants, func(w *want) bool {
		res, ok := judge(w)
		if !ok {
			return false
		}
		res.at = now
		w.res, w.done = res, true
		told = append(told, w)
		return true
	})
	return told
}

// served judges the wants that need no fetch any more.
func (sh *shelf) served(w *want) (fetchResult, bool) {
	return fetchResult{}, w.cursor < sh.start || sh.at(w.cursor) != nil
}

func tell(ws []*want) {
	for _, w := range ws {
		w.notify()
	}
}

// walk reads forward until nobody waits any more: always from the next cursor
// at or behind where it stands, then from the lowest again.
func (c *cache) walk(ctx context.Context, sh *shelf) {
	r := sh.open()
	defer r.Close()
	back := newBackoff(50*time.Millisecond, 2*time.Second)
	for pos := int64(0); ; {
		from, limit, ok := c.next(sh, pos)
		if !ok {
			return
		}
		span, err := c.fetch(ctx, r, from)
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
func (c *cache) next(sh *shelf, pos int64) (from, limit int64, ok bool) {
	c.mu.Lock()
	told := sh.finish(sh.served)
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
	}
	c.mu.Unlock()
	tell(told)
	return from, limit, pick != nil
}

// before orders cursors as a walk that stands at pos meets them.
func before(a, b, pos int64) bool {
	if (a >= pos) != (b >= pos) {
		return a >= pos
	}
	return a < b
}

// fetch reads once, within the node's budgets.
func (c *cache) fetch(ctx context.Context, r reader, from int64) (broker.Span, error) {
	select {
	case <-ctx.Done():
		return broker.Span{}, ctx.Err()
	case c.walks <- struct{}{}:
	}
	defer func() { <-c.walks }()
	if err := c.rate.wait(ctx); err != nil {
		return broker.Span{}, err
	}
	span, err := r.Read(ctx, from, fetchBytes, 0)
	c.counts.fetches.Inc()
	c.counts.bytes.Add(float64(span.Bytes))
	c.rate.spend(span.Bytes, time.Now())
	return span, err
}

// take files an answer and tells those who waited for it. It returns false if
// the same has to be asked again after a while.
func (c *cache) take(sh *shelf, from, limit int64, span broker.Span, err error) (progress bool) {
	c.mu.Lock()
	judge := sh.served
	oor, isRange := errors.AsType[*stream.OutOfRangeError](err)
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
	case err != nil:
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
	told := sh.finish(judge)
	c.mu.Unlock()
	tell(told)
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

// insert keeps an answer.
func (c *cache) insert(sh *shelf, from, to int64, span broker.Span) {
	recs := span.Records
	for len(recs) > 0 && recs[len(recs)-1].Offset >= to {
		recs = recs[:len(recs)-1]
	}
	for len(recs) > 0 && recs[0].Offset < from {
		recs = recs[1:]
	}
	b := &block{from: from, to: to, end: span.End, evs: makeEvents(sh.src, &c.used, recs, 0, true)}
	b.lru = c.lru.PushFront(entry{sh, b})
	c.used.Add(blockBytes)
	i := sort.Search(len(sh.blocks), func(i int) bool { return sh.blocks[i].from >= from })
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
	c.used.Add(-blockBytes)
	for i := range b.evs {
		b.evs[i].release()
	}
	c.counts.blocks.Dec()
}
