package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// Options of a Client. The zero value of every field but URLs is a default.
type Options struct {
	URLs   []string     // gateways, ws:// or wss://; tried in turn after a failure
	Header http.Header  // sent with the upgrade, e.g. Authorization
	Logger *slog.Logger // default: silent
	// Buffer is how many bytes of frames a subscription holds before the
	// connection is no longer read. Default 4 MiB.
	Buffer int
	// MinBackoff and MaxBackoff bound the wait before a reconnection, which
	// doubles with each failure and is drawn evenly from [0, that] (full
	// jitter). Defaults 100 ms and 15 s.
	MinBackoff, MaxBackoff time.Duration
	// NetDial replaces the dialer (tests, proxies).
	NetDial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// maxFrame is the longest message taken from a gateway, bytes.
const maxFrame = 16 << 20

// silence is how long a connection may say nothing (a gateway pings every 30 s).
const silence = 75 * time.Second

// ErrClosed is returned after Close.
var ErrClosed = errors.New("client is closed")

// Client is one multiplexed connection to a gateway, kept up. Safe for
// concurrent use.
type Client struct {
	opt    Options
	dialer *websocket.Dialer
	cancel context.CancelFunc
	done   chan struct{} // closed when the connection loop has ended

	reconnects atomic.Int64

	mu     sync.Mutex
	subs   map[string]*Subscription // by id
	nextID int
	conn   *websocket.Conn // nil while there is none
	err    error           // final: the gateway said not to come back, or Close

	wmu sync.Mutex // one writer of conn at a time
}

// Dial starts a client. It returns at once: the connection is made, and made
// again, in the background; a gateway that is away is no error here. ctx bounds
// the life of the client.
func Dial(ctx context.Context, o Options) (*Client, error) {
	if len(o.URLs) == 0 {
		return nil, errors.New("client: Options.URLs names no gateway")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Buffer <= 0 {
		o.Buffer = 4 << 20
	}
	if o.MinBackoff <= 0 {
		o.MinBackoff = 100 * time.Millisecond
	}
	if o.MaxBackoff < o.MinBackoff {
		o.MaxBackoff = max(15*time.Second, o.MinBackoff)
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &Client{
		opt: o, cancel: cancel, done: make(chan struct{}), subs: map[string]*Subscription{},
		dialer: &websocket.Dialer{
			HandshakeTimeout: 10 * time.Second, ReadBufferSize: 16 << 10, WriteBufferSize: 1 << 10,
			NetDialContext: o.NetDial, Proxy: http.ProxyFromEnvironment,
		},
	}
	go func() {
		defer close(c.done)
		c.connLoop(ctx)
	}()
	return c, nil
}

// Close ends the client and its subscriptions, and waits for its goroutine.
func (c *Client) Close() {
	c.cancel()
	c.Break()
	<-c.done
}

// Break cuts the connection without a goodbye; the client reconnects and
// resumes. For tests and for callers who know that the network has changed.
func (c *Client) Break() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		_ = c.conn.NetConn().Close()
	}
}

// Reconnects counts how often a connection was made after the first.
func (c *Client) Reconnects() int64 { return c.reconnects.Load() }

// Done is closed when the client has ended; Err then tells why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is the error that ended the client, nil while it lives.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// verdict is what the end of a connection asks for.
type verdict struct {
	err      error
	final    bool          // do not come back
	min, max time.Duration // the gateway's wish for when to come back
	healthy  bool          // frames came: backoff starts anew
}

func (c *Client) connLoop(ctx context.Context) {
	backoff := c.opt.MinBackoff
	for try := 0; ; try++ {
		v := c.connect(ctx, c.opt.URLs[try%len(c.opt.URLs)])
		if ctx.Err() != nil {
			c.fail(ErrClosed)
			return
		}
		if v.final {
			c.fail(v.err)
			return
		}
		if v.healthy {
			backoff = c.opt.MinBackoff
		}
		wait := time.Duration(rand.Int64N(int64(backoff) + 1))
		if v.max > 0 {
			wait = v.min + time.Duration(rand.Int64N(int64(v.max-v.min)+1))
		}
		backoff = min(2*backoff, c.opt.MaxBackoff)
		c.opt.Logger.Info("reconnecting", slog.Any("error", v.err), slog.Duration("wait", wait))
		select {
		case <-ctx.Done():
			c.fail(ErrClosed)
			return
		case <-time.After(wait):
		}
		c.reconnects.Add(1)
	}
}

func (c *Client) fail(err error) {
	c.mu.Lock()
	c.err = err
	subs := c.subs
	c.subs = map[string]*Subscription{}
	c.mu.Unlock()
	for _, s := range subs {
		s.fail(err)
	}
}

// connect makes one connection and reads it until it ends.
func (c *Client) connect(ctx context.Context, url string) verdict {
	conn, resp, err := c.dialer.DialContext(ctx, url, c.opt.Header)
	if err != nil {
		return dialVerdict(url, resp, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.NetConn().Close() })
	defer stop()
	conn.SetReadLimit(maxFrame)
	_ = conn.SetReadDeadline(time.Now().Add(silence))
	conn.SetPingHandler(func(data string) error {
		_ = conn.SetReadDeadline(time.Now().Add(silence))
		return conn.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(10*time.Second))
	})

	c.mu.Lock()
	c.conn = conn
	subs := make([]*Subscription, 0, len(c.subs))
	for _, s := range c.subs {
		subs = append(subs, s)
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.conn = nil
		c.mu.Unlock()
	}()
	for _, s := range subs {
		if err := c.write(conn, s.command()); err != nil {
			return verdict{err: err}
		}
	}
	return c.readLoop(ctx, conn)
}

// dialVerdict reads the HTTP answer to an upgrade that was refused.
func dialVerdict(url string, resp *http.Response, err error) verdict {
	v := verdict{err: fmt.Errorf("dial %s: %w", url, err)}
	if resp == nil {
		return v
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
	v.err = fmt.Errorf("dial %s: HTTP %d: %s", url, resp.StatusCode, body)
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusRequestTimeout:
	default:
		v.final = resp.StatusCode >= 400 && resp.StatusCode < 500
	}
	return v
}

func (c *Client) readLoop(ctx context.Context, conn *websocket.Conn) verdict {
	v := verdict{}
	for {
		kind, msg, err := conn.ReadMessage()
		if err != nil {
			return closeVerdict(v, err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(silence))
		if kind != websocket.TextMessage {
			continue
		}
		v.healthy = true
		var w wire
		if err := json.Unmarshal(msg, &w); err != nil {
			return verdict{err: fmt.Errorf("frame is not JSON: %w", err)}
		}
		switch w.Event {
		case "bye":
			if len(w.WaitMs) == 2 && w.WaitMs[0] >= 0 && w.WaitMs[1] >= w.WaitMs[0] {
				v.min, v.max = time.Duration(w.WaitMs[0])*time.Millisecond, time.Duration(w.WaitMs[1])*time.Millisecond
			}
			v.final = !w.Retry
			v.err = &Error{Code: w.Code, Message: w.Message, Retry: w.Retry}
		case "error":
			c.refused(ctx, conn, &w)
		case "heartbeat":
			c.heartbeat(ctx, msg, &w)
		default:
			if s := c.find(&w); s != nil {
				s.take(ctx, msg, &w)
			}
		}
	}
}

// closeVerdict reads the close code: 4500-4999 do not come back.
func closeVerdict(v verdict, err error) verdict {
	var ce *websocket.CloseError
	if errors.As(err, &ce) {
		v.final = v.final || ce.Code >= 4500 && ce.Code <= 4999 || ce.Code == websocket.ClosePolicyViolation
		if v.err == nil {
			v.err = &Error{Code: fmt.Sprintf("close %d", ce.Code), Message: ce.Text, Retry: !v.final}
		}
	}
	if v.err == nil {
		v.err = err
	}
	return v
}

// find tells whose frame it is: control frames name the subscription, data
// frames its topic and key.
func (c *Client) find(w *wire) *Subscription {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.Event != "" {
		return c.subs[idString(w.ID)]
	}
	for _, s := range c.subs {
		if s.topic == w.Topic && s.wants(w) {
			return s
		}
	}
	return nil
}

func idString(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return string(raw)
	}
	return s
}

func (c *Client) heartbeat(ctx context.Context, msg []byte, w *wire) {
	for id, at := range w.Covered {
		c.mu.Lock()
		s := c.subs[id]
		c.mu.Unlock()
		if s != nil {
			s.covered(ctx, msg, at)
		}
	}
}

// refused ends the subscription that an error names, or has it asked for again
// when the error is transient.
func (c *Client) refused(ctx context.Context, conn *websocket.Conn, w *wire) {
	e := &Error{Code: w.Code, Message: w.Message, Retry: w.Retry}
	c.mu.Lock()
	s := c.subs[idString(w.ID)]
	if s != nil && !w.Retry {
		delete(c.subs, s.id)
	}
	c.mu.Unlock()
	switch {
	case s == nil:
		c.opt.Logger.Warn("gateway error", slog.String("code", w.Code), slog.String("message", w.Message))
	case !w.Retry:
		s.fail(e)
	default:
		// The next connection asks again, after a backoff, from the same position.
		c.opt.Logger.Warn("subscription refused for now", slog.String("topic", s.topic), slog.String("code", w.Code))
		_ = conn.NetConn().Close()
	}
}

func (c *Client) write(conn *websocket.Conn, msg []byte) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	_ = conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if err := conn.WriteMessage(websocket.TextMessage, msg); err != nil {
		return fmt.Errorf("write command: %w", err)
	}
	return nil
}

// send writes a command on the connection, if there is one now.
func (c *Client) send(msg []byte) {
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn == nil {
		return // the next connection sends what is due
	}
	if err := c.write(conn, msg); err != nil {
		_ = conn.NetConn().Close()
	}
}
