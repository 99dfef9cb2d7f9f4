package main

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// run is a sum, and what it prints.
type run struct {
	*sum
	out *bytes.Buffer
}

func newRun(but string) run {
	out := &bytes.Buffer{}
	r := run{newSum(out), out}
	if but != "" {
		r.but = regexp.MustCompile(but)
	}
	return r
}

// event takes a test's beginning with the output after it, or its end with the
// output before it.
func (r run) event(action, pkg, test, output string) {
	if action == "run" {
		r.take(&event{Action: action, Package: pkg, Test: test})
	}
	for line := range strings.Lines(output) {
		r.take(&event{Action: "output", Package: pkg, Test: test, Output: line})
	}
	if action != "run" {
		r.take(&event{Action: action, Package: pkg, Test: test})
	}
}

// last is what comes after the counts: the list of what failed.
func (r run) last(t *testing.T) []string {
	t.Helper()
	r.end(nil)
	at := strings.Index(r.out.String(), "\nFAILED ")
	require.Positive(t, at, r.out.String())
	lines := strings.Split(strings.TrimSpace(r.out.String()[at:]), "\n")
	require.LessOrEqual(t, len(lines), maxLines+1)
	return lines
}

// testify's, as go test writes it: after a log, before the logs of processes
// that the harness writes at the end.
const asserted = `=== RUN   TestA
    a_test.go:5: seed 7
    harness_test.go:9: 
        	Error Trace:	/x/internal/e2e/harness_test.go:9
        	            				/x/internal/e2e/a_test.go:33
        	Error:      	Not equal: 
        	            	expected: 1
        	            	actual  : 2
        	Test:       	TestA
        	Messages:   	of the first
        	            	and the second
    harness_test.go:106: --- gateway-0
        time=1 level=WARN
         a.go:1: not a block
--- FAIL: TestA (0.00s)
`

func TestTheLastLinesAreTheAssertions(t *testing.T) {
	want := []string{
		"FAILED internal/e2e TestA",
		"    harness_test.go:9 < a_test.go:33: Not equal: ",
		"    expected: 1",
		"    actual  : 2",
		"    of the first",
		"    and the second",
	}
	for _, but := range []string{"", "^ *=== "} {
		r := newRun(but)
		r.event("run", "github.com/tapecast/tapecast/internal/e2e", "TestA", "")
		r.event("fail", "github.com/tapecast/tapecast/internal/e2e", "TestA", asserted)
		r.event("fail", "github.com/tapecast/tapecast/internal/e2e", "", "FAIL\n")
		require.Equal(t, want, r.last(t))
		require.Contains(t, r.out.String(), "level=WARN")
		require.Equal(t, but == "", strings.Contains(r.out.String(), "=== RUN"))
		require.Equal(t, 1, r.failed)
	}
}

func TestWhatATestWroteStandsForItsAssertions(t *testing.T) {
	r := newRun("")
	r.event("fail", "p", "TestA", "    a_test.go:1: seed 7\n    a_test.go:5: got\n        nothing\n    a_test.go:9: --- process\n        its log\n")
	r.event("fail", "p", "TestMute", "--- FAIL: TestMute\n")
	r.event("fail", "p", "", "FAIL\n")
	require.Equal(t, []string{"FAILED p TestA", "    a_test.go:1: seed 7", "    a_test.go:5: got", "    nothing", "FAILED p TestMute"}, r.last(t))
}

func TestAPartIsBlamedInPlaceOfTheWhole(t *testing.T) {
	r := newRun("")
	r.event("fail", "p", "TestA/part", "    a_test.go:7: broken\n")
	r.event("fail", "p", "TestA", "    a_test.go:1: --- process\n        log\n    a_test.go:2: seed\n--- FAIL: TestA\n")
	r.event("fail", "p", "", "FAIL\n")
	require.Equal(t, []string{"FAILED p TestA/part", "    a_test.go:7: broken"}, r.last(t))
	require.Equal(t, 2, r.failed)
}

// A time-out is a panic in the midst of whatever runs, and no test ends.
const hung = `    a_test.go:7: inner
panic: test timed out after 3s
	running tests:
		TestA (3s)

goroutine 9 [running]:
testing.(*M).startAlarm.func1()
	/go/src/testing/testing.go:2802 +0x354

goroutine 7 [chan receive]:
p.TestA(0x3db1c5c6a248)
	/x/p/a_test.go:7 +0x72
`

func TestAHangNamesItsTest(t *testing.T) {
	r := newRun("")
	r.event("run", "p", "TestA", hung)
	r.event("run", "q", "TestOther", "")
	r.event("fail", "p", "", "FAIL\tp\t3.007s\n")
	r.event("pass", "q", "TestOther", "")
	require.Equal(t, []string{
		"FAILED p TestA has not ended", "    panic: test timed out after 3s", "     running tests:", "      TestA (3s)", "    at a_test.go:7",
	}, r.last(t))
	require.Contains(t, r.out.String(), "startAlarm", "the stacks of all goroutines")
	require.Equal(t, 1, r.failed)
}

func TestWhatBreaksOffHasFailed(t *testing.T) {
	r := newRun("")
	r.event("pass", "p", "TestA", "")
	r.event("run", "p", "TestB", "    b_test.go:1: so far\n")
	r.end(errors.New("too long"))
	require.Equal(t, 2, r.failed)
	require.Contains(t, r.out.String(), "FAILED p TestB has not ended\n    b_test.go:1: so far")
}

func TestABuildErrorIsShown(t *testing.T) {
	r := newRun("")
	r.take(&event{Action: "build-output", ImportPath: "p [p.test]", Output: "./a_test.go:4:5: undefined: x\n"})
	r.take(&event{Action: "output", Package: "p", Output: "FAIL\tp [build failed]\n"})
	r.take(&event{Action: "fail", Package: "p", FailedBuild: "p [p.test]"})
	require.Equal(t, []string{"FAILED p", "    ./a_test.go:4:5: undefined: x", "    FAIL p [build failed]"}, r.last(t))
	require.Equal(t, 1, r.failed)
}

func TestTheListIsBounded(t *testing.T) {
	r := newRun("")
	for i := range 100 {
		r.event("fail", "p", fmt.Sprint("TestA", i), "    a_test.go:7: "+strings.Repeat("ü", maxWidth)+strings.Repeat("\n        more", 50)+"\n")
	}
	lines := r.last(t)
	require.Regexp(t, `^FAILED: and up to \d+ more$`, lines[len(lines)-1])
	require.Less(t, len(lines[1]), maxWidth+10)
}

func TestALineInPiecesIsHiddenWhole(t *testing.T) {
	r := newRun("^hide")
	for _, piece := range []string{"hide ", "this\n", "show ", "hide\n"} {
		r.take(&event{Action: "output", Package: "p", Output: piece})
	}
	require.Equal(t, "show hide\n", r.out.String())
}

func TestWhatWasSkippedSaysWhy(t *testing.T) {
	r := newRun("")
	r.event("skip", "github.com/tapecast/tapecast/internal/stacktest", "TestTour",
		"=== RUN   TestTour\n    tour_test.go:78: needs Docker: make test-stack\n--- SKIP: TestTour (0.00s)\n")
	r.event("skip", "p", "TestMute", "")
	require.Equal(t, []string{
		"internal/stacktest TestTour: needs Docker: make test-stack", "p TestMute: no reason",
	}, r.skips)
	require.Zero(t, r.failed)
	r.end(nil)
	require.True(t, strings.HasSuffix(r.out.String(), "FAILED: no test ran\n"))
}

func TestARaceIsShownWhereverItWasPrinted(t *testing.T) {
	r := newRun("")
	r.event("pass", "p", "TestA/inner", "==================\nWARNING: DATA RACE\nRead at 0x1 by goroutine 7:\n")
	r.event("fail", "p", "TestA", "")
	require.Equal(t, 1, r.failed)
	require.Equal(t, []string{
		"FAILED p TestA/inner, or what ran beside it", "    WARNING: DATA RACE", "    Read at 0x1 by goroutine 7:",
	}, r.last(t))
}
