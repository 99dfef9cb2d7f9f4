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
type naive struct {
	w  work
	mu sync.Mutex
	by [][]chan []byte // by key
}

func newNaive(w work) *naive { return &naive{w: w, by: make([][]chan []byte, max(w.Keys, 1))} }

func (n *naive) serve(ln net.Listener) error {
	up := websocket.Upgrader{ReadBufferSize: 1024, WriteBufferSize: 1024, CheckOrigin: func(*http.Request) bool { return true }}
	return (&http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		keys := []int{0}
		if n.w.Keys > 0 {
			keys = n.w.keysOf(sessionOf(r))
		}
		ws, err := up.Upgrade(rw, r, nil)
		if err != nil {
			return
		}
		ch := make(chan []byte, 256)
		n.mu.Lock()
		for _, k := range keys {
			n.by[k] = append(n.by[k], ch)
		}
		n.mu.Unlock()
		go func() {
			for {
				if _, _, err := ws.ReadMessage(); err != nil {
					return
				}
			}
		}()
		for m := range ch {
			if ws.WriteMessage(websocket.TextMessage, m) != nil {
				return
			}
		}
	})}).Serve(ln)
}

func (n *naive) publish(w work, on func() bool, due func(int64)) {
	paced(w, on, due, func(key, offset int, v []byte, now time.Time) {
		f := frame(nil, key, offset, v, now)
		body := f[2:]
		if f[1] == 126 {
			body = f[4:]
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, ch := range n.by[max(key, 0)] {
			ch <- body
		}
	})
}

// paced publishes evenly, looking every millisecond.
func paced(w work, on func() bool, due func(int64), send func(key, offset int, v []byte, now time.Time)) {
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
			send(c.key(), offset, value(nil, w.Size, now), now)
			offset++
			// A server that cannot keep up is late with publishing as well.
			due(int64(float64(c.due) * float64(max(c.sent+c.owed(time.Now()), c.sent)) / float64(c.sent)))
			if !on() {
				break
			}
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
		name := feedTopic
		if key >= 0 {
			name = keyName(key)
		}
		_, _ = f.node.Publish(name, v)
	})
}

// commands are what a client sends to a server, and what it waits for.
func commands(kind string, w work, session int) (texts []string, until string) {
	switch kind {
	case "tapecast":
		cmd := map[string]any{"cmd": "sub", "id": 1, "topic": feedTopic}
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
		names := []string{feedTopic}
		if w.Keys > 0 {
			names = nil
			for _, k := range w.keysOf(session) {
				names = append(names, keyName(k))
			}
		}
		var lines []string
		for i, n := range names {
			b, _ := json.Marshal(map[string]any{"id": i + 2, "subscribe": map[string]any{"channel": n}}) //nolint:errchkjson // as above
			lines = append(lines, string(b))
		}
		last, _ := json.Marshal(map[string]any{"id": len(names) + 1}) //nolint:errchkjson // as above
		return append(texts, strings.Join(lines, "\n")), strings.TrimSuffix(string(last), "}") + ","
	}
	return nil, "\r\n\r\n"
}
