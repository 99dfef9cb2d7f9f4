package stacktest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/client"
)

// watchers is how many clients live through the whole tour.
const watchers = 20

// watch is a crowd of clients of the topic price through nginx. Each checks
// that every price has the offset after the one before.
type watch struct {
	t      *testing.T
	cancel context.CancelFunc
	group  *errgroup.Group

	mu       sync.Mutex
	first    time.Time                // guarded by mu; of anybody's first event
	last     [watchers]time.Time      // guarded by mu
	next     [watchers]int64          // guarded by mu
	pause    [watchers]time.Duration  // guarded by mu; the longest since the last reset
	events   int                      // guarded by mu
	problems []string                 // guarded by mu
	position client.Position          // guarded by mu; of the first client
	clients  [watchers]*client.Client // static after start
	tries    [watchers]int64          // of the test's goroutine: reconnections that were reported
}

// startWatch dials at once; nginx may come later.
func startWatch(t *testing.T, addr string, from client.From) *watch {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &watch{t: t, cancel: cancel, group: &errgroup.Group{}}
	for i := range watchers {
		c, err := client.Dial(ctx, client.Options{
			URLs: []string{"ws://" + addr + "/ws"}, MaxBackoff: time.Second, PingEvery: 2 * time.Second,
			OnViolation: func(v client.Violation) { w.problem("client %d: %v", i, v) },
		})
		require.NoError(t, err)
		w.clients[i] = c
		sub, err := c.Subscribe(ctx, "price", client.SubscribeOptions{From: from})
		require.NoError(t, err)
		w.group.Go(func() error { w.follow(ctx, i, sub); return nil })
	}
	t.Cleanup(func() { _ = w.stop() })
	return w
}

func (w *watch) problem(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

func (w *watch) follow(ctx context.Context, i int, sub *client.Subscription) {
	for {
		f, err := sub.Next(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			w.problem("client %d: %v", i, err)
			return
		}
		switch f.Kind {
		case client.KindGap, client.KindReset:
			w.problem("client %d: %s", i, f.Raw)
		case client.KindData:
			w.event(i, f.Offset, sub)
		}
	}
}

func (w *watch) event(i int, offset int64, sub *client.Subscription) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.first.IsZero() {
		w.first = now
	}
	if !w.last[i].IsZero() {
		w.pause[i] = max(w.pause[i], now.Sub(w.last[i]))
		if offset != w.next[i] && len(w.problems) < 20 {
			w.problems = append(w.problems, fmt.Sprintf("client %d: offset %d came where %d was due", i, offset, w.next[i]))
		}
	}
	w.last[i], w.next[i] = now, offset+1
	w.events++
	if i == 0 {
		w.position = sub.Position()
	}
}

// firstEvent waits until somebody got something.
func (w *watch) firstEvent() time.Time {
	w.t.Helper()
	var at time.Time
	w.until("no client got a first event", func() bool { at = w.first; return !at.IsZero() })
	return at
}

// until waits for a condition, which is called under the lock.
func (w *watch) until(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		w.mu.Lock()
		done := ok()
		w.mu.Unlock()
		if done {
			return
		}
	}
	w.t.Fatalf("%s\n%v", what, w.problems)
}

// flows waits until every client has got something that was written after now,
// and returns how long clients waited at most for an event since the last call:
// the longest and the median over clients.
func (w *watch) flows() (longest, median time.Duration) {
	w.t.Helper()
	w.mu.Lock()
	head := slices.Max(w.next[:])
	w.mu.Unlock()
	w.until("a client does not go on", func() bool { return slices.Min(w.next[:]) > head })
	w.mu.Lock()
	defer w.mu.Unlock()
	require.Empty(w.t, w.problems)
	p := slices.Sorted(slices.Values(w.pause[:]))
	clear(w.pause[:])
	return p[len(p)-1], p[len(p)/2]
}

// spread connects all clients anew, now that there is more than one gateway:
// while the stack came up they all went to the one that was first.
func (w *watch) spread() {
	w.t.Helper()
	w.flows()
	for _, c := range w.clients {
		c.Break()
	}
	w.flows()
	w.reconnected()
}

// reconnected counts the clients that had to reconnect since the last call.
func (w *watch) reconnected() (clients int) {
	for i, c := range w.clients {
		n := c.Reconnects()
		if n > w.tries[i] {
			clients++
		}
		w.tries[i] = n
	}
	return clients
}

// stop ends the clients and returns where the first one stands.
func (w *watch) stop() client.Position {
	w.cancel()
	_ = w.group.Wait()
	for _, c := range w.clients {
		c.Close()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.position
}
