package gateway

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/gateway/feed"
)

func TestBadCommandsAreAnsweredAndHarmNothing(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 2)
	c := r.connect()
	for _, tt := range []struct{ send, code, field string }{
		{``, "bad_json", ""},
		{`{`, "bad_json", ""},
		{`[]`, "bad_json", ""},
		{`{"cmd":"sub"} x`, "bad_json", ""},
		{`{"cmd":"sub","cmd":"unsub","topic":"price"}`, "bad_json", ""},
		{strings.Repeat("[", 10_000), "bad_json", ""},
		{`{"a":` + strings.Repeat("[", 5_000) + strings.Repeat("]", 5_000) + `}`, "bad_json", ""},
		{`{"cmd":"drop","id":7}`, "unknown_command", ""},
		{`{"cmd":7}`, "invalid", "cmd"},
		{`{}`, "invalid", "cmd"},
		{`{"cmd":"sub"}`, "invalid", "topic"},
		{`{"cmd":"sub","topic":7}`, "invalid", "topic"},
		{`{"cmd":"sub","topic":null}`, "invalid", "topic"},
		{`{"cmd":"sub","topic":"` + strings.Repeat("x", 10_000) + `"}`, "invalid", "topic"},
		{`{"cmd":"sub","topic":"price","id":{}}`, "invalid", "id"},
		{`{"cmd":"sub","topic":"price","id":"` + strings.Repeat("x", 100) + `"}`, "invalid", "id"},
		{`{"cmd":"sub","topic":"price","keys":"EURUSD"}`, "invalid", "keys"},
		{`{"cmd":"sub","topic":"price","keys":[]}`, "invalid", "keys"},
		{`{"cmd":"sub","topic":"price","keys":[1]}`, "invalid", "keys"},
		{`{"cmd":"sub","topic":"price","keys":[null]}`, "invalid", "keys"},
		{`{"cmd":"sub","topic":"price","mode":"some"}`, "invalid", "mode"},
		{`{"cmd":"sub","topic":"price","interval_ms":1}`, "invalid", "interval_ms"},
		{`{"cmd":"sub","topic":"price","from":7}`, "invalid", "from"},
		{`{"cmd":"sub","topic":"price","from":"never"}`, "invalid", "from"},
		{`{"cmd":"sub","topic":"price","from":{"offsets":{"0":-1}}}`, "invalid", "from.offsets"},
		{`{"cmd":"sub","topic":"price","from":{"offsets":{"0":1e999}}}`, "invalid", "from.offsets"},
		{`{"cmd":"sub","topic":"price","from":{"offsets":{"x":1}}}`, "invalid", "from.offsets"},
		{`{"cmd":"sub","topic":"price","from":{"offset":-7}}`, "invalid", "from.offset"},
		{`{"cmd":"sub","topic":"price","from":{"offset":7,"last":1}}`, "invalid", "from"},
		{`{"cmd":"sub","topic":"price","from":{"last":0}}`, "invalid", "from.last"},
		{`{"cmd":"sub","topic":"price","from":{"time":"soon"}}`, "invalid", "from.time"},
		{`{"cmd":"sub","topic":"price","from":{"cursor":"AAAA"}}`, "invalid", "from.cursor"},
		{`{"cmd":"sub","topic":"price","until":"never"}`, "invalid", "until"},
		{`{"cmd":"sub","topic":"price","until":{"time":"2999-01-01T00:00:00Z"}}`, "invalid", "until.time"},
		{`{"cmd":"sub","topic":"price","mode":"snapshot","from":"earliest"}`, "invalid", "from"},
		{`{"cmd":"sub","topic":"price","on_slow":"die"}`, "invalid", "on_slow"},
		{`{"cmd":"sub","topic":"price","from":{"offset":7}}`, "invalid", "from.offset"}, // two partitions
		{`{"cmd":"sub","topic":"price","from":{"offsets":{"5":7}}}`, "invalid", "from.offsets"},
		{`{"cmd":"sub","topic":"nope"}`, "unknown_topic", ""},
		{`{"cmd":"sub","topic":"__consumer_offsets"}`, "unknown_topic", ""},
		{`{"cmd":"sub","topic":"tapecast.delivery.a"}`, "unknown_topic", ""},
		{`{"cmd":"sub","topic":"../price"}`, "unknown_topic", ""},
		{`{"cmd":"unsub","topic":"price"}`, "not_subscribed", ""},
		{`{"cmd":"unsub","id":"<script>"}`, "not_subscribed", ""},
	} {
		c.send(tt.send)
		text := c.next()
		f := object(t, text)
		require.Equal(t, "error", f["event"], "%.100s", tt.send)
		require.Equal(t, tt.code, f["code"], "%.100s: %s", tt.send, text)
		if tt.field != "" {
			require.Equal(t, tt.field, f["field"], "%.100s", tt.send)
		}
		require.NotContains(t, text, "<")
		require.Less(t, len(text), 500)
	}
	require.NoError(t, c.ws.WriteMessage(websocket.BinaryMessage, []byte(`{"cmd":"ping"}`)))
	require.Equal(t, "binary", c.event("error")["code"])
	c.send(`{"cmd":"sub","topic":"price","id":1,"colour":"red","nested":{"a":[1]}}`)
	c.event("subscribed")
	c.send(`{"cmd":"ping","id":"\u003cx\u003e"}`)
	require.Equal(t, "<x>", c.event("pong")["id"])
	c.send(" PING \n")
	require.Equal(t, "PONG", c.next())
}

func TestCloseCodesOfBadBytes(t *testing.T) {
	r := newRig(t, false, func(o *Options) { o.MaxCommand = 1000 })
	for name, tt := range map[string]struct {
		raw  []byte
		code int
	}{
		"not utf-8":         {masked(0x81, []byte("{\"cmd\":\"\xff\"}")), 1007},
		"too big":           {masked(0x81, make([]byte, 2000)), 1009},
		"length 2^63":       {[]byte{0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, 1009},
		"length 2^62":       {[]byte{0x81, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, 1009},
		"not masked":        {[]byte{0x81, 2, '{', '}'}, 1002},
		"reserved bit":      {masked(0xc1, []byte("{}")), 1002},
		"reserved opcode":   {masked(0x83, []byte("{}")), 1002},
		"long control":      {masked(0x89, make([]byte, 126)), 1002},
		"lone continuation": {masked(0x80, []byte("{}")), 1002},
		"bad close code":    {masked(0x88, []byte{0, 1}), 1002},
		"close":             {masked(0x88, binary.BigEndian.AppendUint16(nil, 1000)), 1000},
	} {
		t.Run(name, func(t *testing.T) {
			conn, br := rawUpgrade(t, r, "")
			_, err := conn.Write(tt.raw)
			require.NoError(t, err)
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			var head [2]byte
			_, err = io.ReadFull(br, head[:])
			require.NoError(t, err)
			require.Equal(t, byte(0x88), head[0])
			body := make([]byte, head[1])
			_, err = io.ReadFull(br, body)
			require.NoError(t, err)
			require.Equal(t, tt.code, int(binary.BigEndian.Uint16(body)))
			_, err = br.ReadByte()
			require.ErrorIs(t, err, io.EOF)
		})
	}
}

// masked makes a client's frame, of a zero mask.
func masked(op byte, payload []byte) []byte {
	f := appendHeader(nil, op, len(payload))
	f[1] |= 0x80
	return append(append(f, 0, 0, 0, 0), payload...)
}

func rawUpgrade(t testing.TB, r *rig, extra string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := r.dial(t.Context(), "tcp", r.base)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: "+r.base+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"+extra+"\r\n")
	require.NoError(t, err)
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	return conn, br
}

func TestFragmentsMakeOneCommand(t *testing.T) {
	r := newRig(t, false)
	conn, br := rawUpgrade(t, r, "")
	text := `{"cmd":"ping","id":5}`
	for i := range len(text) {
		op := byte(0x00)
		if i == 0 {
			op = 0x01
		}
		if i == len(text)-1 {
			op |= 0x80
		}
		_, err := conn.Write(masked(op, []byte{text[i]}))
		require.NoError(t, err)
	}
	head := make([]byte, 2)
	_, err := io.ReadFull(br, head)
	require.NoError(t, err)
	body := make([]byte, head[1])
	_, err = io.ReadFull(br, body)
	require.NoError(t, err)
	require.Equal(t, 5.0, object(t, string(body))["id"])
}

func TestAFloodIsRefusedThenClosed(t *testing.T) {
	r := newRig(t, false, func(o *Options) { o.CommandBurst = 10; o.CommandRate = .001 })
	c := r.connect()
	for range 10 + maxFloods + 1 {
		c.send(`{"cmd":"ping","id":1}`)
	}
	for range 10 {
		c.event("pong")
	}
	for range maxFloods {
		e := c.event("error")
		require.Equal(t, "rate_limited", e["code"])
		require.Equal(t, true, e["retry"])
		require.Equal(t, 1.0, e["id"])
	}
	require.Equal(t, "rate_limited", c.event("bye")["code"])
	c.closed(4500)
}

func TestLimitsOfAConnection(t *testing.T) {
	r := newRig(t, false, func(o *Options) { o.MaxSubs = 2 })
	r.feed.add("price", 1)
	c := r.connect()
	c.send(`{"cmd":"sub","id":1,"topic":"price","keys":["a","b"]}`)
	c.event("subscribed")
	for sub, code := range map[string]string{
		`{"cmd":"sub","id":1,"topic":"price","keys":["c"]}`: "duplicate_id",
		`{"cmd":"sub","id":2,"topic":"price","keys":["b"]}`: "overlap",
		`{"cmd":"sub","id":2,"topic":"price"}`:              "overlap",
		`{"cmd":"sub","topic":"price"}`:                     "overlap",
	} {
		c.send(sub)
		require.Equal(t, code, c.event("error")["code"], sub)
	}
	c.send(`{"cmd":"sub","id":2,"topic":"price","key":"c"}`)
	c.event("subscribed")
	c.send(`{"cmd":"sub","id":3,"topic":"price","keys":["d"]}`)
	require.Equal(t, "too_many_subscriptions", c.event("error")["code"])
	c.send(`{"cmd":"list","id":9}`)
	list := c.event("list")
	require.Len(t, list["subscriptions"], 2)
	c.send(`{"cmd":"unsub","id":1}`)
	require.Equal(t, map[string]any{"0": 0.0}, c.event("unsubscribed")["at"])
	c.send(`{"cmd":"sub","id":3,"topic":"price","keys":["a"]}`)
	c.event("subscribed")
}

func TestRepeatedSubWithoutIDChangesNothing(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 1)
	c := r.connect()
	for range 3 {
		c.send(`{"cmd":"sub","topic":"price"}`)
	}
	c.sync()
	r.feed.produce("price", 0, "", "1")
	require.Equal(t, []int64{0}, c.offsets(1))
	c.sync()
	require.Equal(t, 1, r.feed.opened)
}

func TestTheDoor(t *testing.T) {
	_, proxy, err := net.ParseCIDR("10.0.0.0/8")
	require.NoError(t, err)
	d := &door{
		origins: []string{"https://app.example.com"}, trusted: []netip.Prefix{netip.MustParsePrefix(proxy.String())},
		maxSessions: 3, maxPerIP: 2, perIP: map[netip.Addr]int{}, metrics: newMetrics(nil, &snapshotLimits{}),
	}
	for origin, ok := range map[string]bool{
		"http://gw.example.com":                    true, // same origin
		"HTTP://GW.EXAMPLE.COM:80":                 true,
		"https://gw.example.com":                   false, // another scheme
		"http://gw.example.com:8080":               false,
		"https://app.example.com":                  true,
		"https://app.example.com:443":              true,
		"https://app.example.com.evil.com":         false,
		"https://evil.com/https://app.example.com": false,
		"https://xapp.example.com":                 false,
		"http://app.example.com":                   false,
		"chrome-extension://gw.example.com":        false,
		"null":                                     false,
		"":                                         false,
		"https://app.example.com@evil.com":         false,
	} {
		r := &http.Request{Host: "gw.example.com", Header: http.Header{"Origin": {origin}}}
		_, got := d.origin(r)
		require.Equal(t, ok, got, origin)
	}
	_, ok := d.origin(&http.Request{Host: "gw.example.com", Header: http.Header{}})
	require.True(t, ok)
	d.requireOrigin = true
	_, ok = d.origin(&http.Request{Host: "gw.example.com", Header: http.Header{}})
	require.False(t, ok)
	_, ok = d.origin(&http.Request{Host: "gw.example.com", Header: http.Header{"Origin": {"https://gw.example.com"}, "X-Forwarded-Proto": {"https"}}})
	require.True(t, ok)

	forwarded := http.Header{"X-Forwarded-For": {"6.6.6.6, 1.2.3.4, 10.0.0.9"}}
	require.Equal(t, "1.2.3.4", d.address(&http.Request{RemoteAddr: "10.0.0.1:5", Header: forwarded}).String())
	require.Equal(t, "9.9.9.9", d.address(&http.Request{RemoteAddr: "9.9.9.9:5", Header: forwarded}).String())
	a, b := netip.MustParseAddr("1.1.1.1"), netip.MustParseAddr("2.2.2.2")
	for range 2 {
		_, err := d.enter(a)
		require.Nil(t, err)
	}
	refusal, _ := d.enter(a)
	require.Equal(t, "address", refusal)
	_, perr := d.enter(b)
	require.Nil(t, perr)
	refusal, _ = d.enter(b)
	require.Equal(t, "sessions", refusal)
	d.leave(a)
	_, perr = d.enter(b)
	require.Nil(t, perr)
}

func TestSilentClientsAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true)
		c := r.connect()
		pings := 0
		c.ws.SetPingHandler(func(string) error { pings++; return nil }) // no pong
		start := time.Now()
		_ = c.ws.SetReadDeadline(time.Time{})
		_, text, err := c.ws.ReadMessage()
		require.NoError(t, err)
		require.Equal(t, "timeout", object(t, string(text))["code"])
		require.Equal(t, time.Minute, time.Since(start))
		c.closed(4001)
		require.GreaterOrEqual(t, pings, 1)
	})
}

func TestPongsKeepASessionAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true)
		r.feed.add("price", 1)
		c := r.connect()
		c.send(`{"cmd":"sub","topic":"price"}`)
		go func() {
			time.Sleep(10 * time.Minute)
			r.feed.produce("price", 0, "", "1")
		}()
		_ = c.ws.SetReadDeadline(time.Time{})
		_, text, err := c.ws.ReadMessage()
		require.NoError(t, err)
		require.Equal(t, 1.0, object(t, string(text))["data"])
		_ = c.ws.Close()
	})
}

func TestAClientThatTakesNothingIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true)
		r.feed.add("price", 1)
		c := r.connect()
		c.send(`{"cmd":"sub","topic":"price"}`)
		c.sync()
		other := r.connect()
		other.send(`{"cmd":"sub","topic":"price"}`)
		other.sync()
		r.feed.produce("price", 0, "", "1") // c does not read: a pipe has no buffer
		require.Equal(t, []int64{0}, other.offsets(1))
		time.Sleep(31 * time.Second)
		synctest.Wait()
		_, _, err := c.ws.ReadMessage()
		require.Error(t, err)
		_ = other.ws.Close()
	})
}

func TestALaggardIsClosedWithItsPosition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true, func(o *Options) { o.MaxLag = 10 * time.Second })
		r.feed.add("price", 1)
		c := r.connect()
		c.send(`{"cmd":"sub","id":1,"topic":"price"}`)
		c.event("subscribed")
		r.feed.change("price", func(tp *fakeTopic) { tp.parts[0].tape = 1 << 40; tp.parts[0].pending = true })
		r.feed.produce("price", 0, "", "1")
		var bye map[string]any
		for bye == nil {
			if f := c.frame(); f["event"] == "bye" {
				bye = f
			}
		}
		require.Equal(t, "slow", bye["code"])
		require.Equal(t, true, bye["retry"])
		require.Contains(t, bye["cursor"], "1")
		c.closed(4000)
	})
}

func TestDrainSaysGoodbyeWithPositions(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 1)
	r.feed.fill(t, "price", 0, 5, noKey)
	var clients []*client
	for range 20 {
		c := r.connect()
		c.send(`{"cmd":"sub","id":1,"topic":"price"}`)
		c.event("subscribed")
		clients = append(clients, c)
	}
	r.drain()
	for _, c := range clients {
		bye := c.event("bye")
		require.Equal(t, "drain", bye["code"])
		require.Equal(t, true, bye["retry"])
		require.Len(t, bye["wait_ms"], 2)
		require.Contains(t, bye["cursor"], "1")
		c.closed(1012)
		_ = c.ws.Close()
	}
	<-r.done
	resp, err := http.Get("http://" + r.base + "/ws")
	require.NoError(t, err)
	_ = resp.Body.Close()
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	require.NotEmpty(t, resp.Header.Get("Retry-After"))
}

func TestAPanicEndsOneSession(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 1)
	r.feed.add("other", 1)
	bad, good := r.connect(), r.connect()
	bad.send(`{"cmd":"sub","id":1,"topic":"price"}`)
	bad.event("subscribed")
	good.send(`{"cmd":"sub","id":1,"topic":"other"}`)
	good.event("subscribed")
	r.feed.change("price", func(tp *fakeTopic) { // a nil event: a fault of the program
		tp.parts[0].events = append(tp.parts[0].events, &feed.Event{Offset: 0}, nil)
		tp.parts[0].end = 2
	})
	bad.closed(4002)
	r.feed.produce("other", 0, "", "1")
	require.Equal(t, []int64{0}, good.offsets(1))
}

func TestPositionsThatCannotBeAskedAreRetriable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, true)
		r.feed.add("price", 1)
		r.feed.away = errors.New("kafka is away")
		c := r.connect()
		c.send(`{"cmd":"sub","id":"a","topic":"price","from":"earliest"}`)
		time.Sleep(3 * time.Second)
		r.feed.mu.Lock()
		r.feed.away = nil
		r.feed.mu.Unlock()
		c.event("subscribed") // it was asked again
		c.event("live")
		r.feed.mu.Lock()
		r.feed.away = errors.New("kafka is away")
		r.feed.mu.Unlock()
		c.send(`{"cmd":"unsub","id":"a"}`)
		c.event("unsubscribed")
		c.send(`{"cmd":"sub","id":"b","topic":"price","from":"earliest"}`)
		e := c.event("error")
		require.Equal(t, "unavailable", e["code"])
		require.Equal(t, true, e["retry"])
		require.Equal(t, "b", e["id"])
		_ = c.ws.Close()
	})
}

func TestManySubscriptionsAndLookupsEndWithTheirSession(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 3)
	r.feed.away = errors.New("kafka is away")
	c := r.connect()
	for i := range 100 {
		c.send(`{"cmd":"sub","topic":"price","from":"earliest","id":` + strconv.Itoa(i) + `,"key":"k` + strconv.Itoa(i) + `"}`)
	}
	c.sync()
	_ = c.ws.Close()
	require.Eventually(t, func() bool { return r.feed.holds() == 0 }, 30*time.Second, time.Millisecond)
}

func TestKeysOfAConnectionAreBounded(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("a", 1)
	c := r.connect()
	sub := func(id, from, n int) {
		var keys []string
		for i := range n {
			keys = append(keys, strconv.Itoa(from+i))
		}
		c.send(`{"cmd":"sub","id":` + strconv.Itoa(id) + `,"topic":"a","keys":["` + strings.Join(keys, `","`) + `"]}`)
	}
	sub(1, 0, 6000)
	c.event("subscribed")
	sub(2, 6000, 4001)
	require.Equal(t, "too_many_subscriptions", c.event("error")["code"])
	c.send(`{"cmd":"unsub","id":1}`)
	c.event("unsubscribed")
	sub(2, 6000, 4001)
	c.event("subscribed")
}

func TestALongStretchOfGapsIsDoneInTurns(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 1)
	for range 200_000 {
		r.feed.produce("price", 0, "", "poison")
	}
	c := r.connect()
	c.send(`{"cmd":"sub","id":1,"topic":"price","from":"earliest"}`)
	c.event("subscribed")
	last, frames := 0.0, 0
	for {
		f := c.frame()
		if f["event"] == "live" {
			break
		}
		require.Equal(t, "gap", f["event"])
		require.Equal(t, last, f["from"])
		last = f["to"].(float64)
		frames++
	}
	require.Equal(t, 200_000.0, last)
	require.Greater(t, frames, 2) // between two of them the session takes commands
}
