package ingest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/internal/stream"
	"github.com/tapecast/tapecast/schemas"
)

const quoteSchema = `{"type":"record","name":"Quote","fields":[
	{"name":"bid","type":"double"},{"name":"bid_size","type":"long"},
	{"name":"note","type":["null","string"],"default":null}]}`

// fakeFeeds is a catalogue in memory.
type fakeFeeds struct {
	mu     sync.Mutex
	feeds  map[string]catalog.Feed
	late   map[string]catalog.Feed // appear at the next refresh
	synced time.Time
	err    error
}

func (f *fakeFeeds) Feed(name string) (catalog.Feed, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	feed, ok := f.feeds[name]
	return feed, ok
}

func (f *fakeFeeds) Refresh(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, v := range f.late {
		f.feeds[k] = v
	}
	if f.err == nil {
		f.synced = time.Now()
	}
	return f.err
}

func (f *fakeFeeds) Synced() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.synced
}

// fakeProducer keeps what it is given. Judge, if set, decides on each record.
type fakeProducer struct {
	mu    sync.Mutex
	recs  []broker.ProduceRecord
	calls int
	judge func(call, index int, r broker.ProduceRecord) error
	hold  chan struct{} // if set, Produce waits for it or ctx
}

func (f *fakeProducer) Run(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func (f *fakeProducer) Produce(ctx context.Context, _ string, recs []broker.ProduceRecord) ([]broker.Produced, error) {
	f.mu.Lock()
	call, hold := f.calls, f.hold
	f.calls++
	f.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return sameForAll(len(recs), ctx.Err()), ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]broker.Produced, len(recs))
	for i, r := range recs {
		if f.judge != nil {
			if err := f.judge(call, i, r); err != nil {
				out[i] = broker.Produced{Partition: -1, Offset: -1, Err: err}
				continue
			}
		}
		out[i] = broker.Produced{Partition: max(r.Partition, 0), Offset: int64(len(f.recs))}
		f.recs = append(f.recs, r)
	}
	return out, nil
}

func (f *fakeProducer) all() []broker.ProduceRecord {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]broker.ProduceRecord(nil), f.recs...)
}

// fakeRegistry speaks as much of Confluent's API as the room needs.
type fakeRegistry struct {
	mu      sync.Mutex
	byID    []string          // id-1 -> schema
	latest  map[string]uint32 // subject -> id
	down    bool
	refuses bool // registrations
}

func (f *fakeRegistry) register(subject, schema string) uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.byID = append(f.byID, schema)
	f.latest[subject] = uint32(len(f.byID))
	return uint32(len(f.byID))
}

func (f *fakeRegistry) set(down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = down
}

func (f *fakeRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	down, refuses := f.down, f.refuses
	f.mu.Unlock()
	if down {
		http.Error(w, "down", http.StatusInternalServerError)
		return
	}
	fail := func(status, code int) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"error_code":%d,"message":"no"}`, code)
	}
	var subject string
	var id uint32
	switch {
	case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/versions"):
		if refuses {
			fail(http.StatusConflict, 409)
			return
		}
		var in struct{ Schema string }
		_ = json.NewDecoder(r.Body).Decode(&in)
		subject = strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/subjects/"), "/versions")
		id = f.register(subject, in.Schema)
	case strings.HasSuffix(r.URL.Path, "/versions/latest"):
		subject = strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/subjects/"), "/versions/latest")
		f.mu.Lock()
		id = f.latest[subject]
		f.mu.Unlock()
	default:
		_, _ = fmt.Sscanf(r.URL.Path, "/schemas/ids/%d", &id)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if id == 0 || int(id) > len(f.byID) {
		fail(http.StatusNotFound, 40401)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"id": id, "version": 1, "subject": subject, "schema": f.byID[id-1]})
}

// bench is a room on fakes, with its HTTP server.
type bench struct {
	t        *testing.T
	s        *Service
	feeds    *fakeFeeds
	producer *fakeProducer
	registry *fakeRegistry
	config   map[string]map[string]string
	metrics  *prometheus.Registry
	url      string
	stop     context.CancelFunc
	done     chan error
}

func feed(name, format string, partitions int) catalog.Feed {
	f := catalog.Feed{Name: name, Format: format}
	f.Topic = broker.Topic{Name: "kafka." + name, ID: stream.TopicID{1}}
	for i := range partitions {
		f.Partitions = append(f.Partitions, broker.Partition{ID: int32(i)})
	}
	return f
}

func newBench(t *testing.T, change ...func(*Options)) *bench {
	t.Helper()
	b := &bench{
		t: t,
		feeds: &fakeFeeds{synced: time.Now(), feeds: map[string]catalog.Feed{
			"quotes": feed("quotes", catalog.FormatAvro, 2),
			"json":   feed("json", catalog.FormatJSON, 2),
			"text":   feed("text", catalog.FormatString, 1),
			"raw":    feed("raw", catalog.FormatBytes, 1),
			"empty":  feed("empty", catalog.FormatAvro, 1),
			"state":  feed("state", catalog.FormatJSON, 1),
		}},
		producer: &fakeProducer{},
		registry: &fakeRegistry{latest: make(map[string]uint32)},
		metrics:  prometheus.NewRegistry(),
		config: map[string]map[string]string{
			"kafka.state": {"cleanup.policy": "compact,delete", "max.message.bytes": "1536"},
		},
	}
	b.registry.register("kafka.quotes-value", quoteSchema)
	rs := httptest.NewServer(b.registry)
	t.Cleanup(rs.Close)
	r, err := schemas.NewRegistry(schemas.RegistryOptions{URL: rs.URL})
	require.NoError(t, err)
	o := Options{Registry: r, Registerer: b.metrics, Timeout: 5 * time.Second}
	for _, c := range change {
		c(&o)
	}
	b.s, err = newService(o, b.feeds, b.producer, func(_ context.Context, topic string) (map[string]string, error) {
		return b.config[topic], nil
	})
	require.NoError(t, err)
	mux := http.NewServeMux()
	b.s.Register(mux)
	hs := httptest.NewServer(mux)
	t.Cleanup(hs.Close)
	b.url = hs.URL
	b.run()
	return b
}

// run starts the room and waits until it is open.
func (b *bench) run() {
	ctx, cancel := context.WithCancel(context.Background())
	b.stop, b.done = cancel, make(chan error, 1)
	go func() { b.done <- b.s.Run(ctx) }()
	require.Eventually(b.t, b.s.gate.isOpen, 30*time.Second, time.Millisecond)
	b.t.Cleanup(cancel)
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	text   string
	body   struct {
		Code    string
		Message string
		Errors  []fieldError
		Offsets []struct {
			Partition int32
			Offset    int64
			Error     string
		}
		Events  int64
		Unknown int64
		Line    int64
		Last    []position
	}
}

func (b *bench) post(path, contentType string, body io.Reader, header ...string) answer {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, b.url+path, body)
	require.NoError(b.t, err)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(b.t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(b.t, err)
	a := answer{status: res.StatusCode, header: res.Header, text: string(text)}
	_ = json.Unmarshal(text, &a.body)
	return a
}

func (b *bench) events(topic, body string) answer {
	b.t.Helper()
	return b.post("/v1/topics/"+topic+"/events", typeJSON, strings.NewReader(body))
}

func (b *bench) stream(topic, body string) answer {
	b.t.Helper()
	return b.post("/v1/topics/"+topic+"/events", typeNDJSON, strings.NewReader(body))
}

// decoded returns the JSON of what was written to an Avro feed.
func (b *bench) decoded(i int) string {
	b.t.Helper()
	d, err := schemas.NewDecoder(catalog.FormatAvro, b.s.o.Registry)
	require.NoError(b.t, err)
	out, err := d.AppendJSON(b.t.Context(), nil, b.producer.all()[i].Value)
	require.NoError(b.t, err)
	return string(out)
}
