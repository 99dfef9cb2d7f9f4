package main

import (
	"context"
	"flag"
	"fmt"
	"math"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/delivery"
	"github.com/tapecast/tapecast/internal/rawio"
	"github.com/tapecast/tapecast/internal/stream"
)

const (
	stormMissed = 1000 // events of each session
	stormLive   = 100  // other sessions, which follow another topic meanwhile
	stormRate   = 500  // events/s of that
	stormCalm   = 4 * time.Second
)

var (
	_ = register(job{name: "storm", about: "10,000 sessions resume the same 1,000 missed events at once, 100 others are live", run: storm(10_000, 1)})
	_ = register(job{name: "storm10", about: "10 sessions resume 1,000 events each, of different ranges", run: storm(10, 10)})
	_ = register(job{name: "storms", about: "10,000 sessions resume 1,000 events each, of 10 ranges", extra: true, run: storm(10_000, 10)})
	_ = command("storm-floor", stormFloor)
)

// stormFloor writes n prebuilt frames to each session once told to, whoever has
// room next, and does nothing else.
func stormFloor(args []string) error {
	fs := flag.NewFlagSet("storm-floor", flag.ExitOnError)
	subs := fs.Int("subs", 1, "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	f := newFloor(work{Subs: *subs}, 0)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	go func() { fmt.Fprintln(os.Stderr, f.serve(ln)) }()
	var all []byte
	v := (&shop{r: newRandom()}).event(time.Now())
	for i := range stormMissed {
		all = frame(all, i%keys, i, v, time.Now())
	}
	return obey(func(line string, _ *usage) error {
		if line != "go" {
			return nil
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		at := make([]int, len(f.fds))
		for left := len(f.fds); left > 0; {
			moved := false
			for i, fd := range f.fds {
				if at[i] == len(all) {
					continue
				}
				n, err := rawio.Write(uintptr(fd), all[at[i]:min(len(all), at[i]+64<<10)])
				switch {
				case n > 0:
					moved = true
					if at[i] += n; at[i] == len(all) {
						left--
					}
				case err != syscall.EAGAIN:
					return fmt.Errorf("session %d: %w", i, err)
				}
			}
			if !moved {
				time.Sleep(100 * time.Microsecond)
			}
		}
		return nil
	})
}

// scene is a gateway with its topics, its live sessions, and what feeds them.
type scene struct {
	*shop
	server      *process
	addr        string
	live        *process
	watch       *process // keeps the storm's topic followed
	topic, calm string
	id, calmID  stream.TopicID
	end0        int64 // where the tape of the storm's topic begins
	tape        chan []stream.Record
}

func (s *scene) stop() {
	for _, p := range []*process{s.live, s.watch, s.server} {
		if p != nil {
			p.stop()
		}
	}
	s.end()
}

// newScene sets it up: the storm's topic has n records, all of them older than the tape.
func newScene(ctx context.Context, e *env, n int) (s *scene, err error) {
	s = &scene{tape: make(chan []stream.Record, 1)}
	if s.shop, err = newShop(ctx, e.kafka); err != nil {
		return nil, err
	}
	if s.topic, s.id, err = s.shop.topic(ctx, "storm"); err != nil {
		return s, err
	}
	if s.calm, s.calmID, err = s.shop.topic(ctx, "calm"); err != nil {
		return s, err
	}
	if _, _, err = s.fill(ctx, s.topic, n); err != nil {
		return s, err
	}
	s.end0 = int64(n)
	go func() { _ = s.follow(ctx) }()
	args := []string{"replay-server", "-kafka", s.shop.addr}
	if e.profile != "" {
		args = append(args, "-profile", e.profile)
	}
	if s.server, err = start("", args...); err != nil {
		return s, err
	}
	if s.addr, err = s.server.line(); err != nil {
		return s, err
	}
	go func() {
		if err := s.feed(ctx); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}()
	if s.watch, err = s.clients("-live", "-topic", s.topic); err != nil {
		return s, err
	}
	if s.live, err = s.clients("-live", "-topic", s.calm, "-to", strconv.Itoa(stormLive)); err != nil {
		return s, err
	}
	return s, until(ctx, "live sessions", func() bool {
		u, err := s.live.tell("mark")
		return err == nil && u.Count > stormLive
	})
}

func (s *scene) clients(args ...string) (*process, error) {
	p, err := start("", append([]string{"resume-client", "-addr", s.addr}, args...)...)
	if err != nil {
		return nil, err
	}
	if _, err = p.usage(); err != nil {
		return nil, fmt.Errorf("clients did not get in: %w", err)
	}
	return p, nil
}

// feed writes what a fan-out would: live events of the calm topic, and of the
// storm's topic what it is given in tape.
func (s *scene) feed(ctx context.Context) error {
	tick := time.NewTicker(batchEvery)
	defer tick.Stop()
	var calm int64
	storm, began := s.end0, time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s.mu.Lock()
		applied, inc, to := s.applied, s.incarnation, s.hand.topic
		s.mu.Unlock()
		if to == "" {
			began = time.Now()
			continue
		}
		now := time.Now()
		live := stream.Section{Topic: s.calmID, Interests: applied, Generation: 1, From: calm}
		for int64(now.Sub(began).Seconds()*stormRate) > calm {
			live.Deliveries = append(live.Deliveries, stream.Record{
				Offset: calm, Time: now.UnixMilli(), Accepted: now.UnixMicro(), Key: []byte(keyName(int(calm) % keys)), Value: s.event(now)})
			calm++
		}
		live.To, live.End = calm, calm
		missed := stream.Section{Topic: s.id, Interests: applied, Generation: 1, From: storm}
		select {
		case missed.Deliveries = <-s.tape:
			storm += int64(len(missed.Deliveries))
		default:
		}
		missed.To, missed.End = storm, storm
		value, err := delivery.Append(nil, &delivery.Batch{Incarnation: inc, Writer: "bench", WrittenUs: now.UnixMicro(), Sections: []stream.Section{live, missed}})
		if err != nil {
			return err
		}
		if _, err = s.client.Append(ctx, to, 0, []broker.AppendRecord{{Value: value}}); err != nil {
			return err
		}
	}
}

// storm is a work: the same storm from a tape that has what was missed, from
// one that does not, and as bare writes.
func storm(sessions, ranges int) func(ctx context.Context, e *env) ([]row, error) {
	return func(ctx context.Context, e *env) (rows []row, err error) {
		name := map[int]string{10: "storm10"}[sessions]
		if name == "" {
			name = map[int]string{1: "storm", 10: "storms"}[ranges]
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		floor, err := bareStorm(name, sessions)
		if err != nil {
			return nil, err
		}
		rows = append(rows, floor)
		const apart = 20_000 // far enough that no fetch brings two ranges
		s, err := newScene(ctx, e, max(apart*ranges, apart))
		if s != nil {
			defer s.stop()
		}
		if err != nil {
			return rows, err
		}
		// From the tape: all the ranges are the same here.
		base, recs, err := s.fill(ctx, s.topic, stormMissed)
		if err != nil {
			return rows, err
		}
		s.tape <- recs
		hot, err := s.storm(name, "hot tape", sessions, "-offset", strconv.FormatInt(base, 10))
		if err != nil {
			return rows, fmt.Errorf("hot tape: %w", err)
		}
		rows = append(rows, hot)
		cold, err := s.storm(name, "cold tape", sessions, "-offset", strconv.FormatInt(s.end0-apart*int64(ranges-1)-stormMissed, 10),
			"-ranges", strconv.Itoa(ranges), "-step", strconv.Itoa(apart), "-until")
		if err != nil {
			return rows, fmt.Errorf("cold tape: %w", err)
		}
		t, _ := cold.get("s")
		h, _ := hot.get("s")
		f, _ := floor.get("s")
		fetched, _ := cold.get("fetches")
		cold.add("x ranges", fetched/float64(ranges))
		cold.add("x hot", t/h)
		cold.add("x bare", t/f)
		return append(rows, cold), nil
	}
}

// crowdOf starts the resuming clients of a storm, connected and silent.
func crowdOf(addr string, sessions int, args ...string) (all []*process, err error) {
	const each = 5000
	for from := 0; from < sessions; from += each {
		p, err := start("", append([]string{"resume-client", "-addr", addr, "-count", strconv.Itoa(stormMissed),
			"-from", strconv.Itoa(from), "-to", strconv.Itoa(min(from+each, sessions))}, args...)...)
		if err != nil {
			return all, err
		}
		all = append(all, p)
	}
	for _, p := range all {
		if _, err := p.usage(); err != nil {
			return all, fmt.Errorf("clients did not get in: %w", err)
		}
	}
	return all, nil
}

// blow tells all clients to resume and returns how long the last one took, and what came.
func blow(all []*process) (took time.Duration, events int64, err error) {
	began := time.Now()
	for _, p := range all {
		if _, err := fmt.Fprintln(p.in, "go"); err != nil {
			return 0, 0, err
		}
	}
	for _, p := range all {
		u, err := p.usage()
		if err != nil {
			return 0, 0, fmt.Errorf("a client gave up: %w", err)
		}
		events += u.Count
	}
	return time.Since(began), events, nil
}

func stopAll(all []*process) {
	for _, p := range all {
		p.stop()
	}
}

// storm lets one loose, with the live sessions' latencies before and during.
func (s *scene) storm(name, way string, sessions int, args ...string) (r row, err error) {
	r = row{Work: name, Server: way}
	all, err := crowdOf(s.addr, sessions, append([]string{"-topic", s.topic}, args...)...)
	defer stopAll(all)
	if err != nil {
		return r, err
	}
	time.Sleep(time.Second)
	if _, err = s.live.tell("mark"); err != nil {
		return r, err
	}
	was, err := counts(s.addr)
	if err != nil {
		return r, err
	}
	time.Sleep(stormCalm)
	before, err := s.live.tell("mark")
	if err != nil {
		return r, err
	}
	had, err := counts(s.addr)
	if err != nil {
		return r, err
	}
	from, err := s.server.tell("profile " + name + "." + strings.ReplaceAll(way, " ", "-"))
	if err != nil {
		return r, err
	}
	took, events, err := blow(all)
	if err != nil {
		return r, err
	}
	to, err := s.server.tell("profiled")
	if err != nil {
		return r, err
	}
	during, err := s.live.tell("mark")
	if err != nil {
		return r, err
	}
	has, err := counts(s.addr)
	if err != nil {
		return r, err
	}
	if want := int64(sessions) * stormMissed; events != want {
		return r, fmt.Errorf("%d events came of %d", events, want)
	}
	addStorm(&r, from, to, took, events)
	r.add("fetches", has[fetchCount]-had[fetchCount])
	calm, stress := float64(quantile(before.Hist, .99)), float64(quantile(during.Hist, .99))
	r.add("live p99 before", calm)
	r.add("during", stress)
	r.add("x", stress/max(calm, 1))
	r.add("written by p99 before", written(was, had, .99))
	r.add("by p99 during", written(had, has, .99))
	return r, nil
}

// written gives, in ms, by when a share of the live events was written that
// the gateway wrote between two looks at its own histogram: the clients' part,
// who share the machine with it here, is not in it. It is a bucket's end.
func written(from, to map[string]float64, share float64) float64 {
	const name = "tapecast_accepted_to_written_seconds"
	total := to[name+"_count"] - from[name+"_count"]
	best := math.Inf(1)
	for bucket, n := range to {
		le, ok := strings.CutPrefix(bucket, name+`_bucket{le="`)
		end, err := strconv.ParseFloat(strings.TrimSuffix(le, `"}`), 64)
		if ok && err == nil && n-from[bucket] >= share*total {
			best = min(best, end)
		}
	}
	return 1000 * best
}

func addStorm(r *row, from, to usage, took time.Duration, events int64) {
	m := float64(events) / 1e6
	r.add(perM, (to.User-from.User+to.Sys-from.Sys)/m)
	r.add(user, (to.User-from.User)/m)
	r.add("s", took.Seconds())
	r.add(perSec, float64(events)/took.Seconds())
	r.add("RSS MB", float64(to.RSS)/1e6)
}

// bareStorm writes the same frames from bare descriptors.
func bareStorm(name string, sessions int) (r row, err error) {
	r = row{Work: name, Server: "floor"}
	server, err := start("", "storm-floor", "-subs", strconv.Itoa(sessions))
	if err != nil {
		return r, err
	}
	defer server.stop()
	addr, err := server.line()
	if err != nil {
		return r, err
	}
	all, err := crowdOf(addr, sessions)
	defer stopAll(all)
	if err != nil {
		return r, err
	}
	time.Sleep(time.Second)
	from, err := server.tell("mark")
	if err != nil {
		return r, err
	}
	if _, err = fmt.Fprintln(server.in, "go"); err != nil {
		return r, err
	}
	took, events, err := blow(all)
	if err != nil {
		return r, err
	}
	if _, err = server.usage(); err != nil { // the answer to go
		return r, err
	}
	to, err := server.tell("mark")
	if err != nil {
		return r, err
	}
	if want := int64(sessions) * stormMissed; events != want {
		return r, fmt.Errorf("%d events came of %d", events, want)
	}
	addStorm(&r, from, to, took, events)
	return r, nil
}
