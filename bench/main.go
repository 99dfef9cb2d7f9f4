package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

func main() {
	var err error
	switch {
	case len(os.Args) > 1 && os.Args[1] == "server":
		err = serverMain(os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == "client":
		err = clientMain(os.Args[2:])
	default:
		err = benchMain()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// candidate is a server with what it is allowed to hold.
type candidate struct {
	kind string
	hold time.Duration
}

func parseCandidate(s string) (candidate, error) {
	kind, ms, held := strings.Cut(s, "@")
	c := candidate{kind: kind}
	if held {
		n, err := strconv.Atoi(ms)
		if err != nil {
			return c, fmt.Errorf("server %q: %w", s, err)
		}
		c.hold = time.Duration(n) * time.Millisecond
	}
	return c, nil
}

// result is what one server did.
type result struct {
	Work, Server           string
	CPU, User              float64 // s per million deliveries
	Rate                   float64 // deliveries/s
	Share                  float64 // of what was due
	Min, Max               int64   // messages of one client
	P50, P99, P999         int     // ms
	RSS, Idle, Heap, Stack float64 // kB a connection, beyond the empty server
	Grown                  float64 // MB of RSS while it ran
}

func benchMain() error {
	workList := flag.String("work", "S1", "of: "+strings.Join(workNames(), ", "))
	servers := flag.String("servers", "floor@50,tapecast@50", "of: floor, tapecast, centrifuge, naive; @ms = hold")
	length := flag.Duration("for", 6*time.Second, "how long each is measured")
	rounds := flag.Int("rounds", 1, "interleaved")
	profile := flag.String("profile", "", "CPU profiles: file name, work and server are appended")
	history := flag.String("history", "", "append the results as JSON lines to this file")
	flag.Parse()
	var all []result
	for _, name := range strings.Split(*workList, ",") {
		w, err := workNamed(name)
		if err != nil {
			return err
		}
		for range *rounds {
			for _, s := range strings.Split(*servers, ",") {
				c, err := parseCandidate(s)
				if err != nil {
					return err
				}
				r, err := measure(w, c, s, *length, *profile)
				if err != nil {
					return fmt.Errorf("%s %s: %w", name, s, err)
				}
				all = append(all, r)
				fmt.Fprintf(os.Stderr, "%s %s: %.3f CPU-s/M\n", name, s, r.CPU)
			}
		}
	}
	print(os.Stdout, all)
	return keep(*history, all)
}

func workNames() (out []string) {
	for _, w := range works {
		out = append(out, w.Name)
	}
	return out
}

// process is a server or a client: it obeys lines, and answers each with its usage.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func start(core string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if core != "" {
		args = append([]string{"-c", core, self}, args...)
		self = "taskset"
	}
	p := &process{cmd: exec.CommandContext(context.Background(), self, args...)}
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReaderSize(out, 1<<20)
	return p, p.cmd.Start()
}

func (p *process) line() (string, error) {
	s, err := p.out.ReadString('\n')
	return strings.TrimSpace(s), err
}

func (p *process) usage() (u usage, err error) {
	s, err := p.line()
	if err != nil {
		return u, err
	}
	return u, json.Unmarshal([]byte(s), &u)
}

func (p *process) tell(line string) (usage, error) {
	if _, err := fmt.Fprintln(p.in, line); err != nil {
		return usage{}, err
	}
	return p.usage()
}

func (p *process) stop() {
	_ = p.in.Close()
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

const perClient = 7500 // sessions of a client process: descriptors are bounded

// bench is one server with its clients and, for tapecast, the hand that feeds it.
type bench struct {
	server  *process
	clients []*process
	hand    *hand
	on      flagged
	due     counter
	end     context.CancelFunc
}

func (b *bench) close() {
	b.end()
	for _, c := range b.clients {
		c.stop()
	}
	if b.server != nil {
		b.server.stop()
	}
	if b.hand != nil {
		b.hand.close()
	}
}

func (b *bench) begin(w work, c candidate, profile string) error {
	ctx, cancel := context.WithCancel(context.Background())
	b.end = cancel
	args := []string{"server", "-kind", c.kind, "-work", w.Name, "-hold", c.hold.String(), "-profile", profile}
	if c.kind == "tapecast" {
		h, err := newHand(ctx)
		if err != nil {
			return err
		}
		b.hand = h
		args = append(args, "-kafka", h.kafka.Addr())
		go func() { _ = h.follow(ctx) }()
		go func() {
			if err := h.run(ctx, w, b.on.get, b.due.set); err != nil {
				fmt.Fprintln(os.Stderr, "bench:", err)
			}
		}()
	}
	core := ""
	if w.OneCore {
		core = "0"
	}
	var err error
	b.server, err = start(core, args...)
	return err
}

func (b *bench) connect(w work, c candidate) error {
	addr, err := b.server.line()
	if err != nil {
		return err
	}
	core := ""
	if w.OneCore {
		core = "1"
	}
	for from := 0; from < w.Subs; from += perClient {
		p, err := start(core, "client", "-kind", c.kind, "-work", w.Name, "-addr", addr,
			"-from", strconv.Itoa(from), "-to", strconv.Itoa(min(from+perClient, w.Subs)))
		if err != nil {
			return err
		}
		b.clients = append(b.clients, p)
		if _, err = p.usage(); err != nil {
			return fmt.Errorf("clients did not get in: %w", err)
		}
	}
	return nil
}

// tell tells the server and all clients; it adds up what the clients say.
func (b *bench) tell(line string) (server, clients usage, err error) {
	if server, err = b.server.tell(line); err != nil {
		return server, clients, err
	}
	if b.hand != nil {
		server.Count = b.due.get()
	}
	clients.Hist, clients.Min = map[int]int64{}, 1<<62
	for _, p := range b.clients {
		u, err := p.tell(line)
		if err != nil {
			return server, clients, err
		}
		clients.Count += u.Count
		clients.Min, clients.Max = min(clients.Min, u.Min), max(clients.Max, u.Max)
		for k, n := range u.Hist {
			clients.Hist[k] += n
		}
	}
	return server, clients, nil
}

func measure(w work, c candidate, name string, length time.Duration, profile string) (r result, err error) {
	r = result{Work: w.Name, Server: name}
	if profile != "" {
		profile += "." + w.Name + "." + name
	}
	b := &bench{}
	if err = b.begin(w, c, profile); err != nil {
		b.close()
		return r, err
	}
	defer b.close()
	addrWait := time.Now()
	if err = b.connect(w, c); err != nil {
		return r, err
	}
	_ = addrWait
	time.Sleep(time.Second)
	idle, _, err := b.tell("gc")
	if err != nil {
		return r, err
	}
	per := func(n int64) float64 { return float64(n) / 1e3 / float64(w.Subs) }
	r.Idle, r.Heap, r.Stack = per(idle.RSS), per(int64(idle.Heap)), per(int64(idle.Stacks)) //nolint:gosec // far below
	if w.OnlyIdle {
		if profile != "" {
			_, _, err = b.tell("heap")
		}
		return r, err
	}
	b.on.set(true)
	if _, _, err = b.tell("start"); err != nil {
		return r, err
	}
	time.Sleep(time.Second) // warm
	s0, c0, err := b.tell("start")
	if err != nil {
		return r, err
	}
	began := time.Now()
	time.Sleep(length)
	s1, c1, err := b.tell("mark")
	if err != nil {
		return r, err
	}
	r.Rate = float64(c1.Count-c0.Count) / time.Since(began).Seconds()
	b.on.set(false)
	if _, _, err = b.tell("stop"); err != nil {
		return r, err
	}
	time.Sleep(1500 * time.Millisecond)
	s2, c2, err := b.tell("mark")
	if err != nil {
		return r, err
	}
	m := float64(c1.Count-c0.Count) / 1e6
	r.User = (s1.User - s0.User) / m
	r.CPU = r.User + (s1.Sys-s0.Sys)/m
	r.Share = float64(c2.Count) / float64(s2.Count)
	r.Min, r.Max = c2.Min, c2.Max
	r.RSS, r.Grown = per(s1.RSS), float64(s1.RSS-s0.RSS)/1e6
	r.P50, r.P99, r.P999 = quantile(c1.Hist, .5), quantile(c1.Hist, .99), quantile(c1.Hist, .999)
	return r, nil
}

func quantile(hist map[int]int64, q float64) int {
	var total, sum int64
	for _, n := range hist {
		total += n
	}
	for _, k := range slices.Sorted(maps.Keys(hist)) {
		if sum += hist[k]; float64(sum) >= q*float64(total) {
			return k
		}
	}
	return 0
}

// print prints the table; x is the ratio to the floor with the same hold before it.
func print(out io.Writer, all []result) {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(t, "work\tserver\tCPU-s/M\tx floor\tuser\tdeliveries/s\t% of due\tp50\tp99\tp99.9 ms\tkB/conn idle\theap\tstacks\tunder load\tgrown MB\t")
	floors := map[string]float64{}
	for _, r := range all {
		kind, hold, _ := strings.Cut(r.Server, "@")
		if kind == "floor" {
			floors[r.Work+hold] = r.CPU
		}
		x := "-"
		if f := floors[r.Work+hold]; f > 0 {
			x = fmt.Sprintf("%.2f", r.CPU/f)
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%.3f\t%s\t%.3f\t%.0f\t%.1f\t%d\t%d\t%d\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t\n", r.Work, r.Server, r.CPU, x, r.User,
			r.Rate, 100*r.Share, r.P50, r.P99, r.P999, r.Idle, r.Heap, r.Stack, r.RSS, r.Grown)
	}
	_ = t.Flush()
}

// keep appends the results to a file.
func keep(path string, all []result) error {
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	e := json.NewEncoder(f)
	for _, r := range all {
		if err = e.Encode(struct {
			At string
			result
		}{time.Now().UTC().Format(time.RFC3339), r}); err != nil {
			return err
		}
	}
	return f.Close()
}
