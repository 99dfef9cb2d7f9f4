package fanout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/internal/delivery"
	"github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/interestlog"
	"github.com/tapecast/tapecast/internal/stream"
)

// patience is how long anything that must come may take.
const patience = 60 * time.Second

// rig is a Kafka, an oracle that knows every event written, and what runs on them.
type rig struct {
	t      *testing.T
	env    *brokertest.Env
	group  string
	prefix string         // of this rig's topics: others may share the Kafka
	tune   func(*Service) // of instances to come
	spoil  []byte         // of their lines

	mu     sync.Mutex
	oracle map[stream.TopicID]map[int32][]stream.Record
	names  map[stream.TopicID]string
}

// newRig runs the test beside others: most of their time is waiting.
func newRig(t *testing.T) *rig {
	t.Helper()
	t.Parallel()
	return newRigOn(t, brokertest.Start(t))
}

func newRigOn(t *testing.T, env *brokertest.Env) *rig {
	t.Helper()
	_, err := interestlog.Ensure(t.Context(), env.Client, 1)
	require.NoError(t, err)
	return &rig{t: t, env: env, prefix: brokertest.Name(t, "feed") + ".", group: brokertest.Name(t, "fanout"), oracle: map[stream.TopicID]map[int32][]stream.Record{}, names: map[stream.TopicID]string{}}
}

func (r *rig) topicID(topic string) stream.TopicID {
	r.t.Helper()
	ts, err := r.env.Client.Topics(r.t.Context(), topic)
	require.NoError(r.t, err)
	require.Len(r.t, ts, 1)
	return ts[0].ID
}

// topic makes a feed topic.
func (r *rig) topic(partitions int) string {
	r.t.Helper()
	name := r.prefix + brokertest.Name(r.t, "t")
	r.env.Create(r.t, name, partitions)
	return name
}

// write appends n events, keys k0..k9 in turn, and tells the oracle.
func (r *rig) write(topic string, partition int32, n int) {
	r.t.Helper()
	id := r.topicID(topic)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.oracle[id] == nil {
		r.oracle[id] = map[int32][]stream.Record{}
	}
	r.names[id] = topic
	log := r.oracle[id][partition]
	var recs []broker.AppendRecord
	for i := range n {
		x := len(log) + i
		rec := broker.AppendRecord{Key: fmt.Append(nil, "k", x%10), Value: fmt.Append(nil, topic, "/", partition, "/", x)}
		if x%10 == 9 {
			rec.Key = nil
		}
		recs = append(recs, rec)
	}
	base, err := r.env.Client.Append(r.t.Context(), topic, partition, recs)
	require.NoError(r.t, err)
	for i, rec := range recs {
		log = append(log, stream.Record{Offset: base + int64(i), Key: rec.Key, Value: rec.Value})
	}
	r.oracle[id][partition] = log
}

// committed waits until the group's commit of a partition is what ok says.
func (r *rig) committed(topic string, partition int32, ok func(broker.Committed) bool) {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		c, err := r.env.Client.GroupOffsets(r.t.Context(), r.group, topic, []int32{partition})
		return err == nil && ok(c[partition])
	}, patience, 20*time.Millisecond)
}

// instance is one running fan-out.
type instance struct {
	*Service
	rig    *rig
	line   *line
	cancel context.CancelFunc
	done   chan error
}

// line is the instance's network; a test may cut it, or have it spoil what it reads.
type line struct {
	mu    sync.Mutex
	cut   bool
	spoil []byte // in what is read: one of these bytes is changed; never in requests
	conns []net.Conn
}

// spoiling is a connection of such a line.
type spoiling struct {
	net.Conn
	mark []byte
}

func (s *spoiling) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if i := bytes.Index(b[:n], s.mark); i >= 0 {
		b[i]++
	}
	return n, err
}

func (l *line) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		_ = c.Close()
		return nil, errors.New("the line is cut")
	}
	l.conns = append(l.conns, c)
	if l.spoil != nil {
		return &spoiling{Conn: c, mark: l.spoil}, nil
	}
	return c, nil
}

func (l *line) set(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	for _, c := range l.conns {
		_ = c.Close()
	}
	l.conns = nil
}

func testLog(name string) *slog.Logger {
	if os.Getenv("FANOUT_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("who", name)
}

func (r *rig) start(name string, change ...func(*Options)) *instance {
	r.t.Helper()
	in := &instance{rig: r, line: &line{spoil: r.spoil}, done: make(chan error, 1)}
	c, err := broker.New(broker.Options{Addrs: r.env.Addrs, ClientID: name, Dial: in.line.dial})
	require.NoError(r.t, err)
	cat, err := catalog.New(catalog.Options{Client: c, Rules: []catalog.Rule{{Pattern: r.prefix + "*"}}, Refresh: 200 * time.Millisecond})
	require.NoError(r.t, err)
	o := Options{Logger: testLog(name), Catalog: cat, Client: c, Group: r.group, Instance: name}
	for _, f := range change {
		f(&o)
	}
	in.Service, err = New(o)
	require.NoError(r.t, err)
	if r.tune != nil {
		r.tune(in.Service)
	}
	ctx, cancel := context.WithCancel(context.Background())
	in.cancel = cancel
	go func() {
		catDone := make(chan error, 1)
		go func() { catDone <- cat.Run(ctx) }()
		err := in.Run(ctx)
		cancel()
		<-catDone
		c.Close()
		in.done <- err
	}()
	r.t.Cleanup(func() { in.stop() })
	return in
}

// stop ends the instance in an orderly way. Twice is harmless.
func (in *instance) stop() {
	in.cancel()
	select {
	case err := <-in.done:
		require.NoError(in.rig.t, err)
		in.done <- nil
	case <-time.After(patience):
		in.rig.t.Error("fan-out does not end")
	}
}

// crash takes its network away before anything can be said.
func (in *instance) crash() {
	in.line.set(true)
	in.stop()
}

func (in *instance) await(what string, cond func(Stats) bool) Stats {
	in.rig.t.Helper()
	var st Stats
	require.Eventually(in.rig.t, func() bool {
		st = in.Stats()
		return cond(st)
	}, patience, 10*time.Millisecond, what)
	return st
}

// owns waits until the instance casts n partitions.
func (in *instance) owns(n int) {
	in.rig.t.Helper()
	in.await(fmt.Sprint("owns ", n), func(s Stats) bool {
		started := 0
		for _, p := range s.Partitions {
			if !p.ID.IsZero() {
				started++
			}
		}
		return started == n && len(s.Partitions) == n && s.Ready == nil
	})
}

// gate is a gateway node, done by hand: it writes interests and collects the
// sections of its delivery topic.
type gate struct {
	rig   *rig
	inc   string
	topic string

	mu       sync.Mutex
	seq      int
	wants    []want
	sections []stream.Section
	writers  []string // by section
	batches  int
	watch    chan struct{}
}

type want struct {
	id    string
	topic string
	key   []byte
	e     int64
	gone  bool
}

func (r *rig) gate(node string, lease time.Duration) *gate {
	r.t.Helper()
	g := &gate{rig: r, inc: brokertest.Name(r.t, "inc"), watch: make(chan struct{})}
	g.topic = delivery.TopicName(node, g.inc)
	r.env.Create(r.t, g.topic, 1)
	g.lease(node, lease)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.read(ctx)
	}()
	r.t.Cleanup(func() { cancel(); <-done })
	return g
}

func (g *gate) append(r interest.Record) int64 {
	g.rig.t.Helper()
	key, value, err := r.Encode()
	require.NoError(g.rig.t, err)
	e, err := g.rig.env.Client.Append(g.rig.t.Context(), interest.Topic, 0, []broker.AppendRecord{{Key: key, Value: value}})
	require.NoError(g.rig.t, err)
	return e
}

func (g *gate) lease(node string, lease time.Duration) {
	g.append(interest.Record{Kind: interest.KindLease, Incarnation: g.inc, Node: node, Delivery: g.topic, LeaseMs: lease.Milliseconds()})
}

// want writes an interest; key "" = all keys. It returns its position.
func (g *gate) want(topic, key string) int64 {
	g.rig.t.Helper()
	g.mu.Lock()
	g.seq++
	w := want{id: strconv.Itoa(g.seq), topic: topic}
	g.mu.Unlock()
	if key != "" {
		w.key = []byte(key)
	}
	w.e = g.append(interest.Record{Kind: interest.KindAdd, Incarnation: g.inc, ID: w.id, Feed: topic, Key: w.key})
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wants = append(g.wants, w)
	return w.e
}

// withdraw ends one of its interests, if it has more than one.
func (g *gate) withdraw(i int) {
	g.rig.t.Helper()
	g.mu.Lock()
	if i == 0 || i >= len(g.wants) || g.wants[i].gone {
		g.mu.Unlock()
		return
	}
	g.wants[i].gone = true // from the moment the tombstone is sent
	id := g.wants[i].id
	g.mu.Unlock()
	g.append(interest.Record{Kind: interest.KindEnd1, Incarnation: g.inc, ID: id})
}

func (g *gate) read(ctx context.Context) {
	reader := g.rig.env.Client.NewReader(g.topic, stream.TopicID{}, 0)
	defer reader.Close()
	var next int64
	for ctx.Err() == nil {
		span, err := reader.Read(ctx, next, 4<<20, 500*time.Millisecond)
		if errors.Is(err, stream.ErrTopicChanged) || errors.Is(err, stream.ErrUnknownTopic) {
			return
		}
		if err != nil {
			continue
		}
		next = span.To
		for _, rec := range span.Records {
			b, err := delivery.Decode(rec.Value)
			if err != nil || b.Incarnation != g.inc {
				g.rig.t.Errorf("batch at %d: %v, incarnation %q", rec.Offset, err, b.Incarnation)
				return
			}
			g.mu.Lock()
			g.batches++
			for _, s := range b.Sections {
				g.sections = append(g.sections, s)
				g.writers = append(g.writers, b.Writer)
			}
			close(g.watch)
			g.watch = make(chan struct{})
			g.mu.Unlock()
		}
	}
}

// all returns the sections so far.
func (g *gate) all() []stream.Section {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.sections)
}

// await waits until cond holds of the sections.
func (g *gate) await(what string, cond func([]stream.Section) bool) {
	g.rig.t.Helper()
	timeout := time.After(patience)
	for {
		g.mu.Lock()
		ok, watch := cond(g.sections), g.watch
		g.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-watch:
		case <-timeout:
			g.rig.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// answered waits for a section of the partition by the interests at e.
func (g *gate) answered(topic string, partition int32, e int64) {
	g.rig.t.Helper()
	id := g.rig.topicID(topic)
	g.await(fmt.Sprintf("%s/%d answered at %d", topic, partition, e), func(ss []stream.Section) bool {
		return slices.ContainsFunc(ss, func(s stream.Section) bool {
			return s.Topic == id && s.Partition == partition && s.Interests.Offset >= e
		})
	})
}

// covered waits until the sections by e or later cover [from, to) without a hole.
func (g *gate) covered(topic string, partition int32, e, from, to int64) {
	g.rig.t.Helper()
	id := g.rig.topicID(topic)
	defer func() {
		if g.rig.t.Failed() {
			g.rig.t.Logf("sections of %s/%d: %s", topic, partition, g.list(id, partition))
		}
	}()
	g.await(fmt.Sprintf("%s/%d covered [%d, %d) by %d", topic, partition, from, to, e), func(ss []stream.Section) bool {
		var mine []stream.Section
		for _, s := range ss {
			if s.Topic == id && s.Partition == partition && s.Interests.Offset >= e {
				mine = append(mine, s)
			}
		}
		slices.SortStableFunc(mine, func(a, b stream.Section) int { return int(a.From - b.From) })
		next := from
		for _, s := range mine {
			if s.From <= next {
				next = max(next, s.To)
			}
		}
		return next >= to
	})
}

func (g *gate) list(id stream.TopicID, partition int32) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var b bytes.Buffer
	for i, s := range g.sections {
		if s.Topic == id && s.Partition == partition {
			fmt.Fprintf(&b, "%s[%d,%d)E%d:%d ", g.writers[i], s.From, s.To, s.Interests.Offset, len(s.Deliveries))
		}
	}
	return b.String()
}

// check holds every section to the oracle: it lists exactly what was written in
// its stretch and wanted by the interests at E, in order, and at most what any
// interest of the node ever wanted.
func (g *gate) check() {
	t := g.rig.t
	t.Helper()
	g.mu.Lock()
	sections, wants := slices.Clone(g.sections), slices.Clone(g.wants)
	g.mu.Unlock()
	g.rig.mu.Lock()
	defer g.rig.mu.Unlock()
	names := g.rig.names
	for _, s := range sections {
		require.LessOrEqual(t, s.From, s.To)
		require.GreaterOrEqual(t, s.End, s.To)
		events := map[int64]stream.Record{}
		for _, e := range g.rig.oracle[s.Topic][s.Partition] {
			events[e.Offset] = e
		}
		listed := map[int64]bool{}
		last := s.From - 1
		for _, d := range s.Deliveries {
			require.Greater(t, d.Offset, last)
			require.Less(t, d.Offset, s.To)
			last = d.Offset
			listed[d.Offset] = true
			e, ok := events[d.Offset]
			require.True(t, ok, "phantom at %d", d.Offset)
			require.Equal(t, e.Key, d.Key)
			require.Equal(t, e.Value, d.Value)
			require.True(t, wanted(wants, names[s.Topic], e, 1<<60, true), "nobody wanted %d", d.Offset)
		}
		for o := s.From; o < s.To; o++ {
			if e, ok := events[o]; ok && wanted(wants, names[s.Topic], e, s.Interests.Offset, false) {
				require.True(t, listed[o], "section [%d,%d) by %d does not list %d", s.From, s.To, s.Interests.Offset, o)
			}
		}
	}
}

// wanted tells whether any interest up to at wants the event. Those that were
// withdrawn count only where being sent too much is asked about.
func wanted(wants []want, topic string, e stream.Record, at int64, withdrawn bool) bool {
	return slices.ContainsFunc(wants, func(w want) bool {
		return (withdrawn || !w.gone) && w.topic == topic && w.e <= at && (w.key == nil || e.Key != nil && bytes.Equal(w.key, e.Key))
	})
}

// chained tells whether the sections of each partition follow each other.
func (g *gate) chained() {
	g.rig.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	type tp struct {
		id stream.TopicID
		p  int32
	}
	next := map[tp]int64{}
	for _, s := range g.sections {
		k := tp{s.Topic, s.Partition}
		if n, ok := next[k]; ok {
			require.Equal(g.rig.t, n, s.From, "partition %d of %v", s.Partition, maps.Keys(next))
		}
		next[k] = s.To
	}
}
