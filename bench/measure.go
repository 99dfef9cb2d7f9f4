package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// candidate is a server with what it is allowed to hold.
type candidate struct {
	kind string
	hold time.Duration
}

func parseCandidate(s string) (candidate, error) {
	kind, ms, held := strings.Cut(s, "@")
	c := candidate{kind: kind}
	if !slices.Contains(kinds, kind) {
		return c, fmt.Errorf("there is no server %q; there are: %s", kind, strings.Join(kinds, ", "))
	}
	if held {
		n, err := strconv.Atoi(ms)
		if err != nil || n < 0 {
			return c, fmt.Errorf("server %q: the hold is in ms: %w", s, err)
		}
		c.hold = time.Duration(n) * time.Millisecond
	}
	return c, nil
}

// run makes the work a job's: each server once.
func (w work) run(ctx context.Context, e *env) (rows []row, err error) {
	servers := e.servers
	if servers == nil || w.Name == "write" { // the unit is always the floor
		servers = w.Servers
		if e.peers {
			servers = append(slices.Clone(servers), w.peers()...)
		}
	}
	for _, s := range servers {
		c, err := parseCandidate(s)
		if err != nil {
			return rows, err
		}
		r, err := measure(ctx, w, c, s, e)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", s, err)
		}
		told := perM
		if w.OnlyIdle {
			told = kBMore
		}
		v, _ := r.get(told)
		e.say("%s: %.3f %s", s, v, told)
		rows = append(rows, r)
	}
	beyondTLS(rows)
	return rows, nil
}

// beyondTLS adds what sessions take beyond the connections of "tls", which is
// the first server where there is one.
func beyondTLS(rows []row) {
	if len(rows) == 0 || rows[0].Server != "tls" {
		return
	}
	alone, _ := rows[0].get(kBMore)
	for i := range rows[1:] {
		v, _ := rows[1+i].get(kBMore)
		rows[1+i].add(kBOverTLS, v-alone)
	}
}

const perClient = 7500 // sessions of a client process: descriptors are bounded

// bench is one server with its clients and, for tapecast, the hand that feeds it.
type bench struct {
	server  *process
	addr    string // the server's
	clients []*process
	hand    *hand
	on      flagged
	due     counter
	end     context.CancelFunc
	empty   usage // the server before anybody came
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

func (b *bench) begin(ctx context.Context, w work, c candidate, profile string) error {
	ctx, b.end = context.WithCancel(ctx)
	args := []string{"server", "-kind", c.kind, "-work", w.arg(), "-hold", c.hold.String(), "-profile", profile}
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
		return fmt.Errorf("the server did not start: %w", err)
	}
	b.addr = addr
	if b.empty, err = b.server.tell("gc"); err != nil {
		return err
	}
	core := ""
	if w.OneCore {
		core = "1"
	}
	for from := 0; from < w.Subs; from += perClient {
		p, err := start(core, "client", "-kind", c.kind, "-work", w.arg(), "-addr", addr,
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
		clients.join(u)
	}
	return server, clients, nil
}

// join adds what another client process has counted.
func (u *usage) join(o usage) {
	u.Count += o.Count
	u.Min, u.Max = min(u.Min, o.Min), max(u.Max, o.Max)
	for k, n := range o.Hist {
		u.Hist[k] += n
	}
}

// sample is what was read at one moment.
type sample struct {
	at              time.Time
	server, clients usage
}

func (b *bench) sample(line string) (sample, error) {
	s, c, err := b.tell(line)
	return sample{time.Now(), s, c}, err
}

// drain waits until all that was due has arrived, or for so long.
func (b *bench) drain(wait time.Duration) (s sample, err error) {
	for end := time.Now().Add(wait); err == nil; {
		time.Sleep(200 * time.Millisecond)
		if s, err = b.sample("mark"); s.clients.Count >= s.server.Count || time.Now().After(end) {
			break
		}
	}
	return s, err
}

func measure(ctx context.Context, w work, c candidate, name string, e *env) (r row, err error) {
	r = row{Work: w.Name, Server: name}
	profile := e.profile
	if profile != "" {
		profile += "." + w.Name + "." + name
	}
	b := &bench{}
	defer b.close()
	if err = b.begin(ctx, w, c, profile); err != nil {
		return r, err
	}
	if err = b.connect(w, c); err != nil {
		return r, err
	}
	time.Sleep(time.Second)
	idle, _, err := b.tell("gc")
	if err != nil {
		return r, err
	}
	if w.OnlyIdle {
		addIdle(&r, w, idle, b.empty)
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
	from, err := b.sample("start")
	if err != nil {
		return r, err
	}
	time.Sleep(e.length)
	to, err := b.sample("mark")
	if err != nil {
		return r, err
	}
	b.on.set(false)
	if _, _, err = b.tell("stop"); err != nil {
		return r, err
	}
	last, err := b.drain(max(e.drain, 1500*time.Millisecond))
	if err != nil {
		return r, err
	}
	addFigures(&r, w, from, to, last)
	return r, b.addStalled(ctx, &r, w)
}

// addIdle adds what idle connections need, with what the empty server has and
// without.
func addIdle(r *row, w work, u, empty usage) {
	per := func(n int64) float64 { return float64(n) / 1e3 / float64(w.Subs) }
	r.add(kBIdle, per(u.RSS))
	r.add(kBMore, per(u.RSS-empty.RSS))
	r.add("empty MB", float64(empty.RSS)/1e6)
	r.add("heap", per(int64(u.Heap)))     //nolint:gosec // far below
	r.add("stacks", per(int64(u.Stacks))) //nolint:gosec // as above
}

// addFigures adds what happened between two samples; the last one, when
// everything has had time to arrive, says how much of what was due did.
func addFigures(r *row, w work, from, to, last sample) {
	m := float64(to.clients.Count-from.clients.Count) / 1e6
	if m <= 0 {
		r.add(ofDue, 0)
		return
	}
	u := (to.server.User - from.server.User) / m
	r.add(perM, u+(to.server.Sys-from.server.Sys)/m)
	r.add(user, u)
	r.add(perSec, m*1e6/to.at.Sub(from.at).Seconds())
	r.add(ofDue, 100*float64(last.clients.Count)/float64(max(last.server.Count, 1)))
	r.add("min/max", float64(last.clients.Min)/float64(max(last.clients.Max, 1)))
	r.add(p50ms, float64(quantile(to.clients.Hist, .5)))
	r.add(p99ms, float64(quantile(to.clients.Hist, .99)))
	r.add(p999ms, float64(quantile(to.clients.Hist, .999)))
	r.add("RSS MB", float64(to.server.RSS)/1e6)
	r.add(rssGrew, float64(to.server.RSS-from.server.RSS)/1e6)
}

// quantile of a histogram by its buckets' lower ends; 0 = nothing was counted.
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
