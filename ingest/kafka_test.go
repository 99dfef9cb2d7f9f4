package ingest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tapecast/tapecast/ingest"
	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/schemas"
	"github.com/tapecast/tapecast/schemas/registry"
)

// faults breaks connections: all while down, and otherwise answers at random.
type faults struct {
	rate   atomic.Int64 // of 1,000 reads, how many reset the connection
	down   atomic.Bool
	resets atomic.Int64

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func (f *faults) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if f.down.Load() {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	}
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conns == nil {
		f.conns = make(map[net.Conn]struct{})
	}
	f.conns[c] = struct{}{}
	return &faultyConn{Conn: c, f: f}, nil
}

func (f *faults) cut() {
	f.down.Store(true)
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		_ = c.Close()
	}
	clear(f.conns)
}

// faultyConn loses answers: the request was taken, and what comes back is not read.
type faultyConn struct {
	net.Conn
	f *faults
}

func (c *faultyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil && rand.Int64N(1000) < c.f.rate.Load() {
		c.f.resets.Add(1)
		_ = c.Conn.Close()
		return 0, &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	}
	return n, err
}

// room is the ingest room on a real broker.
type room struct {
	t       *testing.T
	f       *faults
	url     string
	service *ingest.Service
	env     *brokertest.Env
}

func newRoom(t *testing.T, env *brokertest.Env, timeout time.Duration) *room {
	t.Helper()
	r := &room{t: t, f: &faults{}, env: env}
	client, err := broker.New(broker.Options{Addrs: env.Addrs, ClientID: "ingest-test", Dial: r.f.dial})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	server, err := registry.Open(t.TempDir(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Close() })
	rs := httptest.NewServer(server.Handler())
	t.Cleanup(rs.Close)
	reg, err := schemas.NewRegistry(schemas.RegistryOptions{URL: rs.URL})
	require.NoError(t, err)
	cat, err := catalog.New(catalog.Options{Client: client, Rules: []catalog.Rule{
		{Pattern: "json-*", Format: catalog.FormatJSON}, {Pattern: "*"},
	}})
	require.NoError(t, err)
	r.service, err = ingest.New(ingest.Options{Catalog: cat, Client: client, Registry: reg, Timeout: timeout})
	require.NoError(t, err)
	mux := http.NewServeMux()
	r.service.Register(mux)
	hs := httptest.NewServer(mux)
	t.Cleanup(hs.Close)
	r.url = hs.URL
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = cat.Run(ctx) })
	wg.Go(func() { require.NoError(t, r.service.Run(ctx)) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	require.Eventually(t, func() bool { return r.service.Ready() == nil }, 30*time.Second, 10*time.Millisecond)
	r.register(reg)
	return r
}

func (r *room) register(reg *schemas.Registry) {
	text, ok := schemas.Embedded("quotes")
	require.True(r.t, ok)
	_, err := reg.Register(r.t.Context(), schemas.Subject("quotes"), text)
	require.NoError(r.t, err)
}

type offsets struct {
	Code    string
	Offsets []struct {
		Partition int32
		Offset    int64
		Error     string
	}
}

func (r *room) post(topic string, body []byte) (int, offsets) {
	res, err := http.Post(r.url+"/v1/topics/"+topic+"/events", "application/json", bytes.NewReader(body))
	if err != nil {
		r.t.Error(err)
		return 0, offsets{}
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	var o offsets
	if err := json.Unmarshal(text, &o); err != nil {
		r.t.Errorf("%d %s: %v", res.StatusCode, text, err)
	}
	return res.StatusCode, o
}

// where is one record's place.
type where struct {
	partition int32
	offset    int64
}

// dump reads a topic with another library: value -> every place it is at.
func (r *room) dump(topic string, partitions []int32) map[string][]where {
	r.t.Helper()
	ends, err := r.env.Client.Bounds(r.t.Context(), topic, partitions)
	require.NoError(r.t, err)
	start := make(map[int32]kgo.Offset)
	left := 0
	for p, b := range ends {
		if b.End > b.Start {
			start[p] = kgo.NewOffset().AtStart()
			left++
		}
	}
	out := make(map[string][]where)
	if left == 0 {
		return out
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(r.env.Addrs...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: start}))
	require.NoError(r.t, err)
	defer c.Close()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	for left > 0 {
		fs := c.PollFetches(ctx)
		require.NoError(r.t, fs.Err0())
		fs.EachRecord(func(rec *kgo.Record) {
			out[string(rec.Value)] = append(out[string(rec.Value)], where{rec.Partition, rec.Offset})
			if rec.Offset == ends[rec.Partition].End-1 {
				left--
			}
		})
	}
	return out
}

func TestNothingIsLostOrDoubledUnderConnectionResets(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		r := newRoom(t, env, 30*time.Second)
		topic := brokertest.Name(t, "json")
		env.Create(t, topic, 3)
		r.f.rate.Store(40)
		var mu sync.Mutex
		told := make(map[string]where)
		maybe := make(map[string]bool)
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for n := range 150 {
					var body []byte
					var values []string
					for i := range 1 + n%5 {
						v := fmt.Sprintf(`"%d/%d/%d"`, w, n, i)
						values = append(values, v)
						body = fmt.Appendf(body, `,{"key":"k%d","value":%s}`, (w+n+i)%11, v)
					}
					body[0] = '['
					status, o := r.post(topic, append(body, ']'))
					mu.Lock()
					for i, v := range values {
						switch {
						case i >= len(o.Offsets):
						case o.Offsets[i].Error == "":
							told[v] = where{o.Offsets[i].Partition, o.Offsets[i].Offset}
							continue
						case o.Offsets[i].Error == "unknown_outcome":
							maybe[v] = true
						}
						if status == http.StatusOK {
							t.Errorf("success without an offset: %v", o)
						}
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		r.f.rate.Store(0)
		got := r.dump(topic, []int32{0, 1, 2})
		for v, w := range told {
			if w.offset < 0 {
				w = got[v][0] // written, and nobody could tell where
			}
			require.Equal(t, []where{w}, got[v], "answered %s", v)
		}
		for v, at := range got {
			require.Len(t, at, 1, "doubled %s", v)
			_, ok := told[v]
			require.True(t, ok || maybe[v], "written but answered as not written: %s", v)
		}
		require.NotZero(t, r.f.resets.Load())
		require.Greater(t, len(told), 1500)
		t.Logf("%s: %d resets, %d answered, %d unknown, %d in the log", env.Name, r.f.resets.Load(), len(told), len(maybe), len(got))
	})
}

func TestKafkaAwayAndBack(t *testing.T) {
	env := brokertest.Start(t)
	r := newRoom(t, env, 300*time.Millisecond)
	topic := brokertest.Name(t, "json")
	env.Create(t, topic, 1)
	require.Eventually(t, func() bool {
		status, _ := r.post(topic, []byte(`{"value":"before"}`))
		return status == http.StatusOK
	}, 30*time.Second, 10*time.Millisecond)

	r.f.cut()
	unwritten := make(map[string]bool)
	for i := range 5 {
		v := fmt.Sprintf(`"away %d"`, i)
		status, o := r.post(topic, []byte(`{"value":`+v+`}`))
		require.Equal(t, http.StatusServiceUnavailable, status)
		require.Contains(t, []string{"unavailable", "unknown_outcome"}, o.Code)
		unwritten[v] = o.Code == "unavailable"
	}
	r.f.down.Store(false)
	require.Eventually(t, func() bool {
		status, _ := r.post(topic, []byte(`{"value":"after"}`))
		return status == http.StatusOK
	}, time.Minute, 50*time.Millisecond)
	require.NoError(t, r.service.Ready())
	got := r.dump(topic, []int32{0})
	require.NotEmpty(t, got[`"before"`])
	require.NotEmpty(t, got[`"after"`])
	for v, at := range got {
		if v != `"before"` && v != `"after"` { // those were posted until it went well
			require.Len(t, at, 1, v)
			require.False(t, unwritten[v], "said not to be written: %s", v)
		}
	}
}

func TestAStreamAndATopicMadeAMomentAgo(t *testing.T) {
	env := brokertest.Start(t)
	r := newRoom(t, env, 10*time.Second)
	topic := brokertest.Name(t, "json")
	env.Create(t, topic, 2)
	var body bytes.Buffer
	for i := range 20_000 {
		fmt.Fprintf(&body, `{"key":"%d","value":%d}`+"\n", i%100, i)
	}
	res, err := http.Post(r.url+"/v1/topics/"+topic+"/events", "application/x-ndjson", &body)
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode, string(text))
	var sum struct {
		Events int
		Last   []where
	}
	require.NoError(t, json.Unmarshal(text, &sum))
	require.Equal(t, 20_000, sum.Events)
	got := r.dump(topic, []int32{0, 1})
	require.Len(t, got, 20_000)
	last := make(map[string]int64) // of each key the offsets grow with the lines
	for i := range 20_000 {
		at := got[fmt.Sprint(i)]
		require.Len(t, at, 1)
		key := fmt.Sprint(i % 100)
		if have, ok := last[key]; ok {
			require.Greater(t, at[0].offset, have)
		}
		last[key] = at[0].offset
	}
}

func TestAvroEventsThroughTheEmbeddedRegistry(t *testing.T) {
	env := brokertest.Start(t)
	r := newRoom(t, env, 10*time.Second)
	env.Create(t, "quotes", 1)
	status, o := r.post("quotes", []byte(`[{"key":"EURUSD","value":{"symbol":"EURUSD","bid":1.1,"ask":1.2,"bid_size":1,"ask_size":2,"ts":1546383600078000}}]`))
	require.Equal(t, http.StatusOK, status, o)
	status, o = r.post("quotes", []byte(`{"value":{"symbol":"EURUSD","bid":1.1,"ask":1.2,"bid_size":"many","ask_size":2,"ts":1}}`))
	require.Equal(t, http.StatusBadRequest, status, o)
	reader := env.Client.NewReader("quotes", [16]byte{}, 0)
	defer reader.Close()
	span, err := reader.Read(t.Context(), 0, 1<<20, time.Second)
	require.NoError(t, err)
	require.Len(t, span.Records, 1)
	require.NotZero(t, span.Records[0].Accepted)
	_, _, ok := schemas.SplitWire(span.Records[0].Value)
	require.True(t, ok)
}
