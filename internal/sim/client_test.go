package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"time"

	"github.com/gorilla/websocket"

	"github.com/tapecast/tapecast/internal/protocol"
)

// frame is whatever a gateway sends.
type frame struct {
	Event     string                     `json:"event"`
	Key       string                     `json:"key"`
	Data      *string                    `json:"data"`
	Offset    int64                      `json:"offset"`
	Partition int32                      `json:"partition"`
	Epoch     string                     `json:"epoch"`
	From      json.RawMessage            `json:"from"`
	To        int64                      `json:"to"`
	At        map[int32]int64            `json:"at"`
	Resume    string                     `json:"resume"`
	Cursor    json.RawMessage            `json:"cursor"`
	Covered   map[string]map[int32]int64 `json:"covered"`
	Cause     string                     `json:"cause"`
	Code      string                     `json:"code"`
	Message   string                     `json:"message"`
}

// player is one client over all its subscriptions.
type player struct {
	w     *world
	rng   *rand.Rand
	name  string
	line  *line
	batch bool // it takes the form with several frames a message

	// of the present subscription
	life   *life
	topic  string
	from   any
	epoch  string
	pos    map[int32]int64
	cursor string
	held   map[int32]int64 // positions that the cursor stands for

	lives   int
	resumes int
}

func (p *player) fail(format string, a ...any) {
	p.w.fail("%s: %s", p.name, fmt.Sprintf(format, a...))
}

// begin starts another subscription.
func (p *player) begin() {
	topic := p.w.topics[p.rng.IntN(len(p.w.topics))]
	p.lives++
	p.life = &life{who: fmt.Sprintf("%s.%d", p.name, p.lives), topic: topic.name, parts: map[string]map[int32]*stretch{}}
	p.topic = topic.name
	switch p.rng.IntN(4) {
	case 0:
	case 1:
		p.life.keys = []string{fmt.Sprint("k", p.rng.IntN(keys))}
	default:
		for _, k := range p.rng.Perm(keys)[:3] {
			p.life.keys = append(p.life.keys, fmt.Sprint("k", k))
		}
	}
	p.from = "live"
	switch p.rng.IntN(6) {
	case 0, 1:
		p.from = "earliest"
	case 2:
		p.from = map[string]any{"last": 5}
	}
	p.epoch, p.pos, p.cursor, p.held = "", nil, "", nil
	p.w.mu.Lock()
	p.w.lives = append(p.w.lives, p.life)
	p.w.mu.Unlock()
}

// run lives until the world's last call, and then on to the ends.
func (p *player) run(ctx context.Context) {
	for ctx.Err() == nil {
		if p.life == nil {
			p.begin()
		}
		if p.connection(ctx) {
			return
		}
		p.sleep(ctx, time.Duration(p.rng.IntN(400))*time.Millisecond)
	}
}

func (p *player) sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// connection is one WebSocket. It tells whether the goal is reached.
func (p *player) connection(ctx context.Context) (done bool) {
	addr := p.w.gateways[p.rng.IntN(len(p.w.gateways))].addr
	d := websocket.Dialer{NetDialContext: p.dial, HandshakeTimeout: 5 * time.Second}
	if p.batch {
		d.Subprotocols = []string{protocol.SubprotocolBatch}
	}
	conn, resp, err := d.DialContext(ctx, "ws://"+addr+"/ws", nil)
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close()
	}
	if err != nil {
		return false
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if conn.WriteJSON(p.command()) != nil {
		return false
	}
	unsub := false
	if until := p.planned(); until > 0 {
		unsub = p.rng.IntN(3) == 0
		t := time.AfterFunc(max(until, 1), func() {
			if unsub {
				_ = conn.WriteMessage(websocket.TextMessage, []byte(`{"cmd":"unsub","id":"s"}`))
				return
			}
			_ = conn.NetConn().Close()
		})
		defer t.Stop()
	}
	for {
		_ = conn.SetReadDeadline(time.Now().Add(15 * time.Second))
		_, text, err := conn.ReadMessage()
		if err != nil {
			var ce *websocket.CloseError
			if errors.As(err, &ce) && ce.Code != 1012 && ce.Code != 1001 && ce.Code != 1006 && ce.Code/100 != 40 {
				p.fail("closed: %v", err)
			}
			return false
		}
		for line := range bytes.SplitSeq(text, []byte("\n")) { // one, but in the batch form
			var f frame
			if err := json.Unmarshal(line, &f); err != nil {
				p.fail("bad frame %s: %v", line, err)
				return false
			}
			more := p.take(&f)
			if p.finished() {
				return true
			}
			if !more {
				return false
			}
		}
	}
}

// dial connects to a gateway, through the meddler if there is one.
func (p *player) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := p.line.dial(ctx, network, addr)
	if err == nil && p.w.meddler != nil {
		c = p.w.meddler.Conn(c)
	}
	return c, err
}

// planned is how long this connection is to last; 0 = until it breaks.
func (p *player) planned() time.Duration {
	if p.w.calm() || p.rng.IntN(4) == 0 {
		return 0
	}
	return time.Duration(p.rng.ExpFloat64() * float64(4*time.Second))
}

func (p *player) command() map[string]any {
	cmd := map[string]any{"cmd": "sub", "id": "s", "topic": p.topic, "from": p.from}
	if p.life.keys != nil {
		cmd["keys"] = p.life.keys
	}
	if p.epoch == "" {
		return cmd
	}
	p.resumes++
	if p.cursor != "" && p.rng.IntN(2) == 0 {
		p.rewind()
		cmd["from"] = map[string]any{"cursor": p.cursor}
	} else {
		cmd["from"] = map[string]any{"offsets": p.pos, "epoch": p.epoch}
		p.cursor = ""
	}
	return cmd
}

// rewind forgets what came after the cursor.
func (p *player) rewind() {
	for part := range p.pos {
		at, ok := p.held[part]
		if !ok {
			delete(p.pos, part)
			delete(p.life.parts[p.epoch], part)
			continue
		}
		s := p.life.parts[p.epoch][part]
		p.pos[part], s.end = at, at
		for len(s.got) > 0 && s.got[len(s.got)-1].offset >= at {
			s.got = s.got[:len(s.got)-1]
		}
		for i := range s.gaps {
			s.gaps[i][1] = max(s.gaps[i][0], min(s.gaps[i][1], at))
		}
	}
}

// take takes a frame; false ends the connection.
func (p *player) take(f *frame) bool {
	switch f.Event {
	case "":
		p.data(f)
	case "subscribed":
		p.subscribed(f)
	case "reset":
		if f.Cause != "epoch" {
			p.fail("reset because of %s at %v, from %s", f.Cause, p.pos, f.From)
		}
		p.reset(f)
		p.remember(f.Cursor)
	case "gap":
		p.gap(f)
	case "heartbeat":
		p.covered(f.Covered["s"])
		var cs map[string]json.RawMessage
		if json.Unmarshal(f.Cursor, &cs) == nil {
			p.remember(cs["s"])
		}
	case "unsubscribed":
		p.covered(f.At)
		p.life = nil
		return false
	case "error":
		switch f.Code {
		case "unknown_topic", "topic_gone", "unavailable", "drain", "too_many_connections", "not_subscribed":
		default:
			p.fail("error %s: %s", f.Code, f.Message)
		}
		return false
	}
	return true
}

func (p *player) remember(raw json.RawMessage) {
	var s string
	if json.Unmarshal(raw, &s) == nil && s != "" {
		p.cursor, p.held = s, maps.Clone(p.pos)
	}
}

func positions(raw json.RawMessage) map[int32]int64 {
	m := map[int32]int64{}
	_ = json.Unmarshal(raw, &m)
	return m
}

func (p *player) subscribed(f *frame) {
	from := positions(f.From)
	switch {
	case p.epoch == "":
		p.epoch, p.pos = f.Epoch, from
		if p.from == "earliest" {
			p.life.earliest = f.Epoch
		}
	case f.Epoch != p.epoch:
		if f.Resume != "reset" {
			p.fail("resume into another epoch is %q", f.Resume)
		}
		p.reset(f)
		from = p.pos
	case f.Resume == "reset":
		p.fail("resume at %v is a reset to %s", p.pos, f.From)
		p.pos = from
	default:
		p.resumed(f, from)
	}
	for part, at := range from {
		p.life.stretch(p.epoch, part, at)
	}
	p.remember(f.Cursor)
}

// resumed checks that a resume begins where the client stands.
func (p *player) resumed(f *frame, from map[int32]int64) {
	for part, at := range p.pos {
		got, ok := from[part]
		if !ok || got != at {
			p.fail("resume at %v begins at %v (%s)", p.pos, from, f.Resume)
			return
		}
	}
	for part, at := range from {
		if _, known := p.pos[part]; !known {
			if at != 0 {
				p.fail("a new partition %d begins at %d, the client knew %v", part, at, p.pos)
			}
			p.pos[part] = at
		}
	}
}

func (p *player) reset(f *frame) {
	p.epoch, p.pos = f.Epoch, positions(f.From)
	for part, at := range p.pos {
		if at != 0 {
			p.fail("reset to %d of partition %d", at, part)
		}
		p.life.stretch(p.epoch, part, at)
	}
}

func (p *player) data(f *frame) {
	if p.epoch == "" {
		p.fail("data before subscribed")
		return
	}
	s := p.life.stretch(p.epoch, f.Partition, 0)
	at := p.pos[f.Partition]
	if f.Offset < at {
		p.fail("offset %d of partition %d after position %d", f.Offset, f.Partition, at)
	}
	v := ""
	if f.Data != nil {
		v = *f.Data
	}
	s.got = append(s.got, event{f.Offset, f.Key, v})
	p.pos[f.Partition] = f.Offset + 1
	s.end = max(s.end, f.Offset+1)
	p.w.delivered.Add(1)
}

func (p *player) gap(f *frame) {
	var from int64
	_ = json.Unmarshal(f.From, &from)
	switch f.Cause {
	case "epoch":
		return
	case "retention":
	default:
		p.fail("gap [%d,%d) because of %s", from, f.To, f.Cause)
	}
	if from < p.pos[f.Partition] || f.To <= from {
		p.fail("gap [%d,%d) at position %d", from, f.To, p.pos[f.Partition])
	}
	s := p.life.stretch(p.epoch, f.Partition, 0)
	s.gaps = append(s.gaps, [2]int64{from, f.To})
	p.pos[f.Partition], s.end = f.To, max(s.end, f.To)
	p.w.gapped.Add(1)
}

func (p *player) covered(c map[int32]int64) {
	for part, at := range c {
		s := p.life.stretch(p.epoch, part, 0)
		if at < p.pos[part] {
			p.fail("covered %d of partition %d after position %d", at, part, p.pos[part])
		}
		p.pos[part], s.end = at, max(s.end, at)
	}
}

// finished tells whether the client stands at the ends of the present topic.
func (p *player) finished() bool {
	ends := p.w.goal(p.topic)
	if ends == nil || p.life == nil || p.epoch != ends.epoch {
		return false
	}
	for part, end := range ends.at {
		if p.pos[part] < end {
			return false
		}
	}
	return true
}
