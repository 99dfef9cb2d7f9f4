package main

import (
	"fmt"
	"math"
)

// unitCosts are what this machine was measured to need. A line is a + b x share,
// where share is the part of all events that a gateway needs.
type unitCosts struct {
	Write      float64 // us of CPU of one write, whatever its size
	Delivery   float64 // us of user time of one delivery within a write
	Ingest     float64 // us of CPU of one event, Avro from JSON over HTTP
	FanRead    line    // us of CPU of the fan-out for one event, with one gateway
	GateHop    line    // us of CPU of a gateway for one event of the feed, behind the fan-out
	GateDirect line    // ... reading the feed itself
	FeedBytes  float64 // bytes of one event in the feed topic, as read
	HopBytes   line    // bytes of the delivery topic for one event of the feed
	Session    float64 // kB of one subscribed connection
}

// line is a + b x share.
type line struct{ A, B float64 }

func (l line) at(share float64) float64 { return max(0, l.A+l.B*share) }

// through is the line through two measurements.
func through(share1, v1, share2, v2 float64) line {
	b := (v2 - v1) / (share2 - share1)
	return line{v1 - b*share1, b}
}

// demand is what is asked of a deployment.
type demand struct {
	Clients float64
	Events  float64 // a second, over all topics
	Keys    float64 // events are spread over them evenly
	PerSub  float64 // keys of a client
	Frame   float64 // bytes of an event on a client's wire
	Hold    float64 // s
}

// rate is how many events a second a client gets.
func (d demand) rate() float64 { return d.Events * min(1, d.PerSub/d.Keys) }

// writes is how many writes a second a client costs: the holds in which
// something comes. Events are taken to come independently of each other.
func (d demand) writes() float64 {
	if d.Hold <= 0 {
		return d.rate()
	}
	return -math.Expm1(-d.rate()*d.Hold) / d.Hold
}

// share of the events that a gateway with n clients needs, who choose their keys independently.
func (d demand) share(n float64) float64 {
	return -math.Expm1(n * math.Log1p(-min(d.PerSub/d.Keys, 1-1e-12)))
}

// plant is what a deployment is built of, and what that costs.
type plant struct {
	Cores      float64 // of a gateway
	Use        float64 // part of a core's time that may be used in the steady state
	RAM        float64 // GB of a gateway
	Base       float64 // GB of a gateway without sessions: tapes, replay, Go
	MaxClients float64 // of a gateway
	Replicas   float64 // of all topics
	BrokerMB   float64 // MB/s in plus out, with replication, that one broker bears
	BrokerCPU  float64 // cores of one broker
	Partition  float64 // events/s of one partition
	CoreMonth  float64 // money
	GBMonth    float64 // money for a GB of memory
	EgressGB   float64 // money for a GB to clients
	KafkaGB    float64 // money for a GB between processes and Kafka, in or out: zones
}

// sized is a deployment for a demand.
type sized struct {
	Way                        string
	Gateways, PerGateway       float64
	Share                      float64 // of the events that each gateway needs
	GateCores, FanCores        float64 // busy, all together
	IngestCores                float64
	FeedPartitions, Deliveries float64 // partitions of the feed; delivery topics
	KafkaIn, KafkaOut          float64 // B/s at the brokers, replication included in In
	Brokers                    float64
	Egress                     float64 // B/s to clients
	Money                      money   // a month
	Possible                   bool
}

type money struct{ Gateways, Fanout, Kafka, Traffic, Egress float64 }

func (m money) sum() float64 { return m.Gateways + m.Fanout + m.Kafka + m.Traffic + m.Egress }

const month = 30.4 * 24 * 3600 // s

// size finds the fewest gateways that bear a demand, and what they ask of the rest.
func size(d demand, p plant, u unitCosts, direct bool) sized {
	out := sized{Way: "interest-driven"}
	intake := u.GateHop
	if direct {
		out.Way, intake = "every gateway reads all", u.GateDirect
	}
	n := most(d, p, u, intake)
	out.Possible = n >= 1
	if !out.Possible {
		return out
	}
	out.Gateways = math.Ceil(d.Clients / n)
	out.PerGateway = d.Clients / out.Gateways
	out.Share = d.share(out.PerGateway)
	out.GateCores = (d.Clients*perClientUs(d, u) + out.Gateways*d.Events*intake.at(out.Share)) / 1e6
	out.IngestCores = d.Events * u.Ingest / 1e6
	out.FeedPartitions = math.Ceil(d.Events / p.Partition)
	feed := d.Events * u.FeedBytes
	out.KafkaIn = feed * p.Replicas
	out.Egress = d.Clients * d.rate() * d.Frame
	if direct {
		out.KafkaOut = out.Gateways * feed
	} else {
		hop := out.Gateways * d.Events * u.HopBytes.at(out.Share)
		// The fan-out reads and decides once, and writes for each gateway.
		out.FanCores = d.Events * (u.FanRead.A + out.Gateways*out.Share*u.FanRead.B) / 1e6
		out.Deliveries = out.Gateways
		out.KafkaIn += hop * p.Replicas
		out.KafkaOut = feed + hop
	}
	out.Brokers = max(p.Replicas, math.Ceil((out.KafkaIn+out.KafkaOut)/1e6/p.BrokerMB))
	out.Money = money{
		Gateways: out.Gateways * (p.Cores*p.CoreMonth + p.RAM*p.GBMonth),
		Fanout:   math.Ceil((out.FanCores+out.IngestCores)/p.Use) * (p.CoreMonth + 2*p.GBMonth),
		Kafka:    out.Brokers * (p.BrokerCPU*p.CoreMonth + 4*p.BrokerCPU*p.GBMonth),
		Traffic:  (out.KafkaIn + out.KafkaOut) * month / 1e9 * p.KafkaGB,
		Egress:   out.Egress * month / 1e9 * p.EgressGB,
	}
	return out
}

// perClientUs is the CPU us a second that one client costs its gateway.
func perClientUs(d demand, u unitCosts) float64 {
	return d.writes()*u.Write + d.rate()*u.Delivery
}

// most is how many clients one gateway bears: by CPU, by memory, by its limit.
func most(d demand, p plant, u unitCosts, intake line) float64 {
	byMemory := (p.RAM - p.Base) * 1e6 / u.Session
	high := max(0, min(p.MaxClients, byMemory, d.Clients))
	fits := func(n float64) bool {
		return n*perClientUs(d, u)+d.Events*intake.at(d.share(n)) <= p.Cores*p.Use*1e6
	}
	low := 0.0
	if fits(high) {
		return math.Floor(high)
	}
	for range 60 {
		mid := (low + high) / 2
		if fits(mid) {
			low = mid
		} else {
			high = mid
		}
	}
	return math.Floor(low)
}

// lack is a unit cost that a run has not measured, and the flags that give it.
type lack struct {
	figure string
	flags  []string
}

// costsOf takes the unit costs from a run; it names what the run has not measured.
func costsOf(r *run) (u unitCosts, missing []lack) {
	get := func(work, server, name string, flags ...string) float64 {
		if o := find(r, outcome{row: row{Work: work, Server: server}}); o != nil {
			if v, ok := o.get(name); ok {
				return v
			}
		}
		missing = append(missing, lack{fmt.Sprintf("%s of %s %s", name, work, server), flags})
		return 0
	}
	fit := func(way, name, flag string) line {
		at := func(server string) float64 { return get("direct", way+" "+server, name, flag+"-a", flag+"-b") }
		return through(.01, at("1 %"), 1, at("100 %"))
	}
	u = unitCosts{
		Write:      get("write", "floor@0", perM, "write-us"),
		Delivery:   get("S3", "tapecast@50", user, "delivery-us"),
		Ingest:     get("hop", "20,000/s", "ingest us/event", "ingest-us"),
		FanRead:    fit("delivery", "fanout us/event", "fanout"),
		GateHop:    fit("delivery", "gateway us/event", "gateway"),
		GateDirect: fit("direct", "gateway us/event", "gateway-direct"),
		FeedBytes:  get("direct", "delivery 100 %", "fanout in B/event", "feed-bytes"),
		HopBytes:   fit("delivery", "gateway B/event", "hop-bytes"),
		Session:    get("idle", "tapecast@50", kBIdle, "session-kb"),
	}
	return u, missing
}

// evenBytes is the share below which interest-driven delivery moves fewer
// bytes through Kafka than reading all does, per gateway; 1 = always fewer.
func evenBytes(p plant, u unitCosts) float64 {
	hop := line{u.HopBytes.A * (1 + p.Replicas), u.HopBytes.B * (1 + p.Replicas)}
	if hop.at(1) <= u.FeedBytes {
		return 1
	}
	if hop.B <= 0 {
		return 0
	}
	return max(0, (u.FeedBytes-hop.A)/hop.B)
}

// evenGateways is the number of gateways, each with this share, from which on
// the CPU that the fan-out saves them is more than its own; +Inf = never.
func evenGateways(u unitCosts, share float64) float64 {
	saved := u.GateDirect.at(share) - u.GateHop.at(share) - share*u.FanRead.B
	if saved <= 0 {
		return math.Inf(1)
	}
	return math.Ceil(u.FanRead.A / saved)
}
