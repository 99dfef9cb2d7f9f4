package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/delivery"
	"github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/interestlog"
	"github.com/tapecast/tapecast/internal/stream"
)

// The work "fanout": the real fan-out alone in a process of its own. The
// broker, the producers and the counting of what arrived are in others.
//
//	bench -work fanout -kafka 127.0.0.1:9092
//	bench fanout -servers kfake,127.0.0.1:9092 -rate 20000,50000 -tick 0 -for 10s
var (
	_ = register(job{name: "fanout", about: "20,000 events/s, and 50,000/s on one core, each to 2 nodes; CPU of the fan-out's process per million source events; -kafka: there, too", run: fanoutJob})
	_ = command("fanout", fanoutMain)
)

// fanoutRoles are the processes.
var fanoutRoles = map[string]func([]string) error{
	"kfake":    fanoutKfake,
	"caster":   fanoutCaster,
	"producer": fanoutProducer,
}

// fanoutJob is the work as one of all works.
func fanoutJob(ctx context.Context, e *env) (rows []row, err error) {
	base := fanoutWork{Rate: 20_000, Tick: 5 * time.Millisecond, Producers: 2, Nodes: 2, Partitions: 4, Keys: 1000, For: e.length}
	spread, core := base, base
	spread.Tick, spread.Producers = 0, 8
	core.Rate, core.Core = 50_000, "0"
	for _, server := range []string{"kfake", e.kafka} {
		if server == "" || ctx.Err() != nil {
			continue
		}
		name := "kafka"
		if server == "kfake" {
			name = "embedded"
		}
		for i, w := range []fanoutWork{base, spread, core} {
			if e.profile != "" {
				w.Profile = fmt.Sprintf("%s.fanout.%s.%d", e.profile, name, i)
			}
			way := []string{"20k/s in 5 ms ticks", "20k/s one by one", "50k/s, one core"}[i]
			f, err := measureFanout(w, server)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", name, way, err)
			}
			if f.Short != 0 {
				return nil, fmt.Errorf("%s, %s: %d deliveries of %d events did not arrive", name, way, f.Short, f.Sent)
			}
			r := row{Work: "fanout", Server: name + " " + way}
			r.add(perM, f.User+f.Sys)
			r.add(user, f.User)
			r.add(perSec, f.Rate)
			r.add("B/event", f.EventBytes)
			r.add("events/batch", f.BatchEvents)
			r.add("lag", float64(f.Lag))
			rows = append(rows, r)
		}
	}
	return rows, nil
}

// fanoutWork is what is measured, as the flags say.
type fanoutWork struct {
	Rate       int
	Tick       time.Duration // a producer sends what is due so often; 0 = when its last request is answered
	Producers  int
	Nodes      int
	Partitions int
	Keys       int
	ByKey      bool // nodes name each key instead of the whole topic
	For        time.Duration
	Core       string
	Profile    string
}

// fanoutSeen is what a fan-out process says of itself.
type fanoutSeen struct {
	usage
	Ready                  bool
	Records, Deliveries    int64
	Batches, Bytes         int64
	Lag, Queued, NodesSeen int64
}

// fanoutResult is one line of the table.
type fanoutResult struct {
	Server           string
	Offered          int
	User, Sys        float64 // s per million source events
	Rate             float64 // source events/s while measured
	EventBytes       float64 // payload bytes of the delivery topics per delivery
	BatchEvents      float64 // deliveries a batch
	Lag              int64   // offsets behind when the producers stopped
	Drain            time.Duration
	Sent, Short, Odd int64 // events sent; deliveries missing; deliveries twice
	RSS              float64
}

func fanoutMain(args []string) error {
	if len(args) > 0 {
		if role := fanoutRoles[args[0]]; role != nil {
			return role(args[1:])
		}
	}
	var w fanoutWork
	fs := flag.NewFlagSet("fanout", flag.ExitOnError)
	servers := fs.String("servers", "kfake", "kfake, or host:port of a Kafka; several by comma")
	rates := fs.String("rate", "20000", "source events/s; several by comma")
	fs.DurationVar(&w.Tick, "tick", 5*time.Millisecond, "how often a producer sends what is due; 0 = whenever its last request is answered")
	fs.IntVar(&w.Producers, "producers", 2, "producers, each with a connection of its own")
	fs.IntVar(&w.Nodes, "nodes", 2, "gateway nodes; each gets every event")
	fs.IntVar(&w.Partitions, "partitions", 4, "of the feed topic")
	fs.IntVar(&w.Keys, "keys", 1000, "keys of the events")
	fs.BoolVar(&w.ByKey, "by-key", false, "each node names every key instead of the whole topic")
	fs.DurationVar(&w.For, "for", 10*time.Second, "how long is measured")
	fs.StringVar(&w.Core, "core", "", "the fan-out runs on this core alone (taskset)")
	fs.StringVar(&w.Profile, "profile", "", "CPU profile of the fan-out")
	rounds := fs.Int("rounds", 1, "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	var all []fanoutResult
	for range *rounds {
		for _, s := range strings.Split(*servers, ",") {
			for _, rate := range strings.Split(*rates, ",") {
				var err error
				if w.Rate, err = strconv.Atoi(rate); err != nil {
					return err
				}
				r, err := measureFanout(w, s)
				if err != nil {
					return fmt.Errorf("%s: %w", s, err)
				}
				all = append(all, r)
			}
		}
	}
	printFanout(all)
	return nil
}

func printFanout(all []fanoutResult) {
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(t, "server\toffered/s\tevents/s\tCPU-s/M\tuser\tsys\tcore %\tbytes/event\tevents/batch\tlag at end\tdrained in\tsent\tmissing\ttwice\tRSS MB\t")
	for _, r := range all {
		cpu := r.User + r.Sys
		_, _ = fmt.Fprintf(t, "%s\t%d\t%.0f\t%.2f\t%.2f\t%.2f\t%.1f\t%.1f\t%.1f\t%d\t%s\t%d\t%d\t%d\t%.0f\t\n", r.Server, r.Offered, r.Rate, cpu, r.User, r.Sys,
			cpu*r.Rate/1e4, r.EventBytes, r.BatchEvents, r.Lag, r.Drain.Round(time.Millisecond), r.Sent, r.Short, r.Odd, r.RSS)
	}
	_ = t.Flush()
}

// fanoutRun is one measurement: its processes, its topics and its nodes.
type fanoutRun struct {
	work     fanoutWork
	addr     string
	client   *broker.Client
	topic    string
	nodes    []interest.Record // their leases
	kfake    *process
	caster   *process
	producer *process
}

func measureFanout(w fanoutWork, server string) (r fanoutResult, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), w.For+5*time.Minute)
	defer cancel()
	run := &fanoutRun{work: w, addr: server, topic: fmt.Sprintf("bench-fanout-%x", rand.Uint32())}
	defer run.close()
	if err = run.begin(ctx, server); err != nil {
		return r, err
	}
	r = fanoutResult{Server: server, Offered: w.Rate}
	if _, err = run.producer.tell("start"); err != nil {
		return r, err
	}
	time.Sleep(2 * time.Second) // warm
	s0, err := run.caster.seen("start")
	if err != nil {
		return r, err
	}
	began := time.Now()
	time.Sleep(w.For)
	s1, err := run.caster.seen("stop")
	if err != nil {
		return r, err
	}
	m := float64(s1.Records-s0.Records) / 1e6
	r.User, r.Sys, r.Rate = (s1.User-s0.User)/m, (s1.Sys-s0.Sys)/m, 1e6*m/time.Since(began).Seconds()
	r.BatchEvents, r.RSS = float64(s1.Deliveries-s0.Deliveries)/float64(s1.Batches-s0.Batches), float64(s1.RSS)/1e6
	sent, err := run.producer.tell("stop")
	if err != nil {
		return r, err
	}
	r.Sent = sent.Count
	if r.Lag, r.Drain, err = run.drain(sent.Count); err != nil {
		return r, err
	}
	return r, run.count(ctx, &r)
}

func (run *fanoutRun) begin(ctx context.Context, server string) (err error) {
	if server == "kfake" {
		if run.kfake, err = start("", "fanout", "kfake"); err != nil {
			return err
		}
		if run.addr, err = run.kfake.line(); err != nil {
			return err
		}
	}
	if run.client, err = broker.New(broker.Options{Addrs: []string{run.addr}, ClientID: "bench"}); err != nil {
		return err
	}
	forever := map[string]string{"retention.ms": "-1", "retention.bytes": "-1", "max.message.bytes": strconv.Itoa(8 << 20)}
	if _, _, err = run.client.CreateTopic(ctx, broker.TopicSpec{Name: run.topic, Partitions: run.work.Partitions, Config: forever}); err != nil {
		return err
	}
	if _, err = interestlog.Ensure(ctx, run.client, 0); err != nil {
		return err
	}
	for i := range run.work.Nodes {
		inc := fmt.Sprintf("%08x%08x", rand.Uint32(), i)
		lease := interest.Record{Kind: interest.KindLease, Incarnation: inc, Node: fmt.Sprint("bench", i), LeaseMs: time.Hour.Milliseconds()}
		lease.Delivery = delivery.TopicName(lease.Node, inc)
		if _, _, err = run.client.CreateTopic(ctx, broker.TopicSpec{Name: lease.Delivery, Partitions: 1, Config: forever}); err != nil {
			return err
		}
		run.nodes = append(run.nodes, lease)
		if err = run.say(ctx, append([]interest.Record{lease}, run.wants(inc)...)...); err != nil {
			return err
		}
	}
	if run.producer, err = start("", "fanout", "producer", "-kafka", run.addr, "-topic", run.topic, "-rate", fmt.Sprint(run.work.Rate),
		"-tick", run.work.Tick.String(), "-producers", fmt.Sprint(run.work.Producers), "-keys", fmt.Sprint(run.work.Keys)); err != nil {
		return err
	}
	if run.caster, err = start(run.work.Core, "fanout", "caster", "-kafka", run.addr, "-topic", run.topic, "-profile", run.work.Profile); err != nil {
		return err
	}
	for ctx.Err() == nil {
		s, err := run.caster.seen("mark")
		if err != nil || s.Ready && s.NodesSeen >= int64(run.work.Nodes) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
	return ctx.Err()
}

// wants are a node's interests.
func (run *fanoutRun) wants(inc string) (out []interest.Record) {
	if !run.work.ByKey {
		return []interest.Record{{Kind: interest.KindAdd, Incarnation: inc, ID: "all", Feed: run.topic}}
	}
	for k := range run.work.Keys {
		out = append(out, interest.Record{Kind: interest.KindAdd, Incarnation: inc, ID: fmt.Sprint(k), Feed: run.topic, Key: []byte(keyName(k))})
	}
	return out
}

func (run *fanoutRun) say(ctx context.Context, recs ...interest.Record) error {
	var out []broker.AppendRecord
	for _, r := range recs {
		k, v, err := r.Encode()
		if err != nil {
			return err
		}
		out = append(out, broker.AppendRecord{Key: k, Value: v})
	}
	_, err := run.client.Append(ctx, interest.Topic, 0, out)
	return err
}

// drain waits until the fan-out has read and written everything.
func (run *fanoutRun) drain(sent int64) (lag int64, took time.Duration, err error) {
	began := time.Now()
	for first := true; ; first = false {
		s, err := run.caster.seen("mark")
		if err != nil {
			return 0, 0, err
		}
		if first {
			lag = sent - s.Records
		}
		if s.Records >= sent && s.Queued == 0 {
			return lag, time.Since(began), nil
		}
		if time.Since(began) > 2*time.Minute {
			return lag, 0, fmt.Errorf("%d of %d events read, %d bytes queued", s.Records, sent, s.Queued)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// count reads the delivery topics from their beginning and compares.
func (run *fanoutRun) count(ctx context.Context, r *fanoutResult) error {
	var bytes, events int64
	for _, n := range run.nodes {
		rd := run.client.NewReader(n.Delivery, stream.TopicID{}, 0)
		seen := map[[2]int64]bool{}
		for from := int64(0); ; {
			span, err := rd.Read(ctx, from, 4<<20, 0)
			if err != nil {
				return err
			}
			for _, rec := range span.Records {
				b, err := delivery.Decode(rec.Value)
				if err != nil {
					return err
				}
				bytes += int64(len(rec.Value))
				for i := range b.Sections {
					for _, d := range b.Sections[i].Deliveries {
						at := [2]int64{int64(b.Sections[i].Partition), d.Offset}
						if seen[at] {
							r.Odd++
						}
						seen[at] = true
						events++
					}
				}
			}
			if from = span.To; span.To >= span.End {
				break
			}
		}
		rd.Close()
		r.Short += r.Sent - int64(len(seen))
	}
	r.EventBytes = float64(bytes) / float64(max(events, 1))
	return nil
}

// close ends what was started, and takes the topics away.
func (run *fanoutRun) close() {
	for _, p := range []*process{run.producer, run.caster} {
		if p != nil {
			p.stop()
		}
	}
	if run.client != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		topics := []string{run.topic}
		for _, n := range run.nodes {
			_ = run.say(ctx, interest.Record{Kind: interest.KindEnd, Incarnation: n.Incarnation})
			topics = append(topics, n.Delivery)
		}
		for _, t := range topics {
			_ = run.client.DeleteTopic(ctx, t)
		}
		run.client.Close()
	}
	if run.kfake != nil {
		run.kfake.stop()
	}
}

func (p *process) seen(line string) (s fanoutSeen, err error) {
	if _, err = fmt.Fprintln(p.in, line); err != nil {
		return s, err
	}
	answer, err := p.line()
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal([]byte(answer), &s)
}
