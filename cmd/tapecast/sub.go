package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tapecast/tapecast/client"
)

const defaultURL = "ws://127.0.0.1:8080/ws"

// subFlags is what `tapecast sub` can be told.
type subFlags struct {
	keys        listFlag
	urls        listFlag
	from, until string
	mode        string
	interval    time.Duration
	count       int
	control     bool
	quiet       bool
	pretty      bool
	json        bool
}

// runSub is `tapecast sub`.
func runSub(ctx context.Context, sys system, args []string) error {
	fs := newFlags("sub TOPIC [flags]",
		"Subscribe to a topic and print one JSON frame a line: events, and gaps where something is missing.\n"+
			"On a terminal it shows a readable view instead, with position, lag and rate below; --json has the lines there, too.\n"+
			"It reconnects and resumes by itself, without a hole and without a double. Ctrl-C ends it and says where to go on.",
		"tapecast sub price",
		"tapecast sub quotes --key EURUSD --key USDJPY",
		"tapecast sub quotes --from earliest --until live    # everything there is, then end",
		"tapecast sub trades --from -5m                      # the last five minutes, then live",
		"tapecast sub trades --from last:100",
		"tapecast sub quotes --from 0:4711                   # partition 0 from offset 4711 on")
	var f subFlags
	fs.Var(&f.keys, "key", "only events with this `KEY`; may be repeated")
	fs.Var(&f.urls, "url", "gateway's `URL`; may be repeated: the next is tried when one is away (default "+defaultURL+")")
	fs.StringVar(&f.from, "from", "live", "where to begin: live, earliest, last:N, OFFSET, P:OFFSET[,P:OFFSET...], a TIME (RFC 3339) or -5m")
	fs.StringVar(&f.until, "until", "", "where to end: live (the end as of now), OFFSET, P:OFFSET[,...], a TIME or -5m; nothing = never")
	fs.StringVar(&f.mode, "mode", "all", "all, latest (newest value per key) or snapshot (newest value per key, then every event)")
	fs.DurationVar(&f.interval, "interval", 0, "mode latest: at most one event per key in that time")
	fs.IntVar(&f.count, "count", 0, "end after `N` events; 0 = never")
	fs.BoolVar(&f.control, "control", false, "print control frames as well (subscribed, live, heartbeat, ...)")
	fs.BoolVar(&f.pretty, "pretty", false, "the readable view, also where standard output is no terminal")
	fs.BoolVar(&f.json, "json", false, "one JSON frame a line, also on a terminal")
	fs.BoolVar(&f.quiet, "quiet", false, "say nothing on standard error")
	rest, err := fs.parse(sys, args)
	if err != nil {
		return err
	}
	topic, err := oneArg(rest, "TOPIC")
	if err != nil {
		return err
	}
	if f.pretty && f.json {
		return usagef("--pretty and --json exclude each other")
	}
	f.pretty = f.pretty || isTerminal(sys.out) && !f.json && !f.control
	opt, err := f.options(time.Now())
	if err != nil {
		return err
	}
	if len(f.urls) == 0 {
		f.urls = listFlag{defaultURL}
	}
	for i, u := range f.urls {
		if f.urls[i], err = webSocketURL(u); err != nil {
			return err
		}
	}
	return f.run(ctx, sys, topic, opt)
}

func (f *subFlags) options(now time.Time) (client.SubscribeOptions, error) {
	o := client.SubscribeOptions{Keys: f.keys, IntervalMs: int(f.interval.Milliseconds())}
	switch f.mode {
	case "all":
	case "latest", "snapshot":
		o.Mode = f.mode
	default:
		return o, usagef("--mode %q: expected all, latest or snapshot", f.mode)
	}
	from, err := parsePlace(f.from, now)
	if err != nil {
		return o, usagef("--from %q: %s", f.from, err)
	}
	if f.from != "live" { // which is what leaving it out means, also where none may be given
		o.From = from
	}
	if f.until != "" {
		until, err := parsePlace(f.until, now)
		if err != nil {
			return o, usagef("--until %q: %s", f.until, err)
		}
		o.Until = until
	}
	return o, nil
}

// parsePlace reads live, earliest, last:N, 4711, 0:4711,1:12, a time, or -5m.
func parsePlace(s string, now time.Time) (client.From, error) {
	raw := func(v any) (client.From, error) {
		b, err := json.Marshal(v)
		return client.Raw(b), err
	}
	switch s {
	case "live", "earliest":
		return raw(s)
	}
	if n, ok := strings.CutPrefix(s, "last:"); ok {
		c, err := strconv.Atoi(n)
		if err != nil || c < 1 {
			return client.From{}, fmt.Errorf("last:N wants a count, not %q", n)
		}
		return client.Last(c), nil
	}
	if d, err := time.ParseDuration(s); err == nil && d < 0 {
		return client.Time(now.Add(d)), nil
	}
	if o, err := strconv.ParseInt(s, 10, 64); err == nil && o >= 0 {
		return client.Offset(o), nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return client.Time(t), nil
	}
	offsets := map[string]int64{}
	for part := range strings.SplitSeq(s, ",") {
		p, o, ok := strings.Cut(part, ":")
		pn, err1 := strconv.ParseUint(p, 10, 31)
		on, err2 := strconv.ParseUint(o, 10, 63)
		if !ok || err1 != nil || err2 != nil {
			return client.From{}, errors.New("expected live, earliest, last:N, OFFSET, P:OFFSET[,P:OFFSET...], a time such as 2026-01-02T03:04:05Z, or -5m")
		}
		offsets[strconv.FormatUint(pn, 10)] = int64(on)
	}
	return raw(map[string]any{"offsets": offsets})
}

// webSocketURL takes ws://, wss://, http://, https:// or a bare host:port.
func webSocketURL(s string) (string, error) {
	if !strings.Contains(s, "://") {
		s = "ws://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return "", usagef("--url %q: expected something like %s", s, defaultURL)
	}
	switch u.Scheme {
	case "http":
		u.Scheme = "ws"
	case "https":
		u.Scheme = "wss"
	case "ws", "wss":
	default:
		return "", usagef("--url %q: the scheme must be ws, wss, http or https", s)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/ws"
	}
	return u.String(), nil
}

func (f *subFlags) run(ctx context.Context, sys system, topic string, opt client.SubscribeOptions) error {
	logLevel := "info"
	if f.quiet || f.pretty && isTerminal(sys.out) {
		logLevel = "error" // the status line tells the rest
	}
	logger, err := newClientLogger(sys.err, logLevel)
	if err != nil {
		return err
	}
	c, err := client.Dial(ctx, client.Options{URLs: f.urls, Logger: logger})
	if err != nil {
		return err
	}
	defer c.Close()
	sub, err := c.Subscribe(ctx, topic, opt)
	if err != nil {
		return err
	}
	var n int
	if f.pretty {
		v := newView(sys.out, sys.environ, topic, c.State)
		err = v.run(ctx, sub, f.count)
		n = v.events
	} else {
		n, err = f.print(ctx, sys.out, sub)
	}
	if next, _ := sub.Positions(); !f.quiet && len(next) > 0 {
		fmt.Fprintf(sys.err, "%d events; go on with --from %s\n", n, formatOffsets(next))
	}
	if bad, list := sub.Violations(); bad > 0 {
		return fmt.Errorf("the feed broke its promise %d times, first: %+v", bad, list[0])
	}
	if ctx.Err() != nil || errors.Is(err, errDone) {
		return nil
	}
	return err
}

var errDone = errors.New("done")

// print writes frames until the subscription ends. Standard output is flushed
// whenever nothing more has arrived.
func (f *subFlags) print(ctx context.Context, out io.Writer, sub *client.Subscription) (n int, err error) {
	w := bufio.NewWriterSize(out, 64<<10)
	defer func() { err = errors.Join(err, w.Flush()) }()
	for {
		if sub.Buffered() == 0 {
			if err := w.Flush(); err != nil {
				return n, err
			}
		}
		fr, err := sub.Next(ctx)
		if err != nil {
			return n, err
		}
		if f.shows(fr.Kind, fr.Resume) {
			if _, err := w.Write(append(fr.Raw, '\n')); err != nil {
				return n, err
			}
		}
		switch fr.Kind {
		case client.KindData:
			if n++; n == f.count {
				return n, errDone
			}
		case client.KindEnd:
			return n, errDone
		}
	}
}

// shows tells whether a frame is printed. A position that means nothing any more
// is something missing, like a gap.
func (f *subFlags) shows(k client.Kind, resume string) bool {
	switch k {
	case client.KindData, client.KindGap, client.KindReset:
		return true
	case client.KindSubscribed:
		return f.control || resume == "reset"
	}
	return f.control
}

func formatOffsets(next map[int32]int64) string {
	var parts []string
	for _, p := range slices.Sorted(maps.Keys(next)) {
		parts = append(parts, fmt.Sprintf("%d:%d", p, next[p]))
	}
	return strings.Join(parts, ",")
}
