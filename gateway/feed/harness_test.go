package feed

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/internal/coverage"
	"github.com/tapecast/tapecast/internal/delivery"
	ilog "github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/stream"
)

const patience = 20 * time.Second

func testLogger() *slog.Logger {
	if testing.Verbose() && os.Getenv("FEED_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

// bench is a Feed on kfake.
type bench struct {
	t    *testing.T
	env  *brokertest.Env
	feed *Feed
	stop func() // ends the feed and waits
}

func newBench(t *testing.T, change func(*Options)) *bench {
	t.Helper()
	var env *brokertest.Env
	if os.Getenv("FEED_TEST_ON_KAFKA") == "1" {
		env = brokertest.Kafka(t) // one test at a time: -parallel 1
	} else {
		env = brokertest.Start(t)
	}
	b := &bench{t: t, env: env}
	cat, err := catalog.New(catalog.Options{
		Client: env.Client, Rules: []catalog.Rule{{Pattern: "*", Format: "string"}}, Refresh: 200 * time.Millisecond, Logger: testLogger(),
	})
	require.NoError(t, err)
	o := Options{Logger: testLogger(), Catalog: cat, Client: env.Client, Node: "n1", Lease: 3 * time.Second, Linger: 300 * time.Millisecond}
	if change != nil {
		change(&o)
	}
	b.feed, err = New(o)
	require.NoError(t, err)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	b.stop = func() { cancel(); wg.Wait() }
	wg.Go(func() { _ = o.Catalog.Run(ctx) })
	wg.Go(func() {
		if err := b.feed.Run(ctx); err != nil {
			t.Errorf("feed ended: %v", err)
		}
	})
	t.Cleanup(b.stop)
	b.until("ready", func() bool { return b.feed.Ready() == nil })
	return b
}

func (b *bench) until(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("not within %v: %s; %+v", patience, what, b.feed.Stats())
		}
	}
}

func (b *bench) topic(partitions int) string {
	name := brokertest.Name(b.t, "feed")
	b.env.Create(b.t, name, partitions)
	b.until("topic is a feed", func() bool { _, ok := b.feed.catalog.Feed(name); return ok })
	return name
}

// produce appends events key:value and returns the first offset.
func (b *bench) produce(topic string, partition int32, keys ...string) int64 {
	b.t.Helper()
	recs := make([]broker.AppendRecord, 0, len(keys))
	for _, k := range keys {
		recs = append(recs, broker.AppendRecord{Key: []byte(k), Value: []byte(k)})
	}
	base, err := b.env.Client.Append(b.t.Context(), topic, partition, recs)
	require.NoError(b.t, err)
	return base
}

// deleteBefore removes records, as retention does.
func (b *bench) deleteBefore(topic string, p int32, offset int64) {
	b.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.env.Addrs...))
	require.NoError(b.t, err)
	defer cl.Close()
	o := kadm.Offsets{}
	o.AddOffset(topic, p, offset, -1)
	res, err := kadm.NewClient(cl).DeleteRecords(b.t.Context(), o)
	require.NoError(b.t, err)
	require.NoError(b.t, res.Error())
}

func repeat(n int, keys ...string) (out []string) {
	for i := range n {
		out = append(out, keys[i%len(keys)])
	}
	return out
}

// ---- a client: it checks what it gets

type client struct {
	b     *bench
	sub   *Sub
	keys  [][]byte
	woken chan struct{}
	at    map[int32]int64 // cursors
	got   map[int32][]int64
	gaps  map[int32][]Gap
	reset int
}

func (b *bench) open(topic string, keys ...string) *client {
	b.t.Helper()
	c := &client{b: b, woken: make(chan struct{}, 1), at: map[int32]int64{}, got: map[int32][]int64{}, gaps: map[int32][]Gap{}}
	for _, k := range keys {
		c.keys = append(c.keys, []byte(k))
	}
	var err error
	c.sub, err = b.feed.Open(topic, c.keys, func() {
		select {
		case c.woken <- struct{}{}:
		default:
		}
	})
	require.NoError(b.t, err)
	b.t.Cleanup(c.sub.Close)
	return c
}

// goLive waits until the sub is live and begins there.
func (c *client) goLive() *client {
	c.b.t.Helper()
	c.wait("live", func() bool {
		at, ok := c.sub.Live()
		if ok {
			c.at = at
		}
		return ok
	})
	return c
}

// wait is driven by wakes alone: a wake that is missing fails the test.
func (c *client) wait(what string, ok func() bool) {
	c.b.t.Helper()
	timeout := time.After(patience)
	for !ok() {
		select {
		case <-c.woken:
		case <-timeout:
			c.b.t.Fatalf("not within %v: %s; cursors %v, %+v", patience, what, c.at, c.b.feed.Stats())
		}
	}
}

// read reads all partitions as far as it goes. It returns the statuses.
func (c *client) read() (st map[int32]Status) {
	c.b.t.Helper()
	st = map[int32]Status{}
	for _, p := range c.sub.Partitions() {
		for {
			ch := c.sub.Read(p, c.at[p], 7)
			st[p] = ch.Status
			if ch.Status == Reset {
				c.reset++
				c.at, c.got = map[int32]int64{}, map[int32][]int64{}
				return st
			}
			if ch.Status != More {
				break
			}
			c.take(p, ch)
		}
	}
	return st
}

func (c *client) take(p int32, ch Chunk) {
	c.b.t.Helper()
	require.Equal(c.b.t, c.at[p], ch.From)
	require.Greater(c.b.t, ch.To, ch.From)
	if ch.Gap != nil {
		require.Equal(c.b.t, Gap{From: ch.From, To: ch.To, Cause: CauseRetention}, *ch.Gap)
		c.gaps[p] = append(c.gaps[p], *ch.Gap)
	}
	prev := ch.From - 1
	for _, e := range ch.Events {
		require.Greater(c.b.t, e.Offset, prev)
		require.Less(c.b.t, e.Offset, ch.To)
		prev = e.Offset
		c.got[p] = append(c.got[p], e.Offset)
		if c.keys != nil {
			require.True(c.b.t, slices.ContainsFunc(c.keys, func(k []byte) bool { return string(k) == string(e.Key) }))
		}
		require.Equal(c.b.t, string(e.Key), string(e.Value))
		f, err := e.Frame(FormText)
		require.NoError(c.b.t, err)
		require.NotEmpty(c.b.t, f)
	}
	c.at[p] = ch.To
}

// upTo reads until the partition's cursor is at an offset or beyond.
func (c *client) upTo(p int32, offset int64) {
	c.b.t.Helper()
	c.wait(fmt.Sprintf("cursor of partition %d at %d", p, offset), func() bool {
		c.read()
		return c.at[p] >= offset
	})
}

// ---- a fan-out, by hand and by itself

type fan struct {
	b     *bench
	state ilog.State
	at    int64
	r     *broker.Reader
	log   stream.TopicID
}

func (b *bench) fan() *fan {
	ts, err := b.env.Client.Topics(b.t.Context(), ilog.Topic)
	require.NoError(b.t, err)
	require.Len(b.t, ts, 1)
	f := &fan{b: b, log: ts[0].ID, r: b.env.Client.NewReader(ilog.Topic, ts[0].ID, 0)}
	f.state.Reset(f.log)
	return f
}

// sync applies the interest log to its end.
func (f *fan) sync(ctx context.Context) error {
	for {
		s, err := f.r.Read(ctx, f.at, 1<<20, 0)
		if err != nil {
			return err
		}
		for i := range s.Records {
			r, err := ilog.Decode(s.Records[i].Key, s.Records[i].Value)
			f.state.Apply(stream.InterestPos{Log: f.log, Offset: s.Records[i].Offset}, r, err == nil, time.Now())
		}
		if f.at = s.To; s.To >= s.End {
			return nil
		}
	}
}

func (f *fan) pos() stream.InterestPos { return stream.InterestPos{Log: f.log, Offset: f.at - 1} }

// wants waits until the node's present incarnation wants a key of a topic ("" = all).
func (f *fan) wants(topic, key string) *ilog.Incarnation {
	f.b.t.Helper()
	var inc *ilog.Incarnation
	f.b.until("interest in the log", func() bool {
		require.NoError(f.b.t, f.sync(f.b.t.Context()))
		inc = f.state.Get(f.b.feed.Stats().Incarnation)
		if inc == nil || !inc.Alive() {
			return false
		}
		found := false
		for w := range inc.Wants {
			found = found || w.Feed == topic && w.Key == key && w.All == (key == "")
		}
		return found
	})
	return inc
}

func (f *fan) send(inc *ilog.Incarnation, secs ...stream.Section) {
	f.b.t.Helper()
	require.NoError(f.b.t, f.write(f.b.t.Context(), inc.Name, inc.Delivery, secs...))
}

func (f *fan) write(ctx context.Context, name, topic string, secs ...stream.Section) error {
	v, err := delivery.Append(nil, &delivery.Batch{Incarnation: name, Writer: "test", WrittenUs: 1, Sections: secs})
	if err != nil {
		return err
	}
	_, err = f.b.env.Client.Append(ctx, topic, 0, []broker.AppendRecord{{Value: v}})
	return err
}

// section says [from, to) of a partition, with the events of some keys in it.
func (f *fan) section(sub *Sub, p int32, from, to, end int64, recs ...stream.Record) stream.Section {
	return stream.Section{Topic: sub.Epoch(), Partition: p, Interests: f.pos(), From: from, To: to, End: end, Deliveries: recs}
}

func event(offset int64, key string) stream.Record {
	return stream.Record{Offset: offset, Time: 1, Key: []byte(key), Value: []byte(key)}
}

// runFan is a whole fan-out over one topic, with coverage.Chains. mangle may
// change what is sent.
func (b *bench) runFan(topic string, mangle func([]stream.Section) []stream.Section) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	ts, err := b.env.Client.Topics(ctx, topic)
	require.NoError(b.t, err)
	f := b.fan()
	var books []*coverage.Chains
	var readers []*broker.Reader
	for p := range ts[0].Partitions {
		books = append(books, coverage.NewChains(ts[0].ID, int32(p), 1, 0))
		readers = append(readers, b.env.Client.NewReader(topic, ts[0].ID, int32(p)))
	}
	wg.Go(func() {
		known := map[string]int64{}
		for ctx.Err() == nil {
			if f.sync(ctx) != nil {
				continue
			}
			outs := map[string][]stream.Section{}
			add := func(os []coverage.Out) {
				for _, o := range os {
					outs[o.Incarnation] = append(outs[o.Incarnation], o.Section)
				}
			}
			for inc := range f.state.All {
				if known[inc.Name] != f.at {
					known[inc.Name] = f.at
					for _, c := range books {
						add(c.Interests(inc.Name, f.pos(), inc.Alive() && inc.Count() > 0))
					}
				}
			}
			for p, c := range books {
				s, err := readers[p].Read(ctx, c.Next(), 1<<20, 5*time.Millisecond)
				if err != nil {
					continue
				}
				routed := map[string][]stream.Record{}
				for inc := range f.state.All {
					for i := range s.Records {
						if r := s.Records[i]; inc.Alive() && wanted(inc, topic, r.Key) {
							r.Key, r.Value = slices.Clone(r.Key), slices.Clone(r.Value)
							routed[inc.Name] = append(routed[inc.Name], r)
						}
					}
				}
				add(c.Routed(s.To, s.End, f.pos(), routed, time.Now()))
				add(c.Cover(time.Now(), f.pos()))
			}
			for name, secs := range outs {
				if inc := f.state.Get(name); inc != nil && inc.Alive() {
					if mangle != nil {
						secs = mangle(secs)
					}
					_ = f.write(ctx, name, inc.Delivery, secs...)
				}
			}
		}
	})
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); wg.Wait() }) }
	b.t.Cleanup(stop)
	return stop
}

func wanted(inc *ilog.Incarnation, topic string, key []byte) (yes bool) {
	for w := range inc.Wants {
		yes = yes || w.Feed == topic && (w.All || w.Key == string(key))
	}
	return yes
}
