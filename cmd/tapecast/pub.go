package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/internal/app/publish"
	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/config"
	"github.com/tapecast/tapecast/schemas"
)

// pubFlags is what `tapecast pub` can be told.
type pubFlags struct {
	conn       connection
	key, time  string
	schema     string
	speed      string
	onError    string
	format     string
	envelope   bool
	partitions int
}

// runPub is `tapecast pub`.
func runPub(ctx context.Context, sys system, args []string) error {
	fs := newFlags("pub TOPIC [FILE...] [flags]",
		"Publish rows to a topic: NDJSON (each line is one value) or CSV (the header names the fields), from files or,\n"+
			"without any, from standard input. Rows are checked against the topic's schema and keep their order.\n"+
			"Ctrl-C sends what was read and says how far it got.",
		"tapecast pub quotes quotes.csv --key symbol --time ts_ns           # as fast as it goes",
		"tapecast pub quotes quotes.csv --key symbol --time ts_ns --speed 10x",
		"echo 1024 | tapecast pub price",
		"tapecast pub orders orders.ndjson --schema order.avsc --key id     # makes the topic if it is not there",
		`echo '{"key":"k1","value":1024,"ts":1546383600078}' | tapecast pub price --envelope`)
	f, err := definePub(fs, sys)
	if err != nil {
		return err
	}
	rest, err := fs.parse(sys, args)
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		return usagef("TOPIC is missing")
	}
	if err := checkTopic(rest[0]); err != nil {
		return usagef("%s", err)
	}
	o := publish.Options{
		Topic: rest[0], Files: rest[1:], Stdin: sys.in, Format: f.format,
		Key: f.key, Time: f.time, Envelope: f.envelope, Skip: f.onError == "skip",
	}
	if err := f.check(fs, &o); err != nil {
		return err
	}
	return f.publish(ctx, sys, o)
}

func definePub(fs *flagSet, sys system) (*pubFlags, error) {
	f := &pubFlags{}
	if err := f.conn.define(fs, sys); err != nil {
		return nil, err
	}
	fs.StringVar(&f.key, "key", "", "`FIELD` whose value is the record's key")
	fs.StringVar(&f.time, "time", "", "`FIELD` whose value is the record's time: s, ms, us or ns since 1970, or RFC 3339 (recognised on the first row)")
	fs.StringVar(&f.schema, "schema", "", "`FILE` with the Avro schema, registered for the topic; without it the registry's newest is taken")
	fs.StringVar(&f.speed, "speed", "max", "`SPEED`: 1 = the recorded pace by --time, 10x = ten times that, max = as fast as it goes")
	fs.StringVar(&f.onError, "on-error", "stop", "what a bad row does: stop or skip")
	fs.StringVar(&f.format, "format", "", "csv or ndjson, if it cannot be seen from the name or the first line")
	fs.BoolVar(&f.envelope, "envelope", false, `NDJSON rows are {"key":...,"value":...,"ts":...}`)
	fs.IntVar(&f.partitions, "partitions", 1, "partitions of the topic, if --schema makes it")
	return f, nil
}

func (f *pubFlags) check(fs *flagSet, o *publish.Options) (err error) {
	switch {
	case f.onError != "stop" && f.onError != "skip":
		return usagef("--on-error %q: expected stop or skip", f.onError)
	case f.format != "" && f.format != publish.FormatCSV && f.format != publish.FormatNDJSON:
		return usagef("--format %q: expected csv or ndjson", f.format)
	case f.envelope && (f.key != "" || f.time != ""):
		return usagef("--envelope rows bring their own key and ts: leave --key and --time away")
	case f.partitions < 1:
		return usagef("--partitions %d: expected at least 1", f.partitions)
	}
	if o.Speed, err = parseSpeed(f.speed); err != nil {
		return err
	}
	if o.Speed > 0 && f.time == "" && !f.envelope {
		return usagef("--speed %s needs the rows' times: name their field with --time", f.speed)
	}
	return f.conn.check()
}

// parseSpeed reads 1, 10x, 0.5x or max (0).
func parseSpeed(s string) (float64, error) {
	if s == "max" {
		return 0, nil
	}
	v, err := strconv.ParseFloat(strings.TrimSuffix(s, "x"), 64)
	if err != nil || !(v > 0) || v > 1e9 {
		return 0, usagef("--speed %q: expected 1, 10x, 0.5x or max", s)
	}
	return v, nil
}

// publish connects, finds the schema, and runs.
func (f *pubFlags) publish(ctx context.Context, sys system, o publish.Options) error {
	client, err := f.conn.dial(ctx, "tapecast-pub")
	if err != nil {
		return err
	}
	defer client.Close()
	registry, err := f.conn.registry()
	if err != nil {
		return err
	}
	codec, err := f.prepare(ctx, sys, client, registry, &o)
	if err != nil {
		return err
	}
	o.Codec = codec
	out := newPubReport(sys, o.Topic)
	o.Progress, o.Bad = out.progress, out.bad
	o.First = func(t time.Time) { warnRetention(ctx, out, client, o.Topic, t) }

	producer := client.NewProducer(broker.ProducerOptions{})
	o.Producer = &patientProducer{producer, func() {
		out.note("waiting for Kafka at " + f.conn.kafka + " (Ctrl-C gives up)")
	}}
	pctx, stop := context.WithCancel(context.WithoutCancel(ctx)) // outlives Ctrl-C: the last rows are still sent
	var g errgroup.Group
	g.Go(func() error { return producer.Run(pctx) })
	stats, err := publish.Run(ctx, o)
	stop()
	if perr := g.Wait(); err == nil && perr != nil && !errors.Is(perr, context.Canceled) {
		err = perr
	}
	return out.end(stats, err)
}

// slowKafka is when somebody who waits for Kafka is told so.
const slowKafka = 5 * time.Second

// patientProducer says so when Kafka takes long to answer.
type patientProducer struct {
	publish.Producer
	waiting func()
}

// Produce is the Producer's.
func (p *patientProducer) Produce(ctx context.Context, topic string, recs []broker.ProduceRecord) ([]broker.Produced, error) {
	defer time.AfterFunc(slowKafka, p.waiting).Stop()
	return p.Producer.Produce(ctx, topic, recs)
}

// prepare makes sure that the topic is there and has a schema.
func (f *pubFlags) prepare(ctx context.Context, sys system, client *broker.Client, registry *schemas.Registry, o *publish.Options) (*schemas.Codec, error) {
	topics, err := client.Topics(ctx, o.Topic)
	if err != nil {
		return nil, fmt.Errorf("ask Kafka for topic %s: %w", o.Topic, err)
	}
	if len(topics) == 0 && f.schema == "" {
		return nil, fmt.Errorf("there is no topic %s%s.\nMake it with 'tapecast topics create %s --schema FILE', or let pub make it: --schema FILE",
			o.Topic, nearestTopic(ctx, client, o.Topic), o.Topic)
	}
	var codec *schemas.Codec
	if f.schema == "" {
		codec, err = f.latest(ctx, registry, o)
	} else {
		codec, err = registerFile(ctx, registry, o.Topic, f.schema, &o.SchemaID)
	}
	if err != nil {
		return nil, err
	}
	if len(topics) == 0 {
		if _, _, err := client.CreateTopic(ctx, broker.TopicSpec{Name: o.Topic, Partitions: f.partitions}); err != nil {
			return nil, fmt.Errorf("create topic %s: %w", o.Topic, err)
		}
		fmt.Fprintf(sys.err, "made topic %s with %s\n", o.Topic, plural(int64(f.partitions), "partition"))
	}
	return codec, nil
}

func (f *pubFlags) latest(ctx context.Context, registry *schemas.Registry, o *publish.Options) (*schemas.Codec, error) {
	subject := schemas.Subject(o.Topic)
	id, codec, err := registry.Latest(ctx, subject)
	if errors.Is(err, schemas.ErrUnknownSubject) {
		return nil, fmt.Errorf("topic %s has no schema (the registry has no subject %s); give one with --schema FILE", o.Topic, subject)
	}
	if err != nil {
		return nil, f.conn.registryError(err)
	}
	o.SchemaID = id
	return codec, nil
}

// registerFile registers a schema file for a topic's values.
func registerFile(ctx context.Context, registry *schemas.Registry, topic, file string, id *uint32) (*schemas.Codec, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--schema: %w", err)
	}
	codec, err := schemas.Compile(string(text))
	if err != nil {
		return nil, fmt.Errorf("--schema %s: %w", file, err)
	}
	if *id, err = registry.Register(ctx, schemas.Subject(topic), string(text)); err != nil {
		return nil, fmt.Errorf("register %s for topic %s: %w", file, topic, err)
	}
	return codec, nil
}

func nearestTopic(ctx context.Context, client *broker.Client, name string) string {
	all, err := client.Topics(ctx)
	if err != nil {
		return "" // only the hint is lost
	}
	names := make([]string, 0, len(all))
	for _, t := range all {
		if !internalTopic(t) {
			names = append(names, t.Name)
		}
	}
	return config.DidYouMean(name, names)
}

// warnRetention says when Kafka is about to delete what is published now:
// retention goes by the records' times, and recordings are old.
func warnRetention(ctx context.Context, out *pubReport, client *broker.Client, topic string, t time.Time) {
	cfg, err := client.TopicConfig(ctx, topic)
	if err != nil || !strings.Contains(cfg["cleanup.policy"]+"delete", "delete") {
		return
	}
	ms, err := strconv.ParseInt(cfg["retention.ms"], 10, 64)
	if err != nil || ms < 0 || time.Since(t) < time.Duration(ms)*time.Millisecond {
		return
	}
	out.note(fmt.Sprintf("warning: the rows are from %s and topic %s keeps %s: Kafka will soon delete them. "+
		"Set the topic's retention.ms to -1, or leave --time away.",
		t.UTC().Format(time.DateOnly), topic, config.FormatDuration(time.Duration(ms)*time.Millisecond)))
}

// pubReport writes what pub has to say: progress to a terminal, bad rows, the end.
type pubReport struct {
	out, err io.Writer
	topic    string
	tty      bool
	every    time.Duration
	shown    time.Time // owned by the goroutine that runs publish.Run

	mu   sync.Mutex
	line bool // guarded by mu; a progress line stands on the terminal
}

func newPubReport(sys system, topic string) *pubReport {
	r := &pubReport{out: sys.out, err: sys.err, topic: topic, tty: isTerminal(sys.err), every: 10 * time.Second, shown: time.Now()}
	if r.tty {
		r.every = 200 * time.Millisecond
	}
	return r
}

func (r *pubReport) progress(s publish.Stats) {
	if time.Since(r.shown) < r.every {
		return
	}
	r.shown = time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	text := fmt.Sprintf("%s rows, %s/s", group(s.Sent), group(rate(s)))
	if s.Skipped > 0 {
		text += fmt.Sprintf(", %s skipped", group(s.Skipped))
	}
	if r.tty {
		fmt.Fprintf(r.err, "\r\x1b[K%s", text)
		r.line = true
		return
	}
	fmt.Fprintln(r.err, text)
}

// note writes a line of its own.
func (r *pubReport) note(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clear()
	fmt.Fprintln(r.err, text)
}

// clear takes the progress line away. mu is held.
func (r *pubReport) clear() {
	if r.line {
		fmt.Fprint(r.err, "\r\x1b[K")
		r.line = false
	}
}

func (r *pubReport) bad(err error) { r.note("skipped " + err.Error()) }

func rate(s publish.Stats) int64 {
	return int64(float64(s.Sent) / max(s.Elapsed.Seconds(), 1e-3))
}

// end writes the counts and the last offsets, also after an error.
func (r *pubReport) end(s publish.Stats, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	stopped := errors.Is(err, context.Canceled)
	r.clear()
	if err != nil && !stopped {
		fmt.Fprintln(r.err, "tapecast pub: "+err.Error())
	}
	fmt.Fprintf(r.out, "%s published to %s in %s", plural(s.Sent, "row"), r.topic, roundSeconds(s.Elapsed))
	if s.Sent >= 1000 {
		fmt.Fprintf(r.out, " (%s/s)", group(rate(s)))
	}
	if s.Skipped > 0 {
		fmt.Fprintf(r.out, ", %s skipped", plural(s.Skipped, "bad row"))
	}
	if s.Unknown > 0 {
		fmt.Fprintf(r.out, ", %s of unknown outcome", plural(s.Unknown, "row"))
	}
	fmt.Fprintln(r.out)
	for _, p := range slices.Sorted(maps.Keys(s.Offsets)) {
		fmt.Fprintf(r.out, "  partition %d: offsets %d to %d\n", p, s.Offsets[p].First, s.Offsets[p].Last)
	}
	switch {
	case stopped && s.Unknown == 0:
		fmt.Fprintln(r.err, "interrupted: everything that was read is sent")
		return nil
	case err != nil:
		return errReported
	}
	return nil
}

func roundSeconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
}
