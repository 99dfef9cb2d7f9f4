package ingest

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestCheckText(t *testing.T) {
	for text, want := range map[string]error{
		`{}`: nil, ` [1,2] `: nil, `"\ud83d\ude00"`: nil, `"😀"`: nil, `"\\ud800"`: nil, `"\""`: nil,
		``: errEmpty, "\n": errEmpty, "\"\xff\"": errNotUTF8, "\"\xed\xa0\x80\"": errNotUTF8,
		`"\ud83d"`: errSurrogate, `"\ude00"`: errSurrogate, `"\ud83dx"`: errSurrogate, `"\ud83d\u0041"`: errSurrogate, `"\uD83D`: errSurrogate,
		strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth):     nil,
		strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1): errTooDeep,
	} {
		require.ErrorIs(t, checkText([]byte(text)), want, text)
		require.ErrorIs(t, checkSlowly([]byte(text)), want, text)
	}
	require.ErrorContains(t, checkText([]byte(`{"a":x}`)), "at byte 6")
	require.Error(t, checkText([]byte(`{"a":"\u12"}`)))
	require.Error(t, checkText([]byte(`{} {}`)))
}

// FuzzParseBody holds the walk to encoding/json: what one reads the other
// reads the same, and nothing panics.
func FuzzParseBody(f *testing.F) {
	for _, s := range []string{
		`{"key":"EURUSD","value":{"bid":1.5},"ts":1546383600078}`, `[{"value":1},{"value":null,"partition":3}]`,
		`{"k\u0065y":"\ud83d\ude00","value":"\"]}"}`, "[]", "{}", "\xff", `{"key":1e9,"value":[[],{}]}`, `{"value":1,}`, `[`, `"`,
		`{"records":[{"key":"a","value":"b"}],"value_schema":"\"long\""}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		if quick, slow := checkText(body), checkSlowly(body); (quick == nil) != (slow == nil) {
			t.Fatalf("%v, and %v when looked at slowly", quick, slow)
		}
		events, p := parseBody(body)
		for _, kind := range []string{typeRESTJSON, typeRESTAvro, typeRESTBinary} {
			_, _ = parseREST(body, kind)
		}
		if !bytes.Equal(before, body) {
			t.Fatal("the body was changed")
		}
		if p != nil {
			if p.Code != codeInvalid && p.Code != codeTooLarge || p.Message == "" {
				t.Fatalf("%+v", p)
			}
			if out, err := json.Marshal(p); err != nil || len(out) > 16<<10 {
				t.Fatalf("answer of %d bytes, %v", len(out), err)
			}
			return
		}
		compare(t, body, events)
	})
}

// compare reads body again with encoding/json.
func compare(t *testing.T, body []byte, events []event) {
	type plain struct {
		Key       any             `json:"key"`
		Value     json.RawMessage `json:"value"`
		TS        *int64          `json:"ts"`
		Partition *int32          `json:"partition"`
	}
	var want []plain
	if trim(body)[0] == '{' {
		want = make([]plain, 1)
		if err := json.Unmarshal(body, &want[0]); err != nil {
			t.Fatal(err)
		}
	} else if err := json.Unmarshal(body, &want); err != nil {
		t.Fatal(err)
	}
	if len(want) != len(events) {
		t.Fatalf("%d events, want %d", len(events), len(want))
	}
	for i, e := range events {
		w := want[i]
		if s, ok := w.Key.(string); ok && s != string(e.key) || w.Key == nil && e.key != nil {
			t.Fatalf("key %q, want %v", e.key, w.Key)
		}
		if !utf8.Valid(e.key) {
			t.Fatalf("key %q", e.key)
		}
		// A null gives a nil RawMessage only for pointers; here it is "null".
		if !bytes.Equal(e.value, w.Value) {
			t.Fatalf("value %q, want %q", e.value, w.Value)
		}
		if w.TS != nil && *w.TS != e.ts || w.Partition != nil && *w.Partition != e.partition {
			t.Fatalf("%+v, want %+v", e, w)
		}
	}
}

// FuzzLines holds the stream reader to a split by lines.
func FuzzLines(f *testing.F) {
	f.Add([]byte("{\"value\":1}\n\r\n{\"value\":2}"))
	f.Add([]byte("\n\n\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		s := &Service{o: Options{MaxEvent: 1 << 20}, budget: newBudget(1 << 30), gate: newGate()}
		up := &upload{s: s, lease: s.budget.lease(), in: newLineReader(bytes.NewReader(body)), alive: func() {}}
		var want, got [][]byte
		for _, l := range bytes.Split(body, []byte("\n")) {
			if len(trim(l)) > 0 {
				want = append(want, l)
			}
		}
		for done := false; !done; {
			c := up.read(t.Context())
			begin := 0
			for _, end := range c.ends {
				got = append(got, c.data[begin:end])
				begin = end
			}
			if done = c.err != nil; c.bad != nil {
				t.Fatal(c.bad)
			}
			up.lease.release()
		}
		if len(got) != len(want) {
			t.Fatalf("%d lines, want %d", len(got), len(want))
		}
		for i := range got {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("line %d: %q, want %q", i, got[i], want[i])
			}
		}
	})
}

// TestManyEscapes reads events that are one long string of escapes. Where each
// of them costs a look at all that follow, this takes minutes.
func TestManyEscapes(t *testing.T) {
	for _, escape := range []string{`\n`, `\"`, `\\`} {
		long := `"` + strings.Repeat(escape, 2<<20) + `"`
		require.Equal(t, len(long), skipString([]byte(long+`,"next"`), 0))
		require.Equal(t, len(long)-1, skipString([]byte(long[:len(long)-1]), 0), "no end")
		events, p := parseBody([]byte(`{"value":` + long + `,"ts":7}`))
		require.Nil(t, p)
		require.Len(t, events, 1)
		require.True(t, long == string(events[0].value), escape) // not Equal: it would print them
		require.EqualValues(t, 7, events[0].ts)
	}
}
