package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	_ "net/http/pprof" // profiles of the servers, on request
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/gateway"
	"github.com/tapecast/tapecast/gateway/feed"
	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
)

// usage is what a process has used, as it says itself.
type usage struct {
	User, Sys  float64 // seconds
	RSS        int64   // bytes
	Heap       uint64
	Stacks     uint64
	Goroutines int
	Count      int64 // messages: clients count, servers say what was due
	Hist       map[int]int64
	Min, Max   int64 // messages of one client
}

func used(gc bool) usage {
	if gc {
		debug.FreeOSMemory()
	}
	var u usage
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) == nil {
		u.User = float64(r.Utime.Sec) + float64(r.Utime.Usec)/1e6
		u.Sys = float64(r.Stime.Sec) + float64(r.Stime.Usec)/1e6
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u.Heap, u.Stacks, u.Goroutines = m.HeapInuse, m.StackInuse, runtime.NumGoroutine()
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		var size, rss int64
		if _, err := fmt.Sscan(string(b), &size, &rss); err == nil {
			u.RSS = rss * int64(os.Getpagesize())
		}
	}
	return u
}

// backend is a server under measurement.
type backend interface {
	// serve takes connections until the process ends.
	serve(ln net.Listener) error
	// publish publishes by itself while it is told to; due counts deliveries. nil = somebody else does.
	publish(w work, on func() bool, due func(int64))
}

// serverMain is a server process. It says where it listens, and obeys lines on stdin.
func serverMain(args []string) error {
	fs := flag.NewFlagSet("server", flag.ExitOnError)
	kind := fs.String("kind", "tapecast", "")
	name := fs.String("work", "S1", "")
	hold := fs.Duration("hold", 50*time.Millisecond, "")
	addrs := fs.String("kafka", "", "")
	profile := fs.String("profile", "", "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	w, err := workNamed(*name)
	if err != nil {
		return err
	}
	b, err := newBackend(*kind, w, *hold, *addrs)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	var on flagged
	go func() { fmt.Fprintln(os.Stderr, b.serve(ln)) }()
	var due counter
	go b.publish(w, on.get, due.set)
	in := bufio.NewScanner(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		switch in.Text() {
		case "start":
			if !on.get() && *profile != "" {
				f, err := os.Create(*profile)
				if err != nil {
					return err
				}
				if err := pprof.StartCPUProfile(f); err != nil {
					return err
				}
			}
			on.set(true)
		case "stop":
			on.set(false)
			pprof.StopCPUProfile()
		case "heap":
			if f, err := os.Create(*profile + ".heap"); err == nil {
				runtime.GC()
				_ = pprof.WriteHeapProfile(f)
				_ = f.Close()
			}
		}
		u := used(in.Text() == "gc")
		u.Count = due.get()
		if err := out.Encode(u); err != nil {
			return err
		}
	}
	return nil
}

func newBackend(kind string, w work, hold time.Duration, addrs string) (backend, error) {
	switch kind {
	case "tapecast":
		return newTapecast(hold, strings.Split(addrs, ","))
	case "floor":
		return newFloor(w, hold), nil
	case "naive":
		return newNaive(w), nil
	case "centrifuge":
		return newCentrifuge(w, hold)
	}
	return nil, fmt.Errorf("there is no server %q", kind)
}

// tapecast is the real gateway, wired as internal/app wires it.
type tapecast struct {
	group *errgroup.Group
	mux   *http.ServeMux
}

func newTapecast(hold time.Duration, addrs []string) (*tapecast, error) {
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("BENCH_DEBUG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	reg := prometheus.NewRegistry()
	cl, err := broker.New(broker.Options{Addrs: addrs, Logger: log})
	if err != nil {
		return nil, err
	}
	cat, err := catalog.New(catalog.Options{Client: cl, Rules: []catalog.Rule{{Pattern: "*", Format: "json"}}, Logger: log})
	if err != nil {
		return nil, err
	}
	tapes, err := feed.New(feed.Options{Logger: log, Registerer: reg, Catalog: cat, Client: cl, Node: "bench"})
	if err != nil {
		return nil, err
	}
	if hold == 0 {
		hold = -1
	}
	room, err := gateway.New(gateway.Options{Logger: log, Registerer: reg, Feed: tapes, Hold: hold, CommandBurst: 4096})
	if err != nil {
		return nil, err
	}
	t := &tapecast{group: &errgroup.Group{}, mux: http.NewServeMux()}
	room.Register(t.mux)
	ctx := context.Background()
	t.group.Go(func() error { return cat.Run(ctx) })
	t.group.Go(func() error { return tapes.Run(ctx) })
	t.group.Go(func() error { return room.Run(ctx) })
	for tapes.Ready() != nil {
		time.Sleep(10 * time.Millisecond)
	}
	return t, nil
}

func (t *tapecast) serve(ln net.Listener) error {
	return (&http.Server{Handler: t.mux, ReadHeaderTimeout: 5 * time.Second}).Serve(ln)
}

func (t *tapecast) publish(work, func() bool, func(int64)) {}
