// Command testsum reads `go test -json` from standard input, prints a line per
// package and the whole output of what failed, and ends with what ran against
// what: the lines that tests append to the file TAPECAST_TEST_REPORT names, the
// counts, and what was skipped and why. It exits with 1 if anything failed or nothing ran.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

type sum struct {
	passed, failed int
	output         map[string][]string // of a test or package that is not over
	failures       []string
	skips          []string // which, and why
}

func main() {
	s := sum{output: map[string][]string{}}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		if json.Unmarshal(in.Bytes(), &e) != nil {
			fmt.Println(in.Text()) // a build error comes as plain text
			continue
		}
		s.take(e)
	}
	s.print()
	if s.failed > 0 || s.passed == 0 {
		os.Exit(1)
	}
}

func (s *sum) take(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output", "build-output":
		s.output[key] = append(s.output[key], e.Output)
		return
	case "pass", "fail", "skip":
	default:
		return
	}
	out := strings.Join(s.output[key], "")
	delete(s.output, key)
	if e.Test == "" {
		fmt.Printf("%-4s %-55s %6.1f s\n", e.Action, short(e.Package), e.Elapsed)
		if e.Action == "fail" {
			s.failures = append(s.failures, key+"\n"+out)
			if s.failed == 0 {
				s.failed++ // the package itself: a build error, a panic, a time-out
			}
		}
		return
	}
	if e.Action != "fail" && strings.Contains(out, raced) {
		s.failures = append(s.failures, key+", or what ran beside it\n"+out)
	}
	switch e.Action {
	case "pass":
		s.passed++
	case "fail":
		s.failed++
		s.failures = append(s.failures, key+"\n"+out)
	case "skip":
		s.skips = append(s.skips, short(e.Package)+" "+e.Test+": "+reason(out))
	}
}

// raced begins what the race detector says. It says it in whatever test wrote
// last, which may pass while another one is blamed.
const raced = "WARNING: DATA RACE"

func short(pkg string) string { return strings.TrimPrefix(pkg, "github.com/tapecast/tapecast/") }

var place = regexp.MustCompile(`^\s*\S+\.go:\d+: `)

// reason is what a test gave for being skipped: the last line that it wrote.
func reason(out string) string {
	why := "no reason"
	for line := range strings.Lines(out) {
		if at := place.FindString(line); at != "" {
			why = strings.TrimSpace(line[len(at):])
		}
	}
	return why
}

func (s *sum) print() {
	for _, f := range s.failures {
		fmt.Printf("\n--- FAILED %s\n", f)
	}
	var against []string
	if b, err := os.ReadFile(os.Getenv("TAPECAST_TEST_REPORT")); err == nil {
		against = strings.Split(strings.TrimSpace(string(b)), "\n")
		slices.Sort(against)
		against = slices.Compact(against)
	}
	fmt.Printf("\nran against: %s\n", strings.Join(against, "; "))
	fmt.Printf("%d passed, %d failed, %d skipped\n", s.passed, s.failed, len(s.skips))
	for _, k := range s.skips {
		fmt.Println("skipped", k)
	}
}
