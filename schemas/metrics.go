package schemas

import "github.com/prometheus/client_golang/prometheus"

// metrics of the registry client; all label values exist from the start.
type metrics struct {
	lookups  map[string]prometheus.Counter // by how an id was answered
	requests map[string]map[string]prometheus.Counter
	entries  prometheus.Gauge
	bytes    prometheus.Gauge
	seconds  prometheus.Histogram
}

const (
	lookupHit      = "hit"
	lookupMiss     = "miss"
	lookupNegative = "negative"

	outcomeOK        = "ok"
	outcomeRefused   = "refused"
	outcomeTransient = "transient"
)

func newMetrics(reg prometheus.Registerer) *metrics {
	lookups := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tapecast_schemas_lookups_total",
		Help: "Schema ids looked up that were not at hand without waiting, by result.",
	}, []string{"result"})
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tapecast_schemas_registry_requests_total",
		Help: "Requests to the schema registry, by operation and outcome.",
	}, []string{"op", "outcome"})
	m := &metrics{
		lookups:  make(map[string]prometheus.Counter),
		requests: make(map[string]map[string]prometheus.Counter),
		entries: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tapecast_schemas_cached", Help: "Compiled schemas in the cache.",
		}),
		bytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tapecast_schemas_cached_bytes", Help: "Bytes of schema text that the cached schemas were compiled from.",
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tapecast_schemas_registry_request_seconds", Help: "Time of a request to the schema registry.",
			Buckets: []float64{0.001, 0.005, 0.025, 0.1, 0.5, 2},
		}),
	}
	for _, r := range []string{lookupHit, lookupMiss, lookupNegative} {
		m.lookups[r] = lookups.WithLabelValues(r)
	}
	for _, op := range []string{opByID, opLatest, opRegister, opPing} {
		m.requests[op] = make(map[string]prometheus.Counter)
		for _, o := range []string{outcomeOK, outcomeRefused, outcomeTransient} {
			m.requests[op][o] = requests.WithLabelValues(op, o)
		}
	}
	if reg != nil {
		reg.MustRegister(lookups, requests, m.entries, m.bytes, m.seconds)
	}
	return m
}
