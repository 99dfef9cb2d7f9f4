package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/tapecast/tapecast/internal/app"
	"github.com/tapecast/tapecast/internal/config"
	"github.com/tapecast/tapecast/loadtest"
)

// runLoadtest is `tapecast loadtest`.
func runLoadtest(ctx context.Context, sys system, args []string) error {
	fs := newFlags("loadtest [flags]",
		"Write events, subscribe to them with many clients that lose their connections at random, and hold every\n"+
			"client's history against the topic as another Kafka library reads it. Prints one line; exit code 1 if anything\n"+
			"was lost, doubled, reordered or foreign.",
		"tapecast loadtest                                      # against a running 'tapecast dev'",
		"tapecast loadtest --subscribers 1000 --rate 5000 --duration 60s --resume 5s",
		"tapecast loadtest --kafka k1:9092,k2:9092 --registry http://registry:8081 --url ws://gw1:8080/ws --url ws://gw2:8080/ws")
	var o loadtest.Options
	var kafka, urls listFlag
	fs.Var(&kafka, "kafka", "bootstrap `BROKERS`, host:port (default "+config.DefaultKafka+")")
	fs.StringVar(&o.RegistryURL, "registry", config.DefaultRegistry, "schema registry's `URL`")
	fs.Var(&urls, "url", "gateway's `URL`; may be repeated (default "+defaultURL+")")
	fs.StringVar(&o.Ingest, "ingest", "", "publish through this ingest `URL` instead of straight to Kafka")
	fs.StringVar(&o.Topic, "topic", "", "an existing topic of the load test; empty = a new one, deleted afterwards")
	fs.IntVar(&o.Partitions, "partitions", 4, "partitions of the new topic")
	fs.IntVar(&o.Subscribers, "subscribers", 100, "clients; every second one takes ten keys, the others all")
	fs.IntVar(&o.Producers, "producers", 2, "producers")
	fs.Float64Var(&o.Rate, "rate", 1000, "events a second, all producers together")
	fs.DurationVar(&o.Duration, "duration", 10*time.Second, "how long to produce")
	fs.IntVar(&o.Keys, "keys", 100, "different keys")
	fs.IntVar(&o.Pad, "pad", 60, "bytes of padding in each event")
	fs.DurationVar(&o.Resume, "resume", 0, "mean time between two disconnections of one client; 0 = none")
	fs.DurationVar(&o.Drain, "drain", time.Minute, "how long clients may take to reach the end")
	fs.Uint64Var(&o.Seed, "seed", 0, "seed of all that is random; 0 = drawn, and printed")
	fs.BoolVar(&o.Keep, "keep", false, "keep the new topic")
	quiet := fs.Bool("quiet", false, "print the last line only")
	rest, err := fs.parse(sys, args)
	if err != nil {
		return err
	}
	if err := noArgs(rest); err != nil {
		return err
	}
	if o.Brokers = splitAddrs(kafka); len(o.Brokers) == 0 {
		o.Brokers = []string{config.DefaultKafka}
	}
	if o.Gateways = urls; len(urls) == 0 {
		o.Gateways = []string{defaultURL}
	}
	if !*quiet {
		o.Progress = sys.err
	}
	rep, err := loadtest.Run(ctx, o)
	if err != nil {
		return err
	}
	for _, n := range rep.Notes {
		fmt.Fprintln(sys.err, n)
	}
	fmt.Fprintln(sys.out, rep)
	if !rep.OK() {
		return errReported
	}
	return nil
}

func newClientLogger(w interface{ Write([]byte) (int, error) }, level string) (*slog.Logger, error) {
	return app.NewLogger(w, level, "text")
}

// splitAddrs flattens repeated and comma-separated addresses.
func splitAddrs(lists []string) []string {
	var out []string
	for _, l := range lists {
		for a := range strings.SplitSeq(l, ",") {
			if a = strings.TrimSpace(a); a != "" {
				out = append(out, a)
			}
		}
	}
	return out
}
