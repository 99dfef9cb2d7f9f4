package gateway

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/gateway/feed"
	"github.com/tapecast/tapecast/internal/protocol"
)

// diary is what one client got: the exact bytes of each message, but for
// heartbeats, and gaps in one form however they were split.
type diary struct {
	c       *client
	keys    []string // nil = all
	sub     string   // protocol
	late    bool     // reads only at the end
	entries map[int][]string
}

// read reads until the last event of every partition has come.
func (d *diary) read(t *testing.T, parts int) {
	open := parts
	for open > 0 {
		_ = d.c.ws.SetReadDeadline(time.Now().Add(60 * time.Second))
		kind, msg, err := d.c.ws.ReadMessage()
		require.NoError(t, err, "%v", d.keys)
		texts := []string{string(msg)}
		if d.sub == protocol.SubprotocolBatch {
			texts = strings.Split(string(msg), "\n")
		}
		for _, text := range texts {
			if d.note(t, kind == websocket.BinaryMessage, text) {
				open--
			}
		}
	}
}

// note writes one message down, and tells whether it is a partition's last.
func (d *diary) note(t *testing.T, binary bool, text string) (last bool) {
	head := text
	if binary {
		head = text[4 : 4+int(text[3])]
	}
	f := object(t, head)
	part := 0
	if p, ok := f["partition"].(float64); ok {
		part = int(p)
	}
	switch f["event"] {
	case nil:
		d.entries[part] = append(d.entries[part], text)
		return strings.Contains(text, "fin")
	case "gap":
		entry := fmt.Sprintf("gap %v-%v %v", f["from"], f["to"], f["cause"])
		if n := len(d.entries[part]); n > 0 && strings.HasPrefix(d.entries[part][n-1], "gap ") {
			var from, to float64
			var cause string
			if _, err := fmt.Sscanf(d.entries[part][n-1], "gap %v-%v %s", &from, &to, &cause); err == nil && to == f["from"] && cause == f["cause"] {
				entry = fmt.Sprintf("gap %v-%v %v", from, f["to"], cause)
				d.entries[part] = d.entries[part][:n-1]
			}
		}
		d.entries[part] = append(d.entries[part], entry)
	}
	return false
}

// play has clients of all kinds follow a random script, and returns what each got.
func play(t *testing.T, seed uint64, solo bool, hold time.Duration) ([]map[int][]string, *fakeFeed) {
	const parts, clients, steps = 3, 14, 120
	r := newRig(t, false, func(o *Options) { o.Hold, o.Heartbeat, o.MaxLag = hold, 50*time.Millisecond, 0 })
	r.feed.solo = solo
	dial := r.dial
	r.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err == nil {
			err = conn.(*net.TCPConn).SetReadBuffer(128 << 10) // so that writes are cut
		}
		return conn, err
	}
	r.feed.add("price", parts)
	rnd := rand.New(rand.NewPCG(seed, 1))
	var docs []*diary
	var wg sync.WaitGroup
	for i := range clients {
		d := &diary{entries: map[int][]string{}, sub: []string{protocol.SubprotocolJSON, protocol.SubprotocolBatch, protocol.SubprotocolAvro}[i%3], late: i%7 == 3}
		keys := ""
		if i%2 == 1 {
			for k := range 6 {
				if rnd.IntN(2) == 0 {
					d.keys = append(d.keys, fmt.Sprintf(`"k%d"`, k))
				}
			}
			keys = `,"keys":[` + strings.Join(append(d.keys, `"fin"`), ",") + `]`
		}
		d.c = r.connect(d.sub)
		d.c.send(`{"cmd":"sub","id":1,"topic":"price"` + keys + `}`)
		d.c.event("subscribed")
		docs = append(docs, d)
		if !d.late {
			wg.Go(func() { d.read(t, parts) })
		}
	}
	for range steps {
		script(r, rnd, parts)
	}
	for p := range parts {
		r.feed.produce("price", p, "fin", `"fin"`)
	}
	require.Eventually(t, func() bool {
		for _, s := range r.service.open() {
			if s.card.rest.Load() > 0 {
				return true
			}
		}
		return false
	}, waitLong, tick, "nobody's socket was full")
	for _, d := range docs {
		if d.late {
			d.read(t, parts)
		}
	}
	wg.Wait()
	var out []map[int][]string
	for _, d := range docs {
		out = append(out, d.entries)
	}
	return out, r.feed
}

// script does one random thing.
func script(r *rig, rnd *rand.Rand, parts int) {
	part := rnd.IntN(parts)
	switch n := rnd.IntN(40); {
	case n == 0:
		r.feed.produce("price", part, "k1", "poison")
	case n == 1:
		r.feed.produce("price", part, "k1", `"`+strings.Repeat("x", 70<<10)+`"`) // more than a write gathers
	case n < 4:
		time.Sleep(time.Duration(rnd.IntN(3)) * time.Millisecond) // so that some come alone
	default:
		for range rnd.IntN(60) {
			r.feed.produce("price", part, fmt.Sprintf("k%d", rnd.IntN(6)), `"`+strings.Repeat("y", 20+rnd.IntN(2500))+`"`)
		}
	}
}

// TestLanesWriteWhatSessionsWouldThemselves plays random scripts twice, with
// and without lanes: every client gets the same bytes in the same order, those
// that read late and are cut in the middle of frames too.
func TestLanesWriteWhatSessionsWouldThemselves(t *testing.T) {
	for i, hold := range []time.Duration{-1, 3 * time.Millisecond} {
		t.Run(fmt.Sprint(hold), func(t *testing.T) {
			seed := uint64(i + 1) //nolint:gosec // small
			alone, f := play(t, seed, true, hold)
			require.Zero(t, f.passes)
			together, f := play(t, seed, false, hold)
			require.NotZero(t, f.passes, "nobody sat in a lane")
			for c := range alone {
				for p := range alone[c] {
					require.Len(t, together[c][p], len(alone[c][p]), "client %d, partition %d", c, p)
					for n := range alone[c][p] {
						require.Equal(t, alone[c][p][n], together[c][p][n], "client %d, partition %d, message %d", c, p, n)
					}
				}
			}
		})
	}
}

// TestLaneMembersKeepTheirPositions looks at what sessions in a lane say of
// themselves: heartbeats, unsubscribing, and a new subscription after it.
func TestLaneMembersKeepTheirPositions(t *testing.T) {
	r := newRig(t, false, func(o *Options) { o.Heartbeat = 20 * time.Millisecond })
	r.feed.add("price", 2)
	all, some := r.connect(), r.connect()
	all.send(`{"cmd":"sub","id":"a","topic":"price"}`)
	some.send(`{"cmd":"sub","id":"a","topic":"price","keys":["k"]}`)
	all.event("subscribed")
	some.event("subscribed")
	for i := range 10 {
		r.feed.produce("price", i%2, "other", "1")
	}
	r.feed.produce("price", 0, "k", "1")
	all.offsets(11)
	some.offsets(1)
	for _, c := range []*client{all, some} {
		for {
			beat := c.event("heartbeat")
			covered := beat["covered"].(map[string]any)["a"].(map[string]any)
			if covered["0"] == 6.0 && covered["1"] == 5.0 {
				break
			}
		}
		c.send(`{"cmd":"unsub","id":"a"}`)
		end := c.event("unsubscribed")
		require.Equal(t, map[string]any{"0": 6.0, "1": 5.0}, end["at"])
		cur, err := protocol.ParseCursor(end["cursor"].(string))
		require.NoError(t, err)
		require.Equal(t, []int64{6, 5}, cur.Next)
		c.send(`{"cmd":"sub","id":"b","topic":"price","keys":["k"]}`)
		require.Equal(t, map[string]any{"0": 6.0, "1": 5.0}, c.event("subscribed")["from"])
	}
	r.feed.produce("price", 0, "k", "2")
	require.Equal(t, []int64{6}, all.offsets(1))
	require.Equal(t, []int64{6}, some.offsets(1))
	require.Eventually(t, func() bool {
		r.feed.mu.Lock()
		defer r.feed.mu.Unlock()
		return r.feed.tapped > 0
	}, waitLong, tick)
}

// TestLanesFollowATopicThatIsMadeAgain resets members, and seats them again.
func TestLanesFollowATopicThatIsMadeAgain(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 1)
	c := r.connect()
	c.send(`{"cmd":"sub","id":1,"topic":"price"}`)
	c.event("subscribed")
	r.feed.produce("price", 0, "k", "1")
	require.Equal(t, []int64{0}, c.offsets(1))
	r.feed.change("price", func(t *fakeTopic) { t.id, t.parts = epochOf(2), []*fakeLog{{}, {}} })
	c.event("reset")
	c.event("gap")
	r.feed.produce("price", 1, "k", "2")
	require.Equal(t, []int64{0}, c.offsets(1))
	r.feed.change("price", func(t *fakeTopic) { t.parts = append(t.parts, &fakeLog{}) })
	r.feed.produce("price", 2, "k", "3")
	require.Equal(t, []int64{0}, c.offsets(1))
	r.feed.produce("price", 0, "", "poison")
	require.Equal(t, map[string]any{"event": "gap", "id": 1.0, "partition": 0.0, "from": 0.0, "to": 1.0, "cause": "poison", "topic": "price"}, c.event("gap"))
	r.feed.produce("price", 0, "k", "4")
	require.Equal(t, []int64{1}, c.offsets(1))
}

// TestLanesWithManyMembersReadOnce has many sessions follow one topic: what is
// published is read off the tapes once per shard, not once per session.
func TestLanesWithManyMembersReadOnce(t *testing.T) {
	const clients, events = 40, 50
	r := newRig(t, false, func(o *Options) { o.Heartbeat = time.Hour })
	r.feed.add("price", 1)
	var cs []*client
	for range clients {
		c := r.connect()
		c.send(`{"cmd":"sub","id":1,"topic":"price"}`)
		c.event("subscribed")
		cs = append(cs, c)
	}
	for _, c := range cs {
		c.sync() // and has its seat again
	}
	r.feed.mu.Lock()
	before := r.feed.reads
	r.feed.mu.Unlock()
	for i := range events {
		r.feed.produce("price", 0, "k", "1")
		for _, c := range cs {
			require.Equal(t, []int64{int64(i)}, c.offsets(1))
		}
	}
	r.feed.mu.Lock()
	defer r.feed.mu.Unlock()
	require.Less(t, r.feed.reads-before, clients*events/4)
}

// TestRestsOfPieces cuts pieces of every kind at every byte.
func TestRestsOfPieces(t *testing.T) {
	for k := range wireKinds {
		st := &stretch{}
		for i := range 6 {
			st.events = append(st.events, &feed.Event{Offset: int64(i)})
			body := fmt.Sprintf(`{"n":%d,"x":%q}`, i, strings.Repeat("z", i*40))
			st.frames[k.form()] = append(st.frames[k.form()], appendFrame(nil, opText, []byte(body)))
		}
		for _, p := range []picks{{from: 1, to: 6}, {due: []int32{0, 2, 5}}} {
			var b block
			require.Equal(t, p.n(), st.piece(&b, k, p))
			whole := string(b.buf[b.head:])
			want := lines(t, whole)
			require.Len(t, want, p.n())
			for sent := range len(whole) {
				rest, events := st.rest(&b, k, p, sent)
				require.NotEmpty(t, rest, "somebody must wait for room")
				got := lines(t, whole[:sent]+string(rest))
				require.Len(t, got, events)
				require.Equal(t, want[:events], got)
			}
		}
	}
}

// lines are the texts of whole WebSocket messages, and of lines in them.
func lines(t *testing.T, stream string) (out []string) {
	t.Helper()
	for len(stream) > 0 {
		n, head := int(stream[1]), 2
		if n == len16 {
			n, head = int(stream[2])<<8|int(stream[3]), 4
		}
		require.GreaterOrEqual(t, len(stream), head+n, "a message was cut")
		out = append(out, strings.Split(stream[head:head+n], "\n")...)
		stream = stream[head+n:]
	}
	return out
}

// TestLanePositionsWithinAStretch looks where a member stands that got only a part.
func TestLanePositionsWithinAStretch(t *testing.T) {
	sh := &shard{}
	event := func(o int64) *feed.Event { return &feed.Event{Offset: o, Time: 100 + o} }
	sh.stretch = stretch{
		events: []*feed.Event{event(5), event(7), event(3), event(4)},
		ends:   []int{2, 2, 4}, to: []int64{9, 40, 6},
	}
	l := &lane{shard: sh, at: []int64{5, 30, 2}, last: []passed{{4, 104}, {-1, 0}, {1, 101}}}
	for n, want := range [][3]int64{{5, 30, 2}, {6, 30, 2}, {9, 40, 2}, {9, 40, 4}, {9, 40, 6}} {
		s := &session{}
		s.sub = &subscription{cursors: []cursor{{partition: 0, next: 5, time: 1}, {partition: 1, next: 30}, {partition: 2, next: 2, time: 2}}}
		l.syncTo(s, n)
		got := s.sub.cursors
		require.Equal(t, want, [3]int64{got[0].next, got[1].next, got[2].next}, "%d events", n)
		times := [][2]int64{{1, 2}, {105, 2}, {107, 2}, {107, 103}, {107, 104}}[n]
		require.Equal(t, times, [2]int64{got[0].time, got[2].time}, "%d events", n)
	}
	// One that is ahead is not moved back, and has no time of what it got before.
	s := &session{}
	s.sub = &subscription{cursors: []cursor{{next: 20, time: 7}, {partition: 1, next: 41}, {partition: 2, next: 4, time: 3}}}
	l.syncTo(s, 4)
	require.EqualValues(t, 20, s.sub.cursors[0].next)
	require.EqualValues(t, 7, s.sub.cursors[0].time)
	require.EqualValues(t, 104, s.sub.cursors[2].time)
}

// TestHolds picks the hold of a topic, and of what is due.
func TestHolds(t *testing.T) {
	r := &rules{hold: 10 * time.Millisecond, holds: []TopicHold{{"trade.*", 0}, {"screen.?", time.Second}, {"screen.*", 2 * time.Second}}}
	require.Equal(t, 10*time.Millisecond, r.gather("price"))
	require.Zero(t, r.gather("trade.eu"))
	require.Equal(t, time.Second, r.gather("screen.1"))
	require.Equal(t, 2*time.Second, r.gather("screen.10"))
	c := &conversation{rules: r, gathers: []time.Duration{0, time.Second}}
	fast, slow := &subscription{gather: 0}, &subscription{gather: time.Second}
	c.subs = []*subscription{fast, slow}
	require.Equal(t, time.Second, c.gather(), "nothing is due")
	slow.due.Store(true)
	require.Equal(t, time.Second, c.gather())
	fast.due.Store(true)
	require.Zero(t, c.gather())
	_, err := New(Options{source: newFakeFeed(), Holds: []TopicHold{{"x", -1}}})
	require.ErrorContains(t, err, "hold")
}

// TestEventsWaitForTheirTopicsHold has one connection follow topics with and
// without a hold.
func TestEventsWaitForTheirTopicsHold(t *testing.T) {
	const hold = 2 * time.Second
	held := func(o *Options) { o.Holds = []TopicHold{{"screen", hold}} }
	t.Run("by itself", func(t *testing.T) {
		r := newRig(t, false, held)
		c := r.follow("trade", "screen")
		r.feed.produce("screen", 0, "", "1") // nothing rests: it leaves at once
		require.Equal(t, "screen", c.frame()["topic"])
		r.feed.produce("screen", 0, "", "2")
		r.feed.produce("trade", 0, "", "3")
		// What is due when somebody writes leaves with it, whatever its hold.
		require.ElementsMatch(t, []any{"screen", "trade"}, []any{c.frame()["topic"], c.frame()["topic"]})
	})
	t.Run("in a lane", func(t *testing.T) {
		r := newRig(t, false, held)
		c := r.follow("screen")
		// A session that takes its seat, or leaves it, begins anew: an event may
		// leave early then, as a hold is how long events wait at most.
		for try := 1; ; try++ {
			began := time.Now()
			r.feed.produce("screen", 0, "", "1")
			r.feed.produce("screen", 0, "", "2")
			require.Equal(t, "screen", c.frame()["topic"])
			require.Equal(t, "screen", c.frame()["topic"])
			r.feed.produce("screen", 0, "", "3")
			require.Equal(t, "screen", c.frame()["topic"])
			if time.Since(began) >= hold/2 {
				return
			}
			require.Less(t, try, 10, "nothing waits for more")
		}
	})
}

// follow connects a client that follows topics of one partition.
func (r *rig) follow(topics ...string) *client {
	r.t.Helper()
	c := r.connect()
	for _, topic := range topics {
		r.feed.add(topic, 1)
		c.send(`{"cmd":"sub","id":"` + topic + `","topic":"` + topic + `"}`)
		c.event("subscribed")
	}
	return c
}
