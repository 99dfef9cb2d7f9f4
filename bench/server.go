package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/gateway"
	"github.com/tapecast/tapecast/gateway/feed"
	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
)

// backend is a server under measurement.
type backend interface {
	// serve takes connections until the process ends.
	serve(ln net.Listener) error
	// publish publishes by itself while it is told to; due counts deliveries. nil = somebody else does.
	publish(w work, on func() bool, due func(int64))
}

var _ = command("server", serverMain)

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
	var ln net.Listener
	var addr string
	if own, ok := b.(interface{ addr() (string, error) }); ok { // it listens by itself
		addr, err = own.addr()
	} else if ln, err = net.Listen("tcp", "127.0.0.1:0"); err == nil {
		addr = ln.Addr().String()
	}
	if err == nil && w.TLS {
		ln, err = overTLS(ln)
	}
	if err != nil {
		return err
	}
	fmt.Println(addr)
	var on flagged
	go func() { fmt.Fprintln(os.Stderr, b.serve(ln)) }()
	var due counter
	go b.publish(w, on.get, due.set)
	return obey(func(line string, u *usage) error {
		u.Count = due.get()
		switch line {
		case "start":
			if !on.get() && *profile != "" {
				if err := startProfile(*profile); err != nil {
					return err
				}
			}
			on.set(true)
		case "stop":
			on.set(false)
			pprof.StopCPUProfile()
		case "heap":
			return writeHeap(*profile + ".heap")
		}
		return nil
	})
}

func startProfile(path string) error {
	f, err := os.Create(path) //nolint:gosec // the user names it
	if err != nil {
		return err
	}
	return pprof.StartCPUProfile(f)
}

func writeHeap(path string) error {
	f, err := os.Create(path) //nolint:gosec // the user names it
	if err != nil {
		return err
	}
	runtime.GC()
	if err := pprof.WriteHeapProfile(f); err != nil {
		return err
	}
	return f.Close()
}

// kinds are the servers that a run can name.
var kinds = []string{"floor", "plain", "tapecast", "centrifuge", "nats", "prepared", "naive", "tls"}

func newBackend(kind string, w work, hold time.Duration, addrs string) (backend, error) {
	switch kind {
	case "tapecast":
		return newTapecast(hold, strings.Split(addrs, ","))
	case "floor":
		return newFloor(w, hold), nil
	case "plain":
		return newPlain(w, hold), nil
	case "tls":
		return bareTLS{}, nil
	case "naive":
		return newNaive(w, false), nil
	case "prepared":
		return newNaive(w, true), nil
	case "nats":
		return newNATS()
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
	ready := func() error { return nil } // it is waited for below
	room, err := gateway.New(gateway.Options{Logger: log, Registerer: reg, Feed: tapes, Hold: hold, CommandBurst: 4096, Ready: ready})
	if err != nil {
		return nil, err
	}
	t := &tapecast{group: &errgroup.Group{}, mux: http.NewServeMux()}
	room.Register(t.mux)
	room.RegisterAdmin(t.mux) // for what stalled clients hold
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
