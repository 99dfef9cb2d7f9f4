package web_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/app"
	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/internal/config"
)

// patience is for anything that will come, on a machine that is busy.
const patience = 120 * time.Second

// browser finds Chromium; without it the tests that need one are skipped, or
// fail if they are required.
func browser(t testing.TB) string {
	t.Helper()
	for _, name := range []string{os.Getenv("TAPECAST_TEST_BROWSER"), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if path, err := exec.LookPath(name); err == nil && name != "" {
			report(path)
			return path
		}
	}
	if os.Getenv("TAPECAST_TEST_REQUIRE_BROWSER") != "" {
		t.Fatal("no Chromium, and TAPECAST_TEST_REQUIRE_BROWSER is set")
	}
	t.Skip("no Chromium on this machine: install the package chromium, or set TAPECAST_TEST_BROWSER")
	return ""
}

// report tells the summary of a whole run what the page was tested in.
var report = func() func(path string) {
	var once sync.Once
	return func(path string) {
		once.Do(func() {
			file := os.Getenv("TAPECAST_TEST_REPORT")
			if file == "" {
				return
			}
			out, err := exec.Command(path, "--version").Output()
			if err != nil {
				return
			}
			f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			if err != nil {
				return
			}
			defer f.Close()
			_, _ = fmt.Fprintln(f, strings.TrimSpace(string(out)))
		})
	}
}()

// run runs a process's part in this one, until stop.
func run(t testing.TB, r app.Runner) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("ended with %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

var quiet = app.Env{Logger: slog.New(slog.DiscardHandler), Build: "test"}

// startDev runs `tapecast dev` without the market: tests write what they want.
func startDev(t testing.TB) app.DevInfo {
	t.Helper()
	ready := make(chan app.DevInfo, 1)
	d, err := app.NewDev(app.DevOptions{
		Env: quiet, Listen: "127.0.0.1:0", KafkaListen: brokertest.Addr(t), RegistryListen: "127.0.0.1:0", DataDir: t.TempDir(), NoDemo: true,
		Ready: func(i app.DevInfo) { ready <- i },
	})
	require.NoError(t, err)
	run(t, d)
	select {
	case info := <-ready:
		return info
	case <-time.After(patience):
		require.FailNow(t, "tapecast dev is not ready")
		return app.DevInfo{}
	}
}

// startGateway runs one more gateway over dev's Kafka.
func startGateway(t testing.TB, info app.DevInfo, listen string, origins ...string) (stop func()) {
	t.Helper()
	c := config.Default()
	c.Kafka.Brokers, c.Registry.URL = []string{info.Kafka}, info.Registry
	c.Topics = []config.Topic{{Topic: "*"}}
	c.Gateway.Listen, c.Gateway.AdminListen, c.Gateway.Node, c.Gateway.Drain = listen, "127.0.0.1:0", "console", 500*time.Millisecond
	c.Gateway.Origins = origins
	r, err := app.NewGateway(&config.Loaded{Config: *c}, quiet)
	require.NoError(t, err)
	stop = run(t, r)
	require.Eventually(t, func() bool {
		res, err := http.Get("http://" + listen + "/readyz")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode == http.StatusOK
	}, patience, 20*time.Millisecond)
	return stop
}

// event is one to publish.
type event struct {
	Key   string `json:"key,omitempty"`
	Value any    `json:"value"`
	TS    int64  `json:"ts,omitempty"`
}

type quote struct {
	Symbol  string  `json:"symbol"`
	Bid     float64 `json:"bid"`
	Ask     float64 `json:"ask"`
	BidSize int     `json:"bid_size"`
	AskSize int     `json:"ask_size"`
	TS      int64   `json:"ts"`
}

func quoteAt(key string, bid float64, at time.Time) event {
	return event{key, quote{key, bid, bid + 0.0002, 10, 20, at.UnixMicro()}, at.UnixMilli()}
}

// publish writes events in one request and returns the last offset.
func publish(t testing.TB, base, topic string, events ...event) int64 {
	t.Helper()
	last, err := send(base, topic, events...)
	require.NoError(t, err)
	return last
}

// send is publish for goroutines beside the test.
func send(base, topic string, events ...event) (last int64, err error) {
	body, err := json.Marshal(events)
	if err != nil {
		return 0, err
	}
	res, err := http.Post(base+"/v1/topics/"+topic+"/events", "application/json", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	var answer struct {
		Offsets []struct{ Offset int64 }
	}
	if err := json.Unmarshal(text, &answer); err != nil || res.StatusCode != http.StatusOK || len(answer.Offsets) == 0 {
		return 0, fmt.Errorf("publish to %s: HTTP %d: %s", topic, res.StatusCode, text)
	}
	return answer.Offsets[len(answer.Offsets)-1].Offset, nil
}

// page is the console in a browser.
type page struct {
	t   testing.TB
	ctx context.Context

	mu     sync.Mutex
	faults []string // guarded by mu: what the console of the browser complained about
}

// open opens a URL. before is a script that runs before the page's own.
func open(t testing.TB, url string, opts ...chromedp.ExecAllocatorOption) *page {
	t.Helper()
	path := browser(t)
	opts = append([]chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("hide-scrollbars", true),
		chromedp.WindowSize(1440, 900), chromedp.UserDataDir(t.TempDir()), chromedp.WSURLReadTimeout(patience),
	}, opts...)
	alloc, cancel := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, cancelTab := chromedp.NewContext(alloc)
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // waits for the browser's end
		cancelTab()
		cancel()
	})
	p := &page{t: t, ctx: ctx}
	messages := chromedp.Console(ctx) // from here on: the browser starts with it
	go func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			p.hear(m)
		}
	}()
	_, err := chromedp.Run(ctx, chromedp.Navigate(url)) // no time-out: the browser lives as long as the context of its first action
	require.NoError(t, err)
	return p
}

// hear keeps what ought not to be said.
func (p *page) hear(m chromedp.ConsoleMessage) {
	if m.IsException() || m.Type == "error" {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.faults = append(p.faults, m.String()+" "+m.URL)
	}
}

func (p *page) do(actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	require.NoError(p.t, chromedp.Do(ctx, actions...))
}

// eval evaluates a script, and waits for it where it is a promise.
func eval[T any](p *page, script string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	out, err := chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	require.NoError(p.t, err, script[:min(len(script), 300)])
	return out
}

// text is what a node shows.
func (p *page) text(selector string) string {
	p.t.Helper()
	return eval[string](p, fmt.Sprintf(`document.querySelector(%q)?.textContent ?? ""`, selector))
}

// await waits until a script is true.
func (p *page) await(script string) {
	p.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if eval[bool](p, "Boolean("+script+")") {
			return
		}
		if time.Now().After(end) {
			what := eval[string](p, `document.body.innerText.slice(0, 3000)`)
			require.FailNow(p.t, "not in time: "+script, "%s\nfaults: %v", what, p.complaints())
		}
	}
}

// back goes back in the page's history, where a page is perhaps only shown again
// and not loaded: there is no event to wait for.
func (p *page) back(to string) {
	p.t.Helper()
	eval[bool](p, `(setTimeout(() => history.back()), true)`)
	script := fmt.Sprintf("location.pathname === %q", to)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
		there, err := chromedp.Run(ctx, chromedp.Evaluate[bool](script))
		cancel()
		if err == nil && there { // an error: just between the two
			return
		}
	}
	require.FailNow(p.t, "not back at "+to)
}

func (p *page) complaints() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string{}, p.faults...)
}

// clean checks that the browser's console is silent. Lost connections are
// logged by the browser itself, when allowed.
func (p *page) clean(allowed ...string) {
	p.t.Helper()
next:
	for _, c := range p.complaints() {
		for _, a := range allowed {
			if strings.Contains(c, a) {
				continue next
			}
		}
		p.t.Errorf("the browser's console: %s", c)
	}
}

// shown is what the screen says it has shown.
type shown struct {
	Events, Gaps, Doubled, Resumed int64
	Offsets                        []int64 // of the tape's rows, newest first; partition 0
}

func (p *page) shown() shown {
	p.t.Helper()
	return eval[shown](p, `(() => {
		const n = (id) => Number(document.getElementById(id).textContent.replaceAll(",", ""));
		return { Events: n("f-events"), Gaps: n("f-gaps"), Doubled: n("f-doubled"), Resumed: n("f-resumed"),
			Offsets: [...document.querySelectorAll("#rows tr[data-offset]:not([hidden])")].map((r) => Number(r.dataset.offset.split(":")[1])) };
	})()`)
}

// whole checks that nothing on screen is missing or doubled: rows descend by
// one (the log has no holes), and the counters say so.
func (p *page) whole(events, last int64) {
	p.t.Helper()
	p.await(fmt.Sprintf(`document.querySelector("#rows tr[data-offset]:not([hidden])")?.dataset.offset === "0:%d"`, last))
	s := p.shown()
	require.Equal(p.t, events, s.Events, "events on screen")
	require.Zero(p.t, s.Doubled, "doubled")
	require.Zero(p.t, s.Gaps, "gaps")
	for i, o := range s.Offsets {
		require.Equal(p.t, last-int64(i), o, "row %d of the tape", i)
	}
}
