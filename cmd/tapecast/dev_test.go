package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// screen is a writer that a test can read while a command writes.
type screen struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// devProcess is a running `tapecast dev`.
type devProcess struct {
	http, kafka, registry string
	out, err              *screen
	stop                  func() int // ends it and returns the exit code
}

var bannerLine = regexp.MustCompile(`(?m)^  (page|Kafka|registry)\s+(\S+)`)

func startDev(t *testing.T, args ...string) *devProcess {
	t.Helper()
	d := &devProcess{out: &screen{}, err: &screen{}}
	ctx, cancel := context.WithCancel(context.Background())
	code := make(chan int, 1)
	args = append([]string{"dev", "--listen", "127.0.0.1:0", "--kafka-listen", "127.0.0.1:0", "--registry-listen", "127.0.0.1:0"}, args...)
	go func() { code <- run(ctx, system{in: strings.NewReader(""), out: d.out, err: d.err}, args) }()
	d.stop = sync.OnceValue(func() int { cancel(); return <-code })
	t.Cleanup(func() { d.stop() })
	require.Eventually(t, func() bool { return strings.Contains(d.out.String(), "Ctrl-C stops it.") }, 60*time.Second, 10*time.Millisecond,
		"no banner; stderr: %s", d.err)
	for _, m := range bannerLine.FindAllStringSubmatch(d.out.String(), -1) {
		switch m[1] {
		case "page":
			d.http = strings.TrimSuffix(m[2], "/")
		case "Kafka":
			d.kafka = m[2]
		case "registry":
			d.registry = m[2]
		}
	}
	return d
}

// tool runs one of the tools for people against the process.
func (d *devProcess) tool(t *testing.T, stdin string, args ...string) (code int, out, msg string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var o, e bytes.Buffer
	env := []string{"TAPECAST_KAFKA_BROKERS=" + d.kafka, "TAPECAST_REGISTRY_URL=" + d.registry}
	code = run(ctx, system{in: strings.NewReader(stdin), out: &o, err: &e, environ: env}, args)
	return code, o.String(), e.String()
}

func (d *devProcess) get(t *testing.T, path string) (int, string) {
	t.Helper()
	res, err := http.Get(d.http + path)
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(b)
}

// knows waits until a topic that was made just now can be subscribed.
func (d *devProcess) knows(t *testing.T, topic string) {
	t.Helper()
	require.Eventually(t, func() bool {
		code, _ := d.get(t, "/v1/topics/"+topic)
		return code == http.StatusOK
	}, 30*time.Second, 10*time.Millisecond)
}

// all subscribes to everything there is and returns the frames.
func (d *devProcess) all(t *testing.T, topic string, args ...string) []frame {
	t.Helper()
	args = append([]string{"sub", topic, "--from", "earliest", "--until", "live", "--quiet", "--url", "ws" + strings.TrimPrefix(d.http, "http") + "/ws"}, args...)
	code, out, msg := d.tool(t, "", args...)
	require.Zero(t, code, "%s", msg)
	var frames []frame
	for line := range strings.Lines(out) {
		var f frame
		require.NoError(t, json.Unmarshal([]byte(line), &f), "%s", line)
		frames = append(frames, f)
	}
	return frames
}

type frame struct {
	Topic, Key string
	Offset, TS int64
	Data       json.RawMessage
}

// quotesFile makes a recording as the venues' are: nanoseconds, no key column of its own.
func quotesFile(t *testing.T, rows int) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("ts_ns,symbol,bid,ask,bid_size,ask_size\n")
	for i := range rows {
		fmt.Fprintf(&b, "%d,%s,1.%05d,1.%05d,1000000,%d\n", 1546383600071000000+int64(i)*1e6, []string{"USDJPY", "EURUSD"}[i%2], i, i+3, i)
	}
	file := filepath.Join(t.TempDir(), "quotes.csv")
	require.NoError(t, os.WriteFile(file, []byte(b.String()), 0o600))
	return file
}

func TestANewcomersFirstMinutesAndARestart(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	d := startDev(t, "--no-demo", "--data-dir", data)

	code, out, msg := d.tool(t, "1024\n", "pub", "price")
	require.Zero(t, code, "%s", msg)
	require.Contains(t, out, "1 row published to price")
	code, out, msg = d.tool(t, "", "pub", "quotes", quotesFile(t, 2000), "--key", "symbol", "--time", "ts_ns")
	require.Zero(t, code, "%s", msg)
	require.Contains(t, out, "2,000 rows published to quotes")
	require.Contains(t, out, "partition 0: offsets 0 to 1999")
	require.NotContains(t, msg, "warning", "an old recording is not deleted by age")

	check := func() {
		price := d.all(t, "price")
		require.Len(t, price, 1)
		require.JSONEq(t, "1024", string(price[0].Data))
		quotes := d.all(t, "quotes", "--key", "EURUSD")
		require.Len(t, quotes, 1000)
		for i, f := range quotes {
			require.Equal(t, int64(2*i+1), f.Offset)
			require.Equal(t, "EURUSD", f.Key)
			require.Equal(t, int64(1546383600071+2*i+1), f.TS)
		}
		require.JSONEq(t, `{"symbol":"EURUSD","bid":1.00001,"ask":1.00004,"bid_size":1000000,"ask_size":1,"ts":1546383600072000}`, string(quotes[0].Data))
	}
	check()

	code, text := d.get(t, "/readyz")
	require.Equal(t, http.StatusOK, code, text)
	code, text = d.get(t, "/metrics")
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, text, "tapecast_build_info")
	code, _ = d.get(t, "/debug/pprof/")
	require.Equal(t, http.StatusNotFound, code, "pprof is on the admin listener only")
	req, err := http.NewRequest(http.MethodGet, d.http+"/", http.NoBody)
	require.NoError(t, err)
	req.Host = "evil.example"
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusMisdirectedRequest, res.StatusCode)

	require.Zero(t, d.stop(), "%s", d.err)
	d = startDev(t, "--no-demo", "--data-dir", data)
	check()
	code, out, msg = d.tool(t, "7\n", "pub", "price")
	require.Zero(t, code, "%s", msg)
	require.Contains(t, out, "partition 0: offsets 1 to 1")
	require.Zero(t, d.stop())
}

func TestTopicsCanBeMadeListedAndDescribed(t *testing.T) {
	d := startDev(t, "--no-demo", "--data-dir", t.TempDir())
	schema := filepath.Join(t.TempDir(), "order.avsc")
	require.NoError(t, os.WriteFile(schema, []byte(`{"type":"record","name":"Order","fields":[{"name":"id","type":"long"}]}`), 0o600))

	code, out, msg := d.tool(t, "", "topics", "create", "orders", "--partitions", "3", "--schema", schema, "--config", "retention.ms=-1")
	require.Zero(t, code, "%s", msg)
	require.Contains(t, out, "created topic orders with 3 partitions")
	code, out, _ = d.tool(t, "", "topics", "create", "orders")
	require.Zero(t, code)
	require.Contains(t, out, "already there")

	code, _, msg = d.tool(t, "", "pub", "ordres")
	require.Equal(t, 1, code)
	require.Contains(t, msg, "there is no topic ordres; did you mean orders?")
	require.Contains(t, msg, "tapecast topics create ordres")

	var rows strings.Builder
	for i := range 60 {
		fmt.Fprintf(&rows, "{\"id\":%d}\n", i)
	}
	code, out, msg = d.tool(t, rows.String(), "pub", "orders", "--key", "id")
	require.Zero(t, code, "%s", msg)
	require.Contains(t, out, "60 rows published to orders")

	code, out, _ = d.tool(t, "", "topics")
	require.Zero(t, code)
	require.Regexp(t, `orders +3 +60\n`, out)
	require.NotContains(t, out, "tapecast.")
	code, out, _ = d.tool(t, "", "topics", "list", "--all")
	require.Zero(t, code)
	require.Contains(t, out, "tapecast.interest")

	d.knows(t, "orders")
	ctx, cancel := context.WithCancel(t.Context())
	frames := &screen{}
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, system{in: strings.NewReader(""), out: frames, err: io.Discard}, []string{
			"sub", "orders", "--key", "5", "--key", "6", "--from", "earliest", "--url", "ws" + strings.TrimPrefix(d.http, "http") + "/ws",
		})
	}()
	require.Eventually(t, func() bool { return strings.Count(frames.String(), "\n") == 2 }, 30*time.Second, 20*time.Millisecond)
	require.Eventually(t, func() bool {
		code, out, msg := d.tool(t, "", "topics", "describe", "orders", "--json")
		require.Zero(t, code, "%s", msg)
		var got described
		require.NoError(t, json.Unmarshal([]byte(out), &got))
		require.Len(t, got.Partitions, 3)
		require.Equal(t, 1, got.Schema.Version)
		for _, p := range got.Partitions {
			if p.Lag == nil || *p.Lag != 0 {
				return false
			}
		}
		return len(got.Subscribers) == 1 && got.Subscribers[0].Node == "dev" && got.Subscribers[0].Keys == 2 && !got.Subscribers[0].All
	}, 30*time.Second, 50*time.Millisecond)
	cancel()
	<-done

	code, out, msg = d.tool(t, "", "topics", "describe", "orders")
	require.Zero(t, code, "%s", msg)
	require.Contains(t, out, "version 1 of orders-value")
	code, _, msg = d.tool(t, "", "topics", "describe", "order")
	require.Equal(t, 1, code)
	require.Contains(t, msg, "did you mean orders?")
}

func TestPubMakesATopicFromItsSchemaAndStopsAtABadRow(t *testing.T) {
	d := startDev(t, "--no-demo", "--data-dir", t.TempDir())
	dir := t.TempDir()
	schema, rows := filepath.Join(dir, "s.avsc"), filepath.Join(dir, "rows.ndjson")
	require.NoError(t, os.WriteFile(schema, []byte(`{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}`), 0o600))
	require.NoError(t, os.WriteFile(rows, []byte("{\"a\":1}\n{\"a\":\"x\"}\n{\"a\":3}\n"), 0o600))
	code, out, msg := d.tool(t, "", "pub", "fresh", rows, "--schema", schema)
	require.Equal(t, 1, code)
	require.Contains(t, msg, "made topic fresh with 1 partition")
	require.Contains(t, msg, rows+":2: a:")
	require.Contains(t, out, "1 row published to fresh")
	code, out, msg = d.tool(t, "", "pub", "fresh", rows, "--on-error", "skip")
	require.Zero(t, code)
	require.Contains(t, msg, "skipped "+rows+":2: a:")
	require.Contains(t, out, "2 rows published to fresh")
	require.Contains(t, out, "1 bad row skipped")
	d.knows(t, "fresh")
	require.Len(t, d.all(t, "fresh"), 3)

	code, _, msg = d.tool(t, "", "topics", "create", "bare")
	require.Zero(t, code, "%s", msg)
	code, _, msg = d.tool(t, "1", "pub", "bare")
	require.Equal(t, 1, code)
	require.Contains(t, msg, "topic bare has no schema")
}

func TestTheDemoMarketRuns(t *testing.T) {
	d := startDev(t, "--data-dir", t.TempDir())
	for _, topic := range []string{"quotes", "trades", "price"} {
		code, out, msg := d.tool(t, "", "sub", topic, "--count", "2", "--quiet", "--url", "ws"+strings.TrimPrefix(d.http, "http")+"/ws")
		require.Zero(t, code, "%s", msg)
		require.Equal(t, 2, strings.Count(out, "\n"), "%s", out)
	}
}

func TestATakenPortOrDirectoryNamesTheFlag(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	d := startDev(t, "--no-demo", "--data-dir", data)
	addr := strings.TrimPrefix(d.http, "http://")
	free := []string{"--listen", "127.0.0.1:0", "--kafka-listen", "127.0.0.1:0", "--registry-listen", "127.0.0.1:0"}
	for _, flag := range []string{"--listen", "--kafka-listen", "--registry-listen", "--admin-listen"} {
		code, _, msg := call(t, nil, append(append([]string{"dev", "--data-dir", t.TempDir()}, free...), flag, addr)...)
		require.Equal(t, 1, code, flag)
		require.Contains(t, msg, addr+" is taken by another process", flag)
		require.Contains(t, msg, "choose another address with "+flag, flag)
		require.Equal(t, 1, strings.Count(msg, "\n"), "one clear error: %s", msg)
	}
	code, _, msg := call(t, nil, append([]string{"dev", "--data-dir", data}, free...)...)
	require.Equal(t, 1, code)
	require.Contains(t, msg, "in use by another process")
	require.Contains(t, msg, "--data-dir")
}

func TestDevOnARealClusterAndRegistry(t *testing.T) {
	d := startDev(t, "--no-demo", "--data-dir", t.TempDir())
	out, msg := &screen{}, &screen{}
	ctx, cancel := context.WithCancel(t.Context())
	code := make(chan int, 1)
	data := filepath.Join(t.TempDir(), "unused")
	go func() {
		code <- run(ctx, system{in: strings.NewReader(""), out: out, err: msg}, []string{
			"dev", "--listen", "127.0.0.1:0", "--kafka", d.kafka, "--registry", d.registry, "--no-demo", "--data-dir", data,
		})
	}()
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "Ctrl-C stops it.") }, 60*time.Second, 10*time.Millisecond, "%s", msg)
	require.Contains(t, out.String(), "the cluster that --kafka names")
	require.NotContains(t, out.String(), "embedded")
	cancel()
	require.Zero(t, <-code)
	require.NoDirExists(t, data, "nothing is embedded, so nothing is kept")
}

func TestDevWithoutItsClusterSaysWhatItWaitsFor(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := ln.Addr().String()
	require.NoError(t, ln.Close())
	out, msg := &screen{}, &screen{}
	ctx, cancel := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, system{in: strings.NewReader(""), out: out, err: msg}, []string{
			"dev", "--listen", "127.0.0.1:0", "--registry-listen", "127.0.0.1:0", "--kafka", addr, "--data-dir", t.TempDir(), "--log-level", "error",
		})
	}()
	require.Eventually(t, func() bool { return strings.Contains(msg.String(), "still waiting for kafka") }, 60*time.Second, 20*time.Millisecond)
	require.Empty(t, out.String())
	cancel()
	require.Zero(t, <-code)
}
