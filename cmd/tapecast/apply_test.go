package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// planFile writes a plan and the schemas beside it.
func planFile(t *testing.T, plan string, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	path := filepath.Join(dir, "topics.yaml")
	require.NoError(t, os.WriteFile(path, []byte(plan), 0o600))
	return path
}

func TestApplyMakesWhatIsMissingAndSaysWhatDiffers(t *testing.T) {
	d := startDev(t, "--no-demo", "--data-dir", t.TempDir())
	files := map[string]string{"id.avsc": `"long"`}
	plan := `
topics:
  - {name: orders, partitions: 2, schema: id.avsc, config: {retention.ms: 3600000}}
  - {name: plain}
schemas:
  - {subject: other, file: id.avsc}
`
	first := planFile(t, plan, files)
	code, out, msg := d.tool(t, "", "topics", "apply", first)
	require.Zero(t, code, msg)
	require.Contains(t, out, "topic orders: created, subject orders-value, schema ")
	require.Contains(t, out, "topic plain: created\n")
	require.Contains(t, out, "subject other, schema ")

	code, out, msg = d.tool(t, "", "topics", "apply", first, "--json")
	require.Zero(t, code, msg)
	require.NotContains(t, out, "created")

	// All differences at once, and nothing is changed.
	other := planFile(t, strings.NewReplacer("partitions: 2", "partitions: 3", "3600000", "60000", "{name: plain}", "{name: plain, config: {retention.ms: 5}}").Replace(plan), files)
	code, _, msg = d.tool(t, "", "topics", "apply", other)
	require.Equal(t, exitRuntime, code)
	require.Contains(t, msg, "topic orders has 2 partitions, the file says 3")
	require.Contains(t, msg, `topic plain was made with other settings: retention.ms is "-1", the file says "5"`)

	fewer := planFile(t, strings.ReplaceAll(plan, "partitions: 2", "partitions: 1"), files)
	code, _, msg = d.tool(t, "", "topics", "apply", fewer)
	require.Equal(t, exitRuntime, code)
	require.Contains(t, msg, "Kafka cannot take partitions away")

	more := planFile(t, strings.ReplaceAll(plan, "partitions: 2", "partitions: 3"), files)
	code, out, msg = d.tool(t, "", "topics", "apply", more, "--grow")
	require.Zero(t, code, msg)
	require.Contains(t, out, "topic orders: partitions added")
}

func TestApplyRefusesPlansThatCannotBe(t *testing.T) {
	files := map[string]string{"bad.avsc": `"lon"`}
	for _, c := range []struct{ plan, want string }{
		{"", "names no topic and no schema"},
		{"topics: [{nam: x}]", "topics.yaml:1: field nam not found"},
		{"topics: [{name: x}, {name: x}]", "topic x stands twice"},
		{"topics: [{name: 'a b'}]", `name "a b" is not a Kafka topic's name`},
		{"topics: [{name: x, partitions: -1}]", "partitions must be at least 1"},
		{"topics: [{name: tapecast.x}]", "tapecast's own"},
		{"topics: [{name: x, schema: nothere.avsc}]", "topic x: open "},
		{"topics: [{name: x, schema: bad.avsc}]", "bad.avsc: "},
		{"schemas: [{subject: x}]", "needs a subject and a file"},
		{"topics: [", "topics.yaml"},
	} {
		code, _, msg := call(t, nil, "topics", "apply", planFile(t, c.plan, files))
		require.NotZero(t, code, c.plan)
		require.Contains(t, msg, c.want, c.plan)
	}
	code, _, msg := call(t, nil, "topics", "apply", "/nowhere/topics.yaml")
	require.Equal(t, exitRuntime, code)
	require.Contains(t, msg, "/nowhere/topics.yaml")
}

func TestApplyWaitsForKafka(t *testing.T) {
	plan := planFile(t, "topics: [{name: x}]", nil)
	code, _, msg := call(t, nil, "topics", "apply", plan, "--kafka", "127.0.0.1:1")
	require.Equal(t, exitRuntime, code)
	require.Contains(t, msg, "no Kafka broker answers")

	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	out := &screen{}
	code = run(ctx, system{in: strings.NewReader(""), out: out, err: out}, []string{"topics", "apply", plan, "--kafka", "127.0.0.1:1", "--wait", "1h"})
	require.Equal(t, exitRuntime, code)
	require.Error(t, ctx.Err(), "it waited")
}

func TestApplyTriesASlowRegistryAgain(t *testing.T) {
	d := startDev(t, "--no-demo", "--data-dir", t.TempDir())
	target, err := url.Parse(d.registry)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	var refused atomic.Int32
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && refused.Add(1) <= 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		r.Host = target.Host
		proxy.ServeHTTP(w, r)
	}))
	defer slow.Close()
	plan := planFile(t, "topics: [{name: x, schema: id.avsc}]", map[string]string{"id.avsc": `"long"`})
	code, out, msg := d.tool(t, "", "topics", "apply", plan, "--registry", slow.URL, "--wait", "1m")
	require.Zero(t, code, msg)
	require.Contains(t, out, "topic x: created")
	require.Greater(t, refused.Load(), int32(2))
}

func TestMarketWritesWhereItIsTold(t *testing.T) {
	d := startDev(t, "--no-demo", "--data-dir", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	code, log := make(chan int, 1), &screen{}
	go func() {
		code <- run(ctx, system{in: strings.NewReader(""), out: log, err: log}, []string{
			"market", "--kafka", d.kafka, "--registry", d.registry, "--admin-listen", "127.0.0.1:0", "--rate", "500", "--symbols", "ACME",
		})
	}()
	c, out, msg := d.tool(t, "", "sub", "quotes", "--from", "earliest", "--count", "3", "--quiet", "--url", d.http)
	require.Zero(t, c, msg)
	require.Equal(t, 3, strings.Count(out, `"key":"ACME"`), out)
	cancel()
	require.Zero(t, <-code, log)

	for _, args := range [][]string{
		{"--rate", "0"}, {"--registry", ""}, {"--admin-listen", "8094"}, {"--log-level", "loud"}, {"now"}, {"--kafka", "x"},
	} {
		c, _, msg := call(t, nil, append([]string{"market"}, args...)...)
		require.Equal(t, exitUsage, c, "%v: %s", args, msg)
	}
}

func TestHealthAsksAndTells(t *testing.T) {
	ready := true
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" && !ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write([]byte(`{"asked":"` + r.URL.Path + `"}`))
	}))
	defer s.Close()
	code, out, _ := call(t, nil, "health", s.URL)
	require.Zero(t, code)
	require.Contains(t, out, "/readyz")
	ready = false
	code, _, msg := call(t, nil, "health", s.URL)
	require.Equal(t, exitRuntime, code)
	require.Contains(t, msg, `status 503: {"asked":"/readyz"}`)
	code, _, _ = call(t, nil, "health", s.URL+"/healthz")
	require.Zero(t, code)
	s.Close()
	code, _, msg = call(t, nil, "health", s.URL)
	require.Equal(t, exitRuntime, code)
	require.Contains(t, msg, "no answer")
	for _, bad := range []string{"127.0.0.1:8080", "ftp://x", "http://"} {
		code, _, _ = call(t, nil, "health", bad)
		require.Equal(t, exitUsage, code, bad)
	}
}
