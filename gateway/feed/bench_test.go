package feed

import (
	"fmt"
	"testing"

	"github.com/tapecast/tapecast/internal/stream"
)

func benchTape(keys int, events int64) *tape {
	tp := newTape(newBudget(1<<31), &source{counts: &newMetrics(nil).frames})
	tp.restart(0)
	for o := int64(0); o < events; o += 100 {
		rs := make([]stream.Record, 100)
		for i := range rs {
			rs[i] = rec(o+int64(i), fmt.Sprintf("key%d", (o+int64(i))%int64(keys)))
		}
		tp.append(rs, o+100, o, false)
	}
	return tp
}

// BenchmarkTapeRead is what a wake costs a session that keeps up.
func BenchmarkTapeRead(b *testing.B) {
	const events = 100_000
	tp := benchTape(1000, events)
	for name, f := range map[string]*filter{
		"all/64 events":         newFilter(nil),
		"one key of 1000":       keys("key7"),
		"four keys of 1000":     keys("key7", "key8", "key9", "key900"),
		"one key not on a tape": keys("nothing"),
	} {
		for _, back := range []int64{64, 5000} {
			if f.all && back > 64 {
				continue
			}
			b.Run(fmt.Sprintf("%s/%d behind", name, back), func(b *testing.B) {
				var buf []*Event
				b.ReportAllocs()
				for b.Loop() {
					if r := tp.read(buf[:0], events-back, f, 256); r.evs != nil {
						buf = r.evs
					}
				}
			})
		}
	}
}

// BenchmarkAppendAndWake is what an event costs the loop of its partition.
func BenchmarkAppendAndWake(b *testing.B) {
	const batch = 100
	for _, subs := range []int{0, 1000, 10_000} {
		b.Run(fmt.Sprintf("%d subs of 1000 keys", subs), func(b *testing.B) {
			bud := newBudget(64 << 20)
			tp := newTape(bud, &source{counts: &newMetrics(nil).frames})
			tp.restart(0)
			var x subIndex
			for i := range subs {
				s := &Sub{filter: keys(fmt.Sprintf("key%d", i%1000)), wake: func() {}}
				s.armed.Store(true)
				x.add(s)
			}
			rs := make([]stream.Record, batch)
			ks := make([][]byte, 1000)
			for i := range ks {
				ks[i] = fmt.Appendf(nil, "key%d", i)
			}
			value := make([]byte, 100)
			var w waker
			b.ReportAllocs()
			o := int64(0)
			for b.Loop() {
				for i := range rs {
					rs[i] = stream.Record{Offset: o, Key: ks[o%1000], Value: value}
					o++
				}
				w.events(&x, tp.append(rs, o, o, false))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/batch, "ns/event")
		})
	}
}

func BenchmarkTextFrame(b *testing.B) {
	src := testSource(b, "quotes", 1, "json", nil)
	value := []byte(`{"symbol":"EURUSD","bid":1.0842,"ask":1.0843,"bid_size":1000000,"ask_size":2000000,"ts":1546383600078}`)
	b.ReportAllocs()
	for b.Loop() {
		e := Event{Offset: 4711, Time: 1546383600078, Key: []byte("EURUSD"), Value: value, src: src}
		if _, err := e.Frame(FormText); err != nil {
			b.Fatal(err)
		}
	}
}
