package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	_ = register(job{name: "hop", about: "the whole way, HTTP, ingest, Kafka, fan-out, Kafka, gateway, 2 clients: a process each, and all in one (dev); hold 0; ms from accepted to written; and a bare way through the broker, of which there are two", once: true, run: hopWork})
	_ = register(job{name: "direct", about: "20,000 events/s of 1,000 keys; a gateway that needs a share of them, behind the fan-out or reading the feed itself", once: true, run: directWork})
)

// hopWork measures the whole way at a low and at a high rate, and a bare way
// through the broker, of which it has two.
func hopWork(ctx context.Context, e *env) (rows []row, err error) {
	for _, t := range hopTrips(e.kafka == "") {
		got, err := t.measure(ctx, e)
		if err != nil {
			return rows, err
		}
		r := row{Work: "hop", Server: number(float64(t.work.Rate)) + "/s"}
		if t.dev {
			r.Server += " dev"
		}
		r.add(p50ms, 1e3*got.latency.quantile(.5))
		r.add(p99ms, 1e3*got.latency.quantile(.99))
		r.add("client p50", float64(quantile(got.clients.Hist, .5)))
		r.add("client p99", float64(quantile(got.clients.Hist, .99)))
		r.add(ofDue, got.share)
		for _, name := range roleNames {
			if got.roles[name].cpu > 0 {
				r.add(name+" us/event", 1e6*got.roles[name].cpu/got.events)
			}
		}
		e.say("%s: p50 %.2f ms, p99 %.2f ms; parts, p50/p99/worst ms: %s", r.Server, 1e3*got.latency.quantile(.5), 1e3*got.latency.quantile(.99), got.parts)
		rows = append(rows, r)
	}
	for _, rate := range hopRates {
		r, err := hopFloor(ctx, e, rate)
		if err != nil {
			return rows, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// hopRates are events a second.
var hopRates = []int{1000, 20_000}

// hopTrips are a process for each role and, with the embedded broker, all of
// them and the broker in one.
func hopTrips(embedded bool) (ts []trip) {
	for _, dev := range []bool{false, true} {
		for _, rate := range hopRates {
			if t := (trip{work: work{Name: "hop", Subs: 2, Rate: rate, Size: valueSize}, fanout: true, dev: dev, gateway: []string{"--hold", "0s"}}); embedded || !dev {
				if dev {
					t.work.Topic = devTopic
				}
				ts = append(ts, t)
			}
		}
	}
	return ts
}

// directWork holds interest-driven delivery against a gateway that reads
// everything, as a function of the share of the keys that it needs.
func directWork(ctx context.Context, e *env) (rows []row, err error) {
	for _, percent := range []int{1, 10, 50, 100} {
		for _, way := range []string{"delivery", "direct"} {
			t := trip{
				work:       work{Name: "direct", Subs: 1, Keys: 1000, PerSub: 10 * percent, Uniform: true, Rate: 20_000, Size: valueSize},
				partitions: 4, fanout: way == "delivery", gateway: []string{"--hold", "50ms"},
			}
			if !t.fanout { // nobody confirms a partition: the gateway reads it, after this silence and within this rate
				t.gateway = append(t.gateway, "--silence", "100ms", "--bypass-rate", "1GiB")
			}
			got, err := t.measure(ctx, e)
			if err != nil {
				return rows, err
			}
			r := row{Work: "direct", Server: fmt.Sprintf("%s %d %%", way, percent)}
			gw, fan := got.roles["gateway"], got.roles["fanout"]
			r.add("gateway us/event", 1e6*gw.cpu/got.events)
			r.add("fanout us/event", 1e6*fan.cpu/got.events)
			r.add("gateway B/event", gw.read/got.events)
			r.add("fanout in B/event", fan.read/got.events)
			r.add("fanout out B/event", fan.written/got.events)
			r.add(ofDue, got.share)
			r.add("client p50", float64(quantile(got.clients.Hist, .5)))
			r.add("client p99", float64(quantile(got.clients.Hist, .99)))
			e.say("%s: gateway %.2f us and %.0f B a feed event", r.Server, 1e6*gw.cpu/got.events, gw.read/got.events)
			rows = append(rows, r)
		}
	}
	return rows, nil
}

// trip is events on their whole way.
type trip struct {
	work       work
	partitions int
	fanout     bool
	dev        bool     // all of it in one process, tapecast dev
	gateway    []string // flags
}

// tripped is what a trip took: differences over the measured time.
type tripped struct {
	events  float64 // accepted
	roles   map[string]spent
	latency histogram // s, accepted to written
	clients usage
	share   float64 // % of what was due
	parts   string  // how long each part of the way took, if there is one partition
}

var roleNames = []string{"ingest", "fanout", "gateway", oneProcess}

func (t trip) measure(ctx context.Context, e *env) (out tripped, err error) {
	s, err := t.stack(ctx, e)
	if s != nil {
		defer s.close()
	}
	if err != nil {
		return out, err
	}
	clients, err := start("", "client", "-kind", "tapecast", "-work", t.work.arg(), "-addr", s.role("gateway").public, "-to", strconv.Itoa(t.work.Subs))
	if err != nil {
		return out, err
	}
	defer clients.stop()
	if _, err = clients.usage(); err != nil {
		return out, fmt.Errorf("clients did not get in: %w", err)
	}
	var on flagged
	var due, sent counter
	on.set(true)
	s.feed(ctx, t.work, on.get, due.set, sent.set)
	time.Sleep(4 * time.Second) // interests have come round; a gateway on its own has noticed
	from, err := s.look(ctx, clients, "start", sent.get())
	if err != nil {
		return out, err
	}
	profiled := s.profile(ctx, e, t.work)
	time.Sleep(e.length)
	if err = profiled(); err != nil {
		return out, err
	}
	to, err := s.look(ctx, clients, "mark", sent.get())
	if err != nil {
		return out, err
	}
	on.set(false)
	time.Sleep(1500 * time.Millisecond)
	last, err := clients.tell("mark")
	if err != nil {
		return out, err
	}
	out = tripped{events: to.events - from.events, roles: map[string]spent{}, latency: to.latency.minus(from.latency), clients: to.clients}
	for _, n := range roleNames {
		a, b := from.roles[n], to.roles[n]
		out.roles[n] = spent{b.cpu - a.cpu, b.read - a.read, b.written - a.written}
	}
	if t.fanout && t.partitions <= 1 {
		out.parts = s.saidHops(ctx, t.work, sent.get(), e.length)
	}
	out.share = 100 * float64(last.Count) / float64(max(due.get(), 1))
	return out, nil
}

// stack starts what the trip goes through. It is to be closed also beside an error.
func (t trip) stack(ctx context.Context, e *env) (*stack, error) {
	if t.dev {
		return devStack(ctx, t.work.topic())
	}
	s, err := newStack(ctx, e.kafka, max(t.partitions, 1))
	if err != nil {
		return s, err
	}
	if err = s.start(ctx, "ingest"); err != nil {
		return s, err
	}
	if t.fanout {
		if err = s.start(ctx, "fanout", "--group", s.topic()); err != nil {
			return s, err
		}
	}
	return s, s.start(ctx, "gateway", append([]string{"--node", s.topic(), "--command-burst", "4096"}, t.gateway...)...)
}

// look reads what everybody has used and counted so far.
func (s *stack) look(ctx context.Context, clients *process, line string, events int64) (out tripped, err error) {
	out = tripped{events: float64(events), roles: map[string]spent{}}
	for _, n := range roleNames {
		if out.roles[n], err = s.spent(n); err != nil {
			return out, err
		}
	}
	if out.clients, err = clients.tell(line); err != nil {
		return out, err
	}
	text, err := get(ctx, "http://"+s.role("gateway").admin+"/metrics")
	out.latency = parseHistogram(text, "tapecast_accepted_to_written_seconds")
	return out, err
}

// histogram is Prometheus's: how many were at most so large.
type histogram struct {
	upTo  []float64 // the last one is +Inf
	count []float64 // cumulative
}

// parseHistogram reads a histogram without labels from a scrape.
func parseHistogram(scrape []byte, name string) (h histogram) {
	in := bufio.NewScanner(bytes.NewReader(scrape))
	for in.Scan() {
		rest, ok := strings.CutPrefix(in.Text(), name+`_bucket{le="`)
		le, n, ok2 := strings.Cut(rest, `"} `)
		if !ok || !ok2 {
			continue
		}
		upTo, err1 := strconv.ParseFloat(le, 64)
		count, err2 := strconv.ParseFloat(n, 64)
		if err1 == nil && err2 == nil {
			h.upTo, h.count = append(h.upTo, upTo), append(h.count, count)
		}
	}
	return h
}

// minus is what came between two scrapes.
func (h histogram) minus(before histogram) histogram {
	out := histogram{h.upTo, slices.Clone(h.count)}
	for i := range before.count {
		out.count[i] -= before.count[i]
	}
	return out
}

// quantile interpolates within its bucket, as Prometheus does.
func (h histogram) quantile(q float64) float64 {
	if len(h.count) == 0 || h.count[len(h.count)-1] == 0 {
		return math.NaN()
	}
	rank := q * h.count[len(h.count)-1]
	for i, n := range h.count {
		if n < rank {
			continue
		}
		low, below := 0.0, 0.0
		if i > 0 {
			low, below = h.upTo[i-1], h.count[i-1]
		}
		if math.IsInf(h.upTo[i], 1) {
			return low
		}
		return low + (h.upTo[i]-low)*(rank-below)/(n-below)
	}
	return math.NaN()
}
