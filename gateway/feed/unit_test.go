package feed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/stream"
	"github.com/tapecast/tapecast/schemas"
)

func testSource(t testing.TB, name string, partition int32, format string, reg *schemas.Registry) *source {
	t.Helper()
	dec, err := schemas.NewDecoder(format, reg)
	require.NoError(t, err)
	var r registry
	if reg != nil {
		r = reg
	}
	m := newMetrics(nil)
	res := newResolver(r, func(fn func(context.Context)) { t.Error("nothing to fetch") }, func() {})
	return newSource(name, partition, format, dec, res, func() {}, &m.frames)
}

func rec(offset int64, key string) stream.Record {
	r := stream.Record{Offset: offset, Time: 1000 + offset, Value: fmt.Appendf(nil, `{"o":%d}`, offset)}
	if key != "" {
		r.Key = []byte(key)
	}
	return r
}

func offsets(evs []*Event) (out []int64) {
	for _, e := range evs {
		out = append(out, e.Offset)
	}
	return out
}

func keys(ks ...string) *filter {
	bs := make([][]byte, 0, len(ks))
	for _, k := range ks {
		bs = append(bs, []byte(k))
	}
	return newFilter(bs)
}

// ---- frames

func payload(t *testing.T, frame []byte, opcode byte) []byte {
	t.Helper()
	require.Equal(t, finBit|opcode, frame[0])
	switch n := frame[1]; {
	case n < 126:
		require.Len(t, frame[2:], int(n))
		return frame[2:]
	case n == 126:
		require.Len(t, frame[4:], int(frame[2])<<8|int(frame[3]))
		return frame[4:]
	default:
		n := 0
		for _, b := range frame[2:10] {
			n = n<<8 | int(b)
		}
		require.Len(t, frame[10:], n)
		return frame[10:]
	}
}

func TestTextFramesAreGolden(t *testing.T) {
	for _, c := range []struct {
		name      string
		topic     string
		partition int32
		key       []byte
		value     string
		want      string
	}{
		{"plain", "price", 0, nil, `1024`, `{"topic":"price","data":1024,"offset":4711,"ts":1546383600078}`},
		{"key and partition", "price", 1, []byte("EURUSD"), `{"a":[1,2]}`,
			`{"topic":"price","partition":1,"key":"EURUSD","data":{"a":[1,2]},"offset":4711,"ts":1546383600078}`},
		{"empty key", "price", 0, []byte{}, `"x"`, `{"topic":"price","key":"","data":"x","offset":4711,"ts":1546383600078}`},
		{"escapes", "pri\"ce", 0, []byte("<a>&\"\\\u2028\n"), `null`,
			`{"topic":"pri\"ce","key":"\u003ca\u003e\u0026\"\\\u2028\n","data":null,"offset":4711,"ts":1546383600078}`},
		{"not UTF-8", "price", 0, []byte{0xff, 0}, `1`, `{"topic":"price","key_base64":"/wA=","data":1,"offset":4711,"ts":1546383600078}`},
		{"unicode", "price", 0, []byte("grün"), `1`, `{"topic":"price","key":"grün","data":1,"offset":4711,"ts":1546383600078}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := testSource(t, c.topic, c.partition, "json", nil)
			e := &Event{Offset: 4711, Time: 1546383600078, Key: c.key, Value: []byte(c.value), src: src}
			f, err := e.Frame(FormText)
			require.NoError(t, err)
			require.Equal(t, c.want, string(payload(t, f, opText)))
			require.Equal(t, c.want, string(JSON(f)))
			require.True(t, json.Valid(JSON(f)))
			again, err := e.Frame(FormText)
			require.NoError(t, err)
			require.Same(t, &f[0], &again[0], "encoded once")
			require.Equal(t, len(f), cap(f), "no room is wasted")
		})
	}
}

func TestFrameLengths(t *testing.T) {
	src := testSource(t, "p", 0, "string", nil)
	base := len(`{"topic":"p","data":"","offset":1,"ts":2}`)
	for _, n := range []int{base, 125, 126, 127, 65535, 65536, 200_000} {
		e := &Event{Offset: 1, Time: 2, Value: []byte(strings.Repeat("x", n-base)), src: src}
		f, err := e.Frame(FormText)
		require.NoError(t, err)
		require.Len(t, payload(t, f, opText), n)
		require.Len(t, JSON(f), n)
	}
	require.Nil(t, JSON(nil))
	require.Nil(t, JSON([]byte{0x81, 127, 0}))
}

func TestBinaryFramesLeaveAvroUntouched(t *testing.T) {
	src := testSource(t, "quotes", 2, "bytes", nil)
	src.wire = true // as of format avro
	split := func(e *Event) (string, []byte) {
		f, err := e.Frame(FormBinary)
		require.NoError(t, err)
		p := payload(t, f, opBinary)
		n := int(p[0])<<24 | int(p[1])<<16 | int(p[2])<<8 | int(p[3])
		return string(p[4 : 4+n]), p[4+n:]
	}
	head, body := split(&Event{Offset: 9, Time: 8, Key: []byte("k"), Value: []byte{0, 0, 0, 1, 2, 7, 8, 9}, src: src})
	require.Equal(t, `{"topic":"quotes","partition":2,"key":"k","offset":9,"ts":8,"schema":258}`, head)
	require.Equal(t, []byte{7, 8, 9}, body)
	head, body = split(&Event{Offset: 9, Time: 8, src: src})
	require.Equal(t, `{"topic":"quotes","partition":2,"offset":9,"ts":8,"tombstone":true}`, head)
	require.Empty(t, body)
	_, err := (&Event{Value: []byte("no header"), src: src}).Frame(FormBinary)
	require.ErrorAs(t, err, new(*schemas.PoisonError))
	plain := testSource(t, "quotes", 0, "bytes", nil)
	head, body = split(&Event{Offset: 9, Time: 8, Value: []byte("abc"), src: plain})
	require.Equal(t, `{"topic":"quotes","offset":9,"ts":8}`, head)
	require.Equal(t, "abc", string(body))
}

func TestPoisonIsRememberedPerForm(t *testing.T) {
	e := &Event{Offset: 1, Value: []byte("{"), src: testSource(t, "p", 0, "json", nil)}
	for range 2 {
		_, err := e.Frame(FormText)
		require.ErrorAs(t, err, new(*schemas.PoisonError))
	}
	f, err := e.Frame(FormBinary)
	require.NoError(t, err, "bytes untouched are no poison")
	require.NotEmpty(t, f)
}

func TestFramesWaitForSchemasWithoutBlocking(t *testing.T) {
	var away atomic.Bool
	var asked atomic.Int32
	away.Store(true)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		switch {
		case away.Load():
			http.Error(w, `{"error_code":50001,"message":"away"}`, http.StatusInternalServerError)
		case strings.HasSuffix(r.URL.Path, "/7"):
			_, _ = w.Write([]byte(`{"schema":"\"long\""}`))
		default:
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"error_code":40403,"message":"Schema not found"}`))
		}
	}))
	t.Cleanup(srv.Close)
	reg, err := schemas.NewRegistry(schemas.RegistryOptions{URL: srv.URL, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	dec, err := schemas.NewDecoder("avro", reg)
	require.NoError(t, err)
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	woken := make(chan struct{}, 100)
	res := newResolver(reg, func(fn func(context.Context)) { wg.Go(func() { fn(t.Context()) }) }, func() { woken <- struct{}{} })
	waited := false
	src := newSource("p", 0, "avro", dec, res, func() { waited = true }, &newMetrics(nil).frames)
	e := &Event{Offset: 1, Time: 2, Value: append(schemas.AppendWireHeader(nil, 7), 4), src: src}
	_, err = e.Frame(FormText)
	require.ErrorIs(t, err, errSchemaAway)
	require.True(t, waited)
	<-woken
	away.Store(false)
	for {
		if _, err = e.Frame(FormText); err == nil {
			break
		}
		require.ErrorIs(t, err, errSchemaAway)
		<-woken
	}
	f, err := e.Frame(FormText)
	require.NoError(t, err)
	require.Equal(t, `{"topic":"p","data":2,"offset":1,"ts":2}`, string(JSON(f)))

	unknown := &Event{Offset: 2, Value: append(schemas.AppendWireHeader(nil, 8), 4), src: src}
	for {
		if _, err = unknown.Frame(FormText); !errors.Is(err, errSchemaAway) {
			break
		}
		<-woken
	}
	require.ErrorAs(t, err, new(*schemas.PoisonError))
}

// ---- tape

func TestTapeReadsWhatMatches(t *testing.T) {
	b := newBudget(1 << 20)
	tp := newTape(b, testSource(t, "p", 0, "json", nil))
	require.True(t, tp.read(nil, 0, keys("a"), 10).below)
	tp.restart(10)
	tp.append([]stream.Record{rec(10, "a"), rec(12, "b"), rec(13, ""), rec(15, "a")}, 20, 1, false)
	tp.gap(20, 30)
	tp.append([]stream.Record{rec(31, "a"), rec(32, "b")}, 40, 2, false)
	all := newFilter(nil)

	require.True(t, tp.read(nil, 9, all, 10).below)
	r := tp.read(nil, 10, all, 10)
	require.Equal(t, []int64{10, 12, 13, 15}, offsets(r.evs))
	require.Equal(t, int64(20), r.to)
	r = tp.read(nil, 10, all, 2)
	require.Equal(t, []int64{10, 12}, offsets(r.evs))
	require.Equal(t, int64(13), r.to)
	r = tp.read(nil, 20, all, 10)
	require.True(t, r.gap)
	require.Equal(t, int64(30), r.to)
	r = tp.read(nil, 25, keys("a"), 10)
	require.True(t, r.gap)
	r = tp.read(nil, 30, keys("a"), 10)
	require.Equal(t, []int64{31}, offsets(r.evs))
	require.Equal(t, int64(40), r.to)
	r = tp.read(nil, 40, all, 10)
	require.Equal(t, reading{to: 40}, r)
	require.True(t, tp.read(nil, 41, all, 10).ahead)
	require.Equal(t, []int64{10, 12, 15}, offsets(tp.read(nil, 10, keys("a", "b"), 10).evs))
	require.Empty(t, tp.read(nil, 10, keys(), 10).evs)
}

// TestTapeIndexAgreesWithScan compares both ways to read, over random tapes.
func TestTapeIndexAgreesWithScan(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		tp := newTape(newBudget(1<<30), testSource(t, "p", 0, "json", nil))
		tp.restart(0)
		at := int64(0)
		for range 200 {
			var rs []stream.Record
			for range rnd.IntN(5) {
				rs = append(rs, rec(at, string('a'+rune(rnd.IntN(20)))))
				at += 1 + rnd.Int64N(3)
			}
			tp.append(rs, at, at, rnd.IntN(2) == 0)
			if rnd.IntN(20) == 0 {
				tp.evict(500, at/2)
			}
		}
		start, head, _ := tp.bounds()
		for range 50 {
			f := keys(string('a'+rune(rnd.IntN(20))), string('a'+rune(rnd.IntN(20))))
			from, limit := start+rnd.Int64N(head-start), 1+rnd.IntN(10)
			var want []int64
			for i := range tp.all.n {
				if e := tp.all.at(i); e.Offset >= from && f.match(e) {
					want = append(want, e.Offset)
				}
			}
			var got []int64
			for from < head {
				r := tp.lookup(nil, from, head, f, limit)
				got = append(got, offsets(r.evs)...)
				require.LessOrEqual(t, len(r.evs), limit)
				require.Greater(t, r.to, from)
				from = r.to
			}
			require.Equal(t, want, got)
		}
	}
}

func TestTapesShareOneBudget(t *testing.T) {
	const events = 1000
	one := rec(1, "k")
	size := (&Event{Key: one.Key, Value: one.Value}).size()
	b := newBudget(int(size) * events)
	src := testSource(t, "p", 0, "json", nil)
	busy, quiet := newTape(b, src), newTape(b, src)
	busy.restart(0)
	quiet.restart(0)
	quiet.append([]stream.Record{rec(0, "k")}, 1, 0, false)
	for i := range int64(3 * events) {
		busy.append([]stream.Record{rec(i, "k")}, i+1, i+1, false)
	}
	require.LessOrEqual(t, b.used.Load(), b.limit)
	require.Equal(t, 0, quiet.all.n, "the oldest goes first")
	start, head, ok := quiet.bounds()
	require.Equal(t, []any{int64(1), int64(1), true}, []any{start, head, ok})
	require.Greater(t, busy.all.n, events*9/10)
	require.Len(t, busy.byKey, 1)
	require.Equal(t, int64(busy.all.n), b.events.Load())

	e := busy.all.at(busy.all.n - 1)
	before := b.used.Load()
	f, err := e.Frame(FormText)
	require.NoError(t, err)
	require.Equal(t, before+int64(len(f)), b.used.Load(), "frames count")
	b.remove(busy)
	b.remove(quiet)
	require.Zero(t, b.used.Load())
	require.Zero(t, b.events.Load())
	_, err = e.Frame(FormBinary)
	require.NoError(t, err, "who holds an event can still encode it")
	require.Zero(t, b.used.Load())
}

func TestTapeUnderConcurrency(t *testing.T) {
	b := newBudget(200_000)
	src := testSource(t, "p", 0, "json", nil)
	tp := newTape(b, src)
	tp.restart(0)
	const last = 20_000
	var wg sync.WaitGroup
	for c := range 4 {
		wg.Go(func() {
			f := newFilter(nil)
			if c%2 == 1 {
				f = keys("k1")
			}
			prev, cursor := int64(-1), int64(0)
			for cursor < last {
				r := tp.read(nil, cursor, f, 100)
				if r.below {
					cursor, _, _ = tp.bounds() // fell off: what lies between is a replay's
					continue
				}
				for _, e := range r.evs {
					if e.Offset <= prev {
						t.Errorf("offset %d after %d", e.Offset, prev)
						return
					}
					prev = e.Offset
					if _, err := e.Frame(FormText); err != nil {
						t.Error(err)
						return
					}
				}
				cursor = r.to
			}
		})
	}
	for i := int64(0); i < last; i += 10 {
		rs := make([]stream.Record, 0, 10)
		for o := i; o < i+10; o++ {
			rs = append(rs, rec(o, fmt.Sprintf("k%d", o%3)))
		}
		tp.append(rs, i+10, i, false)
	}
	wg.Wait()
	b.enforce()
	require.LessOrEqual(t, b.used.Load(), b.limit)
	b.remove(tp)
	require.Zero(t, b.used.Load())
}

// ---- replay

// fakeLog is a partition to read from.
type fakeLog struct {
	mu       sync.Mutex
	start    int64
	recs     []stream.Record
	end      int64
	fetches  int
	perFetch int
	err      error
	hold     chan struct{}
}

func (l *fakeLog) Close() {}

func (l *fakeLog) Read(ctx context.Context, from int64, _ int, _ time.Duration) (broker.Span, error) {
	if l.hold != nil {
		select {
		case <-l.hold:
		case <-ctx.Done():
			return broker.Span{}, ctx.Err()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fetches++
	if l.err != nil {
		return broker.Span{}, l.err
	}
	if from < l.start || from > l.end {
		return broker.Span{}, fmt.Errorf("read: %w", &stream.OutOfRangeError{Offset: from, Start: l.start, End: l.end})
	}
	s := broker.Span{From: from, To: from, Start: l.start, End: l.end, Bytes: 1}
	i, _ := slices.BinarySearchFunc(l.recs, from, func(r stream.Record, o int64) int { return int(r.Offset - o) })
	for ; i < len(l.recs) && len(s.Records) < l.perFetch; i++ {
		s.Records = append(s.Records, l.recs[i])
		s.To = l.recs[i].Offset + 1
	}
	if i == len(l.recs) {
		s.To = l.end
	}
	return s, nil
}

func newFakeLog(n int64, perFetch int) *fakeLog {
	l := &fakeLog{end: n, perFetch: perFetch}
	for o := range n {
		if o%7 != 3 { // holes
			l.recs = append(l.recs, rec(o, fmt.Sprintf("k%d", o%5)))
		}
	}
	return l
}

type replayBench struct {
	cache *cache
	sh    *shelf
	log   *fakeLog
}

func newReplayBench(t *testing.T, l *fakeLog, limit int) *replayBench {
	t.Helper()
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); wg.Wait() })
	m := newMetrics(nil)
	c := newCache(limit, 1<<30, func(fn func(context.Context)) { wg.Go(func() { fn(ctx) }) }, slog.New(slog.DiscardHandler), &m.replay)
	return &replayBench{c, &shelf{src: testSource(t, "p", 0, "json", nil), open: func() reader { return l }}, l}
}

// read reads [cursor, to) as a session does, and returns what it saw.
func (r *replayBench) read(cursor, to int64, f *filter) (got []int64, res fetchResult) {
	for cursor < to {
		b, start := r.cache.find(r.sh, cursor)
		if b != nil {
			var evs []*Event
			evs, cursor = b.read(nil, cursor, to, f, 10)
			got = append(got, offsets(evs)...)
			continue
		}
		if cursor < start {
			cursor = start
			continue
		}
		done := make(chan struct{}, 1)
		w := r.cache.ask(r.sh, cursor, func() { done <- struct{}{} })
		if _, ok := r.cache.result(w); !ok {
			<-done
		}
		if res, _ := r.cache.result(w); res.atEnd || res.changed {
			return got, res
		}
	}
	return got, fetchResult{}
}

func (l *fakeLog) want(from, to int64, f *filter) (out []int64) {
	for i := range l.recs {
		if e := (&Event{Offset: l.recs[i].Offset, Key: l.recs[i].Key}); e.Offset >= from && e.Offset < to && f.match(e) {
			out = append(out, e.Offset)
		}
	}
	return out
}

func TestAThousandCursorsShareFetches(t *testing.T) {
	l := newFakeLog(20_000, 500)
	l.hold = make(chan struct{})
	r := newReplayBench(t, l, 64<<20)
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			f := newFilter(nil)
			if i%3 > 0 {
				f = keys(fmt.Sprintf("k%d", i%5))
			}
			from := int64(i * 17 % 19_000)
			got, _ := r.read(from, 20_000, f)
			if want := l.want(from, 20_000, f); !slices.Equal(want, got) {
				t.Errorf("cursor %d: got %d events, want %d", from, len(got), len(want))
			}
		})
	}
	close(l.hold)
	wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	require.LessOrEqual(t, l.fetches, 2*20_000*7/6/500, "fetches depend on the range, not on the sessions")
	t.Logf("%d fetches for 1,000 cursors", l.fetches)
}

func TestBlocksKeepTheirBudget(t *testing.T) {
	l := newFakeLog(20_000, 200)
	r := newReplayBench(t, l, 300_000)
	f := newFilter(nil)
	for _, from := range []int64{0, 10_000, 3, 19_000} {
		got, _ := r.read(from, 20_000, f)
		require.Equal(t, l.want(from, 20_000, f), got)
		r.cache.trim() // of what the last reads made; a feed does it every second
		require.LessOrEqual(t, r.cache.used.Load(), int64(300_000))
	}
	r.cache.close(r.sh)
	require.Zero(t, r.cache.used.Load())
	require.Zero(t, r.cache.lru.Len())
	_, res := r.read(5, 10, f)
	require.True(t, res.changed)
}

func TestReplayKnowsTheLogsBounds(t *testing.T) {
	l := newFakeLog(1000, 100)
	l.start = 500
	r := newReplayBench(t, l, 1<<20)
	f := newFilter(nil)
	got, res := r.read(10, 2000, f)
	require.Equal(t, l.want(500, 1000, f), got)
	require.True(t, res.atEnd)
	require.Equal(t, int64(1000), res.end)
	_, start := r.cache.find(r.sh, 10)
	require.Equal(t, int64(500), start)
	_, res = r.read(1500, 2000, f)
	require.True(t, res.atEnd, "beyond")
	require.Equal(t, int64(1000), res.end)

	l.mu.Lock()
	l.recs, l.end = append(l.recs, rec(1000, "k0")), 1001
	l.mu.Unlock()
	got, _ = r.read(1000, 1001, f)
	require.Equal(t, []int64{1000}, got, "what is new is found")

	l.mu.Lock()
	l.err = fmt.Errorf("read: %w", stream.ErrTopicChanged)
	l.mu.Unlock()
	_, res = r.read(1001, 1002, f)
	require.True(t, res.changed)
}

func TestReplayOutlivesErrors(t *testing.T) {
	l := newFakeLog(100, 100)
	l.err = errors.New("away")
	r := newReplayBench(t, l, 1<<20)
	done := make(chan []int64)
	go func() {
		got, _ := r.read(0, 100, newFilter(nil))
		done <- got
	}()
	require.Eventually(t, func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.fetches > 1 }, 30*time.Second, time.Millisecond)
	l.mu.Lock()
	l.err = nil
	l.mu.Unlock()
	require.Equal(t, l.want(0, 100, newFilter(nil)), <-done)
}

func TestRateIsPaidAfterTheFact(t *testing.T) {
	r := newRate(1000)
	now := time.Unix(0, 0)
	r.spend(3000, now)
	require.Equal(t, 2*time.Second, r.debt(now))
	require.Equal(t, time.Second, r.debt(now.Add(time.Second)))
	require.Zero(t, r.debt(now.Add(2*time.Second)))
	r.spend(0, now.Add(time.Hour))
	r.spend(2000, now.Add(time.Hour))
	require.Equal(t, time.Second, r.debt(now.Add(time.Hour)), "one second's worth is saved at most")
}

func TestAnEventsOwnCopy(t *testing.T) {
	src := testSource(t, "price", 2, "json", nil)
	var used atomic.Int64
	for _, r := range []stream.Record{rec(7, "k"), rec(8, ""), {Offset: 9, Key: []byte{}, Value: []byte(`1`)}, {Offset: 10, Key: []byte("gone")}} {
		b := newBlock(src, &used, 0, 100, 100, []stream.Record{r})
		e := b.event(0)
		own := e.Own()
		counted := used.Load()
		require.Equal(t, e.Key, own.Key)
		require.Equal(t, e.Key == nil, own.Key == nil)
		require.Equal(t, e.Value == nil, own.Value == nil)
		want, err := e.Frame(FormText)
		require.NoError(t, err)
		frame := int64(len(want))
		clear(b.data)
		got, err := own.Frame(FormText)
		require.NoError(t, err)
		require.Equal(t, string(want), string(got))
		require.Equal(t, counted+frame, used.Load(), "its bytes count where it is kept")
		b.release()
	}
	require.Zero(t, used.Load())
}
