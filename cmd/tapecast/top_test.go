package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTopOfADevProcess(t *testing.T) {
	d := startDev(t, "--no-demo", "--data-dir", t.TempDir())
	code, out, msg := d.tool(t, "", "top", "--url", d.http, "--url", "http://127.0.0.1:1", "--every", "100ms", "--count", "1")
	require.Zero(t, code, msg)
	require.Contains(t, out, "1 of 2 processes answer")
	require.Contains(t, out, "INGEST")
	require.Contains(t, out, "sessions 0")
	require.Contains(t, out, "no answer: ")
	require.Contains(t, out, "mean -", "nothing was written: no figure is made up")
	code, _, _ = d.tool(t, "", "top", "--url", "ftp://x")
	require.Equal(t, exitUsage, code)
}

func TestTopRates(t *testing.T) {
	begin := time.Unix(1_000_000, 0)
	m := measures{
		before: look{at: begin, by: []scrape{{"a": 100}, {"a": 50}, nil}},
		now:    look{at: begin.Add(2 * time.Second), by: []scrape{{"a": 140}, {"a": 10}, {"a": 1000}}},
	}
	rate, known := m.rate("a")
	require.True(t, known)
	require.Equal(t, 25.0, rate, "40 more, and 10 since a restart; the one that just came counts later")
	_, known = m.rate("b")
	require.False(t, known)
	level, _ := m.level("a")
	require.Equal(t, 1150.0, level)
}
