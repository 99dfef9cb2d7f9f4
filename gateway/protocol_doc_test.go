package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/protocol"
)

// worlds are what the examples of docs/PROTOCOL.md begin with.
var worlds = map[string]func(f *fakeFeed){
	"price": func(f *fakeFeed) {
		f.add("price", 1)
		f.fill(nil, "price", 0, 4711, noKey)
	},
	"quotes": func(f *fakeFeed) {
		f.add("quotes", 1)
		for i := range 4 {
			f.produce("quotes", 0, "EURUSD", fmt.Sprintf("1.084%d", 2*i))
			f.produce("quotes", 0, "USDJPY", fmt.Sprintf("148.3%d", 2*i+1))
		}
	},
	"retained": func(f *fakeFeed) {
		f.add("price", 1)
		f.fill(nil, "price", 0, 7, noKey)
		f.change("price", func(tp *fakeTopic) { tp.retain(0, 5) })
	},
	"poison": func(f *fakeFeed) {
		f.add("price", 1)
		for _, data := range []string{"0", "poison", "2"} {
			f.produce("price", 0, "", data)
		}
	},
	"recreated": func(f *fakeFeed) {
		f.add("price", 1)
		f.fill(nil, "price", 0, 3, noKey)
	},
	"empty": func(f *fakeFeed) { f.add("quotes", 1) },
}

// example is one fenced block of the page.
type example struct {
	line  int
	kind  string // tapecast, tapecast-http
	world string
	batch bool
	lines []string
}

func readExamples(t *testing.T) (out []example) {
	t.Helper()
	text, err := os.ReadFile("../docs/PROTOCOL.md")
	require.NoError(t, err)
	var open *example
	for i, line := range strings.Split(string(text), "\n") {
		switch {
		case open != nil && line == "```":
			out = append(out, *open)
			open = nil
		case open != nil:
			open.lines = append(open.lines, line)
		case strings.HasPrefix(line, "```"):
			words := strings.Fields(strings.TrimPrefix(line, "```"))
			require.NotEmpty(t, words, "line %d: every example says how it is run", i+1)
			require.Contains(t, []string{"tapecast", "tapecast-http"}, words[0], "line %d", i+1)
			open = &example{line: i + 1, kind: words[0], world: words[1], batch: len(words) > 2}
		}
	}
	require.Nil(t, open)
	return out
}

func TestEveryExampleOfTheProtocolPage(t *testing.T) {
	examples := readExamples(t)
	require.Greater(t, len(examples), 12)
	for _, e := range examples {
		t.Run(fmt.Sprintf("line %d", e.line), func(t *testing.T) {
			require.Contains(t, worlds, e.world)
			synctest.Test(t, func(t *testing.T) {
				if e.kind == "tapecast" {
					runExample(t, e)
				} else {
					runHTTPExample(t, e)
				}
			})
		})
	}
}

func runExample(t *testing.T, e example) {
	r := newRig(t, true, func(o *Options) { o.Drain = 8 * time.Second })
	worlds[e.world](r.feed)
	var protocols []string
	if e.batch {
		protocols = []string{protocol.SubprotocolBatch}
	}
	c := r.connect(protocols...)
	inbox := listen(c)
	for i, line := range e.lines {
		at := fmt.Sprintf("docs/PROTOCOL.md:%d", e.line+1+i)
		mark, text, _ := strings.Cut(line, " ")
		if strings.HasPrefix(line, " + ") {
			mark, text = "<-", line[3:]
		}
		switch mark {
		case "->":
			c.send(text)
			synctest.Wait()
		case "<-":
			got := <-inbox
			for strings.Contains(got, `"heartbeat"`) && !strings.Contains(text, `"heartbeat"`) {
				got = <-inbox
			}
			requireFrame(t, text, got, at)
		case "..":
			happen(t, r, text)
			synctest.Wait()
		default:
			t.Fatalf("%s: %q", at, line)
		}
	}
	_ = c.ws.Close()
	for range inbox { // nothing but heartbeats may be left
	}
}

// listen reads all messages of a client; a close is a message too.
func listen(c *client) chan string {
	inbox := make(chan string, 100)
	_ = c.ws.SetReadDeadline(time.Time{})
	go func() {
		defer close(inbox)
		for {
			_, text, err := c.ws.ReadMessage()
			if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
				inbox <- "close " + strconv.Itoa(closed.Code)
			}
			if err != nil {
				return
			}
			for line := range strings.SplitSeq(string(text), "\n") {
				inbox <- line
			}
		}
	}()
	return inbox
}

// happen does what a line with .. says.
func happen(t *testing.T, r *rig, text string) {
	t.Helper()
	w := strings.Fields(text)
	switch {
	case w[0] == "drain":
		r.drain()
	case w[0] == "recreate":
		r.feed.change(w[1], func(tp *fakeTopic) { tp.id, tp.parts = epochOf(2), []*fakeLog{{}} })
	case w[0] == "delete":
		r.feed.change(w[1], func(tp *fakeTopic) { tp.gone = true })
	case len(w) == 2:
		r.feed.produce(w[0], 0, "", w[1])
	case len(w) == 3:
		r.feed.produce(w[0], 0, w[1], w[2])
	default:
		t.Fatal(text)
	}
}

func runHTTPExample(t *testing.T, e example) {
	r := newRig(t, true)
	worlds[e.world](r.feed)
	method, path, _ := strings.Cut(e.lines[0], " ")
	transport := &http.Transport{DialContext: r.dial, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(context.Background(), method, "http://"+r.base+path, nil)
	require.NoError(t, err)
	resp, err := transport.RoundTrip(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	var got []string
	if resp.StatusCode != http.StatusOK {
		got = append(got, strconv.Itoa(resp.StatusCode))
	}
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		if line := s.Text(); line != "" && !strings.HasPrefix(line, "id: ") {
			got = append(got, line)
		}
	}
	for i, want := range e.lines[1:] {
		require.Less(t, i, len(got), "docs/PROTOCOL.md:%d", e.line+2+i)
		want, have := strings.TrimPrefix(want, "<- "), got[i]
		if cut, ok := strings.CutPrefix(want, "data: "); ok {
			want, have = cut, strings.TrimPrefix(have, "data: ")
		}
		requireFrame(t, want, have, fmt.Sprintf("docs/PROTOCOL.md:%d", e.line+2+i))
	}
	require.Len(t, got, len(e.lines)-1)
}

// requireFrame compares JSON; a string that ends in ... stands for all that begin so.
func requireFrame(t *testing.T, want, got, at string) {
	t.Helper()
	var w, g any
	if json.Unmarshal([]byte(want), &w) != nil {
		require.Equal(t, want, got, at)
		return
	}
	require.NoError(t, json.Unmarshal([]byte(got), &g), "%s: %s", at, got)
	require.True(t, like(w, g), "%s:\nwant %s\ngot  %s", at, want, got)
}

func like(want, got any) bool {
	switch w := want.(type) {
	case string:
		g, ok := got.(string)
		if prefix, cut := strings.CutSuffix(w, "..."); cut && ok {
			return strings.HasPrefix(g, prefix)
		}
		return ok && w == g
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok || len(g) != len(w) {
			return false
		}
		for k := range w {
			if _, there := g[k]; !there || !like(w[k], g[k]) {
				return false
			}
		}
		return true
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return false
		}
		for i := range w {
			if !like(w[i], g[i]) {
				return false
			}
		}
		return true
	}
	return want == got
}

func TestTheProtocolPageListsEveryWord(t *testing.T) {
	text, err := os.ReadFile("../docs/PROTOCOL.md")
	require.NoError(t, err)
	rows := map[string][]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (yes|no) \\| ([0-9]+) \\|").FindAllStringSubmatch(string(text), -1) {
		rows[row[1]] = row[2:]
	}
	require.Len(t, rows, len(protocol.Codes()))
	for _, code := range protocol.Codes() {
		retry := map[bool]string{true: "yes", false: "no"}[code.Retry()]
		require.Equal(t, []string{retry, strconv.Itoa(code.Status())}, rows[string(code)], code)
	}
	for _, cause := range protocol.Causes() {
		require.Contains(t, string(text), "| `"+string(cause)+"` |")
	}
}
