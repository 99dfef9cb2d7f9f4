package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// pages are all help pages: a command line each.
func pages() [][]string {
	out := [][]string{{"topics", "list"}, {"topics", "create"}, {"topics", "describe"}, {"topics", "apply"}}
	for _, c := range commands() {
		out = append(out, []string{c.name})
	}
	return out
}

var example = regexp.MustCompile(`(?:^|\(| )tapecast ([a-z][^)>#|]*)`)

// TestExamplesOfTheHelpRun runs every example of every help page against a dev
// process: as it stands, but for addresses, and what makes it end.
func TestExamplesOfTheHelpRun(t *testing.T) {
	d := startDev(t, "--data-dir", t.TempDir())
	var seen []string
	examples := map[string][]string{}
	for _, page := range pages() {
		code, out, _ := call(t, nil, append(page, "--help")...)
		require.Zero(t, code, "%v", page)
		_, list, ok := strings.Cut(out, "\nExamples:\n")
		require.True(t, ok, "tapecast %v has no examples", page)
		for line := range strings.Lines(list) {
			if line = strings.TrimSpace(line); line != "" {
				examples[page[0]] = append(examples[page[0]], line)
			}
		}
	}
	dir := exampleFiles(t)
	t.Chdir(dir)
	places := regexp.MustCompile(`kafka:9092|k1:9092,k2:9092|localhost:19092`)
	registries := regexp.MustCompile(`http://registry:8081|http://localhost:18081`)
	processes := regexp.MustCompile(`http://127\.0\.0\.1:\d+`)
	for _, c := range commands() { // pub comes before sub, which reads what it wrote
		for _, line := range examples[c.name] {
			m := example.FindStringSubmatch(line)
			require.NotNil(t, m, line)
			text := places.ReplaceAllString(m[1], d.kafka)
			text = registries.ReplaceAllString(text, d.registry)
			text = regexp.MustCompile(`ws://gw\d:8080`).ReplaceAllString(text, strings.Replace(d.http, "http", "ws", 1))
			text = strings.NewReplacer("/etc/tapecast.yaml", "tapecast.yaml", "deploy/topics.yaml", "topics.yaml",
				"--replicas 3", "--replicas 1", "min.insync.replicas=2", "min.insync.replicas=1").Replace(text)
			if c.name == "health" || c.name == "top" {
				text = processes.ReplaceAllString(text, d.http)
			}
			in := ""
			if before, _, piped := strings.Cut(line, " | tapecast"); piped {
				in = strings.Trim(strings.TrimPrefix(before, "echo "), "'")
			}
			t.Log(text)
			code, out, msg := runExample(t, d, c.name, in, words(text))
			require.Zero(t, code, "%s: %s%s", line, out, msg)
			seen = append(seen, line)
		}
	}
	require.Greater(t, len(seen), 35)
}

// runExample adds what ends a command, or takes it to the dev process.
func runExample(t *testing.T, d *devProcess, name, in string, args []string) (code int, out, msg string) {
	t.Helper()
	limit := time.Minute
	switch name {
	case "dev": // it runs: with other ports
		args = append(args, "--help")
	case "ingest", "fanout", "gateway":
		args = append(args, "--print-config")
	case "sub":
		args = append(args, "--url", d.http)
		if !strings.Contains(strings.Join(args, " "), "--until") {
			args = append(args, "--count", "1")
		}
	case "market": // ended as Ctrl-C does
		args, limit = append(args, "--admin-listen", "127.0.0.1:0"), 3*time.Second
	case "loadtest":
		args = append(args, "--url", "ws"+strings.TrimPrefix(d.http, "http")+"/ws", "--subscribers", "4", "--rate", "200", "--duration", "200ms", "--resume", "0s", "--kafka", d.kafka, "--registry", d.registry)
	case "top":
		args = append(args, "--count", "1", "--every", "100ms", "--url", d.http)
	case "health":
		if len(args) == 1 {
			args = append(args, d.http)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var o, e bytes.Buffer
	env := []string{"TAPECAST_KAFKA_BROKERS=" + d.kafka, "TAPECAST_REGISTRY_URL=" + d.registry}
	if name == "ingest" || name == "fanout" || name == "gateway" || name == "config" {
		env = nil
	}
	code = run(ctx, system{in: strings.NewReader(in), out: &o, err: &e, environ: env}, args)
	return code, o.String(), e.String()
}

// exampleFiles makes the files that the examples name.
func exampleFiles(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	var csv strings.Builder
	csv.WriteString("ts_ns,symbol,bid,ask,bid_size,ask_size\n")
	now := time.Now().Add(-time.Minute)
	for i := range 5000 {
		at := now.Add(time.Duration(i) * 100 * time.Microsecond) // half a second, so that --speed 10x takes a twentieth
		fmt.Fprintf(&csv, "%d,%s,1.1,1.2,5,5\n", at.UnixNano(), []string{"EURUSD", "USDJPY"}[i%2])
	}
	config, err := os.ReadFile("../../docs/examples/tapecast.yaml")
	require.NoError(t, err)
	for name, text := range map[string]string{
		"quotes.csv":    csv.String(),
		"orders.ndjson": `{"id":"o1","size":5}` + "\n",
		"order.avsc":    `{"type":"record","name":"Order","fields":[{"name":"id","type":"string"},{"name":"size","type":"long"}]}`,
		"tapecast.yaml": string(config),
		"topics.yaml":   "topics:\n  - name: ticks\n    partitions: 2\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return dir
}
