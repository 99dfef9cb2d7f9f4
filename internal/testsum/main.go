// Command testsum reads `go test -json` from standard input, prints a line per
// package and the whole output of what failed, and ends with what ran against
// what: the lines that tests append to the file TAPECAST_TEST_REPORT names, the
// counts, and what was skipped and why. With -all-but it prints what tests write
// as they write it instead, but the lines that match. The last it prints is what
// failed, in a few lines each: who sees nothing but the end of a log sees which
// assertion it was. It exits with 1 if anything failed or nothing ran.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

// event is a line of `go test -json`.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
	ImportPath, FailedBuild       string // of a build: what was built, and what for want of which nothing runs
}

// id names a test, or with no Test a package.
type id struct{ Package, Test string }

func (i id) String() string { return strings.TrimSpace(short(i.Package) + " " + i.Test) }

type sum struct {
	w              io.Writer
	but            *regexp.Regexp // lines that are not printed as they come; nil: none is
	rest           rest
	passed, failed int
	output         map[id][]string     // of a test or package that is not over
	running        map[id]bool         // tests that are not over
	builds         map[string][]string // what the compiler said, by what it built
	failures       []failure
	skips          []string // which, and why
}

// rest is of a line that comes in more than one event.
type rest struct{ open, hidden bool }

// failure is a test or package that failed, and its whole output.
type failure struct {
	id
	note, out string
}

func newSum(w io.Writer) *sum {
	return &sum{w: w, output: map[id][]string{}, running: map[id]bool{}, builds: map[string][]string{}}
}

func main() {
	but := flag.String("all-but", "", "print what tests write as they write it, but the lines that match this expression")
	flag.Parse()
	s := newSum(os.Stdout)
	if *but != "" {
		s.but = regexp.MustCompile(*but)
	}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		if json.Unmarshal(in.Bytes(), &e) != nil {
			s.printf("%s\n", in.Text()) // what go itself has to say
			continue
		}
		s.take(&e)
	}
	s.end(in.Err())
	if s.failed > 0 || s.passed == 0 {
		os.Exit(1)
	}
}

func (s *sum) printf(format string, args ...any) { _, _ = fmt.Fprintf(s.w, format, args...) }

func (s *sum) take(e *event) {
	key := id{e.Package, e.Test}
	switch e.Action {
	case "run":
		s.running[key] = true
	case "output":
		s.output[key] = append(s.output[key], e.Output)
		s.pass(e.Output)
	case "build-output":
		s.builds[e.ImportPath] = append(s.builds[e.ImportPath], e.Output)
		s.pass(e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.packageOver(key, e)
		} else {
			s.testOver(key, e.Action)
		}
	}
}

// pass prints what comes as it comes, if that is wanted.
func (s *sum) pass(text string) {
	if s.but == nil {
		return
	}
	if !s.rest.open {
		s.rest.hidden = s.but.MatchString(text)
	}
	if !s.rest.hidden {
		s.printf("%s", text)
	}
	s.rest.open = !strings.HasSuffix(text, "\n")
}

func (s *sum) fail(key id, note string) {
	s.failures = append(s.failures, failure{key, note, strings.Join(s.output[key], "")})
}

// packageOver ends a package. A test that runs yet was cut short: by a time-out,
// by another one's panic, by os.Exit.
func (s *sum) packageOver(key id, e *event) {
	s.abandon(key.Package)
	if s.but == nil {
		s.printf("%-4s %-55s %6.1f s\n", e.Action, short(e.Package), e.Elapsed)
	}
	if e.Action == "fail" {
		s.output[key] = append(slices.Clone(s.builds[e.FailedBuild]), s.output[key]...)
		s.fail(key, "")
		s.failed = max(s.failed, 1) // the package itself: a build error, a panic
	}
	delete(s.output, key)
}

// abandon fails what has not ended: of a package, or with "" of all.
func (s *sum) abandon(pkg string) {
	byName := func(a, b id) int { return cmp.Or(cmp.Compare(a.Package, b.Package), cmp.Compare(a.Test, b.Test)) }
	for _, key := range slices.SortedFunc(maps.Keys(s.running), byName) {
		if pkg == "" || key.Package == pkg {
			s.failed++
			s.fail(key, " has not ended")
			s.forget(key)
		}
	}
}

func (s *sum) forget(key id) {
	delete(s.output, key)
	delete(s.running, key)
}

func (s *sum) testOver(key id, action string) {
	out := strings.Join(s.output[key], "")
	if action != "fail" && strings.Contains(out, raced) {
		s.fail(key, ", or what ran beside it")
	}
	switch action {
	case "pass":
		s.passed++
	case "fail":
		s.failed++
		s.fail(key, "")
	case "skip":
		s.skips = append(s.skips, key.String()+": "+reason(out))
	}
	s.forget(key)
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

// end prints what is to be said of all of it. err is of reading it.
func (s *sum) end(err error) {
	if err != nil {
		s.failed++
		s.printf("\nthe tests' output breaks off: %v\n", err)
	}
	s.abandon("")
	if s.but == nil {
		s.totals()
	}
	if s.passed == 0 && s.failed == 0 {
		s.printf("FAILED: no test ran\n")
	}
	for _, line := range brief(s.failures) {
		s.printf("%s\n", line)
	}
}

func (s *sum) totals() {
	for _, f := range s.failures {
		s.printf("\n--- FAILED %s%s\n%s\n", f.id, f.note, f.out)
	}
	if b, err := os.ReadFile(os.Getenv("TAPECAST_TEST_REPORT")); err == nil {
		against := strings.Split(strings.TrimSpace(string(b)), "\n")
		slices.Sort(against)
		s.printf("\nran against: %s\n", strings.Join(slices.Compact(against), "; "))
	}
	s.printf("%d passed, %d failed, %d skipped\n", s.passed, s.failed, len(s.skips))
	for _, k := range s.skips {
		s.printf("skipped %s\n", k)
	}
}
