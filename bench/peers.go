package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/centrifugal/centrifuge"
	"github.com/gorilla/websocket"
)

// naive is gorilla's chat example: a channel and a writing goroutine a client,
// WriteMessage for each message.
//
// With prepared, a message is a PreparedMessage that all of them share: its
// frame is made once.
type naive struct {
	w        work
	prepared bool

	mu sync.Mutex
	by [][]chan message // by key
}

// message is a body or, prepared, a frame.
type message struct {
	body  []byte
	frame *websocket.PreparedMessage
}

func (m message) write(ws *websocket.Conn) error {
	if m.frame != nil {
		return ws.WritePreparedMessage(m.frame)
	}
	return ws.WriteMessage(websocket.TextMessage, m.body)
}

func newNaive(w work, prepared bool) *naive {
	return &naive{w: w, prepared: prepared, by: make([][]chan message, max(w.Keys, 1))}
}

func (n *naive) serve(ln net.Listener) error {
	return (&http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(n.enter)}).Serve(ln)
}

// enter upgrades a connection and leaves it to two goroutines, as gorilla's
// chat example does: once it has returned, what package net/http had for the
// connection can be collected.
func (n *naive) enter(rw http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{ReadBufferSize: 1024, WriteBufferSize: 1024, CheckOrigin: func(*http.Request) bool { return true }}
	keys := []int{0}
	if n.w.Keys > 0 {
		keys = n.w.keysOf(sessionOf(r))
	}
	ws, err := up.Upgrade(rw, r, nil)
	if err != nil {
		return
	}
	ch := make(chan message, 256)
	n.mu.Lock()
	for _, k := range keys {
		n.by[k] = append(n.by[k], ch)
	}
	n.mu.Unlock()
	go func() {
		for m := range ch {
			if m.write(ws) != nil {
				return
			}
		}
	}()
	go func() {
		for {
			if _, _, err := ws.ReadMessage(); err != nil {
				return
			}
		}
	}()
}

func (n *naive) publish(w work, on func() bool, due func(int64)) {
	paced(w, on, due, func(key, offset int, v []byte, now time.Time) {
		m := message{body: body(key, offset, v, now)}
		if n.prepared {
			frame, err := websocket.NewPreparedMessage(websocket.TextMessage, m.body)
			if err != nil {
				panic(err) // of a text message it has no reason to
			}
			m.frame = frame
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, ch := range n.by[max(key, 0)] {
			ch <- m
		}
	}, nil)
}

// paced publishes evenly, looking every millisecond; flush (may be nil) ends a look.
func paced(w work, on func() bool, due func(int64), send func(key, offset int, v []byte, at time.Time), flush func()) {
	var c *clock
	for offset := 0; ; time.Sleep(time.Millisecond) {
		if !on() {
			c = nil
			continue
		}
		if c == nil {
			c = newClock(w)
		}
		now := time.Now()
		for range c.owed(now) {
			k := c.key()
			at := c.at()
			send(k, offset, value(nil, w.Size, at), at)
			offset++
			// A server that cannot keep up is late with publishing as well.
			due(int64(float64(c.due) * float64(max(c.sent+c.owed(time.Now()), c.sent)) / float64(c.sent)))
			if !on() {
				break
			}
		}
		if flush != nil {
			flush()
		}
	}
}

// fuge is the centrifuge library. With a hold it is tuned as its documents
// advise: WriteDelay on a timer, no limit of messages a frame, pooled write
// buffers, small read buffers, commands off the read loop.
type fuge struct {
	node *centrifuge.Node
	hold time.Duration
}

func newCentrifuge(_ work, hold time.Duration) (*fuge, error) {
	node, err := centrifuge.New(centrifuge.Config{LogLevel: centrifuge.LogLevelNone, ClientChannelLimit: 10_000})
	if err != nil {
		return nil, err
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		r := centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{UserID: "u"}}
		if hold > 0 {
			r.WriteDelay, r.WriteWithTimer, r.MaxMessagesInFrame = hold, true, -1
		}
		return r, nil
	})
	node.OnConnect(func(c *centrifuge.Client) {
		c.OnSubscribe(func(_ centrifuge.SubscribeEvent, cb centrifuge.SubscribeCallback) {
			cb(centrifuge.SubscribeReply{}, nil)
		})
	})
	return &fuge{node, hold}, node.Run()
}

func (f *fuge) serve(ln net.Listener) error {
	c := centrifuge.WebsocketConfig{CheckOrigin: func(*http.Request) bool { return true }}
	if f.hold > 0 {
		c.ReadBufferSize, c.UseWriteBufferPool, c.ProcessCommandsOffReadLoop = 512, true, true
	}
	return (&http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: centrifuge.NewWebsocketHandler(f.node, c)}).Serve(ln)
}

func (f *fuge) publish(w work, on func() bool, due func(int64)) {
	paced(w, on, due, func(key, _ int, v []byte, _ time.Time) {
		_, _ = f.node.Publish(channel(key), v)
	}, nil)
}

// commands are what a client sends to a server, and what it waits for.
func commands(kind string, w work, session int) (texts []string, until string) {
	switch kind {
	case "tapecast":
		cmd := map[string]any{"cmd": "sub", "id": 1, "topic": w.topic()}
		if w.Keys > 0 {
			var keys []string
			for _, k := range w.keysOf(session) {
				keys = append(keys, keyName(k))
			}
			cmd["keys"] = keys
		}
		b, _ := json.Marshal(cmd) //nolint:errchkjson // strings and numbers
		return []string{string(b)}, `"event":"subscribed"`
	case "centrifuge":
		texts = []string{`{"id":1,"connect":{}}`}
		names := w.channelsOf(session)
		var lines []string
		for i, n := range names {
			b, _ := json.Marshal(map[string]any{"id": i + 2, "subscribe": map[string]any{"channel": n}}) //nolint:errchkjson // as above
			lines = append(lines, string(b))
		}
		last, _ := json.Marshal(map[string]any{"id": len(names) + 1}) //nolint:errchkjson // as above
		return append(texts, strings.Join(lines, "\n")), strings.TrimSuffix(string(last), "}") + ","
	case "nats":
		return natsCommands(w, session)
	}
	return nil, "\r\n\r\n"
}

// channel is what peers call a key; -1 = the topic.
func channel(key int) string {
	if key < 0 {
		return feedTopic
	}
	return keyName(key)
}

// channelsOf are what a session subscribes to at a peer.
func (w work) channelsOf(session int) []string {
	if w.Keys == 0 {
		return []string{feedTopic}
	}
	var names []string
	for _, k := range w.keysOf(session) {
		names = append(names, keyName(k))
	}
	return names
}
