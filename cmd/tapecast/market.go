package main

import (
	"context"
	"strings"

	"github.com/tapecast/tapecast/internal/app"
	"github.com/tapecast/tapecast/internal/config"
)

// marketFlags is what `tapecast market` can be told.
type marketFlags struct {
	conn    connection
	o       app.MarketOptions
	symbols string
	level   string
}

// runMarket is `tapecast market`.
func runMarket(ctx context.Context, sys system, args []string) error {
	fs := newFlags("market [flags]",
		"Write a synthetic market to Kafka: random walks of quotes and trades, keyed by symbol, and price, one number.\n"+
			"Topics that are not there are made with one partition and 1 GiB of retention. It waits while Kafka is away.",
		"tapecast market", "tapecast market --kafka kafka:9092 --registry http://registry:8081 --rate 1000 --symbols EURUSD,USDJPY")
	var f marketFlags
	if err := f.conn.define(fs, sys); err != nil {
		return err
	}
	fs.StringVar(&f.o.AdminListen, "admin-listen", "127.0.0.1:8094", "`ADDRESS` of metrics and health")
	fs.IntVar(&f.o.Rate, "rate", 50, "events a second, over all topics, at most 100,000")
	fs.Uint64Var(&f.o.Seed, "seed", 0, "of the walk; 0 = by the clock")
	fs.StringVar(&f.symbols, "symbols", "", "`SYMBOLS`, separated by commas; nothing = four currency pairs and four coins")
	fs.StringVar(&f.level, "log-level", "info", "debug, info, warn or error")
	rest, err := fs.parse(sys, args)
	if err != nil {
		return err
	}
	if err := noArgs(rest); err != nil {
		return err
	}
	if err := f.check(); err != nil {
		return err
	}
	logger, err := app.NewLogger(sys.err, f.level, "text")
	if err != nil {
		return usagef("--log-level: %s", err)
	}
	f.o.Env = app.Env{Logger: logger, Build: readBuild().Version}
	runner, err := app.NewMarket(f.o)
	if err != nil {
		return err
	}
	return runner.Run(ctx)
}

func (f *marketFlags) check() (err error) {
	if err := f.conn.check(); err != nil {
		return err
	}
	if f.conn.registryURL == "" {
		return usagef("--registry: a schema registry is needed")
	}
	if f.o.Rate < 1 || f.o.Rate > 100_000 {
		return usagef("--rate must be from 1 to 100,000")
	}
	if err := config.CheckAddr(f.o.AdminListen); err != nil {
		return usagef("--admin-listen: %q %s", f.o.AdminListen, err)
	}
	for s := range strings.SplitSeq(f.symbols, ",") {
		if s = strings.TrimSpace(s); s != "" {
			f.o.Symbols = append(f.o.Symbols, s)
		}
	}
	f.o.Registry = f.conn.registryURL
	f.o.Kafka, err = parseBrokers(f.conn.kafka)
	return err
}
