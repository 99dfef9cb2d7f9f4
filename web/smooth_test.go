package web_test

import (
	"math"
	"strconv"
	"testing"
	"time"
)

// BenchmarkConsole shows 2,000 events a second for 10 s and reports the longest
// task of the page's main thread (longtask-ms; 0 = none of 50 ms or more), how
// many there were, and drawn frames a second. With everything on one machine
// the pipeline and the browser share its cores.
func BenchmarkConsole(b *testing.B) {
	browser(b)
	info := startDev(b)
	publish(b, info.HTTP, "quotes", quoteAt("S0", 1, time.Now()))
	p := open(b, info.HTTP)
	p.await(`document.getElementById("f-events").textContent === "1"`)
	eval[bool](p, `(() => {
		globalThis.tasks = []; globalThis.frames = 0;
		new PerformanceObserver((l) => tasks.push(...l.getEntries().map((e) => e.duration))).observe({ type: "longtask" });
		const f = () => { frames++; requestAnimationFrame(f); };
		f();
		return true;
	})()`)
	const perSecond, seconds, batch = 2000, 30, 40
	for b.Loop() {
		start := time.Now()
		tick := time.NewTicker(time.Second * batch / perSecond)
		for i := range perSecond * seconds / batch {
			<-tick.C
			events := make([]event, batch)
			for j := range events {
				n := i*batch + j
				events[j] = quoteAt("S"+strconv.Itoa(n%40), 1+float64(n%40)+math.Sin(float64(n)/900)/50, time.Now())
			}
			publish(b, info.HTTP, "quotes", events...)
		}
		tick.Stop()
		took := time.Since(start).Seconds()
		p.await(`Number(document.getElementById("f-events").textContent.replaceAll(",", "")) >= ` + strconv.Itoa(perSecond*seconds))
		type seen struct {
			Max, Count, Frames float64
			Doubled            string
		}
		got := eval[seen](p, `({ Max: Math.max(0, ...tasks), Count: tasks.length, Frames: frames, Doubled: document.getElementById("f-doubled").textContent })`)
		b.ReportMetric(got.Max, "longtask-ms")
		b.ReportMetric(got.Count, "longtasks")
		b.ReportMetric(got.Frames/took, "frames/s")
		b.ReportMetric(perSecond*seconds/took, "events/s")
		if got.Doubled != "0" {
			b.Fatalf("%s doubled", got.Doubled)
		}
	}
	p.clean()
}
