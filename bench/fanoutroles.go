package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tapecast/tapecast/fanout"
	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/internal/embedded"
)

// fanoutKfake is the embedded broker as `tapecast dev` has it: with a data directory.
func fanoutKfake([]string) error {
	dir, err := os.MkdirTemp("", "bench-kfake-")
	if err != nil {
		return err
	}
	b, err := embedded.Start(embedded.Options{Listen: "127.0.0.1:0", DataDir: filepath.Join(dir, "kafka"), RetentionBytes: -1})
	if err != nil {
		return err
	}
	fmt.Println(b.Addr())
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
	}
	_ = b.Close()
	return os.RemoveAll(dir)
}

// fanoutCaster is the process that is measured: fanout.Service, as `tapecast fanout` runs it.
func fanoutCaster(args []string) error {
	fs := flag.NewFlagSet("caster", flag.ExitOnError)
	addr := fs.String("kafka", "", "")
	topic := fs.String("topic", "", "")
	profile := fs.String("profile", "", "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	reg := prometheus.NewRegistry()
	client, err := broker.New(broker.Options{Addrs: []string{*addr}, ClientID: "fanout", Logger: log})
	if err != nil {
		return err
	}
	cat, err := catalog.New(catalog.Options{Client: client, Rules: []catalog.Rule{{Pattern: *topic, Format: "json"}}, Logger: log})
	if err != nil {
		return err
	}
	svc, err := fanout.New(fanout.Options{Logger: log, Registerer: reg, Catalog: cat, Client: client, Group: "bench." + *topic})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { _ = cat.Run(ctx) }()
	go func() { fmt.Fprintln(os.Stderr, "bench: fan-out:", svc.Run(ctx)) }()
	out := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if in.Text() == "start" && *profile != "" {
			f, err := os.Create(*profile)
			if err != nil {
				return err
			}
			if err = pprof.StartCPUProfile(f); err != nil {
				return err
			}
		}
		s := describeFanout(svc, reg)
		if in.Text() == "stop" {
			pprof.StopCPUProfile()
		}
		if err := out.Encode(s); err != nil {
			return err
		}
	}
	return nil
}

func describeFanout(svc *fanout.Service, reg *prometheus.Registry) (s fanoutSeen) {
	st := svc.Stats()
	s.usage, s.Ready = used(false), st.Ready == nil && len(st.Partitions) > 0
	for _, p := range st.Partitions {
		s.Lag += p.Lag
		s.Ready = s.Ready && !p.ID.IsZero()
	}
	for _, n := range st.Nodes {
		s.Queued += int64(n.QueueBytes)
		if n.Interests > 0 {
			s.NodesSeen++
		}
	}
	families, _ := reg.Gather()
	for _, f := range families {
		v := int64(f.GetMetric()[0].GetCounter().GetValue())
		switch f.GetName() {
		case "tapecast_fanout_records_read_total":
			s.Records = v
		case "tapecast_fanout_deliveries_total":
			s.Deliveries = v
		case "tapecast_fanout_batches_published_total":
			s.Batches = v
		case "tapecast_fanout_published_bytes_total":
			s.Bytes = v
		}
	}
	return s
}

// fanoutProducer writes the events: quotes of some 55 bytes in Avro, behind the registry's header.
func fanoutProducer(args []string) error {
	fs := flag.NewFlagSet("producer", flag.ExitOnError)
	addr, topic := fs.String("kafka", "", ""), fs.String("topic", "", "")
	rate, many, keys := fs.Int("rate", 0, ""), fs.Int("producers", 1, ""), fs.Int("keys", 1, "")
	tick := fs.Duration("tick", 0, "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	sending, stop := context.WithCancel(ctx)
	defer stop()
	var sent atomic.Int64
	var all sync.WaitGroup
	out := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch in.Text() {
		case "start":
			for i := range *many {
				client, err := broker.New(broker.Options{Addrs: []string{*addr}, ClientID: "producer"})
				if err != nil {
					return err
				}
				p := client.NewProducer(broker.ProducerOptions{})
				go func() { _ = p.Run(ctx) }()
				all.Go(func() {
					// Out of step: ticks of many producers do not fall together.
					time.Sleep(*tick * time.Duration(i) / time.Duration(*many))
					if err := produceQuotes(sending, p, *topic, *rate/(*many), *keys, *tick, &sent); err != nil {
						fmt.Fprintln(os.Stderr, "bench: producer:", err)
					}
				})
			}
		case "stop":
			stop()
			all.Wait()
		}
		if err := out.Encode(usage{Count: sent.Load()}); err != nil {
			return err
		}
	}
	return nil
}

func produceQuotes(ctx context.Context, p *broker.Producer, topic string, rate, keys int, tick time.Duration, sent *atomic.Int64) error {
	begun, done := time.Now(), 0
	var recs []broker.ProduceRecord
	for ctx.Err() == nil {
		due := min(int(time.Since(begun).Seconds()*float64(rate))-done, 5000)
		recs = recs[:0]
		for range due {
			now := time.Now()
			k := keyName(rand.IntN(keys))
			v := fmt.Appendf(make([]byte, 0, 64), "\x00\x00\x00\x00\x01%s\x04XNAS%08d%08d%05d%05d", k, rand.IntN(1e6), now.UnixMicro()%1e8, rand.IntN(500), rand.IntN(500))
			recs = append(recs, broker.ProduceRecord{Key: []byte(k), Value: v, Time: now, Accepted: now.UnixMicro(), Partition: -1})
		}
		if due > 0 {
			results, err := p.Produce(context.Background(), topic, recs)
			if err != nil {
				return err
			}
			for i := range results {
				if results[i].Err != nil {
					return results[i].Err
				}
			}
			done += due
			sent.Add(int64(due))
		}
		time.Sleep(max(tick-time.Since(begun)%max(tick, 1), 100*time.Microsecond))
	}
	return nil
}
