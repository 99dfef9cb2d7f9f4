package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatWasSkippedSaysWhy(t *testing.T) {
	s := sum{output: map[string][]string{}}
	for line := range strings.Lines("=== RUN   TestTour\n    tour_test.go:78: needs Docker: make test-stack\n--- SKIP: TestTour (0.00s)\n") {
		s.take(event{Action: "output", Package: "github.com/tapecast/tapecast/internal/stacktest", Test: "TestTour", Output: line})
	}
	s.take(event{Action: "skip", Package: "github.com/tapecast/tapecast/internal/stacktest", Test: "TestTour"})
	s.take(event{Action: "skip", Package: "p", Test: "TestMute"})
	require.Equal(t, []string{
		"internal/stacktest TestTour: needs Docker: make test-stack", "p TestMute: no reason",
	}, s.skips)
	require.Zero(t, s.failed)
}

func TestAFailureKeepsItsOutput(t *testing.T) {
	s := sum{output: map[string][]string{}}
	s.take(event{Action: "output", Package: "p", Test: "TestA", Output: "it broke\n"})
	s.take(event{Action: "fail", Package: "p", Test: "TestA"})
	s.take(event{Action: "fail", Package: "p"})
	require.Equal(t, 1, s.failed)
	require.Contains(t, s.failures[0], "it broke")
}

func TestARaceIsShownWhereverItWasPrinted(t *testing.T) {
	s := sum{output: map[string][]string{}}
	s.take(event{Action: "output", Package: "p", Test: "TestA/inner", Output: "WARNING: DATA RACE\nRead at 0x1 by goroutine 7:\n"})
	s.take(event{Action: "pass", Package: "p", Test: "TestA/inner"})
	s.take(event{Action: "fail", Package: "p", Test: "TestA"})
	require.Equal(t, 1, s.failed)
	require.Len(t, s.failures, 2)
	require.Contains(t, s.failures[0], "by goroutine 7")
}
