package feed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	ilog "github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/stream"
)

// fakeCluster is an interest log in memory, whose writes may fail, with or
// without effect.
type fakeCluster struct {
	mu      sync.Mutex
	log     []ilog.Record
	fail    func(adds bool) (lost, refused bool) // adds: the write has an interest in it
	deleted []string
}

func (c *fakeCluster) CreateTopic(_ context.Context, s broker.TopicSpec) (broker.Topic, bool, error) {
	return broker.Topic{Name: s.Name, ID: stream.TopicID{1}}, true, nil
}

func (c *fakeCluster) DeleteTopic(_ context.Context, name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deleted = append(c.deleted, name)
	return nil
}

func (c *fakeCluster) Topics(_ context.Context, names ...string) ([]broker.Topic, error) {
	return []broker.Topic{{Name: names[0], ID: stream.TopicID{1}}}, nil
}

func (c *fakeCluster) Append(_ context.Context, topic string, _ int32, recs []broker.AppendRecord) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if topic != ilog.Topic {
		return 0, fmt.Errorf("append to %s", topic)
	}
	adds := false
	got := make([]ilog.Record, 0, len(recs))
	for _, r := range recs {
		d, err := ilog.Decode(r.Key, r.Value)
		if err != nil {
			return 0, err
		}
		adds = adds || d.Kind == ilog.KindAdd
		got = append(got, d)
	}
	lost, refused := false, false
	if c.fail != nil {
		lost, refused = c.fail(adds)
	}
	base := int64(len(c.log))
	if !refused {
		c.log = append(c.log, got...)
	}
	if lost || refused {
		return 0, errors.New("no answer")
	}
	return base, nil
}

func (c *fakeCluster) records() []ilog.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]ilog.Record(nil), c.log...)
}

// silent is a topic in which nothing happens.
type silent struct{}

func (silent) Close() {}
func (silent) Read(ctx context.Context, from int64, _ int, wait time.Duration) (broker.Span, error) {
	if err := sleep(ctx, max(wait, time.Millisecond)); err != nil {
		return broker.Span{}, err
	}
	return broker.Span{From: from, To: from, End: from}, nil
}

func testLife(c *fakeCluster, b *book) *life {
	m := newMetrics(nil)
	return &life{
		node: "n", lease: 9 * time.Second, cluster: c, book: b, log: slog.New(slog.DiscardHandler), counts: &m.life,
		ensure:  func(context.Context) (stream.TopicID, error) { return stream.TopicID{1}, nil },
		open:    func(string, stream.TopicID) reader { return silent{} },
		deliver: func(*incarnation, []byte) {},
	}
}

// testTopic is a topic without partitions: nobody listens to its interests.
func testTopic(b *book, name string) *topic {
	t := &topic{name: name, byKey: map[string]*interest{}}
	i := &instance{topic: t, done: make(chan struct{})}
	i.parts.Store(&[]*partition{})
	t.inst.Store(i)
	b.topics[name] = t
	return t
}

func TestIDsAreWrittenOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, hit := 0, false
		c := &fakeCluster{fail: func(adds bool) (lost, refused bool) {
			if adds && !hit { // whatever came before
				hit = true
				return true, false
			}
			n++
			return n%3 == 1, n%3 == 2
		}}
		b := newBook(5 * time.Second)
		l := testLife(c, b)
		tp := testTopic(b, "quotes")
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = l.run(ctx) })
		b.mu.Lock()
		its := b.acquire(tp, keys("a", "b", "c"))
		b.mu.Unlock()
		time.Sleep(3 * time.Second)
		require.NoError(t, l.ready())

		seen := map[string]int64{}
		ended := map[string]bool{}
		for at, r := range c.records() {
			switch r.Kind {
			case ilog.KindAdd:
				require.NotContains(t, seen, r.ID, "an id is written once")
				seen[r.ID] = int64(at)
			case ilog.KindEnd1:
				ended[r.ID] = true
			}
		}
		b.mu.Lock()
		for _, it := range its {
			require.True(t, it.acked)
			require.Equal(t, stream.InterestPos{Log: stream.TopicID{1}, Offset: seen[it.logID]}, it.e, "e is its record's offset")
			require.False(t, ended[it.logID])
		}
		b.mu.Unlock()
		require.Greater(t, len(seen), 3, "something was lost")
		for id := range seen {
			alive := id == its[0].logID || id == its[1].logID || id == its[2].logID
			require.Equal(t, !alive, ended[id], "what was lost has a tombstone")
		}

		b.release(its[:2], time.Now())
		time.Sleep(4 * time.Second)
		b.sweep(time.Now())
		require.False(t, its[0].dead, "it lingers")
		time.Sleep(2 * time.Second)
		b.sweep(time.Now())
		require.True(t, its[0].dead)
		time.Sleep(10 * time.Second)
		leases := 0
		for _, r := range c.records() {
			if r.Kind == ilog.KindEnd1 {
				ended[r.ID] = true
			}
			if r.Kind == ilog.KindLease {
				leases++
			}
		}
		require.True(t, ended[its[0].logID] && ended[its[1].logID])
		require.False(t, ended[its[2].logID])
		require.GreaterOrEqual(t, leases, 6, "a third of the lease apart")
		require.LessOrEqual(t, leases, 16, "also those that were lost")

		c.mu.Lock()
		c.fail = nil
		c.mu.Unlock()
		cancel()
		wg.Wait()
		log := c.records()
		require.Equal(t, ilog.KindGone, log[len(log)-1].Kind)
		require.Len(t, c.deleted, 1)
	})
}

func TestALeaseThatCannotBeRenewedEndsTheIncarnation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := false
		var mu sync.Mutex
		c := &fakeCluster{fail: func(bool) (lost, refused bool) {
			mu.Lock()
			defer mu.Unlock()
			return false, away
		}}
		set := func(v bool) { mu.Lock(); defer mu.Unlock(); away = v }
		b := newBook(5 * time.Second)
		l := testLife(c, b)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = l.run(ctx) })
		b.mu.Lock()
		it := b.acquire(testTopic(b, "quotes"), newFilter(nil))[0]
		b.mu.Unlock()
		time.Sleep(time.Second)
		first := l.incarnation()
		require.NotNil(t, first)
		set(true)
		time.Sleep(5 * time.Second)
		require.Same(t, first, l.incarnation(), "not yet")
		time.Sleep(5 * time.Second)
		require.NotSame(t, first, l.incarnation())
		require.Error(t, l.ready())
		set(false)
		time.Sleep(10 * time.Second)
		require.NoError(t, l.ready())
		last := l.incarnation()
		require.NotEqual(t, first.id, last.id)
		var ended, wanted bool
		for _, r := range c.records() {
			ended = ended || r.Kind == ilog.KindEnd && r.Incarnation == first.id
			wanted = wanted || r.Kind == ilog.KindAdd && r.Incarnation == last.id && r.ID == it.logID
		}
		require.True(t, ended, "the one before was ended")
		require.True(t, wanted, "its interests were written anew")
		require.Contains(t, c.deleted, first.delivery)
		cancel()
		wg.Wait()
	})
}

func TestManyKeysWantTheTopic(t *testing.T) {
	b := newBook(0)
	tp := testTopic(b, "t")
	var ks []string
	for i := range maxKeys {
		ks = append(ks, fmt.Sprint(i))
	}
	its := b.acquire(tp, keys(ks...))
	require.Len(t, its, maxKeys)
	more := b.acquire(tp, keys("one more"))
	require.Len(t, more, 1)
	require.Nil(t, more[0].key)
	require.Same(t, more[0], b.acquire(tp, keys("0"))[0])
	long := b.acquire(testTopic(b, "t2"), keys(strings.Repeat("x", ilog.MaxKey+1)))
	require.Nil(t, long[0].key, "the log does not hold such a key")
	n := len(b.take(10, 1<<20))
	require.Equal(t, 10, n)
	require.Less(t, len(b.take(1<<20, 10_000)), 1000, "bounded in bytes")
}

// TestMain looks for goroutines that outlive their feeds.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		buf := make([]byte, 1<<20)
		for range 100 {
			n := runtime.Stack(buf, true)
			if !strings.Contains(string(buf[:n]), "gateway/feed.(*") {
				os.Exit(0)
			}
			time.Sleep(20 * time.Millisecond)
		}
		n := runtime.Stack(buf, true)
		fmt.Printf("goroutines are left:\n%s\n", buf[:n])
		code = 1
	}
	os.Exit(code)
}

func TestFollowingPassesOverWhatIsGone(t *testing.T) {
	l := testLife(&fakeCluster{}, newBook(0))
	log := newFakeLog(20, 5)
	log.start = 10
	stop := errors.New("stop")
	var got []int64
	fn := func(r *stream.Record) error {
		if got = append(got, r.Offset); r.Offset == 19 {
			return stop
		}
		return nil
	}
	never := func(context.Context) error { return nil }
	require.ErrorIs(t, l.follow(t.Context(), log, 0, never, nil, fn), stop)
	require.Equal(t, log.want(10, 20, newFilter(nil)), got)
	require.ErrorIs(t, l.follow(t.Context(), log, 30, never, errLogChanged, fn), errLogChanged, "a log that shrank is another")
	got = nil
	require.ErrorIs(t, l.follow(t.Context(), log, 30, never, nil, fn), stop)
	require.Equal(t, log.want(10, 20, newFilter(nil)), got, "begun anew")
	log.err = fmt.Errorf("read: %w", stream.ErrTopicChanged)
	gone := func(context.Context) error { return l.gone(t.Context(), "t", stream.TopicID{2}, errDeliveryGone) }
	require.ErrorIs(t, l.follow(t.Context(), log, 10, gone, nil, fn), errDeliveryGone)
}

func TestAQueueIsBoundedInBytes(t *testing.T) {
	m := newMailbox()
	big := stream.Section{Deliveries: []stream.Record{{Value: make([]byte, maxQueued/2)}}}
	require.True(t, m.section(tagged{1, big}))
	require.False(t, m.section(tagged{1, big}))
	m.post(nil)
	ops, secs := m.take()
	require.Len(t, ops, 1)
	require.Len(t, secs, 1)
	big.Deliveries[0].Value = make([]byte, 2*maxQueued)
	require.True(t, m.section(tagged{1, big}), "one always fits")
}
