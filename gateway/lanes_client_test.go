package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/tapecast/tapecast/internal/protocol"
)

// laneLife is one subscription over all its connections.
type laneLife struct {
	topic  int
	keys   []string // nil = all
	from   string
	sentIn string          // the topic's epoch when it was sent for the first time
	sentAt map[int32]int64 // and its ends
	epoch  string          // "" = not acknowledged yet
	pos    map[int32]int64
	cursor string // of pos; "" = not known
	spans  map[string]map[int32]*laneSpan
}

func (l *laneLife) span(p int32, start int64) *laneSpan {
	all := l.spans[l.epoch]
	if all == nil {
		all = map[int32]*laneSpan{}
		l.spans[l.epoch] = all
	}
	if all[p] == nil {
		all[p] = &laneSpan{start: start, end: start, got: map[int64]bool{}}
	}
	return all[p]
}

// move puts the client's position.
func (l *laneLife) move(p int32, to int64) {
	l.cursor = ""
	l.pos[p] = to
	l.span(p, 0).end = to
}

// laneCounts are what clients saw.
type laneCounts struct{ events, gaps, resets, resumes, unsubs, cursors, pongs int }

func (c *laneCounts) add(o laneCounts) {
	c.events, c.gaps, c.resets, c.resumes = c.events+o.events, c.gaps+o.gaps, c.resets+o.resets, c.resumes+o.resumes
	c.unsubs, c.cursors, c.pongs = c.unsubs+o.unsubs, c.cursors+o.cursors, c.pongs+o.pongs
}

// laneClient has one or two subscriptions at a time. It goes away and comes
// back, reads or does not, and sends its commands whole, in halves and in heaps.
type laneClient struct {
	w     *laneWorld
	rnd   *rand.Rand
	ws    *websocket.Conn
	batch bool
	lives []*laneLife
	open  map[int]*laneLife // by topic
	pings []string          // that were not answered, of this connection
	sent  int               // pings
	sum   laneCounts
	bad   []string
}

func (c *laneClient) fail(format string, a ...any) { c.bad = append(c.bad, fmt.Sprintf(format, a...)) }

// broken notes a connection that broke, unless the history was broken off.
func (c *laneClient) broken(ctx context.Context, doing string, err error) {
	if ctx.Err() == nil {
		c.fail("%s: %v", doing, err)
	}
}

// run lives until it has seen everything of a world that is calm.
func (c *laneClient) run(ctx context.Context) {
	for len(c.bad) == 0 && ctx.Err() == nil && !c.connection(ctx) {
	}
}

// choose begins other subscriptions.
func (c *laneClient) choose() {
	c.open = map[int]*laneLife{}
	for i := range 1 + c.rnd.IntN(4)/3 {
		l := &laneLife{topic: (c.rnd.IntN(laneTopics) + i) % laneTopics, spans: map[string]map[int32]*laneSpan{}, from: []string{"live", "earliest"}[c.rnd.IntN(2)]}
		if c.rnd.IntN(2) == 0 {
			for _, k := range c.rnd.Perm(laneKeys)[:1+c.rnd.IntN(3)] {
				l.keys = append(l.keys, fmt.Sprint("k", k))
			}
		}
		if c.open[l.topic] == nil {
			c.open[l.topic] = l
			c.lives = append(c.lives, l)
		}
	}
}

// halves is a connection some of whose writes come in two.
type halves struct {
	net.Conn
	rnd *rand.Rand // the client's, who writes
}

func (h halves) Write(b []byte) (int, error) {
	if len(b) < 2 || h.rnd.IntN(8) > 0 {
		return h.Conn.Write(b)
	}
	n, err := h.Conn.Write(b[:1+h.rnd.IntN(len(b)-1)])
	if err != nil {
		return n, err
	}
	time.Sleep(time.Duration(h.rnd.IntN(2000)) * time.Microsecond)
	m, err := h.Conn.Write(b[n:])
	return n + m, err
}

func (c *laneClient) dial(ctx context.Context) error {
	sub := []string{protocol.SubprotocolJSON, protocol.SubprotocolBatch, protocol.SubprotocolAvro}[c.rnd.IntN(3)]
	small := c.rnd.IntN(3) == 0
	d := websocket.Dialer{Subprotocols: []string{sub}, NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := c.w.rig.dial(ctx, network, addr)
		if err == nil && small {
			err = conn.(*net.TCPConn).SetReadBuffer(64 << 10) // so that writes are cut
		}
		return halves{conn, c.rnd}, err
	}}
	ws, resp, err := d.DialContext(ctx, "ws://"+c.w.rig.base+"/ws", nil)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	c.ws, c.batch, c.pings = ws, sub == protocol.SubprotocolBatch, nil
	return nil
}

func (c *laneClient) subscribe(l *laneLife) {
	cmd := map[string]any{"cmd": "sub", "id": strconv.Itoa(l.topic), "topic": laneTopic(l.topic), "from": l.from}
	if l.keys != nil {
		cmd["keys"] = l.keys
	}
	switch {
	case l.epoch == "":
		l.sentIn, l.sentAt = c.w.sent(l.topic)
	case l.cursor != "":
		c.sum.resumes++
		c.sum.cursors++
		cmd["from"] = map[string]any{"cursor": l.cursor}
	default:
		c.sum.resumes++
		cmd["from"] = map[string]any{"offsets": l.pos, "epoch": l.epoch}
	}
	_ = c.ws.WriteJSON(cmd) // the next read fails too
}

// connection is one WebSocket. It tells whether the client is done.
func (c *laneClient) connection(ctx context.Context) bool {
	if err := c.dial(ctx); err != nil {
		c.broken(ctx, "dial", err)
		return true
	}
	ws := c.ws
	stop := context.AfterFunc(ctx, func() { _ = ws.Close() })
	defer func() { stop(); _ = ws.Close() }()
	if len(c.open) == 0 || !c.w.calm.Load() && c.rnd.IntN(4) == 0 {
		c.choose()
	}
	for _, l := range c.open {
		c.subscribe(l)
	}
	for left := c.rnd.IntN(1500); ; left-- {
		switch calm := c.w.calm.Load(); {
		case calm && c.done():
			return true
		case calm:
		case left < 0:
			return false // it goes without a word
		default:
			c.whim(ctx)
		}
		kind, msg, err := ws.ReadMessage()
		if err != nil {
			c.broken(ctx, "read", err)
			return true
		}
		if !c.message(kind, string(msg)) {
			return false
		}
	}
}

// whim is what a client does between two reads.
func (c *laneClient) whim(ctx context.Context) {
	switch n := c.rnd.IntN(300); {
	case n < 2: // it does not read for a while
		for end := c.w.steps.Load() + int64(5+c.rnd.IntN(40)); ctx.Err() == nil && !c.w.calm.Load() && c.w.steps.Load() < end; {
			time.Sleep(tick)
		}
	case n < 5:
		_ = c.ws.WriteJSON(map[string]any{"cmd": "unsub", "id": strconv.Itoa(c.rnd.IntN(laneTopics))})
	case n < 7:
		for range 1 + c.rnd.IntN(80) { // more than a reader takes at once
			c.sent++
			id := fmt.Sprint("p", c.sent)
			c.pings = append(c.pings, id)
			_ = c.ws.WriteJSON(map[string]any{"cmd": "ping", "id": id})
		}
	}
}

// done tells whether the client stands at the ends, and every ping was answered.
func (c *laneClient) done() bool {
	for topic, l := range c.open {
		epoch, ends := c.w.ends(topic)
		if l.epoch != epoch || !maps.Equal(l.pos, ends) {
			return false
		}
	}
	return len(c.pings) == 0
}

// laneFrame is what a gateway sends.
type laneFrame struct {
	Event, ID, Topic, Key, Epoch, Cause, Code string

	Data      *string
	Partition int32
	Offset    int64
	From      json.RawMessage
	To        int64
	At        map[int32]int64
	Covered   map[string]map[int32]int64
	Cursor    json.RawMessage
}

func (f *laneFrame) from() (out map[int32]int64) {
	_ = json.Unmarshal(f.From, &out)
	return out
}

// message takes a message; false ends the connection.
func (c *laneClient) message(kind int, msg string) bool {
	texts, body := []string{msg}, ""
	if c.batch {
		texts = strings.Split(msg, "\n")
	}
	if kind == websocket.BinaryMessage {
		n := 4 + int(msg[2])<<8 + int(msg[3])
		texts, body = []string{msg[4:n]}, msg[n:]
	}
	for _, text := range texts {
		var f laneFrame
		if err := json.Unmarshal([]byte(text), &f); err != nil {
			c.fail("%v: %.200s", err, text)
			return false
		}
		if body != "" {
			data, err := strconv.Unquote(body)
			if err != nil {
				data = body // the event tells: it is another
			}
			f.Data = &data
		}
		if !c.take(&f, text) {
			return false
		}
	}
	return len(c.bad) == 0
}

// take takes a frame; false ends the connection.
func (c *laneClient) take(f *laneFrame, text string) bool {
	switch f.Event {
	case "heartbeat":
		c.heartbeat(f)
		return true
	case "pong":
		c.pong(f)
		return true
	case "error":
		if f.Code != "unavailable" && f.Code != "not_subscribed" {
			c.fail("%s", text)
		}
		return f.Code == "not_subscribed"
	}
	id := f.ID
	if f.Event == "" {
		id = strings.TrimPrefix(f.Topic, "lane-")
	}
	topic, err := strconv.Atoi(id)
	l := c.open[topic]
	if err != nil || l == nil {
		c.fail("of a subscription that is not there: %.200s", text)
		return false
	}
	switch f.Event {
	case "":
		c.data(l, f)
	case "subscribed":
		c.subscribed(l, f)
	case "reset":
		c.reset(l, f)
	case "gap":
		c.gap(l, f)
	case "unsubscribed":
		c.unsubscribed(l, f)
	case "live":
	default:
		c.fail("%s", text)
	}
	return true
}

func (c *laneClient) pong(f *laneFrame) {
	if len(c.pings) == 0 || c.pings[0] != f.ID {
		c.fail("pong %s, awaited are %v", f.ID, c.pings)
		return
	}
	c.pings = c.pings[1:]
	c.sum.pongs++
}

func (c *laneClient) data(l *laneLife, f *laneFrame) {
	c.sum.events++
	if l.epoch == "" || f.Offset < l.pos[f.Partition] {
		c.fail("lane-%d %s/%d: %d after position %d", l.topic, l.epoch, f.Partition, f.Offset, l.pos[f.Partition])
		return
	}
	want, ok := c.w.data(l.topic, l.epoch, f.Partition, f.Offset)
	if !ok || f.Data == nil || *f.Data != want.data || f.Key != want.key {
		c.fail("lane-%d %s/%d: %d is %.80q %q, written was %.80q", l.topic, l.epoch, f.Partition, f.Offset, f.Key, orNothing(f.Data), want.data)
		return
	}
	l.span(f.Partition, 0).got[f.Offset] = true
	l.move(f.Partition, f.Offset+1)
}

func orNothing(s *string) string {
	if s == nil {
		return "(nothing)"
	}
	return *s
}

func (c *laneClient) gap(l *laneLife, f *laneFrame) {
	c.sum.gaps++
	if f.Cause == "epoch" {
		return // of the incarnation before
	}
	var from int64
	_ = json.Unmarshal(f.From, &from)
	if from < l.pos[f.Partition] || f.To <= from {
		c.fail("lane-%d: gap [%d,%d) at position %d", l.topic, from, f.To, l.pos[f.Partition])
	}
	s := l.span(f.Partition, 0)
	s.gaps = append(s.gaps, [2]int64{from, f.To})
	l.move(f.Partition, f.To)
}

func (c *laneClient) reset(l *laneLife, f *laneFrame) {
	c.sum.resets++
	l.epoch, l.pos, l.cursor = f.Epoch, f.from(), ""
	for p, at := range l.pos {
		if at != 0 {
			c.fail("lane-%d: reset to %d of partition %d", l.topic, at, p)
		}
		l.span(p, at)
	}
}

func (c *laneClient) subscribed(l *laneLife, f *laneFrame) {
	switch {
	case l.epoch == "":
		l.epoch, l.pos = f.Epoch, f.from()
		if bad := c.w.begins(l, l.pos); bad != "" {
			c.fail("%s", bad)
		}
	case f.Epoch != l.epoch:
		c.reset(l, f)
	default:
		from := f.from()
		for p, at := range l.pos {
			if from[p] != at {
				c.fail("lane-%d: resumed at %v, wished %v", l.topic, from, l.pos)
			}
		}
		for p, at := range from {
			if _, known := l.pos[p]; !known && at != 0 {
				c.fail("lane-%d: a new partition %d begins at %d", l.topic, p, at)
			}
		}
		l.pos = from
	}
	for p, at := range l.pos {
		l.span(p, at)
	}
	l.cursor = ""
}

func (c *laneClient) unsubscribed(l *laneLife, f *laneFrame) {
	c.sum.unsubs++
	if f.At != nil { // else it was not told yet where it begins
		var cursor string
		_ = json.Unmarshal(f.Cursor, &cursor)
		c.covered(l, f.At, cursor)
	}
	c.subscribe(l)
}

func (c *laneClient) heartbeat(f *laneFrame) {
	var cursors map[string]string
	_ = json.Unmarshal(f.Cursor, &cursors)
	for id, at := range f.Covered {
		topic, _ := strconv.Atoi(id)
		if l := c.open[topic]; l != nil && l.epoch != "" {
			c.covered(l, at, cursors[id])
		}
	}
}

// covered moves the client to where it was told that it stands, and holds the
// cursor against that.
func (c *laneClient) covered(l *laneLife, at map[int32]int64, cursor string) {
	for p, to := range at {
		if to < l.pos[p] {
			c.fail("lane-%d: covered %d of partition %d after position %d", l.topic, to, p, l.pos[p])
		}
		l.move(p, to)
	}
	cur, err := protocol.ParseCursor(cursor)
	if err != nil {
		c.fail("lane-%d: cursor: %v", l.topic, err)
		return
	}
	for p, next := range cur.Next {
		if at[int32(p)] != next { //nolint:gosec // small
			c.fail("lane-%d: the cursor is at %v, covered is %v", l.topic, cur.Next, at)
		}
	}
	l.cursor = cursor
}
