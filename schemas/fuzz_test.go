package schemas

import (
	"encoding/json"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/jsontext"
	"github.com/tapecast/tapecast/schemas/internal/avsc"
)

// FuzzAppendJSON reads any bytes by a random schema and holds the result to goavro.
func FuzzAppendJSON(f *testing.F) {
	for seed := range uint64(40) {
		g := newGenerator(seed)
		c := newSubjectCodec(f, g.schema(4))
		body, err := c.theirs.BinaryFromNative(nil, g.native(c.schema))
		require.NoError(f, err)
		f.Add(seed, body)
	}
	f.Fuzz(func(t *testing.T, seed uint64, body []byte) {
		c := newSubjectCodec(t, newGenerator(seed).schema(4))
		text := c.checkDecode(t, body)
		require.LessOrEqual(t, len(text), 4096+len(c.ours.text)+c.ours.amp*len(body))
	})
}

// FuzzAppendAvro encodes any JSON by a random schema: what we accept goavro
// must read, and our own JSON of it must be accepted again, with the same bytes
// from then on.
func FuzzAppendAvro(f *testing.F) {
	for seed := range uint64(40) {
		g := newGenerator(seed)
		g.finite = true
		c := newSubjectCodec(f, g.schema(4))
		native := g.native(c.schema)
		body, err := c.theirs.BinaryFromNative(nil, native)
		require.NoError(f, err)
		plain, err := c.ours.AppendJSON(nil, body)
		require.NoError(f, err)
		f.Add(seed, plain, false)
		tagged, err := c.theirs.TextualFromNative(nil, native)
		require.NoError(f, err)
		f.Add(seed, tagged, true)
	}
	f.Fuzz(func(t *testing.T, seed uint64, text []byte, tagged bool) {
		c := newSubjectCodec(t, newGenerator(seed).schema(4))
		encode := c.ours.AppendAvro
		if tagged {
			encode = c.ours.AppendAvroJSON
		}
		body, err := encode(nil, text)
		if err != nil {
			var v *ValueError
			require.ErrorAs(t, err, &v)
			require.Less(t, len(err.Error()), 4096)
			return
		}
		require.True(t, json.Valid(text))
		require.NotNil(t, c.checkDecode(t, body))
		if tagged { // NaN may be in it, which JSON lacks
			return
		}
		once, err := c.ours.AppendJSON(nil, body)
		require.NoError(t, err)
		body, err = c.ours.AppendAvro(nil, once)
		require.NoError(t, err, "%s", once)
		twice, err := c.ours.AppendJSON(nil, body)
		require.NoError(t, err)
		require.Equal(t, string(once), string(twice))
	})
}

// FuzzCompile reads any text as a schema. What is accepted has a normal form
// that says the same, and reads itself.
func FuzzCompile(f *testing.F) {
	for _, name := range EmbeddedNames() {
		text, _ := Embedded(name)
		f.Add(text)
	}
	for seed := range uint64(20) {
		f.Add(newGenerator(seed).schema(4))
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Compile(text)
		if err != nil {
			return
		}
		s, err := avsc.Parse(c.Schema())
		require.NoError(t, err)
		again, err := avsc.Parse(s.Normal())
		require.NoError(t, err, s.Normal())
		require.Equal(t, s.Normal(), again.Normal())
		require.Equal(t, s.Canonical(), again.Canonical())
		require.Empty(t, avsc.CanRead(s, again))
		_, _ = c.AppendJSON(nil, []byte(text))
		_, _ = c.AppendAvro(nil, []byte(text))
	})
}

// FuzzDecoderJSON passes any bytes as JSON.
func FuzzDecoderJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,2,{"b":null}]}`, ` "x\u0000 y" `, "\"\xff\"", `[`, ``, `"\`, `{"a" : 1e5 , "b":"\""}`} {
		f.Add([]byte(s))
	}
	d, err := NewDecoder("json", nil)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, value []byte) {
		out, err := d.AppendJSON(t.Context(), nil, append([]byte{}, value...))
		require.Equal(t, json.Valid(value) && !jsontext.TooDeep(value, MaxValueDepth), err == nil, "%q", value)
		if err != nil {
			return
		}
		require.True(t, utf8.Valid(out))
		want, err := decodeJSON(value)
		require.NoError(t, err)
		got, err := decodeJSON(out)
		require.NoError(t, err, "%q", out)
		require.Equal(t, want, got)
	})
}
