package fanout

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
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

// post is a sender that a test controls.
type post struct {
	mu    sync.Mutex
	calls [][]broker.Outgoing
}

func (p *post) send(all []broker.Outgoing) []broker.Outgoing {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, all)
	return nil
}

// took returns the calls since it was last asked.
func (p *post) took() [][]broker.Outgoing {
	p.mu.Lock()
	defer p.mu.Unlock()
	calls := p.calls
	p.calls = nil
	return calls
}

// sent decodes what one call carried.
func sent(t *testing.T, call []broker.Outgoing) (froms [][]int64) {
	for _, o := range call {
		b, err := delivery.Decode(o.Value)
		require.NoError(t, err)
		var f []int64
		for _, s := range b.Sections {
			f = append(f, s.From)
		}
		froms = append(froms, f)
	}
	return froms
}

// settle answers a call as a sender does.
func settle(r *round, call []broker.Outgoing, err error) {
	for _, o := range call {
		o.Done(err)
	}
	r.flush()
}

func TestARoundWritesForAllThatGotSomething(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var by post
		r := &round{send: by.send}
		w := &wire{} // nobody writes alone
		var ps []*publisher
		for range 3 {
			ps = append(ps, testPublisher(t, w, publisherParts{round: r}))
		}
		b := &book{}
		ps[0].push(b, apart(0))
		ps[0].push(b, apart(1))
		ps[2].push(b, apart(7))
		r.flush()
		first := by.took()
		require.Len(t, first, 1)
		require.Equal(t, [][]int64{{0, 1}, {7}}, sent(t, first[0]))
		require.Equal(t, ps[0].topic, first[0][0].Topic)
		for _, p := range ps[:2] { // one request in flight
			p.push(b, apart(2))
			p.push(b, apart(3))
		}
		r.flush()
		second := by.took()
		require.Len(t, second, 1)
		require.Equal(t, [][]int64{{2, 3}}, sent(t, second[0]))
		from, pending, holds := ps[0].unacked(b)
		require.True(t, pending && holds)
		require.Zero(t, from)
		settle(r, first[0], nil)
		third := by.took()
		require.Len(t, third, 1)
		require.Equal(t, [][]int64{{2, 3}}, sent(t, third[0]))
		from, _, _ = ps[0].unacked(b)
		require.EqualValues(t, 2, from)
		settle(r, second[0], nil)
		settle(r, third[0], nil)
		synctest.Wait()
		require.Empty(t, by.took())
		require.Empty(t, w.froms())
		for _, p := range ps {
			_, pending, holds := p.unacked(b)
			require.True(t, holds && !pending)
			require.False(t, p.busy)
		}
		require.EqualValues(t, 2, testutil.ToFloat64(ps[0].metrics.batches))
	})
}

// TestWhatARoundCouldNotWriteIsWrittenAlone: the same bytes, within what is left
// of the time for its acknowledgement.
func TestWhatARoundCouldNotWriteIsWrittenAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var by post
		r := &round{send: by.send}
		w := &wire{}
		p := testPublisher(t, w, publisherParts{round: r})
		b := &book{}
		push(p, b, apart(0))
		first := by.took()[0]
		push(p, b, apart(1))
		packed := bytes.Clone(first[0].Value) // its memory is used again
		var alone []byte
		w.set(func(_ context.Context, payload []byte) error {
			if alone == nil {
				alone = bytes.Clone(payload)
			}
			return nil
		})
		time.Sleep(time.Millisecond) // encoded anew, it would say so
		settle(r, first, &retryable{})
		synctest.Wait()
		require.Equal(t, packed, alone)
		require.Equal(t, [][]int64{{0}, {1}}, w.froms())
		require.EqualValues(t, 1, testutil.ToFloat64(p.metrics.writeRetries))

		// All is well again: rounds write.
		push(p, b, apart(2))
		second := by.took()[0]
		require.Equal(t, [][]int64{{2}}, sent(t, second))

		// One that was not acknowledged in time is not written again.
		time.Sleep(ackWithin)
		w.set(func(ctx context.Context, _ []byte) error { return ctx.Err() })
		settle(r, second, context.DeadlineExceeded)
		synctest.Wait()
		_, _, holds := p.unacked(b)
		require.False(t, holds)
		require.EqualValues(t, 1, testutil.ToFloat64(p.metrics.cuts[cutTimeout]))
		push(p, b, apart(3)) // dropped
		time.Sleep(backoffMax)
		w.set(nil)
		push(p, b, apart(4)) // in doubt: alone
		synctest.Wait()
		require.Empty(t, by.took())
		push(p, b, apart(5))
		require.Equal(t, [][]int64{{5}}, sent(t, by.took()[0]))
		require.Equal(t, [][]int64{{0}, {1}, {4}}, w.froms())
	})
}

// TestASilentBrokerCutsNobodyWhoCanWriteAlone: nodes share a request that is not
// answered. Who is acknowledged alone, even slowly, goes on; the other one is cut.
func TestASilentBrokerCutsNobodyWhoCanWriteAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var by post
		r := &round{send: by.send}
		slow, well := &wire{}, &wire{}
		slow.set(func(ctx context.Context, _ []byte) error { <-ctx.Done(); return ctx.Err() })
		well.set(func(ctx context.Context, _ []byte) error {
			if !sleep(ctx, ackWithin/4) {
				return ctx.Err()
			}
			return nil
		})
		ps, pw := testPublisher(t, slow, publisherParts{round: r}), testPublisher(t, well, publisherParts{round: r})
		b := &book{}
		ps.push(b, apart(0))
		pw.push(b, apart(0))
		r.flush()
		shared := by.took()[0]
		require.Len(t, shared, 2)
		time.Sleep(broker.SendTimeout)
		settle(r, shared, context.DeadlineExceeded)
		time.Sleep(ackWithin - broker.SendTimeout + time.Millisecond)
		synctest.Wait()
		require.Equal(t, [][]int64{{0}}, well.froms())
		_, pending, holds := pw.unacked(b)
		require.True(t, holds && !pending)
		require.Zero(t, testutil.ToFloat64(pw.metrics.cuts[cutTimeout]))
		require.EqualValues(t, 1, testutil.ToFloat64(ps.metrics.cuts[cutTimeout]))
		push(pw, b, apart(1)) // with others again
		require.Len(t, by.took(), 1)
	})
}

// TestTheFenceIsNotTheNodesFault: a batch that a round could not write waits for
// the fence, and its time begins anew.
func TestTheFenceIsNotTheNodesFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var by post
		r := &round{send: by.send}
		f := newFence(6 * time.Second)
		f.renew(time.Now())
		w := &wire{}
		p := testPublisher(t, w, publisherParts{round: r, fence: f})
		time.Sleep(4 * time.Second)
		push(p, &book{}, apart(0))
		time.Sleep(time.Second)
		settle(r, by.took()[0], &retryable{})
		time.Sleep(time.Minute)
		require.Empty(t, w.froms())
		f.renew(time.Now())
		time.Sleep(time.Second)
		require.Equal(t, [][]int64{{0}}, w.froms())
		require.Zero(t, testutil.ToFloat64(p.metrics.cuts[cutTimeout]))
	})
}

// TestARoundLeavesAloneWhatIsNoEverydayMatter: a round takes one small batch of a
// healthy node that does not linger, with the fence open; all else is written by
// the node's own goroutine, as soon as it may be.
func TestARoundLeavesAloneWhatIsNoEverydayMatter(t *testing.T) {
	large := apart(0)
	large.Deliveries[0].Value = noise(broker.SendBytes)
	closed := newFence(time.Hour)
	for name, o := range map[string]struct {
		parts  publisherParts
		health health
		sec    stream.Section
		alone  bool
	}{
		"an everyday batch": {sec: apart(0)},
		"much":              {sec: large, alone: true},
		"a linger":          {sec: apart(0), alone: true, parts: publisherParts{linger: func() time.Duration { return time.Second }}},
		"in doubt":          {sec: apart(0), alone: true, health: probing},
		"fenced":            {sec: apart(0), alone: true, parts: publisherParts{fence: closed}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var by post
				w := &wire{}
				o.parts.round = &round{send: by.send}
				p := testPublisher(t, w, o.parts)
				p.health = o.health
				push(p, &book{}, o.sec)
				time.Sleep(3 * time.Second)
				if name == "fenced" {
					require.Empty(t, w.froms())
					closed.renew(time.Now())
					time.Sleep(time.Second)
				}
				require.Equal(t, o.alone, len(w.froms()) == 1)
				require.Equal(t, !o.alone, len(by.took()) == 1)
			})
		})
	}
}

// TestRoundsShareTheRoom: what does not fit any more is written alone.
func TestRoundsShareTheRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var by post
		r := &round{send: by.send}
		w := &wire{}
		for range 5 {
			p := testPublisher(t, w, publisherParts{round: r})
			s := apart(0)
			s.Deliveries[0].Value = noise(broker.SendBytes / 3)
			p.push(&book{}, s)
		}
		r.flush()
		synctest.Wait()
		require.Len(t, by.took()[0], 2)
		require.Len(t, w.froms(), 3)
	})
}

// TestRoundsAtRandom: whoever pushes, flushes, settles and fails at the same time,
// each node's sections are all written, in their order, but for doubles, and in
// the end nobody sees to a node for which there is nothing to do.
func TestRoundsAtRandom(t *testing.T) {
	const nodes, pushers, each = 3, 2, 300
	var all sync.WaitGroup
	r := &round{}
	got := make([][]stream.Section, nodes)
	var mu sync.Mutex // guards got
	write := func(i int, payload []byte) {
		b, err := delivery.Decode(payload)
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		got[i] = append(got[i], b.Sections...)
	}
	ps := make([]*publisher, nodes)
	at := func(topic string) int { return int(topic[0] - '0') }
	r.send = func(recs []broker.Outgoing) (rest []broker.Outgoing) {
		if rand.N(10) == 0 {
			return recs
		}
		all.Go(func() {
			time.Sleep(rand.N(100 * time.Microsecond))
			for _, o := range recs {
				switch rand.N(10) {
				case 0:
					o.Done(&retryable{}) // not written
				case 1:
					write(at(o.Topic), o.Value)
					o.Done(&retryable{}) // written all the same
				default:
					write(at(o.Topic), o.Value)
					o.Done(nil)
				}
			}
			r.flush()
		})
		return nil
	}
	for i := range ps {
		w := &wire{}
		w.set(func(_ context.Context, payload []byte) error {
			if rand.N(5) == 0 {
				return &retryable{}
			}
			write(i, payload)
			return nil
		})
		ps[i] = testPublisher(t, w, publisherParts{round: r})
		ps[i].topic = string(rune('0' + i))
	}
	for k := range pushers {
		all.Go(func() {
			b := &book{}
			for n := range int64(each) {
				s := apart(n)
				s.Partition = int32(k)
				for _, p := range ps {
					p.push(b, s)
				}
				r.flush()
				if rand.N(4) == 0 {
					time.Sleep(rand.N(50 * time.Microsecond))
				}
			}
		})
	}
	idle := func() bool {
		return !slices.ContainsFunc(ps, func(p *publisher) bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.busy || p.q.len() > 0
		})
	}
	all.Wait()
	require.Eventually(t, idle, time.Minute, time.Millisecond)
	all.Wait() // what the last ones gave rise to
	for i := range got {
		next := [pushers]int64{}
		for _, s := range got[i] {
			require.LessOrEqual(t, s.From, next[s.Partition], "node %d: a hole", i)
			next[s.Partition] = max(next[s.Partition], s.To)
		}
		require.Equal(t, [pushers]int64{each, each}, next)
		require.Zero(t, testutil.ToFloat64(ps[i].metrics.cuts[cutTimeout]))
	}
}
