package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// Client is one multiplexed connection to a gateway, kept up. Safe for
// concurrent use.
type Client struct {
	// static after construction
	opt    Options
	cancel context.CancelFunc
	done   chan struct{} // closed when the connection loop has ended
	wake   chan struct{} // one slot: commands may be due

	nextID     atomic.Int64
	active     atomic.Int64 // subscriptions
	reconnects atomic.Int64
	forwards   sync.WaitGroup // of Chan

	// guarded by mu; a Subscription's own mu is taken inside it, never around it
	mu     sync.Mutex
	subs   []*Subscription // in the order in which they were made
	wires  map[int64]*Subscription
	routes map[string]*route
	link   *link // nil while there is no connection
	state  State
	err    error // final: the gateway said not to come back, or Close
}

// route finds the subscription that a data frame of a topic belongs to.
type route struct {
	all  *Subscription
	keys map[string]*Subscription
}

// Dial starts a client. It returns at once: the connection is made, and made
// again, in the background; a gateway that is away is no error here, see
// [Options.OnState]. The one error is Options without a URL. ctx bounds the life
// of the client.
func Dial(ctx context.Context, o Options) (*Client, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &Client{
		opt: o, cancel: cancel, done: make(chan struct{}), wake: make(chan struct{}, 1),
		wires: map[int64]*Subscription{}, routes: map[string]*route{},
	}
	go func() { // owned by the client: Close waits for it
		defer close(c.done)
		c.connLoop(ctx)
	}()
	return c, nil
}

// Close ends the client and its subscriptions, and waits for its goroutines.
func (c *Client) Close() {
	c.cancel()
	c.Break()
	<-c.done
	c.forwards.Wait()
}

// Break cuts the connection without a goodbye; the client reconnects and
// resumes. For tests and for callers who know that the network has changed.
func (c *Client) Break() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != nil {
		c.link.cut()
	}
}

// Reconnects counts how often a connection was tried again after the first.
func (c *Client) Reconnects() int64 { return c.reconnects.Load() }

// Done is closed when the client has ended; Err then tells why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is the error that ended the client, nil while it lives.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// State returns how the connection stands.
func (c *Client) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

func (c *Client) turn(s State) {
	c.mu.Lock()
	c.state = s
	c.mu.Unlock()
	c.opt.OnState(s)
}

// verdict is what the end of a connection asks for.
type verdict struct {
	err      error
	final    bool // do not come back
	asked    bool // the gateway said when: between min and max
	min, max time.Duration
	lived    time.Duration // since the upgrade
}

func (c *Client) connLoop(ctx context.Context) {
	failures := 0
	for try := 0; ; try++ {
		v := c.connect(ctx, c.opt.URLs[try%len(c.opt.URLs)])
		switch {
		case ctx.Err() != nil:
			c.end(ErrClosed)
			return
		case v.final:
			c.end(v.err)
			return
		case v.lived >= steady:
			failures = 0
		}
		wait := c.backoff(failures)
		if v.asked {
			wait = v.min + rand.N(v.max-v.min+1) //nolint:gosec // a spread, not a secret
		}
		failures++
		c.opt.Logger.Info("reconnecting", slog.Any("error", v.err), slog.Duration("wait", wait))
		c.turn(State{Phase: Waiting, Wait: wait, Err: v.err})
		if !sleep(ctx, wait) {
			c.end(ErrClosed)
			return
		}
		c.reconnects.Add(1)
	}
}

// backoff draws the wait after so many failures in a row.
func (c *Client) backoff(failures int) time.Duration {
	b := c.opt.MinBackoff
	for range failures / len(c.opt.URLs) {
		if b = 2 * b; b >= c.opt.MaxBackoff {
			b = c.opt.MaxBackoff
			break
		}
	}
	return rand.N(b + 1) //nolint:gosec // a spread, not a secret
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// end is the end of the client.
func (c *Client) end(err error) {
	c.mu.Lock()
	c.err = err
	subs := slices.Clone(c.subs)
	for _, s := range subs {
		c.removeLocked(s)
	}
	c.mu.Unlock()
	c.cancel()
	for _, s := range subs {
		s.fail(err)
	}
	c.turn(State{Phase: Closed, Err: err})
}

// connect makes one connection and reads it until it ends.
func (c *Client) connect(ctx context.Context, url string) verdict {
	c.turn(State{Phase: Connecting, URL: url})
	d := websocket.Dialer{
		HandshakeTimeout: 10 * time.Second, ReadBufferSize: 32 << 10, WriteBufferSize: 1 << 10,
		NetDialContext: c.opt.NetDial, Proxy: http.ProxyFromEnvironment, Subprotocols: []string{"tapecast.json.batch", "tapecast.json"},
	}
	if c.opt.Format == Avro {
		d.Subprotocols = []string{"tapecast.avro"}
	}
	header := c.opt.Header.Clone()
	if c.opt.Credentials != nil {
		cr, err := c.opt.Credentials(ctx)
		if err != nil {
			return verdict{err: fmt.Errorf("credentials: %w", err)}
		}
		if header == nil {
			header = http.Header{}
		}
		for k, v := range cr.Header {
			header[k] = v
		}
		d.Subprotocols = append(d.Subprotocols, cr.Subprotocols...)
	}
	ws, resp, err := d.DialContext(ctx, url, header) //nolint:bodyclose // gorilla has read what there is of it
	if err != nil {
		return c.dialVerdict(url, resp, err)
	}
	if c.opt.Format == Avro && ws.Subprotocol() != "tapecast.avro" {
		_ = ws.Close()
		return verdict{err: fmt.Errorf("%s does not speak tapecast.avro", url), final: true}
	}
	since := time.Now()
	v := c.serve(ctx, ws, url)
	v.lived = time.Since(since)
	return v
}

// dialVerdict reads the HTTP answer to an upgrade that was refused.
func (c *Client) dialVerdict(url string, resp *http.Response, err error) verdict {
	v := verdict{err: fmt.Errorf("dial %s: %w", url, err)}
	if resp == nil {
		return v
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
	v.err = fmt.Errorf("dial %s: HTTP %d: %s", url, resp.StatusCode, body)
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusRequestTimeout:
	case http.StatusUnauthorized:
		v.final = c.opt.Credentials == nil
	default:
		v.final = resp.StatusCode >= 400 && resp.StatusCode < 500
	}
	return v
}

// closeVerdict reads how a connection ended: 4500-4999 do not come back.
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

// Subscribe starts a subscription; ctx bounds its life. It returns at once: what
// the gateway has against it (an unknown topic, say) comes from Next. Two
// subscriptions of a client may not share keys of one topic: an *Error with the
// code overlap. A client that has ended returns what ended it, see Err.
func (c *Client) Subscribe(ctx context.Context, topic string, o SubscribeOptions) (*Subscription, error) {
	s := newSubscription(c, topic, o)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	if err := c.addLocked(s); err != nil {
		return nil, err
	}
	s.stop = context.AfterFunc(ctx, s.Close)
	c.kick()
	return s, nil
}

// addLocked enters a subscription into the routes.
func (c *Client) addLocked(s *Subscription) error {
	r := c.routes[s.topic]
	if r == nil {
		r = &route{keys: map[string]*Subscription{}}
	}
	clash := r.all != nil || s.keys == nil && len(r.keys) > 0
	for k := range s.keys {
		clash = clash || r.keys[k] != nil
	}
	if clash {
		return &Error{Code: "overlap", Message: "another subscription of this client has some of these keys of " + s.topic}
	}
	c.routes[s.topic] = r
	if s.keys == nil {
		r.all = s
	}
	for k := range s.keys {
		r.keys[k] = s
	}
	c.subs = append(c.subs, s)
	c.active.Add(1)
	return nil
}

// removeLocked takes a subscription out; false = it was out already.
func (c *Client) removeLocked(s *Subscription) bool {
	i := slices.Index(c.subs, s)
	if i < 0 {
		return false
	}
	c.subs = slices.Delete(c.subs, i, i+1)
	c.active.Add(-1)
	if s.stop != nil {
		s.stop()
	}
	r := c.routes[s.topic]
	if s.keys == nil {
		r.all = nil
	}
	for k := range s.keys {
		delete(r.keys, k)
	}
	if r.all == nil && len(r.keys) == 0 {
		delete(c.routes, s.topic)
	}
	return true
}

// remove takes out a subscription of which the gateway says nothing more.
func (c *Client) remove(s *Subscription) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeLocked(s)
	maps.DeleteFunc(c.wires, func(_ int64, o *Subscription) bool { return o == s })
}

// kick has the connection look for commands that are due.
func (c *Client) kick() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *Client) report(bad []Violation) {
	for _, v := range bad {
		c.opt.Logger.Error("the feed broke its promise", slog.String("kind", v.Kind), slog.String("topic", v.Topic),
			slog.Int("partition", int(v.Partition)), slog.Int64("offset", v.Offset), slog.Int64("next", v.Next))
		c.opt.OnViolation(v)
	}
}
