package web_test

import (
	"fmt"
	"math"
	"os"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tapecast/tapecast/internal/app"
	"github.com/tapecast/tapecast/internal/brokertest"
)

// backlog publishes n quotes of some keys, evenly spread until now.
func backlog(t testing.TB, base string, n int, back time.Duration, keys ...string) (last int64) {
	t.Helper()
	now := time.Now()
	var events []event
	for i := range n {
		at := now.Add(-back + back*time.Duration(i)/time.Duration(n))
		k := i % len(keys)
		events = append(events, quoteAt(keys[k], 1+float64(k)+0.002*math.Sin(float64(i)/40+float64(k)), at))
		if len(events) == 500 || i == n-1 {
			last = publish(t, base, "quotes", events...)
			events = nil
		}
	}
	return last
}

// createTopic makes a topic as any Kafka client does.
func createTopic(t testing.TB, info app.DevInfo, name string) {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(info.Kafka))
	require.NoError(t, err)
	defer c.Close()
	_, err = kadm.NewClient(c).CreateTopic(t.Context(), 1, 1, nil, name)
	require.NoError(t, err)
}

// commands looks into each of the commands that are offered.
func (p *page) commands(want ...string) {
	p.t.Helper()
	for i, w := range want {
		p.do(chromedp.Click(fmt.Sprintf(`#copy-tab-%d`, i)))
		require.Contains(p.t, p.text("#copy-code"), w)
	}
}

const fingerprint = `(() => {
	const c = document.querySelector("#chart-price canvas"), d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
	let n = 0;
	for (let i = 3; i < d.length; i += 4) n = (n * 31 + d[i] + d[i - 1]) | 0;
	return String(n);
})()`

func TestTheFeedIsShownLive(t *testing.T) {
	browser(t)
	info := startDev(t)
	last := backlog(t, info.HTTP, 600, 3*time.Minute, "EURUSD", "USDJPY", "GBPUSD")
	p := open(t, info.HTTP)
	p.whole(600, last)
	p.await(`document.querySelector("#rows tr.mark.live") || document.querySelector("#f-events").textContent === "600"`)
	p.await(`document.querySelectorAll("#keys tr").length === 3`)
	p.await(`[...document.querySelectorAll("#topics .name")].map((n) => n.textContent).join() === "price,quotes,trades"`)

	// All topics stand there, also those that nobody wants.
	p.await(`[...document.querySelectorAll("#topics li")].every((l) => /partition.* kept/.test(l.textContent) && /subscriber.*lag \d/.test(l.textContent))`)
	p.await(`/600 kept over .*1 subscriber · 3 keys · lag 0/.test(document.querySelectorAll("#topics li")[1].textContent)`)

	before := eval[string](p, fingerprint)
	for i := range 40 {
		last = publish(t, info.HTTP, "quotes", quoteAt("EURUSD", 1.01+float64(i)/1000, time.Now()))
	}
	p.whole(640, last)
	require.NotEqual(t, before, eval[string](p, fingerprint), "the chart has not moved")

	// One key in focus has its spread; one key alone is subscribed to as such.
	p.do(chromedp.Click(`#keys button`))
	p.await(`!document.getElementById("chart-spread").hidden && document.getElementById("title-key").textContent === "EURUSD"`)
	p.commands("key=EURUSD", `"keys":["EURUSD"]`, "--key EURUSD", `keys: ["EURUSD"]`, `Keys: []string{"EURUSD"}`) // what is on screen
	p.do(chromedp.Click(`#keys button`))
	p.await(`document.getElementById("title-key").textContent === "all keys"`)
	require.NotContains(t, p.text("#copy-code"), "EURUSD")
	p.do(chromedp.SetValue(`#filter-keys`, "USDJPY"), chromedp.Click(`#filter button`))
	p.await(`document.getElementById("f-events").textContent === "200"`)
	p.await(`[...document.querySelectorAll("#rows tr[data-offset]:not([hidden]) .key")].every((k) => k.textContent === "USDJPY")`)
	p.commands("key=USDJPY", `"keys":["USDJPY"]`, "--key USDJPY", `keys: ["USDJPY"]`, `Keys: []string{"USDJPY"}`)
	p.clean()
}

func TestReplayRunsIntoTheLiveEdge(t *testing.T) {
	browser(t)
	info := startDev(t)
	const events = 480
	last := backlog(t, info.HTTP, events, 240*time.Second, "EURUSD", "USDJPY")
	p := open(t, info.HTTP)
	p.whole(events, last)

	p.do(chromedp.Click(`#speed input[value="50"]`))
	eval[bool](p, `(() => { const s = document.getElementById("seek"); s.value = "400"; s.dispatchEvent(new Event("input")); s.dispatchEvent(new Event("change")); return true; })()`)
	p.await(`document.body.dataset.mode === "replay" && document.querySelector("#rows tr[data-offset]:not([hidden])")`)
	first := p.shown().Offsets
	require.NotEmpty(t, first)
	require.Less(t, first[0], last, "a replay shows the past first")

	// The feed goes on meanwhile; the replay reaches it, and says where.
	for range 20 {
		publish(t, info.HTTP, "quotes", quoteAt("EURUSD", 1.2, time.Now()))
	}
	p.await(`document.getElementById("seek-state").textContent.startsWith("handed over to live")`)
	p.await(`document.body.dataset.mode === "live" && document.getElementById("go-live").getAttribute("aria-pressed") === "true"`)
	last = publish(t, info.HTTP, "quotes", quoteAt("EURUSD", 1.3, time.Now()))
	// 300 s at 400 of 1000 lie 180 s back: three quarters of the backlog, give or take the test's own time.
	p.await(fmt.Sprintf(`document.querySelector("#rows tr[data-offset]").dataset.offset === "0:%d" || document.querySelector("#rows tr[data-offset]:not([hidden])").dataset.offset === "0:%d"`, last, last))
	s := p.shown()
	require.Greater(t, s.Events, int64(100))
	require.Less(t, s.Events, int64(events))
	p.whole(s.Events, last)
	p.clean()
}

func TestAGatewayRestartsUnderAnOpenPage(t *testing.T) {
	browser(t)
	info := startDev(t)
	listen := brokertest.Addr(t)
	stop := startGateway(t, info, listen)
	last := backlog(t, info.HTTP, 50, time.Minute, "EURUSD")
	p := open(t, "http://"+listen)
	p.whole(50, last)
	require.Equal(t, "none", eval[string](p, `getComputedStyle(document.querySelector('nav [data-view="flow"]')).display`), "who is no operator is offered nothing of theirs")

	count := int64(50)
	more := func(n int) {
		for range n {
			last = publish(t, info.HTTP, "quotes", quoteAt("EURUSD", 1.1, time.Now()))
			count++
		}
	}
	for range 2 {
		resumed := p.shown().Resumed
		more(30)
		stop()
		more(30)
		stop = startGateway(t, info, listen)
		more(30)
		p.await(fmt.Sprintf(`Number(document.getElementById("f-resumed").textContent) > %d`, resumed))
		p.whole(count, last)
	}
	p.clean("ERR_CONNECTION_REFUSED", "WebSocket connection to", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "503")
}

func TestHostileNamesStayText(t *testing.T) {
	browser(t)
	info := startDev(t)
	names := []string{
		`<img src=x onerror="document.title='owned'">`, `<script>document.title='owned'</script>`, `"><svg onload=alert(1)>`, `__proto__`, `constructor`,
		"javascript:alert(1)", "\u202Eevil", "a'b\"c`${1}", "日本円",
	}
	var last int64
	for i, n := range names {
		last = publish(t, info.HTTP, "quotes", quoteAt(n, 1+float64(i), time.Now()))
	}
	p := open(t, info.HTTP)
	p.whole(int64(len(names)), last)
	p.await(fmt.Sprintf(`document.querySelectorAll("#keys tr").length === %d`, len(names)))
	for _, n := range names {
		p.await(fmt.Sprintf(`[...document.querySelectorAll("#rows .key")].some((k) => k.textContent === %q)`, n))
		p.await(fmt.Sprintf(`[...document.querySelectorAll("#keys button")].some((k) => k.textContent === %q)`, n))
	}
	p.await(`!document.querySelector("main img, main script, #rows svg") && document.title === "tapecast · feed"`)
	last = publish(t, info.HTTP, "quotes", quoteAt(names[0], 1, time.Now())) // what is on the tape has its key in the trace
	p.whole(int64(len(names))+1, last)
	eval[bool](p, fmt.Sprintf(`(location.hash = "#trace/quotes/0/%d", true)`, last))
	p.await(fmt.Sprintf(`[...document.querySelectorAll("#trace-result dd")].some((k) => k.textContent === %q)`, names[0]))
	p.clean()
}

// views of the console; each is shown by its link.
var views = []string{"feed", "flow", "sessions", "trace"}

func TestEveryoneCanUseIt(t *testing.T) {
	browser(t)
	axe, err := os.ReadFile("testdata/axe.min.js")
	require.NoError(t, err)
	info := startDev(t)
	last := backlog(t, info.HTTP, 60, time.Minute, "EURUSD", "USDJPY")
	p := open(t, info.HTTP)
	p.whole(60, last)
	last = publish(t, info.HTTP, "quotes", quoteAt("EURUSD", 1.2, time.Now())) // one that is on the tape
	p.whole(61, last)
	eval[bool](p, string(axe)+"; true")
	for range 2 { // light and dark
		for _, v := range views {
			p.do(chromedp.Click(fmt.Sprintf(`nav [data-view=%q]`, v)))
			if v == "trace" {
				p.do(chromedp.SetValue(`#trace-at`, fmt.Sprintf("quotes/0/%d", last)), chromedp.Click(`#trace-form button`))
				p.await(`document.querySelector("#trace-result table")`)
			}
			if v == "sessions" {
				p.await(`document.querySelector("#sessions-rows tr")`)
			}
			if v == "flow" {
				p.await(`document.querySelector("#flow-cards .card")`)
			}
			found := eval[[]string](p, `axe.run(document, {resultTypes: ["violations"]}).then((r) => r.violations
				.filter((v) => v.impact === "serious" || v.impact === "critical")
				.map((v) => v.id + ": " + v.help + ": " + v.nodes.slice(0, 3).map((n) => n.html + " " + (n.any[0]?.message ?? "")).join(" | ")))`)
			require.Empty(t, found, v)
			require.False(t, eval[bool](p, `document.documentElement.scrollWidth > innerWidth`), "%s scrolls sideways", v)
		}
		p.do(chromedp.Click(`#theme`), chromedp.Click(`#theme`)) // system, light, dark
	}
	// A phone.
	p.do(chromedp.EmulateViewport(390, 844))
	for _, v := range views {
		p.do(chromedp.Click(fmt.Sprintf(`nav [data-view=%q]`, v)))
		require.False(t, eval[bool](p, `document.documentElement.scrollWidth > innerWidth`), "%s scrolls sideways on a phone", v)
	}
	p.clean()
}

func TestTheOperatorSeesTheFlow(t *testing.T) {
	browser(t)
	info := startDev(t)
	last := backlog(t, info.HTTP, 60, time.Minute, "EURUSD")
	p := open(t, info.HTTP)
	p.whole(60, last)
	last = publish(t, info.HTTP, "quotes", quoteAt("EURUSD", 1.2, time.Now()))
	p.whole(61, last)
	p.do(chromedp.Click(fmt.Sprintf(`#rows tr[data-offset="0:%d"] a`, last)))
	p.await(`[...document.querySelectorAll("#trace-result tbody th")].map((h) => h.textContent).join("; ") ===
		"accepted by ingest; read by the fan-out; written to this gateway's topic; read by this gateway; on the tape; handed to its first session; dev (this one)"`)
	p.await(`document.querySelector("#trace-result").textContent.includes("1 of 1 open sessions")`)
	require.Equal(t, []float64{}, eval[[]float64](p, fmt.Sprintf(`fetch("v1/admin/trace/quotes/0/%d").then((r) => r.json()).then((t) => {
		const at = ["accepted", "read", "batched", "arrived", "taped", "encoded"].map((h) => t.hops[h]);
		return at.filter((v, i) => i && !(v >= at[i - 1]));
	})`, last)), "hops go forward in time")

	p.do(chromedp.Click(`nav [data-view="sessions"]`))
	p.await(`document.querySelector("#sessions-rows tr")?.textContent.includes("quotes")`)
	p.await(`document.querySelector("#sessions-rows .chip").textContent === "live"`)

	p.await(`/\d B/.test(document.querySelector("#sessions-rows").textContent)`)

	p.do(chromedp.Click(`nav [data-view="flow"]`))
	p.await(`document.getElementById("flow-verdict").textContent === "nothing waits"`)
	p.await(`[...document.querySelectorAll("#flow-topics tr")].map((r) => [0, 1, 3, 8].map((i) => r.children[i].textContent).join()).join("; ") ===
		"price,1,0,0; quotes,1,61,1; trades,1,0,0"`)
	p.await(`document.querySelectorAll(".station").length === 6 && document.querySelectorAll("#flow-cards .card").length === 5`)

	// The address says what is on screen: links lead there, and one that is broken does no harm.
	p.do(chromedp.Click(`#flow-topics a`))
	p.await(`!document.getElementById("view-feed").hidden && document.getElementById("title-topic").textContent === "price"`)
	eval[bool](p, `(location.hash = "#feed/quotes/EURUSD", true)`)
	p.await(`document.getElementById("title-topic").textContent === "quotes" && document.getElementById("filter-keys").value === "EURUSD"`)
	p.await(`document.getElementById("f-events").textContent === "61"`)

	// A topic that is not there is said so, with what there is; and opened once it is there.
	p.do(chromedp.Navigate(info.HTTP + "/?again#feed/%"))
	p.await(`document.getElementById("none").textContent === "There is no topic % here. There is price, quotes, trades."`)
	require.Equal(t, "%", p.text("#title-topic"))
	require.Equal(t, "#feed/%", eval[string](p, `location.hash`))
	require.True(t, eval[bool](p, `["charts", "timeline", "copy"].every((id) => document.getElementById(id).hidden)`), "there is nothing to show")
	p.do(chromedp.Click(`#none a:nth-of-type(2)`))
	p.await(`document.getElementById("none").hidden && document.getElementById("f-events").textContent === "61"`)
	eval[bool](p, `(location.hash = "#feed/late", true)`)
	p.await(`document.getElementById("none").textContent.startsWith("There is no topic late here.")`)
	createTopic(t, info, "late")
	p.await(`document.getElementById("none").hidden && document.querySelector("#topics [aria-current=true] .name").textContent === "late"`)

	// The view that the address names stays.
	p.do(chromedp.Navigate(info.HTTP + "/?more#flow"))
	p.await(`document.querySelectorAll("#flow-cards .card").length === 5 && document.querySelectorAll("#topics li").length === 4`)
	require.Equal(t, "#flow", eval[string](p, `location.hash`))
	p.clean()
}

// Many keys and a burst cost the page no more than it shows: rows are used
// again, lists have an end, and nothing that came is left out of the count.
func TestABurstIsCountedWholeInFewRows(t *testing.T) {
	browser(t)
	info := startDev(t)
	var names []string
	for i := range 700 {
		names = append(names, fmt.Sprintf("KEY%03d", i))
	}
	p := open(t, info.HTTP)
	p.await(`document.getElementById("conn-text").textContent === "connected"`)
	publish(t, info.HTTP, "quotes", quoteAt("first", 1, time.Now()))
	p.await(`document.getElementById("f-events").textContent === "1"`)
	last := backlog(t, info.HTTP, 7000, time.Second, names...)
	p.whole(7001, last)
	type nodes struct{ Rows, Keys, Plots, Kept int }
	got := eval[nodes](p, `({ Rows: document.querySelectorAll("#rows tr").length, Keys: document.querySelectorAll("#keys tr").length,
		Plots: document.querySelectorAll("#charts canvas").length, Kept: document.querySelectorAll("*").length })`)
	require.Equal(t, 80, got.Rows)
	require.LessOrEqual(t, got.Keys, 200)
	require.Equal(t, 2, got.Plots)
	before := got.Kept
	last = backlog(t, info.HTTP, 7000, time.Second, names...)
	p.whole(14001, last)
	require.LessOrEqual(t, eval[int](p, `document.querySelectorAll("*").length`), before+50, "the page grows with what comes")
	require.Equal(t, "701", p.text("#keys-count"), "keys seen")
	p.clean()
}

// The time line, the speed and the way back to the live edge work without a mouse.
func TestReplayByKeyboard(t *testing.T) {
	browser(t)
	info := startDev(t)
	const events = 480
	last := backlog(t, info.HTTP, events, 240*time.Second, "EURUSD", "USDJPY")
	p := open(t, info.HTTP)
	p.whole(events, last)

	p.do(chromedp.Focus(`#speed input:checked`), chromedp.KeyEvent(kb.ArrowLeft)) // x10 to x5
	p.await(`document.querySelector("#speed input:checked").value === "5"`)
	p.do(chromedp.Focus(`#seek`), chromedp.KeyEvent(kb.Home))
	p.await(`document.body.dataset.mode === "replay" && document.getElementById("seek-state").textContent.startsWith("replay ×5 at ")`)
	p.await(`document.querySelector("#rows tr.mark, #rows tr[data-offset]:not([hidden])")`)
	require.Contains(t, eval[string](p, `document.getElementById("seek").getAttribute("aria-valuetext")`), ":", "a screen reader is told the time")
	p.do(chromedp.Focus(`#speed input:checked`), chromedp.KeyEvent(kb.ArrowRight+kb.ArrowRight+kb.ArrowRight)) // while it runs, to x100
	p.await(`document.getElementById("seek-state").textContent.startsWith("replay ×100 at ") || document.body.dataset.mode === "live"`)
	p.await(`document.getElementById("seek-state").textContent.startsWith("handed over to live")`)
	p.whole(events, last) // from the beginning, each once

	p.do(chromedp.Focus(`#seek`), chromedp.KeyEvent(kb.PageDown))
	p.await(`document.body.dataset.mode === "replay"`)
	p.do(chromedp.Focus(`#seek`), chromedp.KeyEvent(kb.End))
	p.await(`document.body.dataset.mode === "live" && document.getElementById("seek").getAttribute("aria-valuetext") === "live"`)
	p.do(chromedp.Focus(`#go-live`), chromedp.KeyEvent(kb.Enter))
	p.await(fmt.Sprintf(`document.getElementById("f-events").textContent === "%d"`, events)) // the backlog, again
	p.whole(events, last)

	// The tape is one stop of the Tab key; the arrows go through its rows.
	at := func() string {
		return eval[string](p, `document.activeElement.closest("#rows tr")?.dataset.offset ?? ""`)
	}
	p.do(chromedp.Focus(`#pause`), chromedp.KeyEvent(kb.Tab+kb.Tab))
	require.Equal(t, fmt.Sprintf("0:%d", last), at())
	p.do(chromedp.KeyEvent(kb.ArrowDown + kb.ArrowDown + kb.ArrowUp))
	require.Equal(t, fmt.Sprintf("0:%d", last-1), at())
	p.do(chromedp.KeyEvent(kb.Tab))
	require.Empty(t, at())
	p.clean()
}
