package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// work is what every server does in a run: who subscribes to what, and what is published.
type work struct {
	Name     string
	About    string
	Subs     int
	Keys     int // 0 = one topic, no keys: everybody gets everything
	PerSub   int // keys of a session
	Rate     int // messages a second
	Size     int // of a message's value
	Stalled  int // of the subscribers: they never read
	OneCore  bool
	OnlyIdle bool   // measure memory, publish nothing
	TLS      bool   // only with OnlyIdle
	Extra    bool   // only when named
	Once     bool   // one round
	Uniform  bool   // every key as often as the others; otherwise Zipf
	Topic    string // what clients call it; "" = feedTopic
	Servers  []string
}

const valueSize = 92 // makes a frame of about 154 bytes

var (
	hold50    = []string{"floor@50", "plain@50", "tapecast@50"}
	hold10    = []string{"floor@10", "tapecast@10"}
	hold50and = []string{"floor@50", "plain@50", "tapecast@50", "floor@10", "tapecast@10"}
	hold0     = []string{"floor@0", "plain@0", "tapecast@0"}
)

// works are the gateway's: the others are registered where they are written.
var works = []work{
	{Name: "write", About: "500 subscribers x 40 msg/s, floor only: what one raw write costs here, the unit of x write", Subs: 500, Rate: 40, Size: valueSize, Servers: []string{"floor@0"}},
	{Name: "S1", About: "1 topic x 1,000 subscribers x 1,000 msg/s", Subs: 1000, Rate: 1000, Size: valueSize, Servers: hold50and},
	{Name: "S2", About: "1 topic x 10,000 subscribers x 50 msg/s", Subs: 10_000, Rate: 50, Size: valueSize, Servers: hold50},
	{Name: "S3", About: "1,000 keys, 1,000 sessions x 50 keys, 20,000 msg/s (Zipf)", Subs: 1000, Keys: 1000, PerSub: 50, Rate: 20_000, Size: valueSize, Servers: hold50},
	{Name: "one", About: "1,000 subscribers x 30 msg/s, a write each", Subs: 1000, Rate: 30, Size: valueSize, Servers: hold0},
	{Name: "hot5", About: "1,000 subscribers x 5,000 msg/s, server on one core", Subs: 1000, Rate: 5000, Size: valueSize, OneCore: true, Servers: hold10},
	{Name: "hot10", About: "1,000 subscribers x 10,000 msg/s, server on one core", Subs: 1000, Rate: 10_000, Size: valueSize, OneCore: true, Extra: true, Servers: hold10},
	{Name: "big", About: "1,000 subscribers x 100 msg/s of 4 kB", Subs: 1000, Rate: 100, Size: 4000, Servers: hold10[1:]},
	{Name: "stall", About: "the same, 1 % of them do not read", Subs: 1000, Rate: 100, Size: 4000, Stalled: 10, Servers: hold10[1:]},
	{Name: "idle", About: "15,000 idle subscribers: memory", Subs: 15_000, OnlyIdle: true, Once: true, Servers: hold50[2:]},
	{Name: "idletls", About: "6,000 idle subscribers over TLS: memory, and what TLS alone takes", Subs: 6000, OnlyIdle: true, TLS: true, Once: true, Servers: []string{"tls", "tapecast@50"}},
}

var _ = registerWorks()

func registerWorks() struct{} {
	for _, w := range works {
		register(job{name: w.Name, about: w.About, extra: w.Extra, once: w.Once, run: w.run})
	}
	return struct{}{}
}

// peers are the servers that a work is done with beside its own. @ms only
// means something to centrifuge: the others have no such setting.
func (w work) peers() []string {
	out := []string{"centrifuge@0", "nats", "prepared", "naive"}
	switch w.Name {
	case "write", "idletls":
		return nil
	case "one":
		return out
	case "S1":
		out = append([]string{"centrifuge@10"}, out...)
	}
	return append([]string{"centrifuge@50"}, out...)
}

// workNamed returns a work by its name or, from one process of the benchmark to
// another, by all of itself.
func workNamed(name string) (work, error) {
	if strings.HasPrefix(name, "{") {
		var w work
		err := json.Unmarshal([]byte(name), &w)
		return w, err
	}
	for _, w := range works {
		if w.Name == name {
			return w, nil
		}
	}
	return work{}, fmt.Errorf("there is no work %q", name)
}

// mark begins every value: clients count these bytes, and nothing else has one
// (as the length of a frame it would be 94 bytes; ours have 150 or 4,000).
const mark = '^'

// value makes a message: JSON with the mark, and the time in us behind it.
func value(dst []byte, size int, now time.Time) []byte {
	at := len(dst)
	dst = append(dst, `{"t":"^`...)
	dst = strconv.AppendInt(dst, now.UnixMicro(), 10)
	dst = append(dst, `","p":"`...)
	left := max(0, size-2-(len(dst)-at))
	from := int(padAt.Add(maxSize/100) % int64(len(pad)-maxSize)) // not the text of the value before: batches would shrink to nothing
	return append(append(dst, pad[from:from+min(left, maxSize)]...), `"}`...)
}

const maxSize = 8192 // of a value

var padAt atomic.Int64 // where the next value's text begins

// pad is text that compresses about as badly as text can, without marks.
var pad = func() []byte {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	r, out := rand.New(rand.NewPCG(4, 5)), make([]byte, 1<<20)
	for i := range out {
		out[i] = letters[r.IntN(len(letters))]
	}
	return out
}()

func keyName(i int) string { return fmt.Sprintf("K%04d", i) }

// topic is what clients call the topic.
func (w work) topic() string { return cmp.Or(w.Topic, feedTopic) }

// keysOf are the keys of a session; the same in every process.
func (w work) keysOf(session int) []int {
	if w.Keys == 0 {
		return nil
	}
	r := rand.New(rand.NewPCG(1, uint64(session)))
	return r.Perm(w.Keys)[:w.PerSub]
}

// arg tells another process of the work.
func (w work) arg() string {
	b, err := json.Marshal(w)
	if err != nil {
		panic(err) // strings and numbers
	}
	return string(b)
}

// subscribers tells how many sessions get a message of each key.
func (w work) subscribers() []int {
	out := make([]int, max(w.Keys, 1))
	if w.Keys == 0 {
		out[0] = w.Subs - w.Stalled
		return out
	}
	for i := range w.Subs {
		for _, k := range w.keysOf(i) {
			out[k]++
		}
	}
	return out
}

// clock says how many messages are due, and of which keys.
type clock struct {
	w      work
	zipf   *rand.Zipf
	perKey []int
	start  time.Time
	sent   int
	due    int64 // deliveries
}

func newClock(w work) *clock {
	c := &clock{w: w, perKey: w.subscribers(), start: time.Now()}
	if w.Keys > 0 && !w.Uniform {
		c.zipf = rand.NewZipf(rand.New(rand.NewPCG(2, 3)), 1.01, 1, uint64(w.Keys-1))
	}
	return c
}

// owed returns how many messages are due now.
func (c *clock) owed(now time.Time) int {
	return int(now.Sub(c.start).Seconds()*float64(c.w.Rate)) - c.sent
}

// at is when the message that was drawn last was due. Messages come evenly, however
// seldom a publisher looks: latencies begin there, for every server.
func (c *clock) at() time.Time { return c.nth(c.sent) }

// next is when the next message is due.
func (c *clock) next() time.Time { return c.nth(c.sent + 1) }

func (c *clock) nth(n int) time.Time {
	return c.start.Add(time.Duration(n) * time.Second / time.Duration(max(c.w.Rate, 1)))
}

// key draws the next message's key (-1 = none) and counts it.
func (c *clock) key() int {
	c.sent++
	if c.w.Keys == 0 {
		c.due += int64(c.perKey[0])
		return -1
	}
	k := c.sent % c.w.Keys
	if c.zipf != nil {
		k = int(c.zipf.Uint64())
	}
	c.due += int64(c.perKey[k])
	return k
}
