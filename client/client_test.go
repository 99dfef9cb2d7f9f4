package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/client"
	"github.com/tapecast/tapecast/internal/testconns"
)

// far is a gateway's side of one connection.
type far struct {
	t  testing.TB
	ws *websocket.Conn
}

func (f *far) send(frames ...string) {
	for _, x := range frames {
		if err := f.ws.WriteMessage(websocket.TextMessage, []byte(x)); err != nil {
			return // the client has gone: its side tells
		}
	}
}

func (f *far) command() map[string]any {
	_, msg, err := f.ws.ReadMessage()
	if err != nil {
		return nil
	}
	var m map[string]any
	if err := json.Unmarshal(msg, &m); err != nil {
		f.t.Errorf("%s: %v", msg, err)
	}
	return m
}

func (f *far) ack(id any, topic string) {
	f.send(fmt.Sprintf(`{"event":"subscribed","id":%v,"topic":%q,"epoch":"E","from":{"0":0},"live":{"0":0},"resume":"exact"}`, id, topic))
}

// server runs a handler for each connection; r is the upgrade. A handler must
// not wait for anything but its connection.
func server(t testing.TB, handle func(f *far, r *http.Request)) string {
	var all testconns.Conns
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !all.Begin() {
			return
		}
		defer all.Done()
		up := websocket.Upgrader{Subprotocols: []string{"tapecast.avro", "tapecast.json.batch"}}
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		if all.Hold(ws) {
			handle(&far{t, ws}, r)
		}
	}))
	t.Cleanup(func() { all.HangUp(); s.Close() })
	return "ws" + strings.TrimPrefix(s.URL, "http")
}

func dial(t testing.TB, o client.Options) *client.Client {
	t.Helper()
	if o.MinBackoff == 0 {
		o.MinBackoff, o.MaxBackoff = time.Millisecond, 10*time.Millisecond
	}
	c, err := client.Dial(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func next(t testing.TB, s *client.Subscription) client.Frame {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	f, err := s.Next(ctx)
	require.NoError(t, err, "%+v", s)
	return f
}

func event(o int) string {
	return fmt.Sprintf(`{"topic":"t","key":"k","data":{"n":%d},"offset":%d,"ts":1}`, o, o)
}

func TestCredentialsAreAskedForBeforeEachDial(t *testing.T) {
	seen := make(chan string, 2) // more connections come, which nobody looks at
	url := server(t, func(f *far, r *http.Request) {
		select {
		case seen <- r.Header.Get("Authorization") + " " + r.Header.Get("X-App") + " " + r.Header.Get("Sec-WebSocket-Protocol"):
		default:
		}
	})
	n := 0
	dial(t, client.Options{
		URLs: []string{url}, Header: http.Header{"X-App": {"desk"}},
		Credentials: func(context.Context) (client.Credentials, error) {
			n++
			if n == 2 {
				return client.Credentials{}, errors.New("the token service is away")
			}
			return client.Credentials{Header: http.Header{"Authorization": {fmt.Sprint("Bearer ", n)}}, Subprotocols: []string{fmt.Sprint("token.", n)}}, nil
		},
	})
	require.Equal(t, "Bearer 1 desk tapecast.json.batch, tapecast.json, token.1", <-seen)
	require.Equal(t, "Bearer 3 desk tapecast.json.batch, tapecast.json, token.3", <-seen)
}

func TestAnUpgradeThatIsRefused(t *testing.T) {
	status := func(code int) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }))
		t.Cleanup(s.Close)
		return "ws" + strings.TrimPrefix(s.URL, "http")
	}
	renew := func(context.Context) (client.Credentials, error) { return client.Credentials{}, nil }
	for _, c := range []struct {
		code        int
		credentials func(context.Context) (client.Credentials, error)
		final       bool
	}{{401, nil, true}, {401, renew, false}, {403, renew, true}, {404, nil, true}, {429, nil, false}, {503, nil, false}} {
		states := make(chan client.State, 100)
		dial(t, client.Options{URLs: []string{status(c.code)}, Credentials: c.credentials, OnState: func(s client.State) {
			select {
			case states <- s:
			default:
			}
		}})
		require.Equal(t, client.Connecting, (<-states).Phase)
		got := <-states
		require.Equal(t, c.final, got.Phase == client.Closed, "%d: %v", c.code, got)
		require.ErrorContains(t, got.Err, fmt.Sprint("HTTP ", c.code))
	}
}

func TestGatewaysAreTriedInTurn(t *testing.T) {
	down := httptest.NewServer(http.NotFoundHandler())
	down.Close()
	url := server(t, func(f *far, _ *http.Request) {
		f.ack(f.command()["id"], "t")
		f.command()
	})
	c := dial(t, client.Options{URLs: []string{"ws" + strings.TrimPrefix(down.URL, "http"), url}})
	s, err := c.Subscribe(t.Context(), "t", client.SubscribeOptions{})
	require.NoError(t, err)
	require.Equal(t, client.KindSubscribed, next(t, s).Kind)
	require.EqualValues(t, 1, c.Reconnects())
}

func TestAConnectionThatSaysNothingIsGivenUp(t *testing.T) {
	var conns atomic.Int32
	url := server(t, func(f *far, _ *http.Request) {
		if conns.Add(1) == 1 {
			f.ws.SetPingHandler(func(string) error { return nil }) // dead, but the kernel answers
		}
		for f.command() != nil { //nolint:revive // until it is cut
		}
	})
	dial(t, client.Options{URLs: []string{url}, PingEvery: 20 * time.Millisecond})
	require.Eventually(t, func() bool { return conns.Load() >= 2 }, 30*time.Second, time.Millisecond)
}

func TestContextOfASubscriptionEndsIt(t *testing.T) {
	unsubscribed := make(chan map[string]any, 2) // a connection each
	url := server(t, func(f *far, _ *http.Request) {
		f.ack(f.command()["id"], "t")
		unsubscribed <- f.command()
	})
	c := dial(t, client.Options{URLs: []string{url}})
	ctx, cancel := context.WithCancel(t.Context())
	s, err := c.Subscribe(ctx, "t", client.SubscribeOptions{})
	require.NoError(t, err)
	next(t, s)
	cancel()
	require.Equal(t, map[string]any{"cmd": "unsub", "id": 1.0}, <-unsubscribed)
	_, err = s.Next(t.Context())
	require.ErrorIs(t, err, client.ErrClosed)
	_, err = c.Subscribe(t.Context(), "t", client.SubscribeOptions{})
	require.NoError(t, err, "its keys are free again")
}

func TestChannelForm(t *testing.T) {
	url := server(t, func(f *far, _ *http.Request) {
		f.ack(f.command()["id"], "t")
		f.send(event(0), event(1), `{"event":"end","id":1,"topic":"t","at":{"0":2}}`)
		f.command()
	})
	c := dial(t, client.Options{URLs: []string{url}})
	s, err := c.Subscribe(t.Context(), "t", client.SubscribeOptions{Until: client.Live()})
	require.NoError(t, err)
	var kinds []string
	for f := range s.Chan(t.Context()) {
		kinds = append(kinds, f.Kind.String())
	}
	require.Equal(t, []string{"subscribed", "data", "data", "end"}, kinds)
	require.ErrorIs(t, s.Err(), client.ErrEnd)
	require.Equal(t, client.Position{Epoch: "E", Next: map[int32]int64{0: 2}}, s.Position())
}

func TestCloseDoesNotWaitForAChannelThatNobodyReads(t *testing.T) {
	url := server(t, func(f *far, _ *http.Request) {
		f.ack(f.command()["id"], "t")
		f.command()
	})
	c := dial(t, client.Options{URLs: []string{url}})
	s, err := c.Subscribe(t.Context(), "t", client.SubscribeOptions{})
	require.NoError(t, err)
	s.Chan(context.Background())
	require.Eventually(t, func() bool { return c.State().Phase == client.Connected }, 30*time.Second, time.Millisecond)
	c.Close()
	require.Nil(t, s.Position().Next, "nobody has received a frame")
}

func TestTypedEvents(t *testing.T) {
	url := server(t, func(f *far, _ *http.Request) {
		f.ack(f.command()["id"], "t")
		f.send(event(0), `{"event":"gap","id":1,"topic":"t","partition":0,"from":1,"to":3,"cause":"poison"}`,
			`{"topic":"t","key":"k","data":"not an object","offset":3,"ts":1}`, `{"topic":"t","key":"k","data":null,"offset":4,"ts":1}`,
			event(5), `{"event":"error","id":1,"code":"topic_gone","retry":false,"message":"deleted"}`)
		f.command()
	})
	c := dial(t, client.Options{URLs: []string{url}})
	s, err := c.Subscribe(t.Context(), "t", client.SubscribeOptions{})
	require.NoError(t, err)
	var got []string
	for e, err := range client.Events[struct{ N int }](t.Context(), s) {
		var missing *client.Missing
		var refused *client.Error
		switch {
		case errors.As(err, &missing):
			got = append(got, fmt.Sprintf("missing %d-%d", missing.GapFrom, missing.GapTo))
		case errors.As(err, &refused):
			got = append(got, refused.Code)
		case err != nil:
			got = append(got, "undecodable")
		case e.Tombstone:
			got = append(got, "deleted "+e.Key)
		default:
			got = append(got, fmt.Sprint(e.Data.N))
		}
	}
	require.Equal(t, []string{"0", "missing 1-3", "undecodable", "deleted k", "5", "topic_gone"}, got)
}

func TestAvroFormat(t *testing.T) {
	frame := func(header string, body ...byte) []byte {
		b := []byte{0, 0, 0, byte(len(header))}
		return append(append(b, header...), body...)
	}
	url := server(t, func(f *far, r *http.Request) {
		f.ack(f.command()["id"], "t")
		for _, b := range [][]byte{
			frame(`{"topic":"t","partition":2,"key":"k","offset":7,"ts":5,"schema":3}`, 0x54),
			frame(`{"topic":"t","offset":8,"ts":5,"tombstone":true}`),
			frame(`{"topic":"t","offset":9,"ts":5}`, '"', 'x', '"'),
		} {
			_ = f.ws.WriteMessage(websocket.BinaryMessage, b)
		}
		f.command()
	})
	c := dial(t, client.Options{URLs: []string{url}, Format: client.Avro, DecodeAvro: func(schema uint32, body []byte, v any) error {
		*(v.(*any)) = fmt.Sprintf("schema %d, %x", schema, body) //nolint:forcetypeassert // the test's own
		return nil
	}})
	s, err := c.Subscribe(t.Context(), "t", client.SubscribeOptions{})
	require.NoError(t, err)
	next(t, s)
	var v any
	f := next(t, s)
	require.NoError(t, f.Decode(&v))
	require.Equal(t, "schema 3, 54", v)
	require.Equal(t, int32(2), f.Partition)
	f = next(t, s)
	require.True(t, f.Tombstone)
	require.NoError(t, f.Decode(&v))
	f = next(t, s)
	require.NoError(t, f.Decode(&v))
	require.Equal(t, "x", v)
}

// TestASlowReaderMissesNothing: it is parked again and again, each time taken
// back in the middle of what is under way, and goes on without a hole or a double.
func TestASlowReaderMissesNothing(t *testing.T) {
	const n = 400
	url := server(t, func(f *far, _ *http.Request) {
		for {
			cmd := f.command()
			switch {
			case cmd == nil:
				return
			case cmd["cmd"] == "unsub":
				f.send(fmt.Sprintf(`{"event":"unsubscribed","id":%v,"topic":"t","at":{"0":0}}`, cmd["id"]))
				continue
			}
			f.ack2(cmd)
			from := 0
			if m, ok := cmd["from"].(map[string]any); ok {
				from = int(m["offsets"].(map[string]any)["0"].(float64)) //nolint:forcetypeassert // the client's own
			}
			for i := from; i < n; i++ {
				f.send(event(i))
			}
		}
	})
	c := dial(t, client.Options{URLs: []string{url}, Buffer: 1000, Stall: 5 * time.Millisecond})
	slow, err := c.Subscribe(t.Context(), "t", client.SubscribeOptions{})
	require.NoError(t, err)
	seen := 0
	for seen < n {
		if f := next(t, slow); f.Kind == client.KindData {
			require.EqualValues(t, seen, f.Offset)
			seen++
		}
		if seen%20 == 0 {
			time.Sleep(7 * time.Millisecond) // longer than Stall: this is the slow reader
		}
	}
	bad, list := slow.Violations()
	require.Zero(t, bad, "%v", list)
}

func (f *far) ack2(cmd map[string]any) {
	from := json.RawMessage(`{"0":0}`)
	if m, ok := cmd["from"].(map[string]any); ok {
		from, _ = json.Marshal(m["offsets"])
	}
	f.send(fmt.Sprintf(`{"event":"subscribed","id":%v,"topic":%q,"epoch":"E","from":%s,"live":%s,"resume":"exact"}`, cmd["id"], cmd["topic"], from, from))
}

// BenchmarkFrames reads frames off a socket to the caller, 50 to a message.
func BenchmarkFrames(b *testing.B) {
	const batch = 50
	url := server(b, func(f *far, _ *http.Request) {
		f.ack(f.command()["id"], "t")
		for o := 0; ; o += batch {
			lines := make([]string, batch)
			for i := range lines {
				lines[i] = fmt.Sprintf(`{"topic":"t","key":"EURUSD","data":{"bid":1.08412,"ask":1.08415,"bid_size":1000000,"ask_size":2000000},"offset":%d,"ts":1546383604711}`, o+i)
			}
			if f.ws.WriteMessage(websocket.TextMessage, []byte(strings.Join(lines, "\n"))) != nil {
				return
			}
		}
	})
	c := dial(b, client.Options{URLs: []string{url}})
	s, err := c.Subscribe(b.Context(), "t", client.SubscribeOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Next(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
