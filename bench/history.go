package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// keep appends a run to a history: a line of JSON. "" = nowhere.
func keep(path string, r *run) error {
	if path == "" {
		return nil
	}
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644) //nolint:gosec // the user names it
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	if _, err = f.Write(append(line, '\n')); err != nil {
		_ = f.Close()
		return fmt.Errorf("history: %w", err)
	}
	return f.Close()
}

// past reads a history, the oldest first.
func past(path string) (out []*run, err error) {
	f, err := os.Open(path) //nolint:gosec // the user names it
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	defer func() { _ = f.Close() }()
	in := bufio.NewScanner(f)
	in.Buffer(nil, 8<<20)
	for n := 1; in.Scan(); n++ {
		r := &run{}
		if err := json.Unmarshal(in.Bytes(), r); err != nil {
			return nil, fmt.Errorf("history: %s:%d: %w", path, n, err)
		}
		out = append(out, r)
	}
	return out, in.Err()
}

// compareLast prints the last two runs of a history side by side.
func compareLast(out io.Writer, path string) error {
	all, err := past(path)
	if err != nil {
		return err
	}
	if len(all) < 2 {
		return fmt.Errorf("%s has %d runs: two are needed", path, len(all))
	}
	return compare(out, all[len(all)-2], all[len(all)-1])
}

// compare prints each figure that both runs have as "before > after".
func compare(out io.Writer, before, after *run) error {
	for i, r := range []*run{before, after} {
		busy := ""
		if r.Busy {
			busy = " THE MACHINE WAS BUSY"
		}
		_, _ = fmt.Fprintf(out, "%s  %s, commit %s, load %.2f, others %.2f cores, a raw write %.2f us, %s%s\n", []string{"before", "after "}[i],
			r.At.Format("2006-01-02 15:04 UTC"), r.Commit, r.Load, r.Others, r.write(), r.Machine, busy)
	}
	if before.Machine != after.Machine {
		_, _ = fmt.Fprintln(out, "NOT THE SAME MACHINE: only ratios (x floor, x write) can be held against each other.")
	}
	for _, rows := range byWork(after.Results) {
		rows = slices.DeleteFunc(slices.Clone(rows), func(o outcome) bool { return find(before, o) == nil })
		if len(rows) == 0 {
			continue
		}
		_, _ = fmt.Fprintf(out, "\n%s: %s\n", rows[0].Work, rows[0].About)
		if err := table(out, rows, func(o outcome, name string) string {
			was, ok1 := find(before, o).get(name)
			is, ok2 := o.get(name)
			if !ok1 || !ok2 {
				return "-"
			}
			return number(was) + " > " + number(is)
		}); err != nil {
			return err
		}
	}
	return nil
}

// find returns the result of the same work and server; nil = there is none.
func find(r *run, like outcome) *outcome {
	for i, o := range r.Results {
		if o.Work == like.Work && o.Server == like.Server {
			return &r.Results[i]
		}
	}
	return nil
}

// addToLast adds a run's results to the last run of a history, in the place of
// those of the same works, and returns what the last run is now.
func addToLast(path string, r *run) (*run, error) {
	all, err := past(path)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no run to add to", path)
	}
	last := all[len(all)-1]
	if last.Machine != r.Machine {
		return nil, fmt.Errorf("the last run was on another machine: %s", last.Machine)
	}
	last.merge(r)
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("history: %w", err)
	}
	for _, x := range all {
		if err := keep(tmp, x); err != nil {
			return nil, err
		}
	}
	if err := os.Rename(tmp, path); err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return last, nil
}

// merge takes over the works of another run.
func (r *run) merge(o *run) {
	for _, rows := range byWork(o.Results) {
		r.Results = slices.DeleteFunc(r.Results, func(x outcome) bool { return x.Work == rows[0].Work })
		r.Results = append(r.Results, rows...)
	}
	slices.SortStableFunc(r.Results, func(a, b outcome) int { return byOrder(a.Work, b.Work) })
	if !strings.Contains(r.Commit, o.Commit) {
		r.Commit += ", " + o.Commit
	}
	r.Load, r.After, r.Busy, r.Took = max(r.Load, o.Load), o.After, r.Busy || o.Busy, r.Took+o.Took
	r.Others = max(r.Others, o.Others)
}
