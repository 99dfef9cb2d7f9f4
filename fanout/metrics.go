package fanout

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Why a node is cut: a closed set.
const (
	cutTimeout = "timeout"    // a write was not acknowledged in time
	cutQueue   = "queue_full" // its queue has no room
	cutGone    = "topic_gone" // its delivery topic is not there
	cutRefused = "refused"    // the write was refused for good
)

// metrics counts what the room does. Gauges are asked at scrape time.
type metrics struct {
	records      prometheus.Counter
	readBytes    prometheus.Counter
	deliveries   prometheus.Counter
	sections     prometheus.Counter
	covering     prometheus.Counter
	batches      prometheus.Counter
	batchBytes   prometheus.Counter
	publish      prometheus.Histogram
	writeRetries prometheus.Counter
	tooLarge     prometheus.Counter
	dropped      prometheus.Counter
	cuts         map[string]prometheus.Counter

	commits       prometheus.Counter
	commitErrors  prometheus.Counter
	fenced        prometheus.Counter
	zombie        prometheus.Counter
	rebalances    prometheus.Counter
	readErrors    prometheus.Counter
	outOfRange    prometheus.Counter
	corrupt       prometheus.Counter
	topicChanged  prometheus.Counter
	watchdog      prometheus.Counter
	interests     prometheus.Counter
	badInterests  prometheus.Counter
	leasesEnded   prometheus.Counter
	topicsRemoved prometheus.Counter
	cleanErrors   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	r := registrar{reg: reg}
	m := &metrics{
		records:    r.counter("records_read_total", "Records read from feed topics."),
		readBytes:  r.counter("read_bytes_total", "Bytes read from feed topics, as on the wire."),
		deliveries: r.counter("deliveries_total", "Deliveries made: one per record and node that wants it."),
		sections:   r.counter("sections_published_total", "Sections written to delivery topics."),
		covering:   r.counter("sections_covering_total", "Sections made without a delivery, to move the coverage on."),
		batches:    r.counter("batches_published_total", "Batches written to delivery topics and acknowledged."),
		batchBytes: r.counter("published_bytes_total", "Bytes of these batches."),
		publish: r.histogram("publish_seconds", "From the first try of a write to a delivery topic to its acknowledgement.",
			prometheus.ExponentialBuckets(0.0002, 2, 15)),
		writeRetries: r.counter("write_retries_total", "Writes to delivery topics that were tried again."),
		tooLarge:     r.counter("batches_too_large_total", "Batches that a delivery topic refused for their size."),
		dropped:      r.counter("sections_dropped_total", "Sections dropped for nodes that are cut; their gateways read the feed instead."),
		cuts:         map[string]prometheus.Counter{},

		commits:       r.counter("commits_total", "Commits of the group that succeeded."),
		commitErrors:  r.counter("commit_errors_total", "Commits that failed."),
		fenced:        r.counter("fenced_total", "Times that publishing stopped for want of a successful commit."),
		zombie:        r.counter("stale_generation_total", "Commits refused because the group had moved on without this instance."),
		rebalances:    r.counter("generations_total", "Generations of the group that this instance was in."),
		readErrors:    r.counter("read_errors_total", "Reads of feed topics that failed and were tried again."),
		outOfRange:    r.counter("out_of_range_total", "Times a partition's position was not in the log any more."),
		corrupt:       r.counter("corrupt_batches_total", "Batches of feed topics that cannot be read and were passed over; gateways name them to clients as gaps."),
		topicChanged:  r.counter("topic_changed_total", "Times a partition's topic was deleted or made again."),
		watchdog:      r.counter("watchdog_rebuilds_total", "Readers rebuilt because they made no progress."),
		interests:     r.counter("interest_records_total", "Records of the interest log applied."),
		badInterests:  r.counter("interest_records_bad_total", "Records of the interest log that could not be used."),
		leasesEnded:   r.counter("leases_ended_total", "Incarnations ended by this instance because their lease ran out."),
		topicsRemoved: r.counter("delivery_topics_removed_total", "Delivery topics of ended incarnations removed by this instance."),
		cleanErrors:   r.counter("cleanup_errors_total", "Failed attempts to end incarnations or to clean up after them."),
	}
	cuts := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tapecast_fanout_cuts_total", Help: "Times a node was cut, by reason.",
	}, []string{"reason"})
	for _, reason := range []string{cutTimeout, cutQueue, cutGone, cutRefused} {
		m.cuts[reason] = cuts.WithLabelValues(reason)
	}
	r.register(cuts)
	return m, r.err
}

func (m *metrics) published(took time.Duration, sections, bytes int) {
	m.publish.Observe(took.Seconds())
	m.batches.Inc()
	m.sections.Add(float64(sections))
	m.batchBytes.Add(float64(bytes))
}

// registrar makes and registers; the first error sticks. Without a registerer
// the metrics count for nobody.
type registrar struct {
	reg prometheus.Registerer
	err error
}

func (r *registrar) register(c prometheus.Collector) {
	if r.reg != nil && r.err == nil {
		r.err = r.reg.Register(c)
	}
}

func (r *registrar) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "tapecast_fanout_" + name, Help: help})
	r.register(c)
	return c
}

func (r *registrar) histogram(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "tapecast_fanout_" + name, Help: help, Buckets: buckets})
	r.register(h)
	return h
}

// gauges asks the room at scrape time.
type gauges struct {
	stats func() Stats
	descs map[string]*prometheus.Desc
	lag   *prometheus.Desc
}

func newGauges(stats func() Stats) *gauges {
	g := &gauges{stats: stats, descs: map[string]*prometheus.Desc{}}
	for name, help := range map[string]string{
		"ready":                "1 = interests are loaded, in the group, and publishing.",
		"owned_partitions":     "Partitions of feed topics that this instance casts.",
		"nodes":                "Gateway nodes that are alive by the interest log.",
		"nodes_cut":            "Nodes that are cut now.",
		"routes":               "Interests of all nodes.",
		"queue_bytes":          "Bytes queued and in flight for all nodes.",
		"queue_bytes_max":      "The same for the node that has most.",
		"lag_records":          "Offsets between the logs' ends and the positions, all owned partitions.",
		"commit_age_seconds":   "Since the last successful commit.",
		"interest_position":    "Offset of the interest log that is applied.",
		"interest_age_seconds": "Since the interest log was last seen to its end.",
		"generation":           "The group's generation.",
	} {
		g.descs[name] = prometheus.NewDesc("tapecast_fanout_"+name, help, nil, nil)
	}
	g.lag = prometheus.NewDesc("tapecast_fanout_topic_lag_records",
		"Offsets between the logs' ends and the positions of a feed topic's owned partitions.", []string{"topic"}, nil)
	return g
}

// Describe implements prometheus.Collector.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range g.descs {
		ch <- d
	}
	ch <- g.lag
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	s := g.stats()
	send := func(name string, v float64) {
		ch <- prometheus.MustNewConstMetric(g.descs[name], prometheus.GaugeValue, v)
	}
	var lag, queued, most float64
	cutNow := 0
	topics := map[string]float64{}
	for _, p := range s.Partitions {
		lag += float64(p.Lag)
		topics[p.Topic] += float64(p.Lag)
	}
	for _, n := range s.Nodes {
		queued += float64(n.QueueBytes)
		most = max(most, float64(n.QueueBytes))
		if n.Cut {
			cutNow++
		}
	}
	ready := 0.0
	if s.Ready == nil {
		ready = 1
	}
	send("ready", ready)
	send("owned_partitions", float64(len(s.Partitions)))
	send("nodes", float64(len(s.Nodes)))
	send("nodes_cut", float64(cutNow))
	send("routes", float64(s.Routes))
	send("queue_bytes", queued)
	send("queue_bytes_max", most)
	send("lag_records", lag)
	send("commit_age_seconds", s.CommitAge.Seconds())
	send("interest_position", float64(s.Interests.Offset))
	send("interest_age_seconds", s.InterestAge.Seconds())
	send("generation", float64(s.Generation))
	for topic, l := range topics {
		ch <- prometheus.MustNewConstMetric(g.lag, prometheus.GaugeValue, l, topic)
	}
}
