package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// TestMain lets the test binary be the processes that the benchmark starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && subcommands[os.Args[1]] != nil {
		if err := subcommands[os.Args[1]](os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func testEnv(t *testing.T) *env {
	return &env{length: 300 * time.Millisecond, drain: time.Minute, say: t.Logf}
}

// Every server delivers all of a small work, and each client gets the same.
func TestServersDeliverWhatIsDue(t *testing.T) {
	for _, server := range []string{"floor@10", "tapecast@10", "tapecast@0", "centrifuge@10", "centrifuge@0", "nats", "prepared", "naive"} {
		t.Run(server, func(t *testing.T) {
			t.Parallel()
			w := work{Name: "small", Subs: 8, Rate: 100, Size: valueSize, Servers: []string{server}}
			rows, err := w.run(t.Context(), testEnv(t))
			if err != nil {
				t.Fatal(err)
			}
			all(t, rows[0])
			if v, _ := rows[0].get("min/max"); v != 1 {
				t.Errorf("clients got different numbers of the same messages: min/max %v", v)
			}
		})
	}
}

// all holds a row to a complete delivery with a cost.
func all(t *testing.T, r row) {
	t.Helper()
	if v, ok := r.get(ofDue); !ok || v != 100 {
		t.Errorf("%s delivered %v %% of what was due", r.Server, v)
	}
	if v, _ := r.get(perM); v <= 0 {
		t.Errorf("%s costs %v: nothing costs nothing", r.Server, v)
	}
}

// With keys, what is due is the sum over the keys of their sessions.
func TestServersDeliverKeys(t *testing.T) {
	for _, server := range []string{"floor@10", "tapecast@10", "centrifuge@10", "nats", "prepared"} {
		t.Run(server, func(t *testing.T) {
			t.Parallel()
			w := work{Name: "keys", Subs: 8, Keys: 20, PerSub: 5, Rate: 200, Size: valueSize, Servers: []string{server}}
			rows, err := w.run(t.Context(), testEnv(t))
			if err != nil {
				t.Fatal(err)
			}
			all(t, rows[0])
		})
	}
}

// A stalled client's messages are neither due nor counted.
func TestStalledClientsDoNotCount(t *testing.T) {
	w := work{Name: "stalled", Subs: 8, Stalled: 2, Rate: 100, Size: valueSize, Servers: []string{"floor@10"}}
	rows, err := w.run(t.Context(), testEnv(t))
	if err != nil {
		t.Fatal(err)
	}
	all(t, rows[0])
}

// What does not arrive is seen: half of the clients are on nobody's list.
func TestALossIsSeen(t *testing.T) {
	r := row{}
	from := sample{at: time.Unix(0, 0)}
	to := sample{at: time.Unix(2, 0), server: usage{User: 1, Sys: 2, Count: 2e6}, clients: usage{Count: 1e6, Min: 10, Max: 20}}
	addFigures(&r, work{}, from, to, to)
	for name, want := range map[string]float64{ofDue: 50, perM: 3, user: 1, perSec: 5e5, "min/max": .5} {
		if v, _ := r.get(name); v != want {
			t.Errorf("%s is %v, not %v", name, v, want)
		}
	}
	none := row{}
	addFigures(&none, work{}, from, from, to)
	if v, ok := none.get(ofDue); !ok || v != 0 {
		t.Error("nothing counted is not told as 0 % of due")
	}
}

func TestClockCountsDeliveries(t *testing.T) {
	for _, w := range []work{
		{Subs: 7, Stalled: 2, Rate: 1000},
		{Subs: 10, Keys: 10, PerSub: 3, Rate: 1000},
		{Subs: 10, Keys: 10, PerSub: 3, Rate: 1000, Uniform: true},
	} {
		c := newClock(w)
		if got := c.owed(c.start.Add(50 * time.Millisecond)); got != 50 {
			t.Errorf("after 50 ms of 1,000/s %d are owed", got)
		}
		var due int64
		seen := map[int]int{}
		for range 1000 {
			k := c.key()
			seen[k]++
			if k < 0 {
				due += 5
				continue
			}
			for s := range w.Subs {
				for _, mine := range w.keysOf(s) {
					if mine == k {
						due++
					}
				}
			}
		}
		if c.due != due {
			t.Errorf("%+v: the clock says %d deliveries are due, it is %d", w, c.due, due)
		}
		if w.Uniform && seen[0] != seen[9] || w.Keys > 0 && !w.Uniform && seen[0] <= seen[9] {
			t.Errorf("%+v: drew keys %v", w, seen)
		}
		if got := c.owed(c.start.Add(2 * time.Second)); got != 1000 {
			t.Errorf("1,000 of 2,000 were sent, %d are owed", got)
		}
		if got := c.at().Sub(c.start); got != time.Second {
			t.Errorf("message 1,000 of 1,000/s was due after %v", got)
		}
		if got := c.next().Sub(c.at()); got != time.Millisecond {
			t.Errorf("message 1,001 of 1,000/s is due %v later", got)
		}
	}
}

// Who looks seldom, or late, gives messages the times at which they were due.
func TestMessagesAreAsOldAsTheyAre(t *testing.T) {
	c := newClock(work{Subs: 1, Rate: 30})
	last := c.start
	for _, look := range []time.Duration{34 * time.Millisecond, 67 * time.Millisecond, time.Second} {
		now := c.start.Add(look)
		n := c.owed(now)
		if n == 0 {
			t.Fatalf("after %v nothing is owed", look)
		}
		for range n {
			c.key()
			if at := c.at(); !at.After(last) || at.After(now) {
				t.Errorf("a message of the look after %v is of %v", look, at.Sub(c.start))
			}
			if gap := c.at().Sub(last); gap < 33*time.Millisecond || gap > 34*time.Millisecond {
				t.Errorf("a message of 30/s is of %v after the one before", gap)
			}
			last = c.at()
		}
	}
}

// The handler of gorilla's servers returns, and its client gets messages all the same.
func TestGorillasHandlerReturns(t *testing.T) {
	n := newNaive(work{Subs: 1, Rate: 1000, Size: valueSize}, true)
	returned := make(chan struct{}, 1)
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		n.enter(rw, r)
		returned <- struct{}{}
	}))
	defer server.Close()
	ws, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.Close() }()
	select {
	case <-returned:
	case <-time.After(time.Minute):
		t.Fatal("the handler has not returned")
	}
	var on flagged
	on.set(true)
	defer on.set(false)
	go n.publish(n.w, on.get, func(int64) {})
	if _, b, err := ws.ReadMessage(); err != nil || !bytes.ContainsRune(b, mark) {
		t.Errorf("got %q, %v", b, err)
	}
}

func rowOf(server string, cpu float64) row {
	return row{Work: "W", Server: server, Figures: []figure{{perM, cpu}, {user, cpu / 2}}}
}

func TestRatiosAreMadeWithinARound(t *testing.T) {
	r := &run{Results: nil, Rounds: 3}
	r.join(job{name: "write", about: "w"}, [][]row{{{Work: "write", Server: "floor@0", Figures: []figure{{perM, 5}}}}})
	// The machine is twice as dear in the second round: ratios do not see it.
	r.join(job{name: "W", about: "a"}, [][]row{
		{rowOf("floor@50", 1), rowOf("tapecast@50", 1.2), rowOf("floor@10", 4), rowOf("tapecast@10", 5), rowOf("nats", 3)},
		{rowOf("floor@50", 2), rowOf("tapecast@50", 2.4), rowOf("floor@10", 8), rowOf("tapecast@10", 10), rowOf("nats", 8)},
		{rowOf("floor@50", 1), rowOf("tapecast@50", 1.3), rowOf("floor@10", 4), rowOf("tapecast@10", 5), rowOf("nats", 5)},
	})
	r.end(time.Now())
	for server, want := range map[string][4]float64{ // x floor: median, low, high; x write
		"floor@50":    {1, 1, 1, .2},
		"tapecast@50": {1.2, 1.2, 1.3, .26},
		"tapecast@10": {1.25, 1.25, 1.25, 1},
		"nats":        {4, 3, 5, 1}, // no floor of its own hold: the first one's
	} {
		o := find(r, outcome{row: row{Work: "W", Server: server}})
		x, _ := o.get(xFloor)
		xw, _ := o.get(xWrite)
		if got := [4]float64{x, o.Low, o.High, xw}; got != want {
			t.Errorf("%s: %v, not %v", server, got, want)
		}
	}
	if v := median([]float64{1, 2}); v != 1.5 {
		t.Errorf("the median of 1 and 2 is %v", v)
	}
}

func TestTable(t *testing.T) {
	r := &run{At: time.Unix(0, 0).UTC(), Commit: "abc", Machine: "m", Others: 3, Busy: true, Results: []outcome{
		{row: row{Work: "W", Server: "floor@50", Figures: []figure{{perM, .228}, {xFloor, 1}}}, About: "about W", Low: 1, High: 1},
		{row: row{Work: "W", Server: "tapecast@50", Figures: []figure{{perM, .397}, {xFloor, 1.74}, {perSec, 999841}}}, About: "about W", Low: 1.7, High: 1.8},
		{row: row{Work: "X", Server: "only", Figures: []figure{{"B", -12.34}}}, About: "about X"},
	}}
	var out bytes.Buffer
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"W: about W", "X: about X", "THE MACHINE WAS BUSY (other processes used 3.00 cores",
		"\n     floor@50    0.228              1.00        -\n", "\n  tapecast@50    0.397  1.74 (1.70-1.80)  999,841\n", "\n  only  -12.3\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, &out)
		}
	}
	r.Busy = false
	out.Reset()
	if err := r.print(&out); err != nil || strings.Contains(out.String(), "BUSY") {
		t.Error("a quiet machine is called busy")
	}
}

// What other processes use is seen, what the run itself uses is not held against it.
func TestOthersAreSeen(t *testing.T) {
	for own, want := range map[float64]bool{0: true, 1e6: false} {
		r := newRun(options{busy: .2})
		r.all -= 1e6 // CPU s since the run began
		r.own -= own
		r.end(time.Now().Add(-time.Second))
		if r.Busy != want {
			t.Errorf("of 1,000,000 s of CPU %.0f were its own: busy is %v with %v cores of others", own, r.Busy, r.Others)
		}
	}
	if busyTime() <= 0 || ownTime() <= 0 {
		t.Error("no CPU time is seen at all")
	}
}

func TestHistory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h.jsonl")
	runOf := func(work string, cpu float64) *run {
		return &run{Commit: fmt.Sprint("c", cpu), Machine: "m", Took: 1, Results: []outcome{{row: row{Work: work, Server: "s", Figures: []figure{{perM, cpu}}}, About: "about"}}}
	}
	if err := compareLast(&bytes.Buffer{}, path); err == nil {
		t.Error("a history that is not there was compared")
	}
	for i, cpu := range []float64{9, 1, 2} {
		if err := keep(path, runOf("S1", cpu)); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := compareLast(&bytes.Buffer{}, path); err == nil {
				t.Error("one run was compared with nothing")
			}
		}
	}
	var out bytes.Buffer
	if err := compareLast(&out, path); err != nil || !strings.Contains(out.String(), "1.00 > 2.00") {
		t.Errorf("the last two are 1 and 2: %v\n%s", err, &out)
	}
	// A piece of a run takes the place of the same work, and joins the others.
	for _, w := range []string{"S1", "S2"} {
		if _, err := addToLast(path, runOf(w, 7)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := past(path)
	if err != nil || len(got) != 3 {
		t.Fatalf("%d runs, %v", len(got), err)
	}
	last := got[2]
	if len(last.Results) != 2 || last.Results[0].Figures[0].Value != 7 || last.Results[1].Work != "S2" || last.Commit != "c2, c7" || last.Took != 3 {
		t.Errorf("after the pieces the last run is %+v", last)
	}
	if v, _ := got[1].Results[0].get(perM); v != 1 {
		t.Error("an older run was changed")
	}
	other := runOf("S1", 1)
	other.Machine = "another"
	if _, err := addToLast(path, other); err == nil {
		t.Error("a run of another machine was added")
	}
	if err := os.WriteFile(path, []byte("{}\nnot JSON\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := past(path); err == nil || !strings.Contains(err.Error(), ":2:") {
		t.Errorf("a damaged line 2 is told as %v", err)
	}
}

func TestRegistry(t *testing.T) {
	list, err := jobs("")
	if err != nil || len(list) == 0 || list[0].name != "write" {
		t.Fatalf("a plain run does not begin with the unit of all ratios: %v %v", list, err)
	}
	for _, j := range list {
		if j.about == "" || j.extra {
			t.Errorf("work %q: about %q, extra %v", j.name, j.about, j.extra)
		}
	}
	if list, err = jobs("S3,S1"); err != nil || list[0].name != "S1" {
		t.Errorf("works are not in the table's order: %v %v", list, err)
	}
	if _, err = jobs("S1,nothing"); err == nil {
		t.Error("a work that is not there is no error")
	}
	if _, err = parseCandidate("nobody@50"); err == nil {
		t.Error("a server that is not there is no error")
	}
	if _, err = parseCandidate("floor@x"); err == nil {
		t.Error("a hold that is no number is no error")
	}
	if _, err = runAll(context.Background(), options{works: "nothing"}); err == nil {
		t.Error("a run of nothing is no error")
	}
}

func TestDocsAreFilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h.jsonl")
	r := &run{Commit: "abc", Busy: true, Results: []outcome{{row: row{Work: "S1", Server: "tapecast@50", Figures: []figure{{perM, .25}, {"min/max", 1}}}, About: "about"}}}
	if err := keep(path, r); err != nil {
		t.Fatal(err)
	}
	doc := "before\n<!-- bench " + path + " S1 -->\nold\n<!-- end -->\nafter\n"
	once, err := fill([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"before\n<!-- bench", "commit abc", "not to be quoted", "| tapecast@50 | 0.250 |\n", "<!-- end -->\nafter\n"} {
		if !strings.Contains(string(once), want) {
			t.Errorf("no %q in:\n%s", want, once)
		}
	}
	if strings.Contains(string(once), "old") {
		t.Error("what stood there is still there")
	}
	if more, err := fill([]byte("<!-- bench " + path + " S2,S1 --><!-- end -->")); err != nil || !strings.Contains(string(more), "**S2**: "+registry["S2"].about+": *was not") {
		t.Errorf("a work that was not run is not told: %v\n%s", err, more)
	}
	if twice, err := fill(once); err != nil || string(twice) != string(once) {
		t.Errorf("filled twice it is another text: %v\n%s", err, twice)
	}
	for _, bad := range []string{"<!-- bench " + path + " nothing --><!-- end -->", "<!-- bench " + path + " S1 -->", "<!-- bench x -->\n<!-- end -->"} {
		if _, err := fill([]byte(bad)); err == nil {
			t.Errorf("%q is no error", bad)
		}
	}
}

// A run that is ended keeps what it has measured.
func TestAnEndedRunKeepsItsRounds(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	n := 0
	j := job{name: "W", about: "a", run: func(context.Context, *env) ([]row, error) {
		if n++; n == 3 {
			stop()
		}
		return []row{rowOf("s", float64(n))}, nil
	}}
	all, err := j.rounds(ctx, testEnv(t), 5)
	if err == nil || len(all) != 2 {
		t.Fatalf("ended in the third of 5 rounds: %d rounds, error %v", len(all), err)
	}
	r := &run{}
	r.join(j, all)
	if v, _ := r.Results[0].get(perM); v != 1.5 {
		t.Errorf("the median of 1 and 2 is %v", v)
	}
	j.once, n = true, 0
	if all, err = j.rounds(t.Context(), testEnv(t), 5); err != nil || len(all) != 1 {
		t.Errorf("a work that is done once was done %d times, %v", len(all), err)
	}
}

func TestWhatTheKernelHolds(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:A001 01 00012345:00000000 01:00000018 00000000     0        0 2 2 0 20 4 30 10 -1
   2: 0100007F:A001 0100007F:1F90 01 00000000:00012345 00:00000000 00000000     0        0 3 1 0 20 4 30 10 -1
   3: 0100007F:1F90 0100007F:A002 01 00000000:00000000 00:00000000 00000000     0        0 4 1 0 20 4 30 10 -1
   4: 0100007F:1F91 0100007F:A003 01 00000007:00000000 00:00000000 00000000     0        0 5 1 0 20 4 30 10 -1
`
	got, err := unsentOf(table, "127.0.0.1:8080")
	if err != nil || len(got) != 2 || got["40961"] != 0x12345 || got["40962"] != 0 {
		t.Errorf("%v %v", got, err)
	}
}

// Clients that do not read are told of, and the others get everything.
func TestStalledClientsAreTold(t *testing.T) {
	w := work{Name: "small", Subs: 8, Rate: 1500, Size: 4000, Stalled: 2, Servers: []string{"tapecast@10"}}
	rows, err := w.run(t.Context(), testEnv(t))
	if err != nil {
		t.Fatal(err)
	}
	all(t, rows[0])
	if v, _ := rows[0].get(kernelKB); v < 10 {
		t.Errorf("the kernel holds %v kB of a client that does not read", v)
	}
	if v, ok := rows[0].get(oursKB); !ok || v < 0 || v > 8 {
		t.Errorf("the gateway holds %v kB of it", v)
	}
}
