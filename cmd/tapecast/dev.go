package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tapecast/tapecast/internal/app"
	"github.com/tapecast/tapecast/internal/config"
)

// runDev is `tapecast dev`.
func runDev(ctx context.Context, sys system, args []string) error {
	fs := newFlags("dev [flags]",
		"Run everything in one process: an embedded broker that speaks Kafka's protocol, a schema registry, ingest,\n"+
			"fan-out and gateway, a page, and a demo market. For development: not for production. It listens on this\n"+
			"machine only, and keeps its data in a directory.",
		"tapecast dev",
		"tapecast dev --no-demo --data-dir /tmp/tapecast",
		"tapecast dev --kafka localhost:19092 --registry http://localhost:18081   # a real cluster instead of the embedded one")
	o := app.DevOptions{}
	var kafka, origins, level string
	fs.StringVar(&o.Listen, "listen", config.DefaultListen, "`ADDRESS` of pages, WebSocket, HTTP and metrics")
	fs.StringVar(&o.KafkaListen, "kafka-listen", config.DefaultKafka, "`ADDRESS` of the embedded broker")
	fs.StringVar(&o.RegistryListen, "registry-listen", strings.TrimPrefix(config.DefaultRegistry, "http://"), "`ADDRESS` of the embedded schema registry")
	fs.StringVar(&o.AdminListen, "admin-listen", "", "`ADDRESS` for metrics, health and pprof; without it there is no pprof")
	fs.StringVar(&o.DataDir, "data-dir", "./tapecast-data", "`DIRECTORY` of what is embedded")
	fs.DurationVar(&o.Hold, "hold", config.Default().Gateway.Hold, "how long events wait after a write, to leave together; 0s = not at all")
	fs.BoolVar(&o.NoDemo, "no-demo", false, "no demo market (its topics and schemas are made all the same)")
	fs.StringVar(&kafka, "kafka", "", "`BROKERS` of a real cluster, host:port,..., instead of the embedded one")
	fs.StringVar(&o.Registry, "registry", "", "`URL` of a real schema registry, instead of the embedded one")
	fs.StringVar(&origins, "origins", "", "web `ORIGINS` that may connect besides the own one, scheme://host:port,...")
	fs.StringVar(&level, "log-level", "warn", "debug, info, warn or error")
	rest, err := fs.parse(sys, args)
	if err != nil {
		return err
	}
	if err := noArgs(rest); err != nil {
		return err
	}
	if err := checkDev(fs, &o, kafka, origins); err != nil {
		return err
	}
	if o.Logger, err = app.NewLogger(sys.err, level, "text"); err != nil {
		return usagef("--log-level: %s", err)
	}
	o.Build = readBuild().Version
	o.Ready = func(i app.DevInfo) { _, _ = io.WriteString(sys.out, banner(i, isTerminal(sys.out))) }
	o.Waiting = func(missing map[string]string) {
		for _, name := range slices.Sorted(maps.Keys(missing)) {
			fmt.Fprintf(sys.err, "tapecast dev: still waiting for %s: %s\n", name, missing[name])
		}
	}
	d, err := app.NewDev(o)
	if err != nil {
		return err
	}
	for _, a := range d.Info().Open {
		fmt.Fprintf(sys.err, "tapecast dev: warning: %s can be reached from other machines, and there is no password\n", a)
	}
	err = d.Run(ctx)
	if err == nil {
		fmt.Fprintln(sys.err, "tapecast dev: stopped")
	}
	return err
}

// checkDev looks at what the flags say together.
func checkDev(fs *flagSet, o *app.DevOptions, kafka, origins string) (err error) {
	if fs.given("kafka") {
		if fs.given("kafka-listen") {
			return usagef("--kafka-listen is for the embedded broker, which --kafka replaces")
		}
		if o.Kafka, err = parseBrokers(kafka); err != nil {
			return err
		}
	}
	if fs.given("registry") {
		if fs.given("registry-listen") {
			return usagef("--registry-listen is for the embedded registry, which --registry replaces")
		}
		if err := config.CheckURL(o.Registry); err != nil {
			return usagef("--registry: %q %s", o.Registry, err)
		}
	}
	for _, f := range []string{"listen", "kafka-listen", "registry-listen", "admin-listen"} {
		v := fs.Lookup(f).Value.String()
		if err := config.CheckAddr(v); err != nil && (v != "" || f != "admin-listen") {
			return usagef("--%s: %q %s; expected host:port", f, v, err)
		}
	}
	switch {
	case o.Hold < 0 || o.Hold > 10*time.Second:
		return usagef("--hold: %s is not within 0s and 10s", o.Hold)
	case o.Hold == 0:
		o.Hold = -1 // none, and not the default
	}
	if o.Origins, err = config.ParseOrigins(origins); err != nil {
		return usagef("--origins: %s", err)
	}
	if o.DataDir == "" {
		return usagef("--data-dir: no directory is named")
	}
	return nil
}

// banner says what runs, what to open and what to type.
func banner(i app.DevInfo, tty bool) string {
	bold, dim, off := "", "", ""
	if tty && os.Getenv("NO_COLOR") == "" {
		bold, dim, off = "\x1b[1m", "\x1b[2m", "\x1b[0m"
	}
	host := strings.TrimPrefix(i.HTTP, "http://")
	var b strings.Builder
	line := func(what, where, note string) {
		if note == "" {
			fmt.Fprintf(&b, "  %-10s %s\n", what, where)
			return
		}
		fmt.Fprintf(&b, "  %-10s %-32s %s%s%s\n", what, where, dim, note, off)
	}
	fmt.Fprintf(&b, "%stapecast dev%s\n\n", bold, off)
	line("page", i.HTTP+"/", "the console: open it in a browser")
	line("WebSocket", "ws://"+host+"/ws", "")
	line("HTTP", i.HTTP+"/v1/topics", "events in and out; also /metrics /healthz /readyz")
	if i.EmbeddedKafka {
		line("Kafka", i.Kafka, "embedded development broker, not for production")
	} else {
		line("Kafka", i.Kafka, "the cluster that --kafka names")
	}
	line("registry", i.Registry, "Confluent's REST API")
	if i.Admin != "" {
		line("admin", i.Admin+"/debug/pprof/", "")
	}
	if i.DataDir != "" {
		line("data", i.DataDir, "delete it to begin anew")
	}
	demo := "a market of made-up quotes, trades and prices is running (--no-demo leaves it out)"
	if !i.Demo {
		demo = "the topics quotes, trades and price are there; publish to them"
	}
	fmt.Fprintf(&b, "\n%sTry, in another terminal%s  %s%s%s\n\n", bold, off, dim, demo, off)
	for _, c := range tries(i, host) {
		fmt.Fprintf(&b, "  %s\n", c)
	}
	fmt.Fprintf(&b, "\n%sCtrl-C stops it.%s\n", dim, off)
	return b.String()
}

// tries are commands that work as they stand.
func tries(i app.DevInfo, host string) []string {
	url, kafka, registry := "", "", ""
	if i.HTTP != "http://"+config.DefaultListen {
		url = " --url ws://" + host + "/ws"
	}
	if i.Kafka != config.DefaultKafka {
		kafka = " --kafka " + i.Kafka
	}
	if i.Registry != config.DefaultRegistry {
		registry = " --registry " + i.Registry
	}
	return []string{
		"curl -N '" + i.HTTP + "/v1/topics/price/events?format=ndjson'",
		"curl -N '" + i.HTTP + "/v1/topics/quotes/events?keys=EURUSD'   # Server-Sent Events",
		`wscat -c ws://` + host + `/ws -x '{"cmd":"sub","topic":"price"}' -w 60`,
		"tapecast sub quotes --key EURUSD --from -5m" + url,
		"echo 1024 | tapecast pub price" + kafka + registry,
		"kcat -b " + i.Kafka + " -t quotes -C -o -5 -f '%o %k\\n' -e",
	}
}
