package fanout

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/delivery"
	"github.com/tapecast/tapecast/internal/stream"
)

// wire is a delivery topic that a test controls.
type wire struct {
	mu      sync.Mutex
	batches []*delivery.Batch
	verdict func(ctx context.Context, payload []byte) error // nil = written
}

func (w *wire) append(ctx context.Context, _ string, payload []byte) error {
	w.mu.Lock()
	verdict := w.verdict
	w.mu.Unlock()
	if verdict != nil {
		if err := verdict(ctx, payload); err != nil {
			return err
		}
	}
	b, err := delivery.Decode(payload)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.batches = append(w.batches, b)
	return nil
}

func (w *wire) set(verdict func(ctx context.Context, payload []byte) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.verdict = verdict
}

// froms lists the first offsets of all sections written, batch by batch.
func (w *wire) froms() (out [][]int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.batches {
		var f []int64
		for _, s := range b.Sections {
			f = append(f, s.From)
		}
		out = append(out, f)
	}
	return out
}

// push queues a section, as a round of its own.
func push(p *publisher, b *book, sec stream.Section) {
	p.push(b, sec)
	p.round.flush()
}

// testPublisher runs a publisher. Without a round it writes everything alone.
func testPublisher(t *testing.T, w *wire, o publisherParts) *publisher {
	t.Helper()
	if o.round == nil {
		o.round = &round{send: func(all []broker.Outgoing) []broker.Outgoing { return all }}
	}
	m, err := newMetrics(nil)
	require.NoError(t, err)
	o.writer, o.append, o.metrics, o.log = "f1", w.append, m, slog.New(slog.DiscardHandler)
	if o.limit == 0 {
		o.limit = DefaultQueueBytes
	}
	if o.linger == nil {
		o.linger = func() time.Duration { return 0 }
	}
	if o.fence == nil {
		o.fence = newFence(time.Hour)
		o.fence.renew(time.Now())
	}
	p := newPublisher("inc", "node", "tapecast.delivery.node.inc", o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return p
}

// apart makes sections that cannot be merged: each announces new interests.
func apart(n int64) stream.Section { return section(n, n+1, n+1, n) }

func TestWhatQueuesDuringAWriteIsTheNextBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		release := make(chan struct{})
		w.set(func(context.Context, []byte) error { <-release; return nil })
		p := testPublisher(t, w, publisherParts{})
		b := &book{}
		push(p, b, apart(0))
		synctest.Wait()
		for i := range int64(5) {
			push(p, b, apart(i+1))
		}
		synctest.Wait()
		require.Empty(t, w.froms(), "one request in flight")
		from, pending, holds := p.unacked(b)
		require.True(t, pending && holds)
		require.EqualValues(t, 0, from)
		release <- struct{}{}
		release <- struct{}{}
		synctest.Wait()
		require.Equal(t, [][]int64{{0}, {1, 2, 3, 4, 5}}, w.froms())
		_, pending, _ = p.unacked(b)
		require.False(t, pending)
	})
}

func TestANodeThatDoesNotAcknowledgeIsCutAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		w.set(func(ctx context.Context, _ []byte) error { <-ctx.Done(); return ctx.Err() })
		p := testPublisher(t, w, publisherParts{})
		b := &book{}
		push(p, b, apart(0))
		time.Sleep(ackWithin - time.Millisecond)
		_, _, holds := p.unacked(b)
		require.True(t, holds)
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		_, _, holds = p.unacked(b)
		require.False(t, holds, "commits do not wait for it")
		require.EqualValues(t, 1, testutil.ToFloat64(p.metrics.cuts[cutTimeout]))
		push(p, b, apart(1)) // dropped: within the backoff
		require.EqualValues(t, 2, testutil.ToFloat64(p.metrics.dropped))

		time.Sleep(backoffMax)
		w.set(nil)
		push(p, b, apart(2))
		synctest.Wait()
		require.Equal(t, [][]int64{{2}}, w.froms())
		_, _, holds = p.unacked(b)
		require.True(t, holds)
		require.EqualValues(t, 1, testutil.ToFloat64(p.metrics.cuts[cutTimeout]), "counted once")
	})
}

func TestAShortRefusalIsTriedAgainWithoutACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		tries := 0
		w.set(func(context.Context, []byte) error {
			if tries++; tries < 4 {
				return &retryable{}
			}
			return nil
		})
		p := testPublisher(t, w, publisherParts{})
		push(p, &book{}, apart(0))
		time.Sleep(time.Second)
		require.Equal(t, [][]int64{{0}}, w.froms())
		require.EqualValues(t, 3, testutil.ToFloat64(p.metrics.writeRetries))
		require.Zero(t, testutil.ToFloat64(p.metrics.cuts[cutTimeout]))
	})
}

// retryable is a network error.
type retryable struct{}

func (*retryable) Error() string   { return "connection refused" }
func (*retryable) Timeout() bool   { return true }
func (*retryable) Temporary() bool { return true }

func TestAFullQueueCutsTheNodeAndNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, fast := &wire{}, &wire{}
		release := make(chan struct{})
		slow.set(func(context.Context, []byte) error { <-release; return nil })
		limit := 10 * delivery.Size(ptr(apart(0)))
		ps, pf := testPublisher(t, slow, publisherParts{limit: limit}), testPublisher(t, fast, publisherParts{limit: limit})
		b := &book{}
		for i := range int64(40) {
			push(ps, b, apart(i))
			push(pf, b, apart(i))
			synctest.Wait()
		}
		require.EqualValues(t, 1, testutil.ToFloat64(ps.metrics.cuts[cutQueue]))
		bytes, h := ps.load()
		require.Zero(t, bytes)
		require.Equal(t, cut, h)
		require.Len(t, fast.froms(), 40)

		close(release) // the write that was in flight comes through: the node is back at once
		synctest.Wait()
		push(ps, b, apart(40))
		synctest.Wait()
		got := slow.froms()
		require.Equal(t, []int64{40}, got[len(got)-1])
	})
}

func ptr[T any](v T) *T { return &v }

func TestAPushThatFillsAnIdleQueueDoesNotCutForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		p := testPublisher(t, w, publisherParts{limit: 1})
		b := &book{}
		push(p, b, apart(0))
		synctest.Wait()
		_, h := p.load()
		require.Equal(t, probing, h)
	})
}

func TestAMissingDeliveryTopicCutsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		w.set(func(context.Context, []byte) error { return stream.ErrUnknownTopic })
		p := testPublisher(t, w, publisherParts{})
		push(p, &book{}, apart(0))
		synctest.Wait()
		require.EqualValues(t, 1, testutil.ToFloat64(p.metrics.cuts[cutGone]))
	})
}

func TestNothingIsWrittenForTheEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		release := make(chan struct{})
		w.set(func(context.Context, []byte) error { <-release; return nil })
		p := testPublisher(t, w, publisherParts{})
		b := &book{}
		push(p, b, apart(0))
		synctest.Wait()
		push(p, b, apart(1))
		p.end()
		p.end()
		close(release)
		synctest.Wait()
		push(p, b, apart(2))
		synctest.Wait()
		require.Equal(t, [][]int64{{0}}, w.froms(), "only what was under way")
		_, _, holds := p.unacked(b)
		require.False(t, holds)
		bytes, _ := p.load()
		require.Zero(t, bytes)
	})
}

func TestAFencedInstanceDoesNotPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		f := newFence(6 * time.Second)
		p := testPublisher(t, w, publisherParts{fence: f})
		b := &book{}
		push(p, b, apart(0))
		time.Sleep(time.Minute)
		require.Empty(t, w.froms(), "no commit yet")
		f.renew(time.Now())
		time.Sleep(time.Second)
		require.Len(t, w.froms(), 1)
		time.Sleep(4 * time.Second)
		push(p, b, apart(1))
		time.Sleep(time.Minute)
		require.Len(t, w.froms(), 1)
		_, _, holds := p.unacked(b)
		require.True(t, holds, "that is not the node's fault")
	})
}

func TestFenceBelievesTheClockThatSaysMore(t *testing.T) {
	f := newFence(10 * time.Second)
	now := time.Now()
	require.False(t, f.open(now), "never renewed")
	f.renew(now)
	require.True(t, f.open(now.Add(6900*time.Millisecond)))
	require.False(t, f.open(now.Add(7*time.Second)))
	require.False(t, f.open(now.Round(0).Add(time.Hour)), "the machine slept: only the wall clock knows")
	f.renew(now.Round(0).Add(time.Hour))
	require.True(t, f.open(now), "the wall clock was set back")
}

func TestLargeSectionsAreWrittenInTruePieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		p := testPublisher(t, w, publisherParts{})
		s := stream.Section{From: 10, To: 60, End: 60}
		for o := int64(10); o < 60; o += 2 {
			size := 100 << 10
			if o == 30 {
				size = batchBytes // fits into no batch
			}
			s.Deliveries = append(s.Deliveries, stream.Record{Offset: o, Value: make([]byte, size)})
		}
		push(p, &book{}, s)
		time.Sleep(time.Second)
		next := int64(10)
		var got []int64
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, b := range w.batches {
			for _, s := range b.Sections {
				if next == 30 {
					next = 31 // the hole
				}
				require.Equal(t, next, s.From)
				next = s.To
				got = append(got, offsets(s.Deliveries)...)
			}
		}
		require.EqualValues(t, 60, next)
		require.Len(t, got, 24)
		require.NotContains(t, got, int64(30))
	})
}

func TestBatchesShrinkWhereTheTopicTakesNoLargerOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		w.set(func(_ context.Context, payload []byte) error {
			if len(payload) > 200<<10 {
				return errors.Join(errors.New("append"), broker.ErrRecordTooLarge)
			}
			return nil
		})
		p := testPublisher(t, w, publisherParts{})
		b := &book{}
		for i := range int64(40) {
			s := apart(i)
			s.Deliveries[0].Value = noise(50 << 10)
			push(p, b, s)
		}
		time.Sleep(time.Second)
		var got []int64
		for _, f := range w.froms() {
			got = append(got, f...)
		}
		require.Len(t, got, 40)
		require.IsIncreasing(t, got)
		require.Zero(t, testutil.ToFloat64(p.metrics.cuts[cutRefused]))
	})
}

// noise is what snappy makes no smaller.
func noise(n int) []byte {
	b := make([]byte, n)
	x := uint32(2463534242)
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}
