package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
)

var _ = command("scale", scaleMain)

// scaleMain prints how large a deployment gets: `bench scale -clients 1e6,1e7`.
func scaleMain(args []string) error { return scale(os.Stdout, args) }

func scale(out io.Writer, args []string) error {
	fs := flag.NewFlagSet("scale", flag.ExitOnError)
	history := fs.String("history", "history.jsonl", "unit costs are the last run's of this file, where no flag names them")
	clients := fs.String("clients", "1e6,1e7,1e8", "comma between")
	var d demand
	var p plant
	num := func(v *float64, name string, value float64, usage string) { fs.Float64Var(v, name, value, usage) }
	num(&d.Events, "events", 20_000, "events/s, all topics together")
	num(&d.Keys, "keys", 10_000, "keys, each with as many events as the others")
	num(&d.PerSub, "keys-per-client", 5, "keys that a client takes; -keys = everything")
	num(&d.Frame, "frame", 154, "bytes of an event on a client's wire")
	num(&d.Hold, "hold", .05, "s that events may wait to leave together")
	num(&p.Cores, "cores", 8, "of a gateway")
	num(&p.Use, "use", .6, "part of the cores that may be busy in the steady state")
	num(&p.RAM, "ram", 16, "GB of a gateway")
	num(&p.Base, "base", 2, "GB of a gateway that are not sessions: tapes, replay, buffers, room for a collection")
	num(&p.MaxClients, "max-clients", 250_000, "of a gateway: how many you are ready to lose at once")
	num(&p.Replicas, "replicas", 3, "of topics")
	num(&p.BrokerMB, "broker-mb", 300, "MB/s in plus out that a broker is planned for")
	num(&p.BrokerCPU, "broker-cores", 8, "of a broker; 4 GB of memory each")
	num(&p.Partition, "partition", 5000, "events/s of a feed partition")
	num(&p.CoreMonth, "price-core", 25, "money for a core and month")
	num(&p.GBMonth, "price-gb", 3, "money for a GB of memory and month")
	num(&p.EgressGB, "price-egress", .02, "money for a GB to clients")
	num(&p.KafkaGB, "price-kafka-gb", .005, "money for a GB into or out of Kafka, replication included (traffic between zones)")
	u, missing := historic(args)
	num(&u.Write, "write-us", u.Write, "CPU us of a write")
	num(&u.Delivery, "delivery-us", u.Delivery, "user us of a delivery")
	num(&u.Ingest, "ingest-us", u.Ingest, "CPU us of an event at ingest")
	num(&u.Session, "session-kb", u.Session, "kB of a connection")
	num(&u.FeedBytes, "feed-bytes", u.FeedBytes, "bytes of an event in the feed topic")
	for _, l := range []struct {
		line  *line
		name  string
		usage string
	}{
		{&u.FanRead, "fanout", "CPU us of the fan-out for an event"},
		{&u.GateHop, "gateway", "CPU us of a gateway for an event behind the fan-out"},
		{&u.GateDirect, "gateway-direct", "CPU us of a gateway for an event that it reads itself"},
		{&u.HopBytes, "hop-bytes", "bytes in a delivery topic for an event"},
	} {
		num(&l.line.A, l.name+"-a", l.line.A, l.usage+": the part for each event of the feed")
		num(&l.line.B, l.name+"-b", l.line.B, "... and for each that the gateway needs")
	}
	if err := fs.Parse(args); err != nil {
		return err
	}
	if err := given(fs, missing); err != nil {
		return fmt.Errorf("%s: %w", *history, err)
	}
	if d.Events <= 0 || d.Keys <= 0 || d.PerSub <= 0 || p.Use <= 0 || p.BrokerMB <= 0 || p.Partition <= 0 || u.Session <= 0 || u.Write <= 0 {
		return errors.New("events, keys, keys-per-client, use, broker-mb, partition, session-kb and write-us have to be above 0")
	}
	var all []sized
	for _, c := range strings.Split(*clients, ",") {
		n, err := strconv.ParseFloat(c, 64)
		if err != nil || n < 1 {
			return fmt.Errorf("clients %q: %w", c, err)
		}
		d.Clients = n
		all = append(all, size(d, p, u, false), size(d, p, u, true))
	}
	return printScale(out, d, p, u, strings.Split(*clients, ","), all)
}

// given is an error if a unit cost was not measured and no flag gives it: the
// tables would take it as nothing.
func given(fs *flag.FlagSet, missing []lack) error {
	set := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { set[f.Name] = true })
	for _, m := range missing {
		for _, name := range m.flags {
			if !set[name] {
				return fmt.Errorf("the last run has not measured %s: have it measured (make bench BENCHFLAGS=\"-work write,S3,hop,direct,idle -add\"), or give -%s", m.figure, strings.Join(m.flags, " and -"))
			}
		}
	}
	return nil
}

// historic takes the unit costs from the history that the arguments name,
// before they are parsed: they are the defaults of other flags.
func historic(args []string) (unitCosts, []lack) {
	path := "history.jsonl"
	for i, a := range args {
		a = strings.TrimLeft(a, "-")
		if v, ok := strings.CutPrefix(a, "history="); ok {
			path = v
		} else if a == "history" && i+1 < len(args) {
			path = args[i+1]
		}
	}
	all, err := past(path)
	if err != nil || len(all) == 0 {
		return costsOf(&run{})
	}
	return costsOf(all[len(all)-1])
}

// printScale prints a column for each size and way.
func printScale(out io.Writer, d demand, p plant, u unitCosts, clients []string, all []sized) error {
	w := bufio.NewWriter(out)
	_, _ = fmt.Fprintf(w, "A client gets %.1f events/s in %.1f writes/s. Unit costs: write %.2f us, delivery %.3f us, ingest %.2f us, session %.1f kB, an event %.0f B in the feed;\n"+
		"with the share s of the events that a gateway needs: fan-out %s us, gateway %s us behind it, %s us without, delivery topic %s B an event.\n",
		d.rate(), d.writes(), u.Write, u.Delivery, u.Ingest, u.Session, u.FeedBytes, u.FanRead, u.GateHop, u.GateDirect, u.HopBytes)
	_, _ = fmt.Fprintf(w, "By interest: fewer bytes through Kafka while s is below %.0f %%; less CPU in all from %s gateways on that need 1 %% of the events each, %s that need 50 %%, %s that need all.\n\n",
		100*evenBytes(p, u), gateways(u, .01), gateways(u, .5), gateways(u, 1))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(name string, cell func(s sized) string) {
		_, _ = fmt.Fprintf(t, "%s\t", name)
		for _, s := range all {
			if s.Possible {
				_, _ = fmt.Fprintf(t, "%s\t", cell(s))
			} else {
				_, _ = fmt.Fprint(t, "-\t")
			}
		}
		_, _ = fmt.Fprintln(t)
	}
	_, _ = fmt.Fprint(t, "clients\t")
	for i := range all {
		_, _ = fmt.Fprintf(t, "%s\t", clients[i/2])
	}
	_, _ = fmt.Fprintln(t)
	_, _ = fmt.Fprint(t, "delivery\t")
	for _, s := range all {
		_, _ = fmt.Fprintf(t, "%s\t", map[bool]string{true: "by interest", false: "all read all"}[s.Way == "interest-driven"])
	}
	_, _ = fmt.Fprintln(t)
	line("gateways", func(s sized) string { return thousands(int64(s.Gateways)) })
	line("clients of each", func(s sized) string { return thousands(int64(s.PerGateway)) })
	line("needs of all events", func(s sized) string { return number(100*s.Share) + " %" })
	line("busy cores: gateways", func(s sized) string { return number(s.GateCores) })
	line("fan-out", func(s sized) string { return number(s.FanCores) })
	line("ingest", func(s sized) string { return number(s.IngestCores) })
	line("feed partitions", func(s sized) string { return thousands(int64(s.FeedPartitions)) })
	line("delivery topics", func(s sized) string { return thousands(int64(s.Deliveries)) })
	line("Kafka in, MB/s", func(s sized) string { return number(s.KafkaIn / 1e6) })
	line("Kafka out, MB/s", func(s sized) string { return number(s.KafkaOut / 1e6) })
	line("brokers", func(s sized) string { return thousands(int64(s.Brokers)) })
	line("to clients, MB/s", func(s sized) string { return number(s.Egress / 1e6) })
	line("money a month: gateways", func(s sized) string { return thousands(int64(s.Money.Gateways + .5)) })
	line("fan-out and ingest", func(s sized) string { return thousands(int64(s.Money.Fanout + .5)) })
	line("brokers", func(s sized) string { return thousands(int64(s.Money.Kafka + .5)) })
	line("Kafka traffic", func(s sized) string { return thousands(int64(s.Money.Traffic + .5)) })
	line("traffic to clients", func(s sized) string { return thousands(int64(s.Money.Egress + .5)) })
	line("all", func(s sized) string { return thousands(int64(s.Money.sum() + .5)) })
	if err := t.Flush(); err != nil {
		return err
	}
	return w.Flush()
}

func gateways(u unitCosts, share float64) string {
	if n := evenGateways(u, share); !math.IsInf(n, 1) {
		return thousands(int64(n))
	}
	return "no number of"
}

// String prints a line as a formula.
func (l line) String() string { return number(l.A) + " + " + number(l.B) + " s" }
