package client

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sync/errgroup"
)

// link is one connection, from its upgrade to its end.
type link struct {
	c   *Client
	ws  *websocket.Conn
	ctx context.Context // ends with the connection

	// owned by readLoop
	slab []byte // messages are read into it one behind the other
	h    header
	v    verdict

	// owned by writeLoop
	sent  int // commands in this second and before, less what has leaked out
	since time.Time

	// guarded by the client's mu
	owed    []int64          // subscriptions to take back
	leaving map[int64]string // taken back, not confirmed yet: their topics
}

// slabSize is how much memory a block of messages takes.
const slabSize = 32 << 10

// Commands of a connection: a gateway's default limit is 256 at once and 20 a second.
const (
	commandBurst = 200
	commandRate  = 15
)

// serve runs a connection until it ends.
func (c *Client) serve(ctx context.Context, ws *websocket.Conn, url string) verdict {
	defer func() { _ = ws.Close() }()
	g, gctx := errgroup.WithContext(ctx)
	l := &link{c: c, ws: ws, ctx: gctx, leaving: map[int64]string{}}
	stop := context.AfterFunc(gctx, l.cut)
	defer stop()
	ws.SetReadLimit(maxFrame)
	l.alive()
	ws.SetPingHandler(func(data string) error {
		l.alive()
		_ = ws.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(writeTimeout)) // a dead connection shows when it is read
		return nil
	})
	ws.SetPongHandler(func(string) error { l.alive(); return nil })

	c.mu.Lock()
	c.link = l
	clear(c.wires)
	for _, s := range c.subs {
		s.renew()
	}
	c.mu.Unlock()
	c.turn(State{Phase: Connected, URL: url})
	g.Go(l.readLoop)
	g.Go(l.writeLoop)
	err := g.Wait()
	c.mu.Lock()
	c.link = nil
	c.mu.Unlock()
	return closeVerdict(l.v, err)
}

func (l *link) cut() { _ = l.ws.NetConn().Close() }

// alive notes that something was heard.
func (l *link) alive() { _ = l.ws.SetReadDeadline(time.Now().Add(3 * l.c.opt.PingEvery)) }

func (l *link) readLoop() error {
	for {
		kind, msg, err := l.message()
		if err != nil {
			return err
		}
		l.alive()
		if kind == websocket.BinaryMessage {
			err = l.binary(msg)
		} else {
			err = l.text(msg)
		}
		if err != nil {
			return err
		}
	}
}

// message reads a message into the slab.
func (l *link) message() (kind int, msg []byte, err error) {
	kind, r, err := l.ws.NextReader()
	if err != nil {
		return 0, nil, err
	}
	start := len(l.slab)
	for {
		if len(l.slab) == cap(l.slab) {
			part := l.slab[start:]
			l.slab = append(make([]byte, 0, max(slabSize, 2*len(part))), part...)
			start = 0
		}
		n, err := r.Read(l.slab[len(l.slab):cap(l.slab)])
		l.slab = l.slab[:len(l.slab)+n]
		switch {
		case errors.Is(err, io.EOF):
			return kind, l.slab[start:len(l.slab):len(l.slab)], nil
		case err != nil:
			return 0, nil, err
		}
	}
}

// text takes a message of one or more frames, one a line.
func (l *link) text(msg []byte) error {
	for len(msg) > 0 {
		line := msg
		if i := slices.Index(msg, '\n'); i >= 0 {
			line, msg = msg[:i:i], msg[i+1:]
		} else {
			msg = nil
		}
		if err := scan(line, &l.h); err != nil {
			return fmt.Errorf("%w: %.60q", err, line)
		}
		switch {
		case l.h.control:
			if err := l.control(line); err != nil {
				return err
			}
		case l.h.topic.b == nil: // nothing that we know
		default:
			l.data(line)
		}
	}
	return nil
}

// binary takes a data frame of the Avro format: length, JSON header, body.
func (l *link) binary(msg []byte) error {
	if len(msg) < 4 || uint64(binary.BigEndian.Uint32(msg)) > uint64(len(msg)-4) {
		return errors.New("binary frame is cut")
	}
	n := 4 + int(binary.BigEndian.Uint32(msg))
	if err := scan(msg[4:n], &l.h); err != nil {
		return err
	}
	l.h.data = msg[n:]
	l.data(msg[4:n:n])
	return nil
}

// data hands an event to its subscription.
func (l *link) data(raw []byte) {
	c, key := l.c, l.h.keyBytes()
	c.mu.Lock()
	var s *Subscription
	if r := c.routes[string(l.h.topic.bytes())]; r != nil {
		if s = r.all; s == nil {
			s = r.keys[string(key)]
		}
	}
	stray := s == nil && len(l.leaving) == 0 && len(l.owed) == 0
	c.mu.Unlock()
	switch {
	case s != nil:
		s.data(l, key, raw)
	case stray:
		c.report([]Violation{{Kind: BrokenForeign, Topic: string(l.h.topic.bytes()), Partition: int32(l.h.partition), Offset: l.h.offset}})
	}
}

func (l *link) control(raw []byte) error {
	var w control
	if err := json.Unmarshal(raw, &w); err != nil {
		return fmt.Errorf("control frame: %w: %.60q", err, raw)
	}
	switch w.Event {
	case "bye":
		l.v.final = !w.Retry
		l.v.err = &Error{Code: w.Code, Message: w.Message, Retry: w.Retry}
		if len(w.WaitMs) == 2 && w.WaitMs[0] >= 0 && w.WaitMs[1] >= w.WaitMs[0] && w.WaitMs[1] <= 3600_000 {
			l.v.asked = true
			l.v.min, l.v.max = time.Duration(w.WaitMs[0])*time.Millisecond, time.Duration(w.WaitMs[1])*time.Millisecond
		}
	case "heartbeat":
		for id, at := range w.Covered {
			n, _ := strconv.ParseInt(id, 10, 64)
			if s := l.wire(n); s != nil {
				s.control(l, KindHeartbeat, &control{At: at}, raw)
			}
		}
	case "unsubscribed":
		l.left(w.id())
	case "error":
		l.refused(&w)
	default:
		kind, known := kindOf(w.Event)
		if s := l.wire(int64(w.id())); known && s != nil {
			s.control(l, kind, &w, raw)
		} // a newer gateway may say more; ignored, as the protocol asks
	}
	return nil
}

func (l *link) wire(id int64) *Subscription {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	return l.c.wires[id]
}

func (l *link) left(id int) {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	delete(l.leaving, int64(id))
}

// leave takes a subscription back at the gateway.
func (l *link) leave(id int64, topic string) {
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wires[id] == nil {
		return // never asked for on this connection
	}
	delete(c.wires, id)
	l.owed = append(l.owed, id)
	l.leaving[id] = topic
	c.kick()
}

// refused takes an error of the gateway.
func (l *link) refused(w *control) {
	c, e := l.c, &Error{Code: w.Code, Message: w.Message, Retry: w.Retry}
	l.left(w.id())
	s := l.wire(int64(w.id()))
	if s == nil {
		c.opt.Logger.Warn("gateway error", slog.String("code", w.Code), slog.String("message", w.Message))
		return
	}
	if s.again(e) {
		c.opt.Logger.Warn("subscription refused for now", slog.String("topic", s.topic), slog.String("code", w.Code))
		c.kick()
		return
	}
	c.remove(s)
	s.fail(e)
}

// writeLoop sends what is due, and pings.
func (l *link) writeLoop() error {
	ping := time.NewTicker(l.c.opt.PingEvery)
	defer ping.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return l.ctx.Err()
		case <-ping.C:
			if err := l.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(writeTimeout)); err != nil {
				return fmt.Errorf("write ping: %w", err)
			}
			continue
		case <-l.c.wake:
		case <-due.C:
		}
		wait, err := l.commands(time.Now())
		if err != nil {
			return err
		}
		due.Reset(wait)
	}
}

// commands sends what is due and tells when to look again.
func (l *link) commands(now time.Time) (time.Duration, error) {
	c, wait := l.c, time.Hour
	c.mu.Lock()
	owed := l.owed
	l.owed = nil
	subs := slices.Clone(c.subs)
	c.mu.Unlock()
	for i, id := range owed {
		if !l.may(now) {
			c.mu.Lock()
			l.owed = append(slices.Clone(owed[i:]), l.owed...)
			c.mu.Unlock()
			return time.Second / commandRate, nil
		}
		if err := l.write(mustJSON(map[string]any{"cmd": "unsub", "id": id})); err != nil {
			return 0, err
		}
	}
	for _, s := range subs {
		due, at := s.due()
		switch {
		case !due:
			continue
		case at.After(now):
			wait = min(wait, at.Sub(now))
			continue
		case !l.may(now):
			return time.Second / commandRate, nil
		}
		c.mu.Lock()
		id, cmd := s.command()
		if id != 0 {
			c.wires[id] = s
		}
		c.mu.Unlock()
		if id == 0 {
			continue // closed just now
		}
		if err := l.write(cmd); err != nil {
			return 0, err
		}
	}
	return wait, nil
}

// may keeps commands within a gateway's limits.
func (l *link) may(now time.Time) bool {
	if l.since.IsZero() {
		l.since = now
	}
	if n := int(now.Sub(l.since) * commandRate / time.Second); n > 0 {
		l.sent = max(0, l.sent-n)
		l.since = l.since.Add(time.Duration(n) * time.Second / commandRate)
	}
	if l.sent >= commandBurst {
		return false
	}
	l.sent++
	return true
}

func (l *link) write(msg []byte) error {
	_ = l.ws.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err := l.ws.WriteMessage(websocket.TextMessage, msg); err != nil {
		return fmt.Errorf("write command: %w", err)
	}
	return nil
}
