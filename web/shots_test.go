package web_test

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// walk is a market that repeats: eight symbols, a few quotes a second.
type walk struct {
	rnd   *rand.Rand
	names []string
	mid   []float64
}

func newWalk() *walk {
	return &walk{
		rand.New(rand.NewPCG(7, 7)), //nolint:gosec // a picture, not a secret
		[]string{"EURUSD", "USDJPY", "GBPUSD", "AUDUSD", "BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"},
		[]float64{1.0842, 151.3, 1.2661, 0.6581, 64130, 3421, 146.2, 0.5214},
	}
}

func (w *walk) next(at time.Time) event {
	i := w.rnd.IntN(len(w.names))
	w.mid[i] *= 1 + w.rnd.NormFloat64()*0.00006*float64(1+i/4)
	unit := math.Pow(10, math.Floor(math.Log10(w.mid[i]))-4)
	bid := math.Round(w.mid[i]/unit) * unit
	spread := unit * float64(1+w.rnd.IntN(3))
	round := func(v float64) float64 { return math.Round(v/unit*10) * unit / 10 }
	trim := func(v float64) float64 { f := 0.0; _, _ = fmt.Sscanf(fmt.Sprintf("%.6g", v), "%g", &f); return f }
	q := quote{w.names[i], trim(round(bid)), trim(round(bid + spread)), 5 * (1 + w.rnd.IntN(20)), 5 * (1 + w.rnd.IntN(20)), at.UnixMicro()}
	return event{w.names[i], q, at.UnixMilli()}
}

// TestScreenshots writes the pictures of the README into the directory that
// TAPECAST_SCREENSHOTS names.
func TestScreenshots(t *testing.T) {
	dir := os.Getenv("TAPECAST_SCREENSHOTS")
	if dir == "" {
		t.Skip("set TAPECAST_SCREENSHOTS to a directory to make the pictures of the docs")
	}
	browser(t)
	info := startDev(t)
	w := newWalk()
	now := time.Now()
	var events []event
	for at := now.Add(-5 * time.Minute); at.Before(now); at = at.Add(time.Duration(20+w.rnd.IntN(110)) * time.Millisecond) {
		events = append(events, w.next(at))
	}
	for len(events) > 0 {
		n := min(500, len(events))
		publish(t, info.HTTP, "quotes", events[:n]...)
		events = events[n:]
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		var wrong error
		defer func() { done <- wrong }()
		for i := 0; ctx.Err() == nil && wrong == nil; i++ {
			at := time.Now()
			_, wrong = send(info.HTTP, "quotes", w.next(at))
			if i%5 == 0 && wrong == nil {
				_, wrong = send(info.HTTP, "price", event{Value: 1024 + i%7, TS: at.UnixMilli()})
			}
			time.Sleep(time.Duration(10+w.rnd.IntN(110)) * time.Millisecond) // as fast as before
		}
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	for _, q := range []string{"quotes/events?keys=EURUSD", "quotes/events?format=ndjson", "price/events"} {
		res, err := http.Get(info.HTTP + "/v1/topics/" + q)
		require.NoError(t, err)
		go func() { _, _ = io.Copy(io.Discard, res.Body) }()
		defer res.Body.Close()
	}

	p := open(t, info.HTTP)
	shot := func(name string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(p.ctx, patience)
		defer cancel()
		png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), png, 0o600))
	}
	p.do(chromedp.EmulateViewport(1440, 900))
	p.await(`document.getElementById("f-events").textContent.replace(",", "") > 3000`)
	time.Sleep(12 * time.Second) // for the rates to settle
	shot("console-feed-light.png")
	p.do(chromedp.Click(`#theme`), chromedp.Click(`#theme`))

	// A replay of one symbol that has run into the live edge.
	p.do(chromedp.Click(`#keys tr:nth-child(2) button`), chromedp.Click(`#speed input[value="50"]`))
	eval[bool](p, `(() => { const s = document.getElementById("seek"); s.value = "60"; s.dispatchEvent(new Event("input")); s.dispatchEvent(new Event("change")); return true; })()`)
	p.await(`document.body.dataset.mode === "replay" && document.getElementById("f-events").textContent.replace(",", "") > 1500`)
	p.do(chromedp.Click(`#copy-tab-2`))
	shot("console-replay.png")
	p.await(`document.getElementById("seek-state").textContent.startsWith("handed over to live")`)
	time.Sleep(4 * time.Second)
	shot("console-feed.png")

	offset := eval[string](p, `document.querySelector("#rows tr[data-offset]:nth-child(5)").dataset.offset.slice(2)`)
	p.do(chromedp.Click(`nav [data-view="flow"]`))
	p.await(`document.querySelectorAll("#flow-cards .card").length > 4`)
	time.Sleep(3 * time.Second)
	shot("console-flow.png")
	p.do(chromedp.Click(`nav [data-view="sessions"]`))
	p.await(`document.querySelectorAll("#sessions-rows tr").length > 3`)
	shot("console-sessions.png")
	eval[bool](p, fmt.Sprintf(`(location.hash = "#trace/quotes/0/%s", true)`, offset))
	p.await(`document.querySelector("#trace-result table")`)
	shot("console-trace.png")
	p.do(chromedp.EmulateViewport(390, 844), chromedp.Click(`nav [data-view="feed"]`))
	time.Sleep(2 * time.Second)
	shot("console-phone.png")
	for _, v := range []string{"flow", "sessions", "trace"} {
		p.do(chromedp.Click(fmt.Sprintf(`nav [data-view=%q]`, v)))
		time.Sleep(2 * time.Second)
		shot("console-phone-" + v + ".png")
	}
	p.do(chromedp.EmulateViewport(1440, 900), chromedp.Click(`#theme`), chromedp.Click(`#theme`))
	for _, v := range []string{"flow", "sessions", "trace"} {
		p.do(chromedp.Click(fmt.Sprintf(`nav [data-view=%q]`, v)))
		time.Sleep(2 * time.Second)
		shot("console-" + v + "-light.png")
	}
	p.clean()
}
