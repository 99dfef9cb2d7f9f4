package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

// get opens a stream.
func (r *rig) get(path string, header ...string) (*http.Response, *bufio.Reader) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.base+path, nil)
	require.NoError(r.t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = resp.Body.Close() })
	return resp, bufio.NewReader(resp.Body)
}

// sse is one Server-Sent Event.
type sse struct{ id, event, data string }

func nextSSE(t testing.TB, br *bufio.Reader) (e sse) {
	t.Helper()
	for {
		line, err := br.ReadString('\n')
		require.NoError(t, err)
		line = strings.TrimSuffix(line, "\n")
		switch field, value, _ := strings.Cut(line, ": "); {
		case line == "" && e.data != "":
			return e
		case field == "id":
			e.id = value
		case field == "event":
			e.event = value
		case field == "data":
			e.data = value
		}
	}
}

func TestSSEResumesByLastEventID(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 2)
	for i := range 20 {
		r.feed.produce("price", i%2, "", strconv.Itoa(i))
	}
	resp, br := r.get("/v1/topics/price/events?from=earliest")
	require.Equal(t, "text/event-stream; charset=utf-8", resp.Header.Get("Content-Type"))
	require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
	e := nextSSE(t, br)
	require.Equal(t, "subscribed", e.event)
	seen := map[string]bool{}
	var last string
	for range 7 {
		e = nextSSE(t, br)
		require.Empty(t, e.event)
		seen[e.data], last = true, e.id
	}
	_ = resp.Body.Close()
	resp, br = r.get("/v1/topics/price/events?until=live", "Last-Event-ID", last)
	require.Equal(t, 200, resp.StatusCode)
	for {
		e = nextSSE(t, br)
		if e.event == "end" {
			break
		}
		if e.event == "" {
			require.False(t, seen[e.data], "%s again", e.data)
			seen[e.data] = true
		}
	}
	require.Len(t, seen, 20)
	_, err := br.ReadByte()
	require.ErrorIs(t, err, io.EOF)
	resp, _ = r.get("/v1/topics/price/events?until=live", "Last-Event-ID", e.id)
	require.Equal(t, http.StatusNoContent, resp.StatusCode)
}

func TestNDJSONHoldsTheSameFrames(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 1)
	r.feed.fill(t, "price", 0, 5, func(i int) string { return "k" + strconv.Itoa(i%2) })
	resp, br := r.get("/v1/topics/price/events?from=earliest&until=live&keys=k0,k9&format=ndjson")
	require.Equal(t, "application/x-ndjson; charset=utf-8", resp.Header.Get("Content-Type"))
	all, err := io.ReadAll(br)
	require.NoError(t, err)
	var names []string
	for line := range strings.Lines(string(all)) {
		f := object(t, line)
		name, _ := f["event"].(string)
		names = append(names, name)
	}
	require.Equal(t, []string{"subscribed", "", "", "", "live", "end"}, names)
}

func TestStreamsRefuseInHTTPsWords(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 2)
	for _, tt := range []struct {
		path, code string
		status     int
	}{
		{"/v1/topics/nope/events", "unknown_topic", 404},
		{"/v1/topics/nope", "unknown_topic", 404},
		{"/v1/topics/price/events?from=4711", "invalid", 400}, // two partitions
		{"/v1/topics/price/events?from=never", "invalid", 400},
		{"/v1/topics/price/events?from={", "invalid", 400},
		{"/v1/topics/price/events?from=-1", "invalid", 400},
		{"/v1/topics/price/events?mode=x", "invalid", 400},
		{"/v1/topics/price/events?mode=latest&interval_ms=1", "invalid", 400},
		{"/v1/topics/price/events?mode=latest&interval_ms=x", "invalid", 400},
		{"/v1/topics/price/events?until=x", "invalid", 400},
		{"/v1/topics/price/events?format=xml", "invalid", 400},
		{"/v1/topics/price/events?x=" + strings.Repeat("x", maxQuery), "invalid", 400},
	} {
		resp, br := r.get(tt.path)
		require.Equal(t, tt.status, resp.StatusCode, "%.80s", tt.path)
		var f map[string]any
		require.NoError(t, json.NewDecoder(br).Decode(&f))
		require.Equal(t, tt.code, f["code"], "%.80s", tt.path)
	}
	resp, _ := r.get("/v1/topics/price/events", "Last-Event-ID", "xx")
	require.Equal(t, 400, resp.StatusCode)
	resp, _ = r.get("/v1/topics", "Origin", "https://evil.example.com")
	require.Equal(t, 403, resp.StatusCode)
	require.Empty(t, resp.Header.Get("Access-Control-Allow-Origin"))
	resp, br := r.get("/v1/topics", "Origin", "http://"+r.base)
	require.Equal(t, "http://"+r.base, resp.Header.Get("Access-Control-Allow-Origin"))
	var list struct{ Topics []topicInfo }
	require.NoError(t, json.NewDecoder(br).Decode(&list))
	require.Equal(t, []topicInfo{{"price", epochOf(1).String(), "json", 2}}, list.Topics)
	_, br = r.get("/v1/topics/price")
	var info topicBounds
	require.NoError(t, json.NewDecoder(br).Decode(&info))
	require.Equal(t, []partitionBounds{{0, 0, 0}, {1, 0, 0}}, info.Partitions)
}

func TestDrainEndsStreams(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 1)
	_, br := r.get("/v1/topics/price/events")
	require.Equal(t, "subscribed", nextSSE(t, br).event)
	r.drain()
	bye := nextSSE(t, br)
	require.Equal(t, "bye", bye.event)
	require.Equal(t, "drain", object(t, bye.data)["code"])
	_, err := br.ReadByte()
	require.ErrorIs(t, err, io.EOF)
	<-r.done
}

func TestBatchSubprotocolJoinsFrames(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 1)
	r.feed.fill(t, "price", 0, 3000, noKey)
	c := r.connect("tapecast.json.batch")
	require.Equal(t, "tapecast.json.batch", c.ws.Subprotocol())
	c.send(`{"cmd":"sub","id":1,"topic":"price","from":"earliest","until":"live"}`)
	messages, frames := 0, []string{}
	for {
		messages++
		for _, line := range strings.Split(c.next(), "\n") {
			f := object(t, line)
			name, _ := f["event"].(string)
			frames = append(frames, name)
		}
		if frames[len(frames)-1] == "end" {
			break
		}
	}
	require.Len(t, frames, 3000+3)
	require.Less(t, messages, 100)
	require.NoError(t, c.ws.WriteControl(websocket.PingMessage, []byte("x"), noDeadline))
	c.sync()
}

func TestAvroSubprotocolSendsBinaryData(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 1)
	r.feed.produce("price", 0, "k", "1024")
	c := r.connect("tapecast.avro")
	c.send(`{"cmd":"sub","id":1,"topic":"price","mode":"snapshot"}`)
	c.event("subscribed")
	kind, body, err := c.ws.ReadMessage()
	require.NoError(t, err)
	require.Equal(t, websocket.BinaryMessage, kind)
	n := int(body[3])
	head := object(t, string(body[4:4+n]))
	require.Equal(t, true, head["snapshot"])
	require.Equal(t, "1024", string(body[4+n:]))
	c.event("live")
	r.feed.produce("price", 0, "k", "1025")
	kind, body, err = c.ws.ReadMessage()
	require.NoError(t, err)
	require.Equal(t, websocket.BinaryMessage, kind)
	require.Equal(t, "1025", string(body[4+int(body[3]):]))
}

func TestEventsLargerThanTheScratchArriveWhole(t *testing.T) {
	for _, protocols := range [][]string{nil, {"tapecast.json.batch"}} {
		r := newRig(t, false)
		r.feed.add("price", 1)
		big := `"` + strings.Repeat("x", 300<<10) + `"`
		r.feed.produce("price", 0, "", "1")
		r.feed.produce("price", 0, "", big)
		r.feed.produce("price", 0, "", "2")
		c := r.connect(protocols...)
		c.send(`{"cmd":"sub","id":1,"topic":"price","from":"earliest","until":"live"}`)
		var offsets []float64
		for done := false; !done; {
			for _, line := range strings.Split(c.next(), "\n") {
				f := object(t, line)
				switch f["event"] {
				case nil:
					offsets = append(offsets, f["offset"].(float64))
				case "end":
					done = true
				}
			}
		}
		require.Equal(t, []float64{0, 1, 2}, offsets)
		_ = c.ws.Close()
	}
}
