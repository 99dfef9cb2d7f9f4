package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/gateway"
	"github.com/tapecast/tapecast/gateway/feed"
	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/internal/embedded"
	"github.com/tapecast/tapecast/internal/interestlog"
	"github.com/tapecast/tapecast/internal/stream"
)

const (
	keys       = 1000 // of the replayed topic, in turn
	replayed   = 1_000_000
	replayRate = 2 << 30 // bytes/s: what is measured is not the budget
)

var (
	_ = register(job{name: "replay", about: "one client reads 1,000,000 records of 112 B from Kafka: all of them, and one key of 1,000", run: replayWork})
	_ = command("replay-server", replayServer)
	_ = command("replay-fetch", replayFetch)
)

// replayServer is a whole gateway that tells its metrics and takes profiles.
func replayServer(args []string) error {
	fs := flag.NewFlagSet("replay-server", flag.ExitOnError)
	addrs := fs.String("kafka", "", "")
	profile := fs.String("profile", "", "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("BENCH_DEBUG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	reg := prometheus.NewRegistry()
	cl, err := broker.New(broker.Options{Addrs: strings.Split(*addrs, ","), Logger: log})
	if err != nil {
		return err
	}
	cat, err := catalog.New(catalog.Options{Client: cl, Rules: []catalog.Rule{{Pattern: "bench-*", Format: "json"}}, Logger: log})
	if err != nil {
		return err
	}
	tapes, err := feed.New(feed.Options{Logger: log, Registerer: reg, Catalog: cat, Client: cl, Node: "bench", ReplayRate: replayRate})
	if err != nil {
		return err
	}
	ready := func() error { return nil } // it is waited for below
	room, err := gateway.New(gateway.Options{Logger: log, Registerer: reg, Feed: tapes, Ready: ready})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	room.Register(mux)
	mux.Handle("/metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	ctx := context.Background()
	var g errgroup.Group
	g.Go(func() error { return cat.Run(ctx) })
	g.Go(func() error { return tapes.Run(ctx) })
	g.Go(func() error { return room.Run(ctx) })
	for tapes.Ready() != nil {
		time.Sleep(10 * time.Millisecond)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	g.Go(func() error { return (&http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}).Serve(ln) })
	fmt.Println(ln.Addr())
	return obey(func(line string, _ *usage) error {
		switch name, on := strings.CutPrefix(line, "profile "); {
		case on && *profile != "":
			return startProfile(*profile + "." + name)
		case line == "profiled":
			pprof.StopCPUProfile()
		}
		return nil
	})
}

// replayFetch reads a topic as the gateway does, and does nothing with it: the floor.
func replayFetch(args []string) error {
	fs := flag.NewFlagSet("replay-fetch", flag.ExitOnError)
	addrs := fs.String("kafka", "", "")
	topic := fs.String("topic", "", "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	cl, err := broker.New(broker.Options{Addrs: strings.Split(*addrs, ",")})
	if err != nil {
		return err
	}
	defer cl.Close()
	fmt.Println("ready")
	return obey(func(line string, u *usage) error {
		if line != "go" {
			return nil
		}
		r := cl.NewReader(*topic, stream.TopicID{}, 0)
		defer r.Close()
		for at := int64(0); ; {
			s, err := r.Read(context.Background(), at, 1<<20, 0)
			if err != nil {
				return err
			}
			u.Count += int64(len(s.Records))
			if at = s.To; at >= s.End {
				return nil
			}
		}
	})
}

// shop is a Kafka with topics to replay.
type shop struct {
	hand          // follows the interest log
	addr   string // of the bootstrap broker
	topics []string
	r      *rand.Rand
}

func newRandom() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// newShop starts a broker, or uses one.
func newShop(ctx context.Context, addr string) (*shop, error) {
	s := &shop{addr: addr, r: newRandom()}
	if addr == "" {
		kafka, err := embedded.Start(embedded.Options{Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler), RetentionBytes: 1 << 30})
		if err != nil {
			return nil, err
		}
		s.kafka, s.addr = kafka, kafka.Addr()
	}
	var err error
	if s.client, err = broker.New(broker.Options{Addrs: strings.Split(s.addr, ","), ClientID: "bench"}); err != nil {
		return nil, err
	}
	_, err = interestlog.Ensure(ctx, s.client, 0)
	return s, err
}

func (s *shop) end() {
	if s.kafka != nil {
		s.close()
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, t := range s.topics {
		_ = s.client.DeleteTopic(ctx, t)
	}
	s.client.Close()
}

// topic makes one.
func (s *shop) topic(ctx context.Context, kind string) (string, stream.TopicID, error) {
	name := fmt.Sprintf("bench-%s-%d", kind, time.Now().UnixNano())
	t, _, err := s.client.CreateTopic(ctx, broker.TopicSpec{Name: name, Partitions: 1})
	if err != nil {
		return "", stream.TopicID{}, err
	}
	s.topics = append(s.topics, name)
	return name, t.ID, nil
}

// event makes one: JSON with the mark and the time, and digits that do not compress away.
func (s *shop) event(now time.Time) []byte {
	v := append(make([]byte, 0, valueSize+8), `{"t":"^`...)
	v = strconv.AppendInt(v, now.UnixMicro(), 10)
	v = append(v, `","p":"`...)
	for len(v) < valueSize-2 {
		v = strconv.AppendUint(v, s.r.Uint64()|1<<63, 36)
	}
	return append(v[:valueSize-2], `"}`...)
}

// fill appends records, and returns them and the first one's offset.
func (s *shop) fill(ctx context.Context, topic string, n int) (base int64, recs []stream.Record, err error) {
	base = -1
	for at := 0; at < n; {
		now := time.Now()
		out := make([]broker.AppendRecord, min(1000, n-at))
		for i := range out {
			out[i] = broker.AppendRecord{Key: []byte(keyName((at + i) % keys)), Value: s.event(now)}
		}
		first, err := s.client.Append(ctx, topic, 0, out)
		if err != nil {
			return 0, nil, err
		}
		if base < 0 {
			base = first
		}
		if n <= 10_000 { // these are also put on a tape
			for i := range out {
				recs = append(recs, stream.Record{Offset: first + int64(i), Time: now.UnixMilli(), Key: out[i].Key, Value: out[i].Value})
			}
		}
		at += len(out)
	}
	return base, recs, nil
}

// counts reads the gateway's own counters.
func counts(addr string) (map[string]float64, error) {
	resp, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	out := map[string]float64{}
	for in := bufio.NewScanner(io.LimitReader(resp.Body, 8<<20)); in.Scan(); {
		name, v, ok := strings.Cut(in.Text(), " ")
		if f, err := strconv.ParseFloat(v, 64); ok && err == nil {
			out[name] = f
		}
	}
	return out, nil
}

const (
	fetchCount = "tapecast_feed_replay_fetches_total"
	fetchBytes = "tapecast_feed_replay_read_bytes_total"
)

// replayWork reads a topic three ways: raw, whole, one key.
func replayWork(ctx context.Context, e *env) (rows []row, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := newShop(ctx, e.kafka)
	if err != nil {
		return nil, err
	}
	defer s.end()
	topic, _, err := s.topic(ctx, "replay")
	if err != nil {
		return nil, err
	}
	if _, _, err = s.fill(ctx, topic, replayed); err != nil {
		return nil, err
	}
	floor, err := replayFloor(s, topic)
	if err != nil {
		return nil, err
	}
	rows = append(rows, floor)
	for _, way := range []struct{ name, key string }{{"whole topic", ""}, {"one key", keyName(7)}} {
		r, err := replayOne(s, topic, way.name, way.key, e)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", way.name, err)
		}
		rows = append(rows, r)
	}
	return rows, nil
}

func replayFloor(s *shop, topic string) (r row, err error) {
	r = row{Work: "replay", Server: "floor"} // fetch, check, decompress, and nothing else
	p, err := start("", "replay-fetch", "-kafka", s.addr, "-topic", topic)
	if err != nil {
		return r, err
	}
	defer p.stop()
	if _, err = p.line(); err != nil {
		return r, err
	}
	before, err := p.tell("go") // warm
	if err != nil {
		return r, err
	}
	from, err := p.tell("mark")
	if err != nil {
		return r, err
	}
	began := time.Now()
	if _, err = p.tell("go"); err != nil {
		return r, err
	}
	took := time.Since(began)
	to, err := p.tell("mark")
	if err != nil {
		return r, err
	}
	if before.Count != replayed {
		return r, fmt.Errorf("%d records were read of %d", before.Count, replayed)
	}
	addReplay(&r, from, to, took)
	return r, nil
}

// addReplay adds what a replay of all records took.
func addReplay(r *row, from, to usage, took time.Duration) {
	const m = replayed / 1e6
	cpu := (to.User - from.User + to.Sys - from.Sys) / m
	r.add(perM, cpu)
	r.add(user, (to.User-from.User)/m)
	r.add("records/s a core", 1e6/cpu)
	r.add("records/s", replayed/took.Seconds())
	r.add("RSS MB", float64(to.RSS)/1e6)
}

func replayOne(s *shop, topic, name, key string, e *env) (r row, err error) {
	r = row{Work: "replay", Server: name}
	args := []string{"replay-server", "-kafka", s.addr}
	if e.profile != "" {
		args = append(args, "-profile", e.profile)
	}
	server, err := start("", args...)
	if err != nil {
		return r, err
	}
	defer server.stop()
	addr, err := server.line()
	if err != nil {
		return r, err
	}
	c, err := start("", "resume-client", "-addr", addr, "-topic", topic, "-key", key, "-count", strconv.Itoa(replayed))
	if err != nil {
		return r, err
	}
	defer c.stop()
	if _, err = c.usage(); err != nil {
		return r, fmt.Errorf("the client did not get in: %w", err)
	}
	before, err := counts(addr)
	if err != nil {
		return r, err
	}
	from, err := server.tell("profile replay." + strings.ReplaceAll(name, " ", "-"))
	if err != nil {
		return r, err
	}
	did, err := c.tell("go")
	if err != nil {
		return r, err
	}
	to, err := server.tell("profiled")
	if err != nil {
		return r, err
	}
	after, err := counts(addr)
	if err != nil {
		return r, err
	}
	due := int64(replayed)
	if key != "" {
		due = replayed / keys
	}
	if did.Count != due {
		return r, fmt.Errorf("%d events came of %d", did.Count, due)
	}
	addReplay(&r, from, to, time.Duration(did.Max)*time.Millisecond)
	r.add("fetches", after[fetchCount]-before[fetchCount])
	r.add("MB fetched", (after[fetchBytes]-before[fetchBytes])/1e6)
	return r, nil
}

var errFewer = errors.New("the gateway has not said what it wants")

// until waits until something is so.
func until(ctx context.Context, what string, ok func() bool) error {
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if ctx.Err() != nil || time.Now().After(end) {
			return fmt.Errorf("%s: %w", what, errFewer)
		}
	}
	return nil
}
