package market

import (
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/internal/stream"
	"github.com/tapecast/tapecast/schemas"
	"github.com/tapecast/tapecast/schemas/registry"
)

var noon = time.UnixMicro(1546383600078123)

func TestTheWalkFitsItsSchemasAndRepeats(t *testing.T) {
	codecs := make(map[string]*schemas.Codec)
	for _, name := range Topics() {
		text, ok := schemas.Embedded(name)
		require.True(t, ok, name)
		c, err := schemas.Compile(text)
		require.NoError(t, err)
		codecs[name] = c
	}
	symbols := append(DefaultSymbols(), `odd "one"`, "ACME")
	a, b := newWalk(7, symbols), newWalk(7, symbols)
	count := make(map[string]int)
	for i := range 20_000 {
		e := a.next(noon)
		require.Equal(t, e, b.next(noon))
		avro, err := codecs[e.topic].AppendAvro(nil, e.json)
		require.NoError(t, err, "%s", e.json)
		back, err := codecs[e.topic].AppendJSON(nil, avro)
		require.NoError(t, err)
		require.JSONEq(t, string(e.json), string(back))
		count[e.topic]++
		if e.topic == TopicPrice {
			require.Empty(t, e.key)
			n, err := strconv.Atoi(string(e.json))
			require.NoError(t, err)
			require.InDelta(t, priceStart, n, 300)
			if count[TopicPrice] == 1 {
				require.Equal(t, priceStart, n)
			}
			continue
		}
		var v struct {
			Symbol   string
			Bid, Ask float64
			Price    float64
			TradeID  int64 `json:"trade_id"`
			TS       int64
		}
		require.NoError(t, json.Unmarshal(e.json, &v))
		require.Equal(t, e.key, v.Symbol)
		require.Equal(t, noon.UnixMicro(), v.TS)
		if e.topic == TopicQuotes {
			require.Greater(t, v.Ask, v.Bid, i)
			require.Positive(t, v.Bid)
		} else {
			require.Positive(t, v.Price)
			require.Positive(t, v.TradeID)
		}
	}
	for _, name := range Topics() {
		require.Greater(t, count[name], 1000, name)
	}
	require.NotEqual(t, newWalk(1, symbols).next(noon), newWalk(2, symbols).next(noon))
}

func TestTheMarketSurvivesKafkaBeingAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		away, wrote := false, 0
		m := &maker{o: Options{Rate: 50}.forTest(), walk: newWalk(1, DefaultSymbols()), tapes: testTapes(t)}
		m.produce = func(_ context.Context, _ string, recs []broker.ProduceRecord) ([]broker.Produced, error) {
			mu.Lock()
			defer mu.Unlock()
			if away {
				return nil, syscall.ECONNREFUSED
			}
			wrote += len(recs)
			out := make([]broker.Produced, len(recs))
			return out, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); m.loop(ctx) }()
		step := func(isAway bool) int {
			mu.Lock()
			away, wrote = isAway, 0
			mu.Unlock()
			time.Sleep(10 * time.Second)
			mu.Lock()
			defer mu.Unlock()
			return wrote
		}
		require.InDelta(t, 500, step(false), 5, "50 a second")
		require.Zero(t, step(true))
		require.InDelta(t, 500, step(false), 60)
		cancel()
		<-done
	})
}

func (o Options) forTest() Options {
	o.Logger = discard
	return o
}

func testTapes(t *testing.T) map[string]tape {
	tapes := make(map[string]tape)
	for i, name := range Topics() {
		text, _ := schemas.Embedded(name)
		c, err := schemas.Compile(text)
		require.NoError(t, err)
		tapes[name] = tape{topic: name, id: uint32(i + 1), codec: c}
	}
	return tapes
}

func TestARecordThatFailsIsAnError(t *testing.T) {
	m := &maker{o: Options{}.forTest(), walk: newWalk(1, DefaultSymbols()), tapes: testTapes(t)}
	m.produce = func(_ context.Context, _ string, recs []broker.ProduceRecord) ([]broker.Produced, error) {
		out := make([]broker.Produced, len(recs))
		out[len(out)-1].Err = errors.New("no")
		return out, nil
	}
	require.Error(t, m.write(t.Context(), 10, noon))
	_, ok := schemas.Embedded("no such")
	require.False(t, ok)
	require.Error(t, Run(t.Context(), Options{}))
}

func TestSetupAndRun(t *testing.T) {
	env := brokertest.Start(t)
	server, err := registry.Open(t.TempDir(), nil)
	require.NoError(t, err)
	defer server.Close()
	hs := httptest.NewServer(server.Handler())
	defer hs.Close()
	reg, err := schemas.NewRegistry(schemas.RegistryOptions{URL: hs.URL})
	require.NoError(t, err)
	for range 2 { // again does no harm
		require.NoError(t, Setup(t.Context(), env.Client, reg))
	}
	config, err := env.Client.TopicConfig(t.Context(), TopicQuotes)
	require.NoError(t, err)
	require.Equal(t, retentionMillis, config["retention.ms"])
	require.Equal(t, retentionBytes, config["retention.bytes"])

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, Options{Client: env.Client, Registry: reg, Rate: 1000, Seed: 1}) }()
	for _, topic := range Topics() {
		r := env.Client.NewReader(topic, stream.TopicID{}, 0)
		d, err := schemas.NewDecoder("avro", reg)
		require.NoError(t, err)
		seen := 0
		for from := int64(0); seen < 20; {
			span, err := r.Read(t.Context(), from, 1<<20, 500*time.Millisecond)
			require.NoError(t, err)
			for _, rec := range span.Records {
				text, err := d.AppendJSON(t.Context(), nil, rec.Value)
				require.NoError(t, err)
				require.NotZero(t, rec.Accepted)
				require.Equal(t, topic == TopicPrice, rec.Key == nil)
				if topic == TopicPrice && rec.Offset == 0 {
					require.Equal(t, "1024", string(text))
				}
				seen++
			}
			from = span.To
		}
		r.Close()
	}
	cancel()
	require.NoError(t, <-done)
}
