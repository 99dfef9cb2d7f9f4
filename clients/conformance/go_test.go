package conformance

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/client"
)

func TestGoClient(t *testing.T) {
	for _, s := range scripts(t) {
		t.Run(s.Name, func(t *testing.T) { play(t, s, &goDriver{t: t, subs: map[string]*client.Subscription{}}) })
	}
}

// goDriver is the Go client.
type goDriver struct {
	t      *testing.T
	r      *record
	c      *client.Client
	cancel context.CancelFunc
	ctx    context.Context

	reading sync.WaitGroup // of all reads; close waits for it

	mu     sync.Mutex // the script and the test both give orders
	subs   map[string]*client.Subscription
	closed bool
}

func (d *goDriver) open(url string, r *record) {
	d.r = r
	d.ctx, d.cancel = context.WithCancel(context.Background())
	c, err := client.Dial(d.ctx, client.Options{
		URLs: []string{url}, MinBackoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond, Stall: 20 * time.Millisecond,
		OnState: func(s client.State) { r.note(func() { r.states = append(r.states, string(s.Phase)) }) },
		OnViolation: func(v client.Violation) {
			r.note(func() {
				r.violations = append(r.violations, fmt.Sprintf("%s %d:%d next %d", v.Kind, v.Partition, v.Offset, v.Next))
			})
		},
	})
	require.NoError(d.t, err)
	d.c = c
}

func (d *goDriver) close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.cancel()
	d.c.Close()
	d.reading.Wait()
}

func (d *goDriver) position(as string) json.RawMessage {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, err := json.Marshal(d.subs[as].Position())
	require.NoError(d.t, err)
	return b
}

func place(raw json.RawMessage) client.From {
	var p client.Position
	if json.Unmarshal(raw, &p) == nil && p.Epoch != "" {
		return client.At(p)
	}
	return client.Raw(raw)
}

func (d *goDriver) order(o order) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errors.New("the client is closed")
	}
	switch o.Do {
	case "subscribe":
		opt := client.SubscribeOptions{Keys: o.Keys, From: place(o.From), Until: client.Raw(o.Until), Mode: o.Mode, IntervalMs: o.IntervalMs, Buffer: o.Buffer}
		if o.OnSlow != "" {
			opt.Extra = map[string]any{"on_slow": o.OnSlow}
		}
		policy := map[string]client.Overflow{"": client.Block, "block": client.Block, "drop": client.DropOldest, "fail": client.Fail}[o.Overflow]
		opt.Overflow = &policy
		s, err := d.c.Subscribe(d.ctx, o.Topic, opt)
		if err != nil {
			d.over(o.As, err)
			return nil
		}
		d.subs[o.As] = s
		if !o.Hold {
			d.reading.Go(func() { d.read(o.As, s) })
		}
	case "read":
		s := d.subs[o.As]
		d.reading.Go(func() { d.read(o.As, s) })
	case "close":
		d.subs[o.As].Close()
	}
	return nil
}

// read ends with the client.
func (d *goDriver) read(as string, s *client.Subscription) {
	for f, err := range s.Frames(d.ctx) {
		if err != nil {
			break
		}
		if f.Kind != client.KindHeartbeat {
			d.r.note(func() { d.r.lines[as] = append(d.r.lines[as], line(&f)) })
		}
	}
	if err := s.Err(); err != nil && d.ctx.Err() == nil {
		d.over(as, err)
	}
}

func (d *goDriver) over(as string, err error) {
	word := err.Error()
	var e *client.Error
	switch {
	case errors.As(err, &e):
		word = e.Code
	case errors.Is(err, client.ErrEnd):
		word = "end"
	case errors.Is(err, client.ErrClosed):
		word = "closed"
	case errors.Is(err, client.ErrOverflow):
		word = "overflow"
	}
	d.r.note(func() { d.r.lines[as] = append(d.r.lines[as], "over "+word) })
}

// line is a frame as the scripts write it.
func line(f *client.Frame) string {
	switch f.Kind {
	case client.KindData:
		mark := ""
		if f.Snapshot {
			mark = " snapshot"
		}
		if f.Latest {
			mark = " latest"
		}
		key := f.Key
		if !utf8.ValidString(key) {
			key = "base64:" + base64.StdEncoding.EncodeToString([]byte(key))
		}
		return fmt.Sprintf("data %d:%d %s=%s%s", f.Partition, f.Offset, key, sorted(f.Value), mark)
	case client.KindSubscribed:
		return "subscribed " + f.Resume
	case client.KindGap:
		return fmt.Sprintf("gap %d:%d-%d %s", f.Partition, f.GapFrom, f.GapTo, f.Cause)
	case client.KindReset:
		return "reset " + f.Cause
	}
	return f.Kind.String()
}

// sorted writes a value the same way whoever encoded it.
func sorted(raw json.RawMessage) string {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return string(raw)
	}
	b, _ := json.Marshal(v)
	return string(b)
}
