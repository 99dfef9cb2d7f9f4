package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/testconns"
)

// limit is how long anything awaited may take: a loaded machine is no failure.
const limit = 30 * time.Second

type script struct {
	Name       string
	Why        string
	Subscribe  []order
	Connection [][]step `json:"connections"`
	Expect     map[string][]string
	Violations []string
	Position   map[string]json.RawMessage
	States     []string
}

// step is one of the fields.
type step struct {
	Expect json.RawMessage
	Send   []json.RawMessage
	Batch  []json.RawMessage
	Text   *string
	Await  map[string]int
	Do     *order
	Ping   bool
	Cut    bool
	Close  int
	Refuse int
}

// order is what a client's user does.
type order struct {
	Do         string          `json:"do,omitempty"` // subscribe, read, close
	As         string          `json:"as"`
	Topic      string          `json:"topic,omitempty"`
	Hold       bool            `json:"hold,omitempty"` // not read before told to
	Keys       []string        `json:"keys,omitempty"`
	From       json.RawMessage `json:"from,omitempty"`
	Until      json.RawMessage `json:"until,omitempty"`
	Mode       string          `json:"mode,omitempty"`
	IntervalMs int             `json:"intervalMs,omitempty"`
	OnSlow     string          `json:"onSlow,omitempty"`
	Buffer     int             `json:"buffer,omitempty"`
	Overflow   string          `json:"overflow,omitempty"`
}

// driver is a client under test. What it hands out goes to the record.
type driver interface {
	open(url string, r *record)
	order(o order) error // for any goroutine
	position(as string) json.RawMessage
	close()
}

// record is what a client handed out.
type record struct {
	mu         sync.Mutex
	changed    chan struct{}
	lines      map[string][]string
	violations []string
	states     []string
	positions  map[string]json.RawMessage
}

func newRecord() *record {
	return &record{changed: make(chan struct{}), lines: map[string][]string{}, positions: map[string]json.RawMessage{}}
}

func (r *record) note(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn()
	close(r.changed)
	r.changed = make(chan struct{})
}

// await waits until cond holds; false = it never did.
func (r *record) await(cond func() bool) bool {
	timeout := time.After(limit)
	for {
		r.mu.Lock()
		ok, changed := cond(), r.changed
		r.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-changed:
		case <-timeout:
			return false
		}
	}
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Sprintf("handed out: %q\nviolations: %q\nstates: %q", r.lines, r.violations, r.states)
}

func scripts(t *testing.T) []script {
	files, err := filepath.Glob("scripts/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	out := make([]script, len(files))
	for i, f := range files {
		text, err := os.ReadFile(f)
		require.NoError(t, err)
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.DisallowUnknownFields()
		require.NoError(t, dec.Decode(&out[i]), f)
	}
	return out
}

// play runs a script against a client.
func play(t *testing.T, s script, d driver) {
	r := newRecord()
	g := &gateway{t: t, script: s, record: r, driver: d, done: make(chan struct{})}
	server := httptest.NewServer(g)
	defer server.Close()
	defer g.conns.HangUp() // before the test is over: handlers and readers may still speak to it
	d.open("ws"+strings.TrimPrefix(server.URL, "http"), r)
	defer d.close()
	for _, o := range s.Subscribe {
		o.Do = "subscribe"
		require.NoError(t, d.order(o))
	}
	select {
	case <-g.done:
	case <-time.After(2 * limit):
		t.Fatalf("the script did not come to its end\n%s", r)
	}
	if t.Failed() {
		t.Fatal(r)
	}
	complete := func() bool {
		for as, want := range s.Expect {
			if len(r.lines[as]) < len(want) {
				return false
			}
		}
		return len(r.violations) >= len(s.Violations) && len(r.states) >= len(s.States)
	}
	require.True(t, r.await(complete), "%s\nexpected: %q", r, s.Expect)
	for as, want := range s.Position {
		require.JSONEq(t, string(want), string(d.position(as)))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for as := range r.lines {
		require.Equal(t, s.Expect[as], r.lines[as], as)
	}
	require.Equal(t, len(s.Expect), len(r.lines))
	require.Equal(t, s.Violations, r.violations)
	if s.States != nil {
		require.Equal(t, s.States, r.states)
	}
}

// gateway plays the other side of a script.
type gateway struct {
	t      *testing.T
	script script
	record *record
	driver driver
	done   chan struct{}

	conns testconns.Conns // with handlers and readers
	begun atomic.Int32    // connections
}

// failed reports a step that went wrong. What goes wrong because the test is
// over, and has hung up, says nothing.
func (g *gateway) failed(conn, step int, err error) {
	if !g.conns.Over() {
		g.t.Errorf("connection %d, step %d: %v", conn+1, step+1, err)
	}
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !g.conns.Begin() {
		return
	}
	defer g.conns.Done()
	n := int(g.begun.Add(1)) - 1
	if n >= len(g.script.Connection) {
		g.t.Errorf("an unexpected connection, number %d", n+1)
		return
	}
	steps := g.script.Connection[n]
	last := n == len(g.script.Connection)-1
	if steps[0].Refuse != 0 {
		w.Header().Set("Connection", "close")
		http.Error(w, "refused", steps[0].Refuse)
		return
	}
	up := websocket.Upgrader{Subprotocols: []string{"tapecast.json.batch"}}
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		g.t.Errorf("upgrade: %v", err)
		return
	}
	if !g.conns.Hold(ws) {
		return
	}
	p := newPeer(g, ws)
	for i, st := range steps {
		if err := p.step(st); err != nil {
			g.failed(n, i, err)
			_ = ws.Close()
			break
		}
	}
	if last || g.t.Failed() {
		close(g.done)
	}
	for range p.commands { //nolint:revive // read to the end, so that the reader ends
	}
}

// peer is one connection of a script.
type peer struct {
	g        *gateway
	ws       *websocket.Conn
	commands chan []byte
	pongs    chan struct{}
}

func newPeer(g *gateway, ws *websocket.Conn) *peer {
	p := &peer{g: g, ws: ws, commands: make(chan []byte, 64), pongs: make(chan struct{}, 8)}
	ws.SetPongHandler(func(string) error { p.pongs <- struct{}{}; return nil })
	g.conns.Go(func() { // ends with the connection, which HangUp closes
		defer close(p.commands)
		for {
			_, msg, err := ws.ReadMessage()
			if err != nil {
				return
			}
			p.commands <- msg
		}
	})
	return p
}

func compact(raw json.RawMessage) []byte {
	var b bytes.Buffer
	_ = json.Compact(&b, raw)
	return b.Bytes()
}

func (p *peer) step(st step) error {
	switch {
	case st.Expect != nil:
		return p.expect(st.Expect)
	case st.Send != nil:
		for _, f := range st.Send {
			if err := p.ws.WriteMessage(websocket.TextMessage, compact(f)); err != nil {
				return err
			}
		}
	case st.Batch != nil:
		var lines [][]byte
		for _, f := range st.Batch {
			lines = append(lines, compact(f))
		}
		return p.ws.WriteMessage(websocket.TextMessage, bytes.Join(lines, []byte("\n")))
	case st.Text != nil:
		return p.ws.WriteMessage(websocket.TextMessage, []byte(*st.Text))
	case st.Await != nil:
		if !p.g.record.await(func() bool {
			for as, n := range st.Await {
				if len(p.g.record.lines[as]) < n {
					return false
				}
			}
			return true
		}) {
			return fmt.Errorf("awaited %v in vain\n%s", st.Await, p.g.record)
		}
	case st.Do != nil:
		return p.g.driver.order(*st.Do)
	case st.Ping:
		if err := p.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(limit)); err != nil {
			return err
		}
		select {
		case <-p.pongs:
		case <-time.After(limit):
			return fmt.Errorf("a ping was not answered\n%s", p.g.record)
		}
	case st.Cut:
		return p.ws.NetConn().Close()
	case st.Close != 0:
		return p.goodbye(st.Close)
	}
	return nil
}

// goodbye closes as a gateway does: a close frame, the client's, the connection.
func (p *peer) goodbye(code int) error {
	if err := p.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(limit)); err != nil {
		return err
	}
	for range p.commands { //nolint:revive // what the client still says does not matter
	}
	return p.ws.Close()
}

func (p *peer) expect(want json.RawMessage) error {
	for {
		var got []byte
		select {
		case msg, ok := <-p.commands:
			if !ok {
				return fmt.Errorf("expected %s, but the connection ended", want)
			}
			got = msg
		case <-time.After(limit):
			return fmt.Errorf("expected %s, but nothing came\n%s", want, p.g.record)
		}
		if string(got) == "PING" {
			continue
		}
		var a, b map[string]any
		if err := json.Unmarshal(got, &a); err != nil {
			return err
		}
		if err := json.Unmarshal(want, &b); err != nil {
			return err
		}
		sortKeys(a)
		sortKeys(b)
		if !reflect.DeepEqual(a, b) {
			return fmt.Errorf("expected %s, got %s", want, got)
		}
		return nil
	}
}

// sortKeys makes the order of keys not matter.
func sortKeys(cmd map[string]any) {
	if keys, ok := cmd["keys"].([]any); ok {
		slices.SortFunc(keys, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	}
}
