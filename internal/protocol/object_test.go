package protocol

import (
	"encoding/json"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/jsontext"
)

var objects = []string{
	`{}`, ` { } `, `{"a":1}`, "\t{\"a\" :\n1 , \"b\":\r\"x\"}\n", `{"a":"\"","b":[1,{"c":"]}"}],"d":{"e":[]},"f":null,"g":true}`,
	`{"a\u0062":1}`, `{"ab":1,"a\u0062":2}`, `{"a":1,"a":2}`, `{"":""}`, `{"ü":"ä\\"}`, `{"\ud800":1}`, `{"a":"\\"}`, `{"a":-1.5e3}`,
	`{"cmd":"sub","id":1,"topic":"price","from":{"offset":19000},"until":{"offset":20000}}`,
	``, ` `, `{`, `}`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{,}`, `{"a":1}{}`, `{"a":1} x`, `[1]`, `"a"`, `1`, `{"a":tru}`, `{"a":"`, `{"a":[}`, `{"a":1 "b":2}`,
	"{\"a\":\"\x01\"}", "{\"\xff\":1}", "{\"a\":\"\xff\"}",
}

// FuzzObject has the fast way say what the standard library's decoder says.
func FuzzObject(f *testing.F) {
	for _, text := range objects {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if jsontext.TooDeep(text, MaxDepth) {
			return
		}
		want, err := decodeObject(text)
		got, ok := split(text)
		require.Equal(t, err == nil && utf8.Valid(text), ok)
		if !ok {
			return // decodeObject is asked
		}
		require.Equal(t, want, got)
		for name, raw := range got {
			var s string
			is := raw[0] == '"' && json.Unmarshal(raw, &s) == nil
			is2, ok := stringOf(raw)
			require.Equal(t, is, ok, name)
			require.Equal(t, s, is2, name)
		}
	})
}

func TestWellFormedObjectsAreSplitWithoutTheDecoder(t *testing.T) {
	for i, text := range objects {
		_, err := decodeObject([]byte(text))
		_, ok := split([]byte(text))
		if i < 14 {
			require.Equal(t, err == nil, ok, text)
		} else {
			require.False(t, ok, text)
			_, got := parseObject([]byte(text))
			require.Equal(t, err, got, text)
		}
	}
	for _, raw := range []string{`"a`, `"`, `a"`, `"a"b"`, "\"\x1f\"", `"\"`, `5`, ``} {
		_, ok := stringOf(json.RawMessage(raw))
		require.False(t, ok, raw)
	}
}

func BenchmarkParse(b *testing.B) {
	text := []byte(`{"cmd":"sub","from":{"offset":19000},"id":1,"topic":"bench-storm-1763868421000000000","until":{"offset":20000}}`)
	now := time.Now()
	b.ReportAllocs()
	for range b.N {
		if _, err := Parse(text, now); err != nil {
			b.Fatal(err)
		}
	}
}
