package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/tapecast/tapecast/client"
)

const (
	refresh     = 100 * time.Millisecond // of the screen
	refreshRows = 40                     // events shown per refresh; the others are counted
	rateOver    = 5 * time.Second        // what the rate is an average of
	keyColumn   = 10
	plainWidth  = 160 // where there is no terminal to ask
)

// view is the readable form of a subscription: a line for each event, and on a
// terminal a status line below them. Nothing of an event reaches the terminal
// but printable characters.
type view struct {
	out    io.Writer
	tty    bool // out moves its cursor
	color  bool
	width  func() int
	topic  string
	state  func() client.State
	events int

	rows    [][]byte // of this refresh
	hidden  int      // events of this refresh without a row
	live    bool
	edge    map[int32]int64 // the live edge as it was asked
	next    map[int32]int64
	lag     time.Duration // of the newest event, when it came
	missing int64
	counts  []int // events of past refreshes, newest last
	fresh   int   // events of this refresh
}

func newView(out io.Writer, environ []string, topic string, state func() client.State) *view {
	v := &view{out: out, tty: isTerminal(out), width: func() int { return plainWidth }, topic: topic, state: state, next: map[int32]int64{}}
	if v.tty {
		v.color = !slices.ContainsFunc(environ, func(e string) bool { return strings.HasPrefix(e, "NO_COLOR=") && e != "NO_COLOR=" })
		f := out.(*os.File) //nolint:forcetypeassert // a terminal is a file
		v.width = func() int {
			if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 20 { //nolint:gosec // a descriptor
				return w
			}
			return 80
		}
	}
	return v
}

// run shows frames until the subscription ends; limit 0 = all.
func (v *view) run(ctx context.Context, sub *client.Subscription, limit int) error {
	for {
		tick, cancel := context.WithTimeout(ctx, refresh)
		err := v.gather(tick, sub, limit)
		cancel()
		over := err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded))
		if werr := v.flush(over); werr != nil {
			return werr
		}
		if over {
			return err
		}
	}
}

// gather takes frames until ctx ends.
func (v *view) gather(ctx context.Context, sub *client.Subscription, limit int) error {
	for {
		f, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		v.take(&f)
		switch {
		case f.Kind == client.KindData && v.events == limit, f.Kind == client.KindEnd:
			return errDone
		case ctx.Err() != nil: // frames come without a pause
			return ctx.Err()
		}
	}
}

func (v *view) take(f *client.Frame) {
	switch f.Kind {
	case client.KindData:
		v.events++
		v.fresh++
		if !f.Snapshot && !f.Latest {
			v.next[f.Partition] = f.Offset + 1
		}
		v.lag = time.Since(f.At())
		if len(v.rows) >= refreshRows {
			v.hidden++
			return
		}
		v.rows = append(v.rows, v.event(f))
	case client.KindSubscribed:
		v.edge, v.live = f.LiveAt, true
		for p, o := range f.From {
			v.next[p] = o
			v.live = v.live && o >= f.LiveAt[p]
		}
		if f.Resume != "exact" {
			v.note("the position was not there any more: %s", f.Resume)
		}
	case client.KindLive, client.KindHeartbeat:
		v.live = v.live || f.Kind == client.KindLive
		for p, o := range f.LiveAt {
			v.next[p] = max(v.next[p], o)
		}
	case client.KindGap:
		v.missing += max(0, f.GapTo-f.GapFrom)
		v.next[f.Partition] = f.GapTo
		v.note("missing: partition %d, offsets %d to %d (%s)", f.Partition, f.GapFrom, f.GapTo-1, f.Cause)
	case client.KindReset:
		v.next = map[int32]int64{}
		for p, o := range f.From {
			v.next[p] = o
		}
		v.note("the topic begins anew (%s)", f.Cause)
	case client.KindEnd:
	}
}

func (v *view) note(format string, args ...any) {
	v.rows = append(v.rows, []byte(v.paint("33", "-- "+printable(fmt.Sprintf(format, args...)))))
}

// event is the row of an event: time, key, value, place.
func (v *view) event(f *client.Frame) []byte {
	place := fmt.Sprintf("%d:%d", f.Partition, f.Offset)
	if f.Snapshot {
		place += " snapshot"
	}
	if f.Latest {
		place += " latest"
	}
	key := printable(f.Key)
	left := f.At().Format("15:04:05.000") + "  " + key + strings.Repeat(" ", max(0, keyColumn-utf8.RuneCountInString(key))) + "  "
	value := cut(readable(f), v.width()-utf8.RuneCountInString(left)-len(place)-3)
	return []byte(v.paint("2", left[:12]) + v.paint("1", left[12:]) + value + "  " + v.paint("2", place))
}

func (v *view) paint(code, s string) string {
	if !v.color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// flush writes the rows of this refresh and the status line.
func (v *view) flush(last bool) error {
	v.counts = append(v.counts, v.fresh)
	if n := len(v.counts) - int(rateOver/refresh); n > 0 {
		v.counts = v.counts[n:]
	}
	v.fresh = 0
	var b bytes.Buffer
	if v.tty {
		b.WriteString("\r\x1b[K") // over the status line
	}
	for _, r := range v.rows {
		b.Write(r)
		b.WriteByte('\n')
	}
	if v.hidden > 0 {
		fmt.Fprintf(&b, "%s\n", v.paint("2", "   ... "+plural(int64(v.hidden), "event")+" more"))
	}
	if v.tty && !last {
		b.WriteString(v.paint("7", cut(v.status(), v.width()-1)))
	}
	v.rows, v.hidden = v.rows[:0], 0
	if b.Len() == 0 {
		return nil
	}
	_, err := v.out.Write(b.Bytes())
	return err
}

// status is the status line: state, position, lag, rate.
func (v *view) status() string {
	sum := 0
	for _, n := range v.counts {
		sum += n
	}
	state := "live"
	if !v.live {
		var left int64
		for p, o := range v.edge {
			left += max(0, o-v.next[p])
		}
		state = "replaying, " + group(left) + " to go"
	}
	if s := v.state(); s.Phase != client.Connected {
		state = string(s.Phase)
		if s.Phase == client.Waiting {
			state = "reconnecting"
		}
	}
	rate := float64(sum) / (float64(len(v.counts)) * refresh.Seconds())
	parts := []string{v.topic, state}
	if len(v.next) > 0 {
		parts = append(parts, "at "+formatOffsets(v.next))
	}
	if v.events > 0 {
		parts = append(parts, "lag "+lagText(v.lag))
	}
	parts = append(parts, fmt.Sprintf("%.0f/s", rate), plural(int64(v.events), "event"))
	if v.missing > 0 {
		parts = append(parts, group(v.missing)+" offsets missing")
	}
	return printable(" " + strings.Join(parts, " | ") + " ")
}

func lagText(d time.Duration) string {
	switch {
	case d < 0:
		return "0 ms" // the clocks differ
	case d < 10*time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 48*time.Hour:
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// readable writes a flat object as name=value pairs, anything else as it is.
func readable(f *client.Frame) string {
	if f.Tombstone {
		return "(deleted)"
	}
	dec := json.NewDecoder(bytes.NewReader(f.Value))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return printable(string(f.Value))
	}
	var b strings.Builder
	for dec.More() {
		name, err := dec.Token()
		var value json.RawMessage
		if err != nil || dec.Decode(&value) != nil {
			return printable(string(f.Value))
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		var s string
		if json.Unmarshal(value, &s) != nil || s == "" || strings.ContainsAny(s, " =\"") {
			s = string(value)
		}
		fmt.Fprintf(&b, "%v=%s", name, s)
	}
	return printable(b.String())
}

// printable keeps foreign text from steering the terminal.
func printable(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// cut shortens a text to n characters.
func cut(s string, n int) string {
	n = max(n, 8)
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	r := []rune(s)
	return string(r[:n-3]) + "..."
}
