package main

import (
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var curlLine = regexp.MustCompile(`(?m)^\$ curl -s '?http://127\.0\.0\.1:8093(\S+?)'?\n(\{.*)$`)

// shape replaces every value by its kind, so that two answers can be compared.
// Of a list the first item stands for all; the keys of maps by partition are one.
func shape(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, item := range v {
			out[k] = shape(item)
		}
		return out
	case []any:
		if len(v) > 0 {
			return []any{shape(v[0])}
		}
		return []any{}
	case string:
		return "text"
	case float64:
		return 0
	}
	return v
}

// TestTheAdminAnswersAreAsTheDocsSay runs the examples of docs/OPERATIONS.md:
// each answer has exactly the fields that are printed there.
func TestTheAdminAnswersAreAsTheDocsSay(t *testing.T) {
	text, err := os.ReadFile("../../docs/OPERATIONS.md")
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(text), "## The admin listener")
	require.True(t, ok)
	examples := curlLine.FindAllStringSubmatch(section, -1)
	require.Len(t, examples, 3)

	d := startDev(t, "--no-demo", "--data-dir", t.TempDir())
	body := strings.NewReader(strings.Repeat(`{"key":"ETHUSDT","value":{"symbol":"ETHUSDT","bid":1,"ask":2,"bid_size":1,"ask_size":1,"ts":1}}`+"\n", 12))
	res, err := http.Post(d.http+"/v1/topics/quotes/events", "application/x-ndjson", body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusOK, res.StatusCode)
	stream, err := http.Get(d.http + "/v1/topics/quotes/events?format=ndjson")
	require.NoError(t, err)
	defer stream.Body.Close()
	first := make([]byte, 1)
	_, err = stream.Body.Read(first) // it is subscribed
	require.NoError(t, err)
	res, err = http.Post(d.http+"/v1/topics/quotes/events", "application/json",
		strings.NewReader(`{"key":"ETHUSDT","value":{"symbol":"ETHUSDT","bid":1,"ask":2,"bid_size":1,"ask_size":1,"ts":1}}`))
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())

	for _, e := range examples {
		var want, got any
		require.NoError(t, json.Unmarshal([]byte(e[2]), &want), e[2])
		why := ""
		ok := func() bool {
			code, answer := d.get(t, e[1])
			if code != http.StatusOK || json.Unmarshal([]byte(answer), &got) != nil {
				why = answer
				return false
			}
			if all, is := got.(map[string]any)["topics"].([]any); is { // the docs show one of them
				for _, topic := range all {
					if topic.(map[string]any)["name"] == "quotes" {
						got.(map[string]any)["topics"] = []any{topic}
					}
				}
			}
			w, _ := json.MarshalIndent(shape(want), "", " ")
			g, _ := json.MarshalIndent(shape(got), "", " ")
			why = string(w) + "\nis not\n" + string(g)
			return string(w) == string(g)
		}
		for end := time.Now().Add(time.Minute); !ok(); time.Sleep(100 * time.Millisecond) {
			require.True(t, time.Now().Before(end), "%s: %s", e[1], why)
		}
	}
}
