package feed

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tapecast/tapecast/internal/coverage"
)

const namespace, subsystem = "tapecast", "feed"

// frameCounts counts what sources encode.
type frameCounts struct {
	encoded [2]prometheus.Counter // by Form
	poison  prometheus.Counter
}

// replayCounts counts what the cache does.
type replayCounts struct {
	fetches, hits, bytes prometheus.Counter
	corrupt              prometheus.Counter
	blocks               prometheus.Gauge
}

// lifeCounts counts what incarnations do.
type lifeCounts struct {
	incarnations, jumps, readErrors, writeErrors, written prometheus.Counter
}

// metrics are the room's. Without a registerer they are kept all the same.
type metrics struct {
	frames frameCounts
	replay replayCounts
	life   lifeCounts

	followed, subs                            prometheus.Gauge
	verdicts                                  map[string]prometheus.Counter
	foreign, unknown, overflow, undecodable   prometheus.Counter
	batches, sections, deliveries             prometheus.Counter
	bypassSeconds, bypassBytes, bypassRecords prometheus.Counter
	boundsFailed, resets                      prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := factory{reg}
	form := f.counters("frames_encoded_total", "Frames that were encoded, by form.", "form", "text", "binary")
	m := &metrics{
		frames: frameCounts{
			encoded: [2]prometheus.Counter{FormText: form["text"], FormBinary: form["binary"]},
			poison:  f.counter("poison_total", "Records that could not be decoded."),
		},
		replay: replayCounts{
			fetches: f.counter("replay_fetches_total", "Fetches from Kafka for replay."),
			hits:    f.counter("replay_hits_total", "Reads that a cached block answered."),
			bytes:   f.counter("replay_read_bytes_total", "Bytes read from Kafka for replay."),
			corrupt: f.counter("corrupt_batches_total", "Batches of feed topics that could not be read and were passed over as gaps."),
			blocks:  f.gauge("replay_blocks", "Replayed blocks in memory."),
		},
		life: lifeCounts{
			incarnations: f.counter("incarnations_total", "Incarnations that were begun."),
			jumps:        f.counter("delivery_jumps_total", "Times that the delivery topic or the interest log had lost what was to be read next."),
			readErrors:   f.counter("follow_errors_total", "Failed reads of the delivery topic and the interest log."),
			writeErrors:  f.counter("interest_write_errors_total", "Failed writes to the interest log."),
			written:      f.counter("interest_records_total", "Records written to the interest log."),
		},
		followed:      f.gauge("partitions_followed", "Partitions that are followed."),
		subs:          f.gauge("subscriptions", "Open subscriptions."),
		verdicts:      f.counters("coverage_total", "What the coverage rules said, of sections, gaps and reads.", "verdict", coverage.Counts...),
		foreign:       f.counter("sections_foreign_total", "Sections for an incarnation that is over."),
		unknown:       f.counter("sections_unknown_total", "Sections of a topic or partition that is not followed."),
		overflow:      f.counter("sections_dropped_total", "Sections that found a partition's queue full; they become gaps."),
		undecodable:   f.counter("batches_undecodable_total", "Delivery records that could not be read, or were for another incarnation."),
		batches:       f.counter("batches_total", "Delivery records that were read."),
		sections:      f.counter("sections_total", "Sections that were read."),
		deliveries:    f.counter("deliveries_total", "Deliveries that were read."),
		bypassSeconds: f.counter("bypass_seconds_total", "Time that partitions were read around the fan-out."),
		bypassBytes:   f.counter("bypass_bytes_total", "Bytes read from Kafka around the fan-out."),
		bypassRecords: f.counter("bypass_records_total", "Records read around the fan-out, before the filter."),
		boundsFailed:  f.counter("bounds_errors_total", "Failed questions for a log's end."),
		resets:        f.counter("topic_resets_total", "Topics that were made again while they were followed."),
	}
	return m
}

// observe registers what is asked of a Feed when metrics are scraped.
func (m *metrics) observe(reg prometheus.Registerer, f *Feed) {
	fa := factory{reg}
	fa.gaugeFunc("tape_bytes", "Bytes of all tapes, frames included.", func() float64 { return float64(f.env.budget.used.Load()) })
	fa.gaugeFunc("tape_events", "Events on all tapes.", func() float64 { return float64(f.env.budget.events.Load()) })
	fa.gaugeFunc("replay_bytes", "Bytes of replayed blocks, frames included.", func() float64 { return float64(f.env.cache.used.Load()) })
	fa.gaugeFunc("partitions_bypassing", "Partitions that are read around the fan-out now.", func() float64 { return float64(f.env.bypassing.Load()) })
	fa.gaugeFunc("interests", "Interests of this node.", func() float64 { return float64(f.book.size()) })
	fa.gaugeFunc("lease_age_seconds", "Time since the lease was renewed.", func() float64 { return f.life.age().Seconds() })
}

// count counts one of coverage.Counts.
func (m *metrics) count(what string) {
	if c := m.verdicts[what]; c != nil {
		c.Inc()
	}
}

func (m *metrics) bypassRead(records int) { m.bypassRecords.Add(float64(records)) }

// factory makes and registers metrics; a nil registerer registers none.
type factory struct{ reg prometheus.Registerer }

func (f factory) register(c prometheus.Collector) {
	if f.reg != nil {
		f.reg.MustRegister(c)
	}
}

func (f factory) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help})
	f.register(c)
	return c
}

// counters makes one counter for each value of a label, all of them now.
func (f factory) counters(name, help, label string, values ...string) map[string]prometheus.Counter {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help}, []string{label})
	f.register(v)
	out := make(map[string]prometheus.Counter, len(values))
	for _, x := range values {
		out[x] = v.WithLabelValues(x)
	}
	return out
}

func (f factory) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help})
	f.register(g)
	return g
}

func (f factory) gaugeFunc(name, help string, fn func() float64) {
	f.register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help}, fn))
}
