package web_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/brokertest"
)

// The JavaScript client in a page of its own, as a user of the package has it.

// recorder is a page that writes down the offset of every event it is given,
// before anything else can happen to the page, and what the client says. busy is
// how many ms it works on the next one.
const recorder = `<!doctype html><meta charset="utf-8"><title>recorder</title><link rel="icon" href="data:,">
<script type="module">
import { Client } from "./tapecast.js"
const q = new URLSearchParams(location.search)
const note = (name, v) => localStorage.setItem(name, (localStorage.getItem(name) ?? "") + v + " ")
globalThis.states = []
globalThis.client = new Client(q.get("gateway"), {
  minBackoff: Number(q.get("backoff")), maxBackoff: Number(q.get("backoff")),
  onstate: (s) => states.push(s.phase), onviolation: (v) => note("wrong", JSON.stringify(v)),
})
client.subscribe("quotes", {
  from: "earliest", remember: true,
  ondata: (f) => {
    for (const end = performance.now() + (globalThis.busy ?? 0); performance.now() < end;); // it hears of nothing meanwhile
    globalThis.busy = 0
    note("got", f.offset)
  },
  ongap: (f) => note("wrong", JSON.stringify(f)), onreset: (f) => note("wrong", JSON.stringify(f)),
  onclose: (e) => { if (e.code !== "closed") note("wrong", e.code) }, onsubscribed: (f) => note("began", f.resume + "@" + f.from[0]),
})
</script>`

// wire stands between a page and a gateway, and can be cut.
type wire struct {
	ln net.Listener
	to string

	mu    sync.Mutex
	down  bool                  // guarded by mu
	conns map[net.Conn]struct{} // guarded by mu
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w := &wire{ln: ln, to: to, conns: map[net.Conn]struct{}{}}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { w.pass(c) })
		}
	})
	t.Cleanup(func() { _ = ln.Close(); w.cut(true); all.Wait() })
	return w
}

func (w *wire) url() string { return "ws://" + w.ln.Addr().String() + "/ws" }

func (w *wire) pass(c net.Conn) {
	defer c.Close()
	far, err := net.Dial("tcp", w.to)
	if err != nil {
		return
	}
	defer far.Close()
	w.mu.Lock()
	if w.down {
		w.mu.Unlock()
		return
	}
	w.conns[c], w.conns[far] = struct{}{}, struct{}{}
	w.mu.Unlock()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{c, far}, {far, c}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_ = c.Close()
			_ = far.Close()
		})
	}
	both.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c)
	delete(w.conns, far)
}

// cut ends all connections without a word; down: nobody comes through any more.
func (w *wire) cut(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = down
	for c := range w.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
}

// turns is how often the page is left for another one and come back to.
const turns = 3

func TestTheModuleInAPage(t *testing.T) {
	browser(t)
	info := startDev(t)
	pages := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/recorder.html" {
			w.Header().Set("Content-Type", "text/html")
			if r.URL.Query().Has("apart") { // from pages that are not: a browser may give it a process of its own
				w.Header().Set("Cross-Origin-Opener-Policy", "same-origin")
			}
			_, _ = io.WriteString(w, recorder)
			return
		}
		http.FileServer(http.Dir("../clients/js")).ServeHTTP(w, r)
	}))
	t.Cleanup(pages.Close)
	listen := brokertest.Addr(t)
	stop := startGateway(t, info, listen, pages.URL)
	line := newWire(t, listen)

	// Somebody writes all the time.
	publish(t, info.HTTP, "quotes", quoteAt("EURUSD", 1, time.Now()))
	ctx, cancel := context.WithCancel(t.Context())
	var last int64 // of what was written
	var wrong error
	var writing sync.WaitGroup
	writing.Go(func() {
		for ; ctx.Err() == nil && wrong == nil; time.Sleep(5 * time.Millisecond) {
			last, wrong = send(info.HTTP, "quotes", quoteAt("EURUSD", 1, time.Now()), quoteAt("USDJPY", 2, time.Now()))
		}
	})
	defer writing.Wait()
	defer cancel()

	p := open(t, pages.URL+"/recorder.html?backoff=50&gateway="+line.url())
	count := func() int { return eval[int](p, `(localStorage.getItem("got") ?? "").split(" ").length - 1`) }
	more := func() { // it is live, now
		t.Helper()
		p.await(fmt.Sprintf(`(localStorage.getItem("got") ?? "").split(" ").length - 1 >= %d`, count()+20))
	}
	more()
	for range 3 {
		p.do(chromedp.Reload()) // goes on at the position that localStorage has
		more()
	}
	line.cut(false)
	more()
	line.cut(true) // the gateway is gone without a word, and another one comes in its place
	stop()
	stop = startGateway(t, info, listen, pages.URL)
	line.cut(false)
	more()
	stop() // in good form
	stop = startGateway(t, info, listen, pages.URL)
	more()

	// Another page under the same name, while this one is busy: a browser may begin it,
	// in a process of its own, before it tells this one that it ends. And back.
	for range turns {
		for _, how := range []string{"&apart", ""} {
			eval[bool](p, `(busy = 300, true)`)
			p.do(chromedp.Navigate(pages.URL + "/recorder.html?backoff=50&gateway=" + line.url() + how))
			more()
		}
		p.do(chromedp.Navigate("about:blank"))
		p.back("/recorder.html")
		more()
	}
	// A page that waits long does not wait any more when the network is back, or its user.
	p.do(chromedp.Navigate(pages.URL + "/recorder.html?backoff=86400000&gateway=" + line.url()))
	more()
	for _, wake := range []string{`dispatchEvent(new Event("online"))`, `document.dispatchEvent(new Event("visibilitychange"))`} {
		line.cut(true)
		p.await(`states.at(-1) === "waiting"`)
		line.cut(false)
		eval[bool](p, wake)
		more()
	}

	cancel()
	writing.Wait()
	require.NoError(t, wrong)
	p.await(fmt.Sprintf(`localStorage.getItem("got").endsWith(" %d ")`, last))
	var want strings.Builder
	for i := range last + 1 {
		fmt.Fprintf(&want, "%d ", i)
	}
	require.Equal(t, want.String(), eval[string](p, `localStorage.getItem("got")`), "each event once, in order, over all pages and connections")
	require.Empty(t, eval[string](p, `localStorage.getItem("wrong") ?? ""`))
	began := strings.Fields(eval[string](p, `localStorage.getItem("began")`))
	require.GreaterOrEqual(t, len(began), 9)
	for _, b := range began {
		require.True(t, strings.HasPrefix(b, "exact@"), "%v", began)
	}
	t.Logf("%d events in %d subscriptions of %d pages: 0 lost, 0 doubled", last+1, len(began), 5+3*turns)

	// The example page of the package, as it is.
	p.do(chromedp.Navigate(pages.URL + "/examples/page.html?gateway=" + line.url()))
	p.await(`document.getElementById("state").textContent === "connected"`)
	publish(t, info.HTTP, "quotes", quoteAt("EURUSD", 1, time.Now()), quoteAt("USDJPY", 2, time.Now())) // it goes on where the others were
	p.await(`document.querySelectorAll("#rows tr").length === 2`)
	p.clean("ERR_CONNECTION", "WebSocket connection to", "ERR_EMPTY_RESPONSE", "503", "favicon.ico")
	stop()
}
