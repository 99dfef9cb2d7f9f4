package schemas_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/schemas"
)

func TestDecoderFormats(t *testing.T) {
	file := filepath.Join(t.TempDir(), "price.avsc")
	require.NoError(t, os.WriteFile(file, []byte(`"long"`), 0o600))
	r := newClient(t, embedded(t, ""))
	id, err := r.Register(t.Context(), "price-value", `"long"`)
	require.NoError(t, err)
	wire := append(schemas.AppendWireHeader(nil, id), 0x80, 0x10)

	for _, c := range []struct {
		format, value, json string
		poison              string
	}{
		{"avro", string(wire), "1024", ""},
		{"", string(wire), "1024", ""},
		{"avro", "", "", "not in Confluent's wire format"},
		{"avro", "\x01\x00\x00\x00\x01\x02", "", "not in Confluent's wire format"},
		{"avro", "\x00\xff\xff\xff\xff\x02", "", "unknown schema id"},
		{"avro", string(wire) + "x", "", "bytes after the end"},
		{"avro:" + file, "\x80\x10", "1024", ""},
		{"avro:" + file, "\x80", "", "middle of a value"},
		{"json", ` { "a" : [ 1 , "x y\" " ] } `, `{"a":[1,"x y\" "]}`, ""},
		{"json", "\"a\xffb\"", "\"a\ufffdb\"", ""},
		{"json", `9007199254740993`, `9007199254740993`, ""},
		{"json", `{`, "", "not JSON"},
		{"json", ``, "", "not JSON"},
		{"json", "\xff", "", "not JSON"},
		{"json", `"\`, "", "not JSON"},
		{"json", strings.Repeat("[", 65) + strings.Repeat("]", 65), "", "nested more than 64 deep"},
		{"json", `"` + strings.Repeat("x", schemas.MaxJSON) + `"`, "", "too large"},
		{"string", "a\n\xff<", `"a\n` + "\ufffd" + `\u003c"`, ""},
		{"string", "", `""`, ""},
		{"string", strings.Repeat("\x01", schemas.MaxJSON/6+1), "", "too large"},
		{"bytes", "\x00\xff", `"AP8="`, ""},
	} {
		d, err := schemas.NewDecoder(c.format, r)
		require.NoError(t, err)
		out, err := d.AppendJSON(t.Context(), []byte("x"), []byte(c.value))
		if c.poison == "" {
			require.NoError(t, err, "%s %q", c.format, c.value)
			require.Equal(t, "x"+c.json, string(out))
		} else {
			var p *schemas.PoisonError
			require.ErrorAs(t, err, &p, "%s %q", c.format, c.value)
			require.ErrorContains(t, err, c.poison)
			require.Equal(t, "x", string(out))
		}
		out, err = d.AppendJSON(t.Context(), []byte("x"), nil)
		require.NoError(t, err)
		require.Equal(t, "xnull", string(out))
	}
}

func TestDecoderSaysWhenToAskAgain(t *testing.T) {
	r := newClient(t, "http://127.0.0.1:1")
	d, err := schemas.NewDecoder("avro", r)
	require.NoError(t, err)
	_, err = d.AppendJSON(t.Context(), nil, []byte{0, 0, 0, 0, 1, 2})
	require.True(t, schemas.Transient(err))
	var p *schemas.PoisonError
	require.NotErrorAs(t, err, &p)
}

func TestNewDecoderRefuses(t *testing.T) {
	for _, format := range []string{"avro", "xml", "avro:", "avro:/does/not/exist", "avro:decoder_test.go"} {
		_, err := schemas.NewDecoder(format, nil)
		require.Error(t, err, format)
	}
}

func TestDecoderAllocatesNothing(t *testing.T) {
	r := newClient(t, embedded(t, ""))
	text, _ := schemas.Embedded("quotes")
	id, err := r.Register(t.Context(), "s", text)
	require.NoError(t, err)
	_, body := quote(t)
	value := append(schemas.AppendWireHeader(nil, id), body...)
	d, err := schemas.NewDecoder("avro", r)
	require.NoError(t, err)
	dst := make([]byte, 0, 1024)
	_, err = d.AppendJSON(t.Context(), dst, value)
	require.NoError(t, err)
	ctx := t.Context()
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if _, err := d.AppendJSON(ctx, dst, value); err != nil {
			t.Fatal(err)
		}
	}))
}

func TestSubjectAndWireHeader(t *testing.T) {
	require.Equal(t, "price-value", schemas.Subject("price"))
	id, body, ok := schemas.SplitWire([]byte{0, 1, 2, 3, 4, 5})
	require.True(t, ok)
	require.EqualValues(t, 0x01020304, id)
	require.Equal(t, []byte{5}, body)
	_, _, ok = schemas.SplitWire([]byte{0, 1, 2, 3})
	require.False(t, ok)
}
