package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// run is a run of the program: a line of the history, and what the tables are made of.
type run struct {
	At      time.Time
	Commit  string
	Machine string
	Load    float64 // average of the last minute before it
	After   float64 // ... and behind it, its own included
	Others  float64 // cores that other processes of the machine kept busy meanwhile
	Busy    bool    // Others was above what the run was told to bear
	For     float64 // s of a steady phase
	Rounds  int
	Took    float64 // s
	Results []outcome

	bound    float64 // of Others
	all, own float64 // CPU s of the machine and of this program before it began
}

// outcome is a row with the medians of the rounds.
type outcome struct {
	row
	About  string
	Rounds int
	// Low and High are the ends of x floor over the rounds; 0 = it has none.
	Low, High float64
}

func newRun(o options) *run {
	r := &run{At: time.Now().UTC().Truncate(time.Second), Commit: commit(), Machine: machine(), Load: load(), For: o.length.Seconds(), Rounds: o.rounds}
	r.bound, r.all, r.own = o.busy, busyTime(), ownTime()
	return r
}

// join adds the rounds of a work: ratios are made within a round, then each
// figure is the median of its rounds.
func (r *run) join(j job, rounds [][]row) {
	byServer := map[string][]row{}
	var servers []string
	for _, rows := range rounds {
		overFloor(rows)
		for _, x := range rows {
			if byServer[x.Server] == nil {
				servers = append(servers, x.Server)
			}
			byServer[x.Server] = append(byServer[x.Server], x)
		}
	}
	for _, s := range servers {
		o := outcome{row: medians(byServer[s]), About: j.about, Rounds: len(byServer[s])}
		o.Low, o.High = ends(byServer[s], xFloor)
		r.Results = append(r.Results, o)
	}
}

// end completes the run: what a raw write costs in it is known by now.
func (r *run) end(began time.Time) {
	r.Took, r.After = time.Since(began).Seconds(), load()
	r.Others = max(0, busyTime()-r.all-(ownTime()-r.own)) / max(r.Took, 1e-3)
	r.Busy = r.Others > r.bound
	write := r.write()
	for i := range r.Results {
		if v, ok := r.Results[i].get(perM); ok && write > 0 {
			r.Results[i].add(xWrite, v/write)
		}
	}
}

// write returns the CPU us of a raw write of this run; 0 = not measured.
func (r *run) write() float64 {
	for _, o := range r.Results {
		if o.Work == "write" {
			v, _ := o.get(perM)
			return v
		}
	}
	return 0
}

// overFloor gives every row the ratio to the floor of the same round, and the
// peers the ratio to tapecast.
func overFloor(rows []row) {
	over(rows, "floor", xFloor, func(string) bool { return true })
	over(rows, "tapecast", xOurs, func(name string) bool { return name != "floor" && name != "plain" && name != "tapecast" })
}

// over adds a ratio to what a server of the same hold needs or, where there is
// none, the first one of that name.
func over(rows []row, base, name string, to func(server string) bool) {
	bases, first := map[string]float64{}, 0.0
	for _, r := range rows {
		server, hold, _ := strings.Cut(r.Server, "@")
		if v, ok := r.get(perM); ok && server == base {
			bases[hold] = v
			if first == 0 {
				first = v
			}
		}
	}
	for i := range rows {
		server, hold, _ := strings.Cut(rows[i].Server, "@")
		b := bases[hold]
		if b == 0 {
			b = first
		}
		if v, ok := rows[i].get(perM); ok && b > 0 && to(server) {
			at := 1 + slices.IndexFunc(rows[i].Figures, func(f figure) bool { return f.Name == perM })
			rows[i].Figures = slices.Insert(rows[i].Figures, at, figure{name, v / b})
		}
	}
}

// medians makes one row of the rounds of one server.
func medians(rounds []row) row {
	out := row{Work: rounds[0].Work, Server: rounds[0].Server}
	for _, f := range rounds[0].Figures {
		out.add(f.Name, median(values(rounds, f.Name)))
	}
	return out
}

func values(rounds []row, name string) (vs []float64) {
	for _, r := range rounds {
		if v, ok := r.get(name); ok {
			vs = append(vs, v)
		}
	}
	slices.Sort(vs)
	return vs
}

// median of sorted values; of two in the middle their mean.
func median(vs []float64) float64 {
	n := len(vs)
	switch {
	case n == 0:
		return 0
	case n%2 == 1:
		return vs[n/2]
	}
	return (vs[n/2-1] + vs[n/2]) / 2
}

func ends(rounds []row, name string) (low, high float64) {
	vs := values(rounds, name)
	if len(vs) == 0 {
		return 0, 0
	}
	return vs[0], vs[len(vs)-1]
}

// print prints a table for each work.
func (r *run) print(out io.Writer) error {
	w := bufio.NewWriter(out)
	_, _ = fmt.Fprintf(w, "%s, commit %s, %s\n", r.At.Format("2006-01-02 15:04 UTC"), r.Commit, r.Machine)
	_, _ = fmt.Fprintf(w, "load before %.2f, after %.2f, other processes used %.2f cores meanwhile; %.0f s a phase, medians of %d rounds, %.0f s in all; a raw write here: %.2f us of CPU\n",
		r.Load, r.After, r.Others, r.For, r.Rounds, r.Took, r.write())
	if r.Busy {
		_, _ = fmt.Fprintf(w, "THE MACHINE WAS BUSY (other processes used %.2f cores meanwhile): these figures are not to be quoted.\n", r.Others)
	}
	for _, rows := range byWork(r.Results) {
		_, _ = fmt.Fprintf(w, "\n%s: %s\n", rows[0].Work, rows[0].About)
		if err := table(w, rows, cell); err != nil {
			return err
		}
	}
	return w.Flush()
}

// cell prints a figure; x floor with its ends over the rounds.
func cell(o outcome, name string) string {
	v, ok := o.get(name)
	switch {
	case !ok:
		return "-"
	case name == xFloor && o.Low != o.High:
		return fmt.Sprintf("%s (%s-%s)", number(v), number(o.Low), number(o.High))
	}
	return number(v)
}

// byWork keeps the results of a work together, in their order.
func byWork(results []outcome) (out [][]outcome) {
	for i, o := range results {
		if i == 0 || results[i-1].Work != o.Work {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], o)
	}
	return out
}

// table prints rows with a column for each figure that one of them has.
func table(w io.Writer, rows []outcome, cell func(o outcome, name string) string) error {
	names := columns(rows)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintf(t, "\t%s\t\n", strings.Join(names, "\t"))
	for _, o := range rows {
		_, _ = fmt.Fprintf(t, "%s\t", o.Server)
		for _, n := range names {
			_, _ = fmt.Fprintf(t, "%s\t", cell(o, n))
		}
		_, _ = fmt.Fprintln(t)
	}
	return t.Flush()
}

// columns are the figures of all rows, in the order of the rows that have most.
func columns(rows []outcome) (names []string) {
	rows = slices.Clone(rows)
	slices.SortStableFunc(rows, func(a, b outcome) int { return len(b.Figures) - len(a.Figures) })
	for _, o := range rows {
		for _, f := range o.Figures {
			if !slices.Contains(names, f.Name) {
				names = append(names, f.Name)
			}
		}
	}
	return names
}

// number prints three digits that count, and whole numbers from 100 on.
func number(v float64) string {
	switch a := max(v, -v); {
	case v == 0:
		return "0"
	case a >= 100:
		return thousands(int64(v + 0.5))
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func thousands(n int64) string {
	if n < 0 {
		return "-" + thousands(-n)
	}
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// commit names what is measured; "+" = with changes that are not committed.
func commit() string {
	b, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	c := strings.TrimSpace(string(b))
	if b, err = exec.Command("git", "status", "--porcelain", "--untracked-files=no", "--", "..").Output(); err == nil && strings.Contains(string(b), ".go\n") {
		c += "+"
	}
	return c
}

// machine says what is measured on.
func machine() string {
	field := func(path, name string) string {
		b, _ := os.ReadFile(path)
		for line := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
				return strings.TrimSpace(v)
			}
		}
		return "?"
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	var kB int64
	_, _ = fmt.Sscan(field("/proc/meminfo", "MemTotal"), &kB)
	return fmt.Sprintf("%d cores of %s, %d GiB, Linux %s, %s", runtime.NumCPU(), field("/proc/cpuinfo", "model name"), (kB+1<<19)>>20,
		strings.TrimSpace(string(kernel)), runtime.Version())
}

// load returns the load average of the last minute.
func load() (l float64) {
	b, _ := os.ReadFile("/proc/loadavg")
	_, _ = fmt.Sscan(string(b), &l)
	return l
}

// busyTime returns the CPU seconds that all processes of the machine have used.
func busyTime() float64 {
	b, _ := os.ReadFile("/proc/stat")
	var user, nice, sys float64
	_, _ = fmt.Sscanf(string(b), "cpu %g %g %g", &user, &nice, &sys)
	return (user + nice + sys) / 100
}

// ownTime returns those of this process and of those that it has started and waited for.
func ownTime() (s float64) {
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var r syscall.Rusage
		if syscall.Getrusage(who, &r) == nil {
			s += float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
		}
	}
	return s
}
