package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// job is a work that the benchmark can run. A work in a file of its own joins
// with one line there:
//
//	var _ = register(job{name: "fanout", about: "20,000 events/s to 2 nodes", run: fanoutWork})
//
// and, if it needs processes of its own (it does where CPU is measured: usage
// is a whole process's), with one line for each kind of them, see command.
type job struct {
	name  string
	about string // one line: what is done, with the numbers that make the work
	extra bool   // only run when named: not part of a plain `make bench`
	once  bool   // one round whatever -rounds says: it is long, or hardly scatters
	// run does the work once and returns a row for each server (or way) that did it.
	// It ends what it started, in any case, before it returns.
	run func(ctx context.Context, e *env) ([]row, error)
}

// env is what a work is given.
type env struct {
	length  time.Duration // how long a steady phase is measured
	drain   time.Duration // how long what was published may take to arrive; 0 = 1.5 s
	round   int           // from 0
	servers []string      // of the gateway's works; nil = the work's own
	peers   bool          // beside other servers
	profile string        // CPU profiles: this, and work and server; "" = none
	kafka   string        // a cluster for the works that can use one; "" = the embedded broker
	// say prints a line of progress.
	say func(format string, args ...any)
}

// row is a line of the table.
type row struct {
	Work    string
	Server  string // or the way in which it was done; "floor" or "floor@ms" is what the others are held against
	Figures []figure
}

// figure is something measured: a column of the table. Its name says the unit.
// The same name is the same thing in all works; perM and user have a meaning
// for the table, which adds ratios to the floor and to a raw write to perM.
type figure struct {
	Name  string
	Value float64
}

const (
	perM      = "CPU-s/M"    // user plus system seconds of the server's process per million of what is counted
	user      = "user"       // user seconds alone of the same
	xFloor    = "x floor"    // perM over that of the floor, same work, hold and round
	xOurs     = "x tapecast" // perM over tapecast's, same work and round; same hold where there is one
	xWrite    = "x write"    // perM over that of one raw write of the same run
	ofDue     = "% of due"
	perSec    = "/s" // of what is counted
	p50ms     = "p50 ms"
	p99ms     = "p99 ms"
	p999ms    = "p99.9 ms"
	kBIdle    = "kB/conn idle"         // resident memory, the empty server's own included
	kBMore    = "kB/conn beyond empty" // what it grew from the empty server on
	kBOverTLS = "beyond TLS alone"     // the same, less that of bare TLS connections
	rssGrew   = "grown MB"
)

// add appends a figure.
func (r *row) add(name string, value float64) { r.Figures = append(r.Figures, figure{name, value}) }

// get returns a figure's value.
func (r *row) get(name string) (float64, bool) {
	for _, f := range r.Figures {
		if f.Name == name {
			return f.Value, true
		}
	}
	return 0, false
}

var registry = map[string]job{}

// register makes a work known. Two of one name are a mistake of the programmer.
func register(j job) struct{} {
	if _, ok := registry[j.name]; ok || j.name == "" || j.run == nil {
		panic(fmt.Sprintf("work %q: no name, no run, or there twice", j.name))
	}
	registry[j.name] = j
	return struct{}{}
}

// order is that of the table; others come behind these, by name.
var order = []string{"write", "S1", "S2", "S3", "one", "hot5", "hot10", "big", "stall", "fanout", "hop", "direct", "replay", "storm", "idle", "idletls", "million"}

// jobs returns the works named, or all that are not extra, in the table's order.
func jobs(names string) ([]job, error) {
	var out []job
	if names == "" {
		for _, j := range registry {
			if !j.extra {
				out = append(out, j)
			}
		}
	} else {
		for _, n := range strings.Split(names, ",") {
			j, ok := registry[n]
			if !ok {
				return nil, fmt.Errorf("there is no work %q; there are: %s", n, strings.Join(workNames(), ", "))
			}
			out = append(out, j)
		}
	}
	slices.SortStableFunc(out, func(a, b job) int { return byOrder(a.name, b.name) })
	return out, nil
}

func byOrder(a, b string) int {
	i, j := slices.Index(order, a), slices.Index(order, b)
	switch {
	case i >= 0 && j >= 0:
		return i - j
	case i >= 0:
		return -1
	case j >= 0:
		return 1
	}
	return strings.Compare(a, b)
}

func workNames() (out []string) {
	for n := range registry {
		out = append(out, n)
	}
	slices.SortFunc(out, byOrder)
	return out
}

// subcommands are the processes that the benchmark starts of itself: `bench NAME args`.
var subcommands = map[string]func(args []string) error{}

// command makes a kind of process known; start(core, NAME, args...) starts one,
// and obey answers what its process.tell says.
func command(name string, run func(args []string) error) struct{} {
	if subcommands[name] != nil {
		panic("command " + name + " is there twice")
	}
	subcommands[name] = run
	return struct{}{}
}
