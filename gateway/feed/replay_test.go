package feed

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/coverage"
	"github.com/tapecast/tapecast/internal/stream"
)

// spoiltLog is a fakeLog in which what lies in bad cannot be read.
type spoiltLog struct {
	*fakeLog
	bad   span
	tries atomic.Int64
}

func (l *spoiltLog) Read(ctx context.Context, from int64, n int, wait time.Duration) (broker.Span, error) {
	if l.bad.from <= from && from < l.bad.to {
		l.tries.Add(1)
		return broker.Span{}, fmt.Errorf("read: %w", &broker.CorruptError{From: from, To: l.bad.to, Err: broker.ErrCorrupt})
	}
	s, err := l.fakeLog.Read(ctx, from, n, wait)
	for err == nil && from < l.bad.from && s.To > l.bad.from { // what is good comes first
		s.To = l.bad.from
		for len(s.Records) > 0 && s.Records[len(s.Records)-1].Offset >= s.To {
			s.Records = s.Records[:len(s.Records)-1]
		}
	}
	return s, err
}

func TestABatchThatCannotBeReadIsPassedOverAsAGap(t *testing.T) {
	l := &spoiltLog{fakeLog: newFakeLog(1000, 100), bad: span{300, 420}}
	r := newReplayBench(t, l.fakeLog, 1<<20)
	r.sh.open = func() reader { return l }
	all := newFilter(nil)
	got, _ := r.read(0, 1000, all)
	require.Equal(t, append(l.want(0, 300, all), l.want(420, 1000, all)...), got)
	require.EqualValues(t, maxCorrupt, l.tries.Load(), "it was asked for again before it was given up")
	b, _ := r.cache.find(r.sh, 310)
	require.True(t, b.corrupt)
	require.Equal(t, span{300, 420}, span{b.from, b.to})
	require.EqualValues(t, 1, testutil.ToFloat64(r.cache.counts.corrupt))
	got, _ = r.read(400, 500, keys("k1"))
	require.Equal(t, l.want(420, 500, keys("k1")), got)
}

func TestALivePartitionPassesOverWhatCannotBeRead(t *testing.T) {
	p := &partition{inst: &instance{topic: &topic{name: "t"}}, env: &env{metrics: newMetrics(nil), cache: &cache{log: slog.New(slog.DiscardHandler)}}}
	for try := 1; try <= maxCorrupt; try++ {
		res := readResult(12, broker.Span{}, fmt.Errorf("read: %w", &broker.CorruptError{From: 12, To: 20, Err: broker.ErrCorrupt}))
		p.spoiled(&res, 50)
		if try < maxCorrupt {
			require.ErrorIs(t, res.Err, broker.ErrCorrupt)
			continue
		}
		require.Equal(t, coverage.ReadResult{From: 12, OutOfRange: true, Start: 20, End: 50}, res)
	}
	for _, tt := range []struct {
		at, to int64
		cause  string
		until  int64
	}{{5, 30, CauseRetention, 12}, {12, 30, CausePoison, 20}, {15, 18, CausePoison, 18}, {20, 30, CauseRetention, 30}} {
		cause, until := p.spoilt.cause(tt.at, tt.to)
		require.Equal(t, tt.cause, cause)
		require.Equal(t, tt.until, until)
	}
	res := coverage.ReadResult{From: 12, Err: &broker.CorruptError{From: 12, To: 12, Err: broker.ErrCorrupt}}
	for range 2 * maxCorrupt {
		p.spoiled(&res, 50)
		require.Error(t, res.Err, "what is not committed yet is no gap")
	}
}

// frozen is a leader that takes requests and never answers.
type frozen struct{ asked chan struct{} }

func (f frozen) Close() {}
func (f frozen) Read(ctx context.Context, _ int64, _ int, _ time.Duration) (broker.Span, error) {
	select {
	case f.asked <- struct{}{}:
	default:
	}
	<-ctx.Done()
	return broker.Span{}, ctx.Err()
}

func TestAFrozenLeaderStopsNoOtherReplay(t *testing.T) {
	l := newFakeLog(100, 100)
	r := newReplayBench(t, l, 1<<20)
	f := frozen{asked: make(chan struct{}, 1)}
	for range 2*maxSlow + 2*maxWalks { // more than there are tokens of any kind
		sh := &shelf{src: r.sh.src, open: func() reader { return f }}
		r.cache.ask(sh, 0, func() {})
	}
	<-f.asked
	got := make(chan []int64, 1)
	go func() {
		out, _ := r.read(0, 100, newFilter(nil))
		got <- out
	}()
	select {
	case out := <-got:
		require.Equal(t, l.want(0, 100, newFilter(nil)), out)
	case <-time.After(patience):
		t.Fatal("the partition of a leader that answers was not read")
	}
}

// closing tells when it was closed.
type closing struct {
	reader
	closed chan struct{}
}

func (c closing) Close() { close(c.closed) }

func TestAReadOfAPartitionThatHasEndedIsClosed(t *testing.T) {
	p := &partition{inst: &instance{topic: &topic{name: "t"}}, box: newMailbox(), over: make(chan struct{})}
	closed := make(chan struct{})
	var wg sync.WaitGroup
	p.env = &env{
		open:  func(string, stream.TopicID, int32) reader { return closing{newFakeLog(10, 10), closed} },
		spawn: func(fn func(context.Context)) { wg.Go(func() { fn(t.Context()) }) },
		reads: make(chan struct{}, 1), bypassRate: newRate(1 << 20), metrics: newMetrics(nil),
		cache: &cache{log: slog.New(slog.DiscardHandler)},
	}
	close(p.over) // as leave does
	p.startRead(t.Context(), coverage.Read{From: 0, To: 10})
	wg.Wait()
	select {
	case <-closed:
	default:
		t.Fatal("the reader was not closed")
	}
}

func TestWhoReadsOnIsReadAheadOf(t *testing.T) {
	l := newFakeLog(2000, 100)
	r := newReplayBench(t, l, 8<<20)
	all := newFilter(nil)
	fetches := func() int { l.mu.Lock(); defer l.mu.Unlock(); return l.fetches }
	b, _ := r.cache.find(r.sh, 0)
	require.Nil(t, b)
	_, _ = r.read(0, 5, all)
	require.Equal(t, 1, fetches(), "one block is wanted: one is read")
	at := int64(0)
	for n := 1; n < aheadFrom; n++ { // goes on, block by block
		b, _ = r.cache.find(r.sh, at)
		at = b.to
		_, _ = r.read(at, at+1, all)
		require.LessOrEqual(t, n+1, fetches())
	}
	require.Eventually(t, func() bool { return fetches() == aheadFrom+1 }, patience, time.Millisecond, "the next is read ahead")
	got, _ := r.read(0, 2000, all)
	require.Equal(t, l.want(0, 2000, all), got)
	require.LessOrEqual(t, fetches(), 2000*7/6/100+2, "and nothing twice")
	require.Eventually(t, func() bool {
		r.cache.mu.Lock()
		defer r.cache.mu.Unlock()
		return !r.sh.walking && len(r.sh.wants) == 0
	}, patience, time.Millisecond)
}

func TestReadingAheadGivesUpWhereKafkaIsAway(t *testing.T) {
	l := newFakeLog(1000, 100)
	r := newReplayBench(t, l, 8<<20)
	all := newFilter(nil)
	_, _ = r.read(0, 5, all)
	b, _ := r.cache.find(r.sh, 0)
	l.mu.Lock()
	l.err = fmt.Errorf("away")
	l.mu.Unlock()
	r.cache.mu.Lock()
	b.run = aheadFrom
	r.cache.readAhead(r.sh, b)
	r.cache.mu.Unlock()
	require.Eventually(t, func() bool {
		r.cache.mu.Lock()
		defer r.cache.mu.Unlock()
		return !r.sh.walking && len(r.sh.wants) == 0
	}, patience, time.Millisecond, "nobody waits: it is not asked for again and again")
}

func TestBlocksCountWhatTheyHold(t *testing.T) {
	var used atomic.Int64
	recs := []stream.Record{rec(10, "a"), rec(11, "b"), {Offset: 12, Value: []byte("no key")}, {Offset: 14, Key: []byte("a")}, rec(15, "c")}
	b := newBlock(testSource(t, "p", 0, "json", nil), &used, 10, 20, 20, recs)
	packedOnly := used.Load()
	require.Positive(t, packedOnly)
	for range manyLooks + 2 { // with and without the index
		evs, to := b.read(nil, 10, 100, keys("a"), 10)
		require.Equal(t, []int64{10, 14}, offsets(evs))
		require.EqualValues(t, 20, to)
		evs, to = b.read(nil, 10, 100, keys("a"), 1)
		require.Equal(t, []int64{10}, offsets(evs))
		require.EqualValues(t, 14, to)
		evs, _ = b.read(nil, 11, 14, keys("a"), 10)
		require.Empty(t, evs)
	}
	evs, _ := b.read(nil, 0, 100, newFilter(nil), 10)
	require.Equal(t, []int64{10, 11, 12, 14, 15}, offsets(evs))
	require.Nil(t, evs[2].Key)
	require.Nil(t, evs[3].Value, "a tombstone stays one")
	require.Equal(t, recs[4].Value, evs[4].Value)
	again, _ := b.read(nil, 15, 100, keys("c", "b"), 10)
	require.Same(t, evs[4], again[0], "an event is one for all, so that its frame is")
	require.Greater(t, used.Load(), packedOnly)
	_, err := evs[4].Frame(FormText)
	require.NoError(t, err)
	b.release()
	require.Zero(t, used.Load())
	_, _ = b.event(0).Frame(FormText) // somebody still has it
	require.Zero(t, used.Load())
}

// TestReplayFromTheTapeNeverTouchesKafka counts fetches: none, whatever of the
// tape is read, and by however many.
func TestReplayFromTheTapeNeverTouchesKafka(t *testing.T) {
	b := newBench(t, nil)
	name := b.topic(1)
	b.runFan(name, nil)
	live := b.open(name).goLive()
	from := live.at[0]
	const n = 500
	for range 5 {
		b.produce(name, 0, repeat(n/5, "a", "b", "c")...)
	}
	live.upTo(0, from+n)
	before := testutil.ToFloat64(b.feed.metrics.replay.fetches)
	for i := range 40 {
		c := b.open(name)
		c.at[0] = from + int64(i)
		held, ok := c.sub.Held(0, c.at[0])
		require.True(t, ok, "Kafka need not be asked where that is")
		require.GreaterOrEqual(t, held.End, from+n)
		_, ok = c.sub.Held(0, held.End+1)
		require.False(t, ok)
		c.upTo(0, from+n)
		require.Equal(t, upFrom(from+int64(i), from+n), c.got[0])
	}
	require.Equal(t, before, testutil.ToFloat64(b.feed.metrics.replay.fetches))
}
