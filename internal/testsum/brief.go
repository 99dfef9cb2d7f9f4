package main

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Bounds of the list that ends all output: whoever shows the last lines of a
// log alone has to show one failure whole.
const (
	maxLines    = 60  // in all
	maxFailure  = 8   // lines of one failure, with its name
	maxError    = 4   // lines of an assertion's error
	maxMessages = 3   // lines of what the test has to say about it
	maxWidth    = 400 // bytes of a line
)

// brief is the list of what failed: each test's name and its assertions.
func brief(failures []failure) (lines []string) {
	for i, f := range failures {
		said := f.assertions()
		if len(said) == 0 && blamed(failures, f.id) {
			continue
		}
		if len(said) == 0 {
			said = f.said()
		}
		if len(lines)+maxFailure > maxLines {
			return append(lines, fmt.Sprintf("FAILED: and up to %d more", len(failures)-i))
		}
		lines = append(lines, fmt.Sprintf("FAILED %s%s", f.id, f.note))
		for _, line := range said[:min(len(said), maxFailure-1)] {
			lines = append(lines, "    "+cut(strings.ReplaceAll(line, "\t", " ")))
		}
	}
	return lines
}

func cut(line string) string {
	if len(line) > maxWidth {
		return strings.ToValidUTF8(line[:maxWidth], "") + "..."
	}
	return line
}

// blamed tells whether a part of a test or package is among the failures too.
func blamed(failures []failure, whole id) bool {
	return slices.ContainsFunc(failures, func(f failure) bool {
		if f.Package != whole.Package || f.Test == whole.Test {
			return false
		}
		return whole.Test == "" || strings.HasPrefix(f.Test, whole.Test+"/")
	})
}

// assertions are the lines that say for sure why it failed.
func (f *failure) assertions() []string {
	return slices.Concat(crash(f.out), race(f.out), testified(f.out))
}

// said are the last lines of it, which may say why it failed.
func (f *failure) said() []string {
	if f.Test == "" {
		return tail(meaning(f.out), maxFailure-1)
	}
	return tail(told(f.out), maxFailure-1)
}

// meaning are the lines that are not empty.
func meaning(out string) []string {
	var lines []string
	for line := range strings.Lines(out) {
		if line = strings.TrimRight(line, "\n"); strings.TrimSpace(line) != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

func head(lines []string, n int) []string { return lines[:min(len(lines), n)] }

func tail(lines []string, n int) []string { return lines[max(0, len(lines)-n):] }

// from are the lines from the first that begins so, to the next empty one.
func from(out, begin string) []string {
	_, rest, found := strings.Cut("\n"+out, "\n"+begin)
	if !found {
		return nil
	}
	text, _, _ := strings.Cut(begin+rest, "\n\n")
	return meaning(text)
}

var inTest = regexp.MustCompile(`(?m)^\t\S*?([^/\s]+_test\.go:\d+)`)

// crash is what the runtime says at a panic (a time-out is one), with the place
// in a test that is nearest to it.
func crash(out string) []string {
	for _, begin := range []string{"panic: ", "fatal error: "} {
		if said := head(from(out, begin), maxFailure-2); said != nil {
			_, stacks, _ := strings.Cut(out, begin)
			if at := inTest.FindStringSubmatch(stacks); at != nil {
				said = append(said, "at "+at[1])
			}
			return said
		}
	}
	return nil
}

func race(out string) []string { return head(from(out, raced), maxFailure-1) }

// block is what one call of a test's log or of an assertion wrote: go test
// indents its first line by 4 and all others by 8.
type block struct {
	place string // file:line
	text  []string
}

var blockStart = regexp.MustCompile(`^    ([^\s:]+\.go:\d+): (.*)$`)

func blocks(out string) (all []block) {
	open := false
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		if m := blockStart.FindStringSubmatch(line); m != nil {
			all, open = append(all, block{m[1], []string{m[2]}}), true
			continue
		}
		more, indented := strings.CutPrefix(line, "        ")
		if open = open && indented; open {
			last := &all[len(all)-1]
			last.text = append(last.text, more)
		}
	}
	return all
}

var label = regexp.MustCompile(`^\t(Error Trace|Error|Test|Messages|\s*):? *\t(.*)$`)

// testified are the assertions that say themselves that they are: testify's.
func testified(out string) (lines []string) {
	for _, b := range blocks(out) {
		parts, part := map[string][]string{}, ""
		for _, line := range b.text {
			m := label.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			if name := strings.TrimSpace(m[1]); name != "" {
				part = name
			}
			if strings.TrimSpace(m[2]) != "" {
				parts[part] = append(parts[part], m[2])
			}
		}
		trace := parts["Error Trace"]
		if trace == nil {
			continue
		}
		for i := range trace {
			trace[i] = path.Base(trace[i])
		}
		said := append(head(parts["Error"], maxError), head(parts["Messages"], maxMessages)...)
		said = append(said, "")[:max(len(said), 1)]
		said[0] = strings.Join(trace, " < ") + ": " + said[0]
		lines = append(lines, said...)
	}
	return lines
}

// told are the lines of what a test wrote, which may be of an assertion or not,
// without the logs of processes: those begin with a dash.
func told(out string) (lines []string) {
	for _, b := range blocks(out) {
		if strings.HasPrefix(b.text[0], "--- ") {
			continue
		}
		lines = append(lines, b.place+": "+b.text[0])
		lines = append(lines, head(b.text[1:], maxFailure-2)...)
	}
	return lines
}
