package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tapecast/tapecast/internal/config"
)

const (
	defaultMetrics = "http://127.0.0.1:8080/metrics"
	metricsAnswer  = 8 << 20 // bytes taken of one answer
	topTimeout     = 2 * time.Second
)

// topFlags is what `tapecast top` can be told.
type topFlags struct {
	urls  listFlag
	every time.Duration
	count int
}

// runTop is `tapecast top`.
func runTop(ctx context.Context, sys system, args []string) error {
	fs := newFlags("top [flags]",
		"Show the flow through the stages: what came in, was routed, lies on sockets, waits. It reads the /metrics of the\n"+
			"processes that you name, and adds up what they say; a process that does not answer is named, and missing in the sums.",
		"tapecast top                                   # of tapecast dev",
		"tapecast top --url http://127.0.0.1:8091 --url http://127.0.0.1:8092 --url http://127.0.0.1:8093    # ingest, fan-out, gateway")
	var f topFlags
	fs.Var(&f.urls, "url", "`URL` of a process's admin listener (or dev's); may be repeated (default "+defaultMetrics+")")
	fs.DurationVar(&f.every, "every", 2*time.Second, "time between two looks; rates are averages over it")
	fs.IntVar(&f.count, "count", 0, "end after `N` tables; 0 = never")
	rest, err := fs.parse(sys, args)
	if err != nil {
		return err
	}
	if err := noArgs(rest); err != nil {
		return err
	}
	if f.every < 100*time.Millisecond {
		return usagef("--every: at least 100ms")
	}
	if len(f.urls) == 0 {
		f.urls = listFlag{defaultMetrics}
	}
	for i, u := range f.urls {
		if f.urls[i], err = metricsURL(u); err != nil {
			return err
		}
	}
	return f.run(ctx, sys.out)
}

func metricsURL(s string) (string, error) {
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	if err := config.CheckURL(s); err != nil {
		return "", usagef("--url: %q %s", s, err)
	}
	u, err := url.Parse(s)
	if err != nil {
		return "", usagef("--url: %s", err)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/metrics"
	}
	return u.String(), nil
}

// run looks, waits, looks again and shows what has changed between.
func (f *topFlags) run(ctx context.Context, out io.Writer) error {
	before := f.look(ctx)
	for shown := 0; f.count == 0 || shown < f.count; shown++ {
		t := time.NewTimer(f.every)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		now := f.look(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // Ctrl-C is how it ends
		}
		page := flow(before, now)
		if isTerminal(out) {
			page = append([]byte("\x1b[H\x1b[2J"), page...)
		}
		if _, err := out.Write(page); err != nil {
			return err
		}
		before = now
	}
	return nil
}

// look is what all processes said at about one time.
type look struct {
	at   time.Time
	by   []scrape
	down []string
}

// scrape is one process: sums of its metrics over their labels.
type scrape map[string]float64

func (f *topFlags) look(ctx context.Context) look {
	l := look{at: time.Now()}
	for _, u := range f.urls {
		s, err := scrapeOne(ctx, u)
		if err != nil {
			l.down = append(l.down, printable(err.Error()))
		}
		l.by = append(l.by, s)
	}
	return l
}

func scrapeOne(ctx context.Context, u string) (scrape, error) {
	ctx, cancel := context.WithTimeout(ctx, topTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/plain")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }() // read to its end or given up
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", u, res.Status)
	}
	out := scrape{}
	sc := bufio.NewScanner(io.LimitReader(res.Body, metricsAnswer))
	for sc.Scan() {
		name, rest, ok := strings.Cut(sc.Text(), " ")
		if !strings.HasPrefix(name, "tapecast_") || !ok {
			continue
		}
		if i := strings.LastIndexByte(sc.Text(), ' '); i > 0 { // labels may hold spaces
			rest = sc.Text()[i+1:]
		}
		name, _, _ = strings.Cut(name, "{")
		if v, err := strconv.ParseFloat(rest, 64); err == nil {
			out[name] += v
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", u, err)
	}
	return out, nil
}

// measures adds up over processes. A process that answered only once counts
// for levels, but not for rates.
type measures struct{ before, now look }

func (m measures) level(name string) (sum float64, known bool) {
	for _, s := range m.now.by {
		v, has := s[name]
		sum, known = sum+v, known || has
	}
	return sum, known
}

// rate is per second. A counter that fell belongs to a process that was started anew.
func (m measures) rate(name string) (sum float64, known bool) {
	for i, s := range m.now.by {
		v, has := s[name]
		old, had := m.before.by[i][name]
		if !has || !had {
			continue
		}
		if known = true; v >= old {
			sum += v - old
		} else {
			sum += v
		}
	}
	return sum / m.now.at.Sub(m.before.at).Seconds(), known
}

// flow is the table: stages, from left to right in an event's way.
func flow(before, now look) []byte {
	m := measures{before, now}
	show := func(of func(string) (float64, bool), name, unit string) string {
		v, known := of(name)
		if !known {
			return "-"
		}
		return group(int64(v+0.5)) + unit
	}
	rate := func(name string) string { return show(m.rate, name, "/s") }
	level := func(name string) string { return show(m.level, name, "") }
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s  %d of %d processes answer\n\n", now.at.Format("15:04:05"), len(now.by)-len(now.down), len(now.by))
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, r := range [][]string{
		{"INGEST", "events " + rate("tapecast_ingest_events_total"), "errors " + rate("tapecast_ingest_errors_total"), "buffered " + level("tapecast_ingest_buffered_bytes") + " B"},
		{"FAN-OUT", "read " + rate("tapecast_fanout_records_read_total"), "deliveries " + rate("tapecast_fanout_deliveries_total"), "lag " + level("tapecast_fanout_lag_records")},
		{"", "batches " + rate("tapecast_fanout_batches_published_total"), "nodes cut " + level("tapecast_fanout_nodes_cut"), "queued " + level("tapecast_fanout_queue_bytes") + " B"},
		{"FEED", "deliveries " + rate("tapecast_feed_deliveries_total"), "replay bytes " + rate("tapecast_feed_replay_read_bytes_total"), "bypassing " + level("tapecast_feed_partitions_bypassing")},
		{"GATEWAY", "events " + rate("tapecast_gateway_events_total"), "writes " + rate("tapecast_gateway_writes_total"), "bytes " + rate("tapecast_gateway_written_bytes_total")},
		{"", "sessions " + level("tapecast_gateway_sessions"), "subscriptions " + level("tapecast_gateway_subscriptions"), "replaying " + level("tapecast_gateway_subscriptions_replaying")},
		{"", "gaps " + rate("tapecast_gateway_gaps_total"), "closes " + rate("tapecast_gateway_closes_total"), "lagging " + level("tapecast_gateway_subscriptions_lagging")},
		{"LATENCY", "accepted to written, mean " + meanLatency(m)},
	} {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	_ = w.Flush() // into memory
	for _, d := range now.down {
		fmt.Fprintf(&b, "\nno answer: %s", d)
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// meanLatency is over what was written between the two looks.
func meanLatency(m measures) string {
	sum, _ := m.rate("tapecast_accepted_to_written_seconds_sum")
	n, known := m.rate("tapecast_accepted_to_written_seconds_count")
	if !known || n == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", 1000*sum/n)
}
