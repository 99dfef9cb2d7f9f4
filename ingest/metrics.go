package ingest

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Doors, as the metrics name them.
const (
	doorEvents = "events"
	doorStream = "stream"
	doorREST   = "rest"
)

// metrics of the room. All label values exist from the start.
type metrics struct {
	events  map[string]prometheus.Counter // by door
	bytes   prometheus.Counter
	errors  map[string]prometheus.Counter // by code
	produce prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, b *budget) (*metrics, error) {
	events := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tapecast_ingest_events_total",
		Help: "Events that were written and acknowledged, by door.",
	}, []string{"door"})
	errs := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tapecast_ingest_errors_total",
		Help: "Requests that were not answered with success, by code.",
	}, []string{"code"})
	m := &metrics{
		events: make(map[string]prometheus.Counter),
		errors: make(map[string]prometheus.Counter),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tapecast_ingest_bytes_total",
			Help: "Bytes of keys and encoded values that were written and acknowledged.",
		}),
		produce: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "tapecast_ingest_produce_seconds",
			Help:    "Time from queueing a request's records to the last verdict of Kafka.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
		}),
	}
	held := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tapecast_ingest_buffered_bytes",
		Help: "Bytes that requests hold: read, encoded, waiting for Kafka.",
	}, func() float64 { return float64(b.held.Load()) })
	for _, d := range []string{doorEvents, doorStream, doorREST} {
		m.events[d] = events.WithLabelValues(d)
	}
	for _, c := range codes {
		m.errors[c] = errs.WithLabelValues(c)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{events, errs, m.bytes, m.produce, held} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
