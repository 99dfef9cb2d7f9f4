package gateway

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tapecast/tapecast/internal/protocol"
)

// metrics of the gateway room. All label sets are closed and made at the start.
type metrics struct {
	sessions      counterSet[prometheus.Gauge]
	subscriptions prometheus.Gauge
	replaying     prometheus.Gauge
	lagging       prometheus.Gauge

	events        prometheus.Counter
	frames        prometheus.Counter
	bytes         prometheus.Counter
	writes        prometheus.Counter
	commands      counterSet[prometheus.Counter]
	commandErrors counterSet[prometheus.Counter]
	closes        counterSet[prometheus.Counter]
	refused       counterSet[prometheus.Counter]
	gaps          counterSet[prometheus.Counter]
	resets        counterSet[prometheus.Counter]
	panics        prometheus.Counter
	latency       prometheus.Histogram
}

// counterSet is a closed set of labelled metrics, looked up without hashing labels.
type counterSet[T any] map[string]T

// of finds a metric; a value outside of the set counts as "other".
func (c counterSet[T]) of(value string) T {
	if m, ok := c[value]; ok {
		return m
	}
	return c["other"]
}

// The closed label sets.
var (
	transports   = []string{"ws", "sse", "ndjson"}
	verbs        = []string{"sub", "unsub", "ping", "list"}
	closeReasons = []string{"client", "drain", "slow", "timeout", "flood", "protocol", "utf8", "too_big", "write", "panic", "end", "gone"}
	refusals     = []string{"origin", "sessions", "address", "starting", "drain", "upgrade"}
)

func newMetrics(reg prometheus.Registerer, snapshots *snapshotLimits) *metrics {
	r := registrar{reg}
	m := &metrics{
		sessions:      gauges(r, "tapecast_gateway_sessions", "Open sessions.", "transport", transports),
		subscriptions: r.gauge("tapecast_gateway_subscriptions", "Open subscriptions."),
		replaying:     r.gauge("tapecast_gateway_subscriptions_replaying", "Subscriptions that have not reached the live edge yet."),
		lagging:       r.gauge("tapecast_gateway_subscriptions_lagging", "Live subscriptions that have been behind the head for over a second."),
		events:        r.counter("tapecast_gateway_events_total", "Data frames written."),
		frames:        r.counter("tapecast_gateway_control_frames_total", "Control frames written."),
		bytes:         r.counter("tapecast_gateway_written_bytes_total", "Bytes written to clients."),
		writes:        r.counter("tapecast_gateway_writes_total", "Writes to client sockets."),
		commands:      counters(r, "tapecast_gateway_commands_total", "Commands understood, by verb.", "verb", verbs),
		closes:        counters(r, "tapecast_gateway_closes_total", "Sessions ended, by reason.", "reason", closeReasons),
		refused:       counters(r, "tapecast_gateway_refused_total", "Sessions refused at the door, by reason.", "reason", refusals),
		resets:        counters(r, "tapecast_gateway_resets_total", "Subscriptions that began anew, by cause.", "cause", []string{"epoch", "beyond"}),
		panics:        r.counter("tapecast_gateway_panics_total", "Panics contained to one session."),
	}
	var codes, causes []string
	for _, c := range protocol.Codes() {
		codes = append(codes, string(c))
	}
	for _, c := range protocol.Causes() {
		causes = append(causes, string(c))
	}
	m.commandErrors = counters(r, "tapecast_gateway_errors_total", "Errors told to clients, by code.", "code", codes)
	m.gaps = counters(r, "tapecast_gateway_gaps_total", "Gaps told to (or, at level 0, passed for) clients, by cause.", "cause", causes)
	m.latency = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "tapecast_accepted_to_written_seconds",
		Help:    "From an event's acceptance by tapecast to its frame's write to a client; the newest live event of each write.",
		Buckets: []float64{.0005, .00075, .001, .0015, .002, .003, .005, .0075, .01, .015, .02, .03, .05, .075, .1, .15, .25, .5, 1, 2.5, 5, 10},
	})
	r.register(m.latency)
	r.register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tapecast_gateway_snapshot_bytes", Help: "Bytes that snapshots on their way to clients hold.",
	}, func() float64 { return float64(snapshots.used.Load()) }))
	return m
}

// registrar registers, or with no Registerer does not.
type registrar struct{ reg prometheus.Registerer }

func (r registrar) register(c prometheus.Collector) {
	if r.reg != nil {
		r.reg.MustRegister(c)
	}
}

func (r registrar) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	r.register(c)
	return c
}

func (r registrar) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	r.register(g)
	return g
}

func counters(r registrar, name, help, label string, values []string) counterSet[prometheus.Counter] {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	r.register(v)
	return closedSet(values, func(s string) prometheus.Counter { return v.WithLabelValues(s) })
}

func gauges(r registrar, name, help, label string, values []string) counterSet[prometheus.Gauge] {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{label})
	r.register(v)
	return closedSet(values, func(s string) prometheus.Gauge { return v.WithLabelValues(s) })
}

func closedSet[T any](values []string, of func(string) T) counterSet[T] {
	out := counterSet[T]{"other": of("other")}
	for _, s := range values {
		out[s] = of(s)
	}
	return out
}
