package main

import (
	"bytes"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var (
	testCosts = unitCosts{Write: 10, Delivery: .2, Ingest: 5, FanRead: line{4, 1}, GateHop: line{0, 3}, GateDirect: line{2, 2},
		FeedBytes: 100, HopBytes: line{0, 100}, Session: 10}
	testPlant = plant{Cores: 4, Use: .5, RAM: 8, Base: 2, MaxClients: 1e6, Replicas: 3, BrokerMB: 100, BrokerCPU: 4, Partition: 5000,
		CoreMonth: 10, GBMonth: 1, EgressGB: .01, KafkaGB: .001}
)

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-6*math.Max(1, math.Abs(want)) {
		t.Errorf("%s is %v, not %v", what, got, want)
	}
}

func TestDemand(t *testing.T) {
	d := demand{Events: 1000, Keys: 100, PerSub: 1, Hold: .1}
	near(t, "rate", d.rate(), 10)
	near(t, "writes", d.writes(), 10*(1-math.Exp(-1)))
	d.Hold = 0
	near(t, "writes without a hold", d.writes(), 10)
	near(t, "share of one client", d.share(1), .01)
	near(t, "share of two", d.share(2), 1-.99*.99)
	d.PerSub = 100
	near(t, "share of a client that takes all", d.share(1), 1)
}

func TestSize(t *testing.T) {
	// Everybody takes everything, one event a second, no hold: 10.2 us a client and second of the 2 s that a gateway may spend.
	d := demand{Clients: 1e6, Events: 1, Keys: 1, PerSub: 1, Frame: 150}
	s := size(d, testPlant, testCosts, false)
	near(t, "gateways", s.Gateways, math.Ceil(1e6/math.Floor((2e6-3)/10.2)))
	near(t, "to clients", s.Egress, 150e6)
	near(t, "Kafka in", s.KafkaIn, 3*100*(1+s.Gateways))
	near(t, "Kafka out", s.KafkaOut, 100*(1+s.Gateways))
	near(t, "fan-out", s.FanCores, (4+s.Gateways)/1e6)
	all := size(d, testPlant, testCosts, true)
	near(t, "Kafka in, read by all", all.KafkaIn, 3*100)
	near(t, "Kafka out, read by all", all.KafkaOut, 100*all.Gateways)
	if all.FanCores != 0 || all.Deliveries != 0 || all.Money.Fanout != math.Ceil(5/1e6/.5)*12 {
		t.Errorf("without a fan-out there is one: %+v", all)
	}
	near(t, "traffic", s.Money.Egress, 150e6*month/1e9*.01)
	near(t, "sum", s.Money.sum(), s.Money.Gateways+s.Money.Fanout+s.Money.Kafka+s.Money.Traffic+s.Money.Egress)
}

// Memory bounds a gateway of idle clients, and the limit the rest.
func TestMost(t *testing.T) {
	d := demand{Clients: 1e9, Events: 1e-9, Keys: 1, PerSub: 1}
	near(t, "by memory", most(d, testPlant, testCosts, line{}), 6e6/10)
	p := testPlant
	p.MaxClients = 1000
	near(t, "by the limit", most(d, p, testCosts, line{}), 1000)
}

// A gateway that needs little of a large feed cannot read all of it.
func TestInterestBeatsReadingAllWhenTheFeedIsLarge(t *testing.T) {
	d := demand{Clients: 1e4, Events: 2e6, Keys: 1e6, PerSub: 1, Hold: .05}
	if s := size(d, testPlant, testCosts, true); s.Possible {
		t.Errorf("a gateway with 2 s of CPU a second reads 2,000,000 events/s of 2 us each: %+v", s)
	}
	if s := size(d, testPlant, testCosts, false); !s.Possible || s.Share > .5 {
		t.Errorf("behind the fan-out it can serve those who need little: %+v", s)
	}
}

func TestCostsComeFromARun(t *testing.T) {
	r := &run{}
	add := func(work, server, name string, v float64) {
		r.Results = append(r.Results, outcome{row: row{Work: work, Server: server, Figures: []figure{{name, v}}}})
	}
	add("write", "floor@0", perM, 8)
	add("direct", "delivery 1 %", "gateway us/event", 1.01)
	add("direct", "delivery 100 %", "gateway us/event", 2)
	u, missing := costsOf(r)
	near(t, "write", u.Write, 8)
	if !slices.ContainsFunc(missing, func(l lack) bool {
		return l.figure == kBIdle+" of idle tapecast@50" && slices.Equal(l.flags, []string{"session-kb"})
	}) {
		t.Errorf("nobody says that memory was not measured: %v", missing)
	}
	near(t, "a gateway's event that it does not need", through(.01, 1.01, 1, 2).at(0), 1)
	var out bytes.Buffer
	d := demand{Clients: 1e6, Events: 1, Keys: 1, PerSub: 1, Frame: 150}
	if err := printScale(&out, d, testPlant, testCosts, []string{"1e6"}, []sized{size(d, testPlant, testCosts, false), {}}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(strings.Fields(out.String()), " "), "delivery topics 6 - Kafka in") {
		t.Errorf("the table is\n%s", &out)
	}
}

// What was not measured is not taken as nothing.
func TestScaleNeedsEveryUnitCost(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "none.jsonl")
	args := []string{"-history", empty, "-write-us", "8", "-delivery-us", ".1", "-ingest-us", "8", "-session-kb", "3", "-feed-bytes", "60"}
	for _, l := range []string{"fanout", "gateway", "gateway-direct", "hop-bytes"} {
		args = append(args, "-"+l+"-a", "1", "-"+l+"-b", "1")
	}
	if err := scale(io.Discard, args); err != nil {
		t.Fatal("all are given:", err)
	}
	for i := 2; i < len(args); i += 2 {
		err := scale(io.Discard, slices.Concat(args[:i], args[i+2:]))
		if err == nil || !strings.Contains(err.Error(), args[i]) {
			t.Errorf("without %s: %v", args[i], err)
		}
	}
}

func TestHistogram(t *testing.T) {
	scrape := []byte("# TYPE x histogram\nx_bucket{le=\"0.1\"} 0\nx_bucket{le=\"0.2\"} 50\nx_bucket{le=\"0.4\"} 100\nx_bucket{le=\"+Inf\"} 100\nx_sum 3\nother_bucket{le=\"1\"} 7\n")
	h := parseHistogram(scrape, "x")
	near(t, "median", h.quantile(.5), .2)
	near(t, "p75", h.quantile(.75), .3)
	d := h.minus(histogram{count: []float64{0, 50, 50, 50}})
	near(t, "median of what came since", d.quantile(.5), .3)
	if !math.IsNaN(histogram{}.quantile(.5)) {
		t.Error("nothing has a median")
	}
	stat := []byte("12 (a) b) R 1 2 3 4 5 6 7 8 9 10 150 50 0 0")
	cpu, err := cpuOf(stat)
	if err != nil {
		t.Fatal(err)
	}
	near(t, "CPU of a process with ) in its name", cpu, 2)
	if _, err := cpuOf([]byte("12 (a")); err == nil {
		t.Error("a cut line is no error")
	}
}

func TestWhereInterestPays(t *testing.T) {
	// The hop moves 100 s bytes in, three times, and out; reading all moves 100 out.
	near(t, "share", evenBytes(testPlant, testCosts), .25)
	// The fan-out takes 4 us an event and s for each gateway; a gateway saves 2 + 2 s - 3 s.
	near(t, "gateways at half", evenGateways(testCosts, .5), 4)
	if n := evenGateways(testCosts, 1); !math.IsInf(n, 1) {
		t.Errorf("with nothing saved it pays from %v gateways on", n)
	}
}
