package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
)

func TestOneEventAndArrays(t *testing.T) {
	b := newBench(t)
	before := time.Now()
	a := b.events("quotes", `{"key":"EURUSD","value":{"bid":1.5,"bid_size":7},"ts":1546383600078}`)
	require.Equal(t, 200, a.status, a.text)
	require.Equal(t, `{"offsets":[{"partition":0,"offset":0}]}`+"\n", a.text)
	require.Equal(t, typeJSON, a.header.Get("Content-Type"))
	r := b.producer.all()[0]
	require.Equal(t, "EURUSD", string(r.Key))
	require.Equal(t, int64(1546383600078), r.Time.UnixMilli())
	require.Equal(t, int32(-1), r.Partition)
	require.GreaterOrEqual(t, r.Accepted, before.UnixMicro())
	require.LessOrEqual(t, r.Accepted, time.Now().UnixMicro())
	require.JSONEq(t, `{"bid":1.5,"bid_size":7,"note":null}`, b.decoded(0))

	a = b.events("quotes", ` [ {"value":{"bid":1,"bid_size":1,"note":"x"},"partition":1},
		{"key":null,"value":null}, {"key":42.0,"value":{"bid":2,"bid_size":2},"ts":null,"partition":null} ] `)
	require.Equal(t, 200, a.status, a.text)
	require.Equal(t, `{"offsets":[{"partition":1,"offset":1},{"partition":0,"offset":2},{"partition":0,"offset":3}]}`+"\n", a.text)
	recs := b.producer.all()
	require.Nil(t, recs[1].Key)
	require.Equal(t, int32(1), recs[1].Partition)
	require.Nil(t, recs[2].Key)
	require.Nil(t, recs[2].Value, "an explicit null is a tombstone")
	require.Equal(t, "42.0", string(recs[3].Key), "a number is its text")
	require.WithinDuration(t, before, recs[3].Time, time.Minute)

	require.Equal(t, `{"offsets":[]}`+"\n", b.events("quotes", "[]").text)
	require.InDelta(t, 4, testutil.ToFloat64(b.s.metrics.events[doorEvents]), 0)
}

func TestFormats(t *testing.T) {
	b := newBench(t)
	require.Equal(t, 200, b.events("json", `[{"value":{"a": [1, 2]}},{"value":"x"},{"value":null}]`).status)
	require.Equal(t, 200, b.events("text", `[{"value":"gr\u00fcn"},{"value":""}]`).status)
	require.Equal(t, 200, b.events("raw", `{"value":"AAEC/w=="}`).status)
	recs := b.producer.all()
	require.Equal(t, `{"a": [1, 2]}`, string(recs[0].Value))
	require.Equal(t, `"x"`, string(recs[1].Value))
	require.Nil(t, recs[2].Value)
	require.Equal(t, "grün", string(recs[3].Value))
	require.Equal(t, []byte{}, recs[4].Value, "empty is no tombstone")
	require.Equal(t, []byte{0, 1, 2, 255}, recs[5].Value)
	for topic, body := range map[string]string{"text": `{"value":7}`, "raw": `{"value":"%"}`} {
		a := b.events(topic, body)
		require.Equal(t, 400, a.status)
		require.Equal(t, "value", a.body.Errors[0].Field)
	}
	a := b.events("empty", `{"value":{}}`)
	require.Equal(t, 422, a.status)
	require.Equal(t, codeNoSchema, a.body.Code)
	require.Contains(t, a.body.Message, "kafka.empty-value")
}

func TestNothingOfABadRequestIsWritten(t *testing.T) {
	b := newBench(t)
	good := `{"value":{"bid":1,"bid_size":1}}`
	for name, tc := range map[string]struct {
		body    string
		index   int
		field   string
		message string
	}{
		"wrong type":         {`[` + good + `,` + good + `,` + good + `,{"value":{"bid":1,"bid_size":"x"}}]`, 3, "value.bid_size", "string"},
		"missing field":      {`{"value":{"bid":1}}`, 0, "value.bid_size", ""},
		"unknown in value":   {`{"value":{"bid":1,"bid_size":1,"nope":1}}`, 0, "value.nope", ""},
		"missing value":      {`{"key":"a"}`, 0, "value", "missing"},
		"unknown field":      {`{"value":null,"valeu":1}`, 0, "valeu", "no field"},
		"twice":              {`{"value":null,"value":null}`, 0, "value", "twice"},
		"key":                {`{"key":{},"value":null}`, 0, "key", "an object, want a string"},
		"key boolean":        {`{"key":true,"value":null}`, 0, "key", "a boolean, want a string"},
		"ts":                 {`{"ts":"now","value":null}`, 0, "ts", "a string, want milliseconds"},
		"ts fraction":        {`{"ts":1.5,"value":null}`, 0, "ts", "whole number"},
		"ts negative":        {`{"ts":-1,"value":null}`, 0, "ts", "whole number"},
		"ts ahead":           {fmt.Sprintf(`{"ts":%d,"value":null}`, time.Now().Add(time.Hour).UnixMilli()), 0, "ts", "future"},
		"ts huge":            {`{"ts":99999999999999999999,"value":null}`, 0, "ts", "whole number"},
		"partition":          {`{"partition":2,"value":null}`, 0, "partition", "not there; the topic has 2"},
		"partition text":     {`{"partition":"0","value":null}`, 0, "partition", "a string, want a number"},
		"partition negative": {`{"partition":-1,"value":null}`, 0, "partition", "no partition"},
		"no object":          {`[` + good + `,7]`, 1, "", "is a number, want an object"},
	} {
		t.Run(name, func(t *testing.T) {
			a := b.events("quotes", tc.body)
			require.Equal(t, 400, a.status, a.text)
			require.Equal(t, codeInvalid, a.body.Code)
			require.NotEmpty(t, a.body.Errors)
			require.Equal(t, tc.index, a.body.Errors[0].Index)
			require.Equal(t, tc.field, a.body.Errors[0].Field)
			require.Contains(t, a.body.Errors[0].Message, tc.message)
			require.Contains(t, a.body.Message, fmt.Sprintf("event %d: ", tc.index))
		})
	}
	for name, body := range map[string]string{
		"empty": "", "space": " ", "syntax": `{"value":`, "two": `{"value":null}{"value":null}`, "scalar": `7`,
		"utf8": "{\"value\":\"\xff\"}", "half a pair": `{"key":"\ud800","value":null}`, "low half": `{"key":"\udc00x","value":null}`,
		"depth": `{"value":` + strings.Repeat("[", 100_000), "binary": "\x00\x01\x02", "ndjson": good + "\n" + good,
	} {
		t.Run(name, func(t *testing.T) {
			a := b.events("quotes", body)
			require.Equal(t, 400, a.status, a.text)
			require.Equal(t, codeInvalid, a.body.Code)
			require.Less(t, len(a.text), 512)
		})
	}
	require.Empty(t, b.producer.all())
	require.Zero(t, b.s.budget.held.Load())
}

func TestMistakesAreBounded(t *testing.T) {
	b := newBench(t)
	a := b.events("quotes", `[`+strings.Repeat(`{"value":7},`, 500)+`{"value":7}]`)
	require.Equal(t, 400, a.status)
	require.Len(t, a.body.Errors, maxErrors)
}

func TestDoors(t *testing.T) {
	b := newBench(t, func(o *Options) {
		o.MaxBody, o.MaxEvent = 4096, 256
		o.Origins = []string{"https://desk.example.com"}
	})
	ok := `{"value":null}`
	post := func(contentType string, body io.Reader, header ...string) answer {
		return b.post("/v1/topics/json/events", contentType, body, header...)
	}
	require.Equal(t, 200, post("application/json; charset=UTF-8", strings.NewReader(ok)).status)
	require.Equal(t, 200, post("", strings.NewReader(ok)).status, "a known length and no type is JSON")
	a := post("", io.MultiReader(strings.NewReader(ok+"\n"+ok+"\n")))
	require.Equal(t, 200, a.status, "no type and no length is a stream")
	require.Equal(t, int64(2), a.body.Events)

	for _, ct := range []string{"text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1", "a/b/c", "application/vnd.kafka.json.v2+json"} {
		a := post(ct, strings.NewReader(ok))
		require.Equal(t, 415, a.status, ct)
		require.Equal(t, codeMediaType, a.body.Code)
	}
	require.Equal(t, 415, post(typeJSON, strings.NewReader(ok), "Content-Encoding", "gzip").status)

	large := `{"value":"` + strings.Repeat("x", 5000) + `"}`
	a = post(typeJSON, strings.NewReader(large))
	require.Equal(t, 413, a.status)
	require.Equal(t, codeTooLarge, a.body.Code)
	require.Equal(t, 413, post(typeJSON, io.MultiReader(strings.NewReader(large))).status, "also without a length")
	a = post(typeJSON, strings.NewReader(`[{"value":1},{"value":"`+strings.Repeat("x", 300)+`"}]`))
	require.Equal(t, 413, a.status)
	require.Equal(t, 1, a.body.Errors[0].Index)
}

func TestOrigins(t *testing.T) {
	b := newBench(t, func(o *Options) { o.Origins = []string{"https://desk.example.com"} })
	ok := `{"value":null}`
	for _, path := range []string{"/v1/topics/json/events", "/topics/json"} {
		for _, h := range [][]string{
			{"Origin", "https://evil.example.com"},
			{"Origin", "null"},
			{"Origin", "https://desk.example.com.evil.com"},
			{"Origin", "http://desk.example.com"},
			{"Sec-Fetch-Site", "cross-site"},
			{"Sec-Fetch-Site", "same-site"},
		} {
			a := b.post(path, typeJSON, strings.NewReader(ok), h...)
			require.Equal(t, 403, a.status, h)
			require.Equal(t, codeForbidden, a.body.Code)
			require.Empty(t, a.header.Get("Access-Control-Allow-Origin"))
		}
	}
	require.Empty(t, b.producer.all())
	a := b.post("/v1/topics/json/events", typeJSON, strings.NewReader(ok), "Origin", "https://desk.example.com", "Sec-Fetch-Site", "cross-site")
	require.Equal(t, 200, a.status)
	require.Equal(t, "https://desk.example.com", a.header.Get("Access-Control-Allow-Origin"))
	require.Equal(t, 200, b.post("/v1/topics/json/events", typeJSON, strings.NewReader(ok), "Origin", b.url).status)
	for origin, want := range map[string]int{"https://desk.example.com": 204, "https://evil.example.com": 403, "": 403} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, b.url+"/v1/topics/json/events", nil)
		require.NoError(t, err)
		req.Header.Set("Origin", origin)
		req.Header.Set("Access-Control-Request-Method", "POST")
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, want, res.StatusCode)
		require.Equal(t, want == 204, res.Header.Get("Access-Control-Allow-Origin") == origin && origin != "")
	}
	_, err := newService(Options{Origins: []string{"desk"}}, b.feeds, b.producer, nil)
	require.Error(t, err)
}

func TestUnknownAndInternalTopicsGetOneAnswer(t *testing.T) {
	b := newBench(t)
	var first answer
	for i, name := range []string{"nope", "tapecast.interest", "__consumer_offsets", "_schemas", "kafka.quotes", "..%2f..", "%00", strings.Repeat("a", 5000)} {
		a := b.events(name, `{"value":null}`)
		require.Equal(t, 404, a.status, name)
		if i == 0 {
			first = a
		}
		require.Equal(t, first.text, a.text)
	}
	require.Equal(t, codeUnknownTopic, first.body.Code)

	b.feeds.late = map[string]catalog.Feed{"new": feed("new", catalog.FormatJSON, 1)}
	require.Equal(t, 200, b.events("new", `{"value":1}`).status, "a topic that was made a moment ago")
}

func TestKafkaAway(t *testing.T) {
	b := newBench(t)
	b.feeds.synced, b.feeds.err = time.Now().Add(-time.Minute), errors.New("away")
	for _, topic := range []string{"json", "nope"} {
		a := b.events(topic, `{"value":1}`)
		require.Equal(t, 503, a.status)
		require.Equal(t, codeUnavailable, a.body.Code)
		require.Equal(t, retryAfter, a.header.Get("Retry-After"))
		require.Contains(t, a.body.Message, "nothing was written")
	}
	require.Error(t, b.s.Ready())
	b.feeds.mu.Lock()
	b.feeds.err = nil
	b.feeds.mu.Unlock()
	require.Equal(t, 200, b.events("json", `{"value":1}`).status)
	require.NoError(t, b.s.Ready())
}

func TestVerdicts(t *testing.T) {
	refused := errors.New("refused")
	for name, tc := range map[string]struct {
		errs   []error
		status int
		code   string
		words  []string // of the offsets; nil = none are told
	}{
		"unknown":        {[]error{nil, broker.ErrUnknownOutcome}, 503, codeUnknown, []string{"", codeUnknown}},
		"all unknown":    {[]error{fmt.Errorf("x: %w", broker.ErrUnknownOutcome)}, 503, codeUnknown, []string{codeUnknown}},
		"partly":         {[]error{nil, context.DeadlineExceeded}, 503, codePartial, []string{"", errNotWritten}},
		"never sent":     {[]error{context.DeadlineExceeded, context.Canceled}, 503, codeUnavailable, nil},
		"refused":        {[]error{refused, refused}, 422, codeRejected, nil},
		"partly refused": {[]error{refused, nil}, 503, codePartial, []string{codeRejected, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.producer.judge = func(_, i int, _ broker.ProduceRecord) error { return tc.errs[i] }
			a := b.events("json", `[`+strings.TrimSuffix(strings.Repeat(`{"value":1},`, len(tc.errs)), ",")+`]`)
			require.Equal(t, tc.status, a.status, a.text)
			require.Equal(t, tc.code, a.body.Code)
			require.Equal(t, tc.status == 503, a.header.Get("Retry-After") != "")
			require.Equal(t, tc.words == nil, strings.Contains(a.body.Message, "nothing was written"))
			var words []string
			for _, o := range a.body.Offsets {
				words = append(words, o.Error)
			}
			require.Equal(t, tc.words, words)
		})
	}
}

func TestNoVerdictIsNoSuccess(t *testing.T) {
	out := sameForAll(2, nil)
	require.Equal(t, unknown, verdictOf(out[0].Err))
}

func TestRegistryAway(t *testing.T) {
	b := newBench(t)
	b.registry.set(true)
	a := b.events("quotes", `{"value":{"bid":1,"bid_size":1}}`)
	require.Equal(t, 503, a.status, a.text)
	require.Equal(t, codeUnavailable, a.body.Code)
	require.Contains(t, a.body.Message, "registry")
	require.Equal(t, 200, b.events("json", `{"value":1}`).status, "other formats need none")
	b.registry.set(false)
	require.Eventually(t, func() bool {
		return b.events("quotes", `{"value":{"bid":1,"bid_size":1}}`).status == 200
	}, 30*time.Second, 50*time.Millisecond)
	b.registry.set(true)
	require.Equal(t, 200, b.events("quotes", `{"value":{"bid":1,"bid_size":1}}`).status, "a known schema goes on")
}

func TestANewVersionIsTakenUp(t *testing.T) {
	b := newBench(t)
	require.Equal(t, 200, b.events("quotes", `{"value":{"bid":1,"bid_size":1}}`).status)
	b.registry.register("kafka.quotes-value", strings.Replace(quoteSchema, `{"name":"bid"`, `{"name":"venue","type":"string"},{"name":"bid"`, 1))
	body := `{"value":{"bid":1,"bid_size":1,"venue":"X"}}`
	require.Eventually(t, func() bool { return b.events("quotes", body).status == 200 }, 30*time.Second, 50*time.Millisecond)
	require.JSONEq(t, `{"bid":1,"bid_size":1,"venue":"X","note":null}`, b.decoded(1))
}

func TestTopicLimits(t *testing.T) {
	b := newBench(t)
	a := b.events("state", `{"value":1}`)
	require.Equal(t, 400, a.status, "a compacted topic needs keys")
	require.Equal(t, "key", a.body.Errors[0].Field)
	require.Equal(t, 200, b.events("state", `{"key":"","value":1}`).status)
	require.Equal(t, 413, b.events("state", `{"key":"a","value":"`+strings.Repeat("x", 1024)+`"}`).status)
	for _, tc := range []struct {
		config map[string]string
		want   topicLimit
	}{
		{nil, topicLimit{maxEvent: 100, maxAhead: maxAhead}},
		{map[string]string{"max.message.bytes": "x", "message.timestamp.after.max.ms": "9223372036854775807"}, topicLimit{maxEvent: 100, maxAhead: maxAhead}},
		{
			map[string]string{"message.timestamp.after.max.ms": "3600000", "message.timestamp.before.max.ms": "1000"},
			topicLimit{maxEvent: 100, maxAhead: maxAhead, maxBehind: time.Second},
		},
	} {
		require.Equal(t, tc.want, parseLimit(tc.config, 100))
	}
}

func TestFullBuffer(t *testing.T) {
	b := newBench(t, func(o *Options) { o.MaxBody, o.MaxBuffered = 128<<10, 512<<10 })
	b.producer.hold = make(chan struct{})
	body := `{"value":"` + strings.Repeat("x", 60<<10) + `"}`
	results := make(chan answer, 8)
	for range cap(results) {
		go func() { results <- b.events("json", body) }()
	}
	busy := <-results
	require.Equal(t, 503, busy.status)
	require.Equal(t, codeBusy, busy.body.Code)
	require.LessOrEqual(t, b.s.budget.held.Load(), int64(512<<10))
	require.NotZero(t, b.s.budget.held.Load())
	close(b.producer.hold)
	ok := 0
	for range cap(results) - 1 {
		if a := <-results; a.status == 200 {
			ok++
		}
	}
	require.Equal(t, ok, len(b.producer.all()))
	require.NotZero(t, ok)
	require.Eventually(t, func() bool { return b.s.budget.held.Load() == 0 }, 30*time.Second, time.Millisecond)
}

func TestDrain(t *testing.T) {
	b := newBench(t)
	b.producer.hold = make(chan struct{})
	got := make(chan answer, 1)
	go func() { got <- b.events("json", `{"value":1}`) }()
	require.Eventually(t, func() bool { b.producer.mu.Lock(); defer b.producer.mu.Unlock(); return b.producer.calls == 1 }, 30*time.Second, time.Millisecond)
	b.stop()
	require.Eventually(t, func() bool { return !b.s.gate.isOpen() }, 30*time.Second, time.Millisecond)
	a := b.events("json", `{"value":2}`)
	require.Equal(t, 503, a.status)
	require.Equal(t, codeUnavailable, a.body.Code)
	require.Error(t, b.s.Ready())
	close(b.producer.hold)
	require.Equal(t, 200, (<-got).status, "what was inside may end well")
	require.NoError(t, <-b.done)
}

func TestOptions(t *testing.T) {
	_, err := New(Options{})
	require.Error(t, err)
	_, err = Options{MaxEvent: -1, MaxBody: -1, Timeout: -1}.withDefaults()
	require.ErrorContains(t, err, "MaxEvent")
	require.ErrorContains(t, err, "MaxBody")
	require.ErrorContains(t, err, "Timeout")
}

func TestMethodsAndRoutes(t *testing.T) {
	b := newBench(t)
	res, err := http.Get(b.url + "/v1/topics/json/events")
	require.NoError(t, err)
	res.Body.Close()
	require.Equal(t, http.StatusMethodNotAllowed, res.StatusCode)
}
