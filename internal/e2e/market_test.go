package e2e

import (
	"context"
	"encoding/csv"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/client"
	"github.com/tapecast/tapecast/internal/brokertest"
)

// marketDir names a folder with recorded data (quotes.csv and trades.csv: see
// the header rows below); without it the test makes data of the same form.
const marketDir = "TAPECAST_TEST_MARKET_DIR"

// quote is a row of quotes.csv as a client must see it.
type quote struct {
	Symbol  string  `json:"symbol"`
	Bid     float64 `json:"bid"`
	Ask     float64 `json:"ask"`
	BidSize int64   `json:"bid_size"`
	AskSize int64   `json:"ask_size"`
	TS      int64   `json:"ts"` // microseconds
}

type trade struct {
	Symbol     string  `json:"symbol"`
	TradeID    int64   `json:"trade_id"`
	Price      float64 `json:"price"`
	Quantity   float64 `json:"quantity"`
	BuyerMaker bool    `json:"buyer_maker"`
	TS         int64   `json:"ts"`
}

func marketData(t *testing.T) (quotesFile, tradesFile string) {
	t.Helper()
	if dir := os.Getenv(marketDir); dir != "" {
		return filepath.Join(dir, "quotes.csv"), filepath.Join(dir, "trades.csv")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var q, tr strings.Builder
	q.WriteString("ts_ns,symbol,bid,ask,bid_size,ask_size\n")
	tr.WriteString("ts_ns,symbol,trade_id,price,quantity,buyer_maker\n")
	now := time.Now().Add(-time.Hour).UnixMilli() * 1e6
	for i := range 20000 {
		now += rng.Int64N(200) * 1e6
		s := []string{"EURUSD", "USDJPY"}[rng.IntN(2)]
		bid := 100 + rng.Float64()
		fmt.Fprintf(&q, "%d,%s,%.5f,%.5f,%d,1000000\n", now, s, bid, bid+0.0001, 1+rng.IntN(5000000))
		if i%10 == 0 {
			fmt.Fprintf(&tr, "%d,BTCUSDT,%d,%.2f,%.6f,%t\n", now, 1000+i, 39000+rng.Float64(), rng.Float64(), rng.IntN(2) == 0)
		}
	}
	dir := t.TempDir()
	quotesFile, tradesFile = filepath.Join(dir, "quotes.csv"), filepath.Join(dir, "trades.csv")
	require.NoError(t, os.WriteFile(quotesFile, []byte(q.String()), 0o600))
	require.NoError(t, os.WriteFile(tradesFile, []byte(tr.String()), 0o600))
	return quotesFile, tradesFile
}

func rows(t *testing.T, file string) []map[string]string {
	t.Helper()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	all, err := csv.NewReader(f).ReadAll()
	require.NoError(t, err)
	out := make([]map[string]string, 0, len(all)-1)
	for _, r := range all[1:] {
		m := map[string]string{}
		for i, h := range all[0] {
			m[h] = r[i]
		}
		out = append(out, m)
	}
	return out
}

func number(t *testing.T, s string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(s, 64)
	require.NoError(t, err)
	return v
}

func integer(t *testing.T, s string) int64 {
	t.Helper()
	v, err := strconv.ParseInt(s, 10, 64)
	require.NoError(t, err)
	return v
}

func readQuotes(t *testing.T, file string) (out []quote) {
	for _, r := range rows(t, file) {
		out = append(out, quote{r["symbol"], number(t, r["bid"]), number(t, r["ask"]),
			integer(t, r["bid_size"]), integer(t, r["ask_size"]), integer(t, r["ts_ns"]) / 1000})
	}
	return out
}

func readTrades(t *testing.T, file string) (out []trade) {
	for _, r := range rows(t, file) {
		out = append(out, trade{r["symbol"], integer(t, r["trade_id"]), number(t, r["price"]), number(t, r["quantity"]),
			r["buyer_maker"] == "true", integer(t, r["ts_ns"]) / 1000})
	}
	return out
}

// follow reads one subscription and holds it against the rows that it must give.
func follow(ctx context.Context, urls []string, topic string, o client.SubscribeOptions, want []quote, ready chan<- struct{}) error {
	c, err := client.Dial(ctx, client.Options{URLs: urls})
	if err != nil {
		return err
	}
	defer c.Close()
	sub, err := c.Subscribe(ctx, topic, o)
	if err != nil {
		return err
	}
	for i := 0; i < len(want); {
		f, err := sub.Next(ctx)
		if err != nil {
			return fmt.Errorf("after %d of %d rows: %w", i, len(want), err)
		}
		switch f.Kind {
		case client.KindSubscribed:
			if ready != nil {
				close(ready)
				ready = nil
			}
		case client.KindGap, client.KindReset, client.KindEnd:
			return fmt.Errorf("after %d of %d rows: %s", i, len(want), f.Raw)
		case client.KindData:
			var q quote
			if err := f.Decode(&q); err != nil {
				return err
			}
			if q != want[i] || f.Key != q.Symbol || f.Time != q.TS/1000 {
				return fmt.Errorf("row %d: got %s, want %+v", i, f.Raw, want[i])
			}
			i++
		}
	}
	if n, bad := sub.Violations(); n > 0 {
		return fmt.Errorf("violations: %v", bad)
	}
	return nil
}

func of(quotes []quote, symbol string) []quote {
	return slices.DeleteFunc(slices.Clone(quotes), func(q quote) bool { return q.Symbol != symbol })
}

// TestMarketData publishes recorded quotes and trades at full speed and holds
// every kind of subscriber against the file.
func TestMarketData(t *testing.T) {
	quotesFile, tradesFile := marketData(t)
	quotes, trades := readQuotes(t, quotesFile), readTrades(t, tradesFile)
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		s := newStack(t, strings.Join(env.Addrs, ","), 2, 2)
		m := &market{t: t, s: s, quotes: quotes, qt: brokertest.Name(t, "quotes"), tt: brokertest.Name(t, "trades")}
		bin, err := binary()
		require.NoError(t, err)
		for topic, schema := range map[string]string{m.qt: "quotes", m.tt: "trades"} {
			run(t, bin, "topics", "create", topic, "--partitions", "1", "--replicas", "1", "--schema", "../../schemas/"+schema+".avsc",
				"--kafka", s.brokers, "--registry", s.registry)
			s.awaitTopic(t, topic)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
		defer cancel()
		m.live(ctx, func() {
			out := run(t, bin, "pub", m.qt, quotesFile, "--key", "symbol", "--time", "ts_ns", "--kafka", s.brokers, "--registry", s.registry)
			t.Logf("%s", out)
			run(t, bin, "pub", m.tt, tradesFile, "--key", "symbol", "--time", "ts_ns", "--kafka", s.brokers, "--registry", s.registry)
		})
		m.trades(ctx, trades)
		m.resumed(ctx)
		m.fromTime(ctx)
		m.snapshot(ctx)
		brokertest.Report(t, fmt.Sprintf("%d quotes and %d trades at full speed on %s", len(quotes), len(trades), env.Name))
	})
}

type market struct {
	t      *testing.T
	s      *stack
	quotes []quote
	qt, tt string
}

// live subscribes, all keys and one, at both gateways, publishes, and reads.
func (m *market) live(ctx context.Context, publish func()) {
	g, gctx := errgroup.WithContext(ctx)
	var all []chan struct{}
	for _, url := range m.s.ws {
		for _, key := range []string{"", "EURUSD", "USDJPY"} {
			o, want := client.SubscribeOptions{}, m.quotes
			if key != "" {
				o.Keys, want = []string{key}, of(m.quotes, key)
			}
			ready := make(chan struct{})
			all = append(all, ready)
			g.Go(func() error { return follow(gctx, []string{url}, m.qt, o, want, ready) })
		}
	}
	for _, r := range all {
		select {
		case <-r:
		case <-gctx.Done():
			require.NoError(m.t, g.Wait())
		}
	}
	publish()
	require.NoError(m.t, g.Wait())
}

func (m *market) trades(ctx context.Context, want []trade) {
	c, err := client.Dial(ctx, client.Options{URLs: m.s.ws})
	require.NoError(m.t, err)
	defer c.Close()
	sub, err := c.Subscribe(ctx, m.tt, client.SubscribeOptions{From: client.Earliest()})
	require.NoError(m.t, err)
	for i := range want {
		var got trade
		f := nextData(m.t, ctx, sub)
		require.NoError(m.t, f.Decode(&got))
		require.Equal(m.t, want[i], got)
	}
}

// resumed goes on at 1,000 random offsets, a hundred of them to the end.
func (m *market) resumed(ctx context.Context) {
	rng := rand.New(rand.NewPCG(3, 4))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(50)
	for i := range 1000 {
		at := rng.IntN(len(m.quotes))
		end := len(m.quotes)
		if i%10 != 0 {
			end = min(end, at+200)
		}
		o := client.SubscribeOptions{From: client.Offsets(map[int32]int64{0: int64(at)}, "")}
		want := m.quotes[at:end]
		if i%3 == 0 {
			o.Keys = []string{"EURUSD"}
			want = of(want, "EURUSD")
		}
		url := m.s.ws[i%len(m.s.ws)]
		g.Go(func() error {
			if err := follow(gctx, []string{url}, m.qt, o, want, nil); err != nil {
				return fmt.Errorf("resumed at %d: %w", at, err)
			}
			return nil
		})
	}
	require.NoError(m.t, g.Wait())
}

func (m *market) fromTime(ctx context.Context) {
	at := m.quotes[len(m.quotes)/3].TS / 1000
	first := slices.IndexFunc(m.quotes, func(q quote) bool { return q.TS/1000 >= at })
	o := client.SubscribeOptions{From: client.Time(time.UnixMilli(at))}
	require.NoError(m.t, follow(ctx, m.s.ws, m.qt, o, m.quotes[first:], nil))
}

func (m *market) snapshot(ctx context.Context) {
	newest := map[string]quote{}
	for _, q := range m.quotes {
		newest[q.Symbol] = q
	}
	c, err := client.Dial(ctx, client.Options{URLs: m.s.ws})
	require.NoError(m.t, err)
	defer c.Close()
	sub, err := c.Subscribe(ctx, m.qt, client.SubscribeOptions{Mode: "snapshot"})
	require.NoError(m.t, err)
	got := map[string]quote{}
	for range newest {
		f := nextData(m.t, ctx, sub)
		require.True(m.t, f.Snapshot, "%s", f.Raw)
		var q quote
		require.NoError(m.t, f.Decode(&q))
		got[f.Key] = q
	}
	require.Equal(m.t, slices.Sorted(maps.Keys(newest)), slices.Sorted(maps.Keys(got)))
	require.Equal(m.t, newest, got)
}
