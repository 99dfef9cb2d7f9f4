package schemas_test

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/schemas"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err)
	return b
}

func TestAppendJSONForms(t *testing.T) {
	fixed := func(size, logical string) string {
		return `{"type":"fixed","name":"F","size":` + size + `,"logicalType":"` + logical + `"}`
	}
	decimal := `{"type":"bytes","logicalType":"decimal","precision":30,"scale":2}`
	for _, c := range []struct{ schema, avro, json string }{
		{`"null"`, "", "null"},
		{`"boolean"`, "01", "true"},
		{`"int"`, "ffffffff0f", "-2147483648"},
		{`"long"`, "80 80 80 80 80 80 80 20", "9007199254740992"},
		{`"long"`, "82 80 80 80 80 80 80 20", `"9007199254740993"`},
		{`"long"`, "ffffffffffffffffff01", `"-9223372036854775808"`},
		{`"float"`, "cdcccc3d", "0.1"},
		{`"double"`, "9a9999999999b93f", "0.1"},
		{`"double"`, "000000000000f07f", "null"},
		{`"double"`, "000000000000f0ff", "null"},
		{`"double"`, "000000000000f87f", "null"},
		{`"double"`, "0000000000000080", "-0"},
		{`"string"`, "00", `""`},
		{`"string"`, "0c 3c2f733e2600", `"\u003c/s\u003e\u0026\u0000"`},
		{`"string"`, "0c e280a8 e280a9", `"\u2028\u2029"`},
		{`"string"`, "08 61ff62c3", `"a` + "\ufffd" + `b` + "\ufffd" + `"`},
		{`"bytes"`, "06 00ff10", `"AP8Q"`},
		{`{"type":"fixed","name":"F","size":2}`, "00ff", `"AP8="`},
		{`{"type":"enum","name":"E","symbols":["A","B"]}`, "02", `"B"`},
		{`{"type":"array","items":"int"}`, "00", `[]`},
		{`{"type":"array","items":"int"}`, "04 02 04 02 06 00", `[1,2,3]`},
		{`{"type":"array","items":"int"}`, "03 04 02 04 01 02 06 00", `[1,2,3]`},
		{`{"type":"map","values":"int"}`, "02 02 61 02 01 06 02 62 80 00 00", ``},
		{`{"type":"map","values":"int"}`, "02 02 61 02 01 06 02 62 04 00", `{"a":1,"b":2}`},
		{`["null","string"]`, "02 02 61", `"a"`},
		{`["null","string"]`, "00", `null`},
		{`{"type":"record","name":"R","fields":[]}`, "", `{}`},
		{decimal, "02 00", `"0.00"`},
		{decimal, "00", `"0.00"`},
		{decimal, "02 ff", `"-0.01"`},
		{decimal, "04 04d2", `"12.34"`},
		{decimal, "08 ffff fb2e", `"-12.34"`},
		{decimal, "20 80000000000000000000000000000000", `"-1701411834604692317316873037158841057.28"`},
		{decimal, "22 0080000000000000000000000000000000", `"1701411834604692317316873037158841057.28"`},
		{decimal, "22 0100000000000000000000000000000000", `"3402823669209384634633746074317682114.56"`},
		{decimal, "22 ff00000000000000000000000000000000", `"-3402823669209384634633746074317682114.56"`},
		{`{"type":"bytes","logicalType":"decimal","precision":3}`, "02 7f", `"127"`},
		{`{"type":"int","logicalType":"date"}`, "00", `"1970-01-01"`},
		{`{"type":"int","logicalType":"date"}`, "01", `"1969-12-31"`},
		{`{"type":"int","logicalType":"date"}`, "feffffff0f", `"+5881580-07-11"`},
		{`{"type":"int","logicalType":"date"}`, "ffffffff0f", `"-5877641-06-23"`},
		{`{"type":"int","logicalType":"time-millis"}`, "02", `1`},
		{`{"type":"long","logicalType":"timestamp-micros"}`, "b0c5d9d2af9bbf05", `1546383600071000`},
		{fixed("16", "uuid"), "123e4567e89b12d3a456426614174000", `"123e4567-e89b-12d3-a456-426614174000"`},
		{fixed("12", "duration"), "010000000200000 0bc0b0000", `"P1M2DT3.004S"`},
		{fixed("12", "duration"), "000000000000000000000000", `"PT0S"`},
		{fixed("12", "duration"), "000000000100000000000000", `"P1D"`},
		{fixed("12", "duration"), "0000000000000000e8030000", `"PT1S"`},
	} {
		out, err := compile(t, c.schema).AppendJSON([]byte("x"), unhex(t, c.avro))
		if c.json == "" {
			require.Error(t, err, c.schema)
			continue
		}
		require.NoError(t, err, "%s %s", c.schema, c.avro)
		require.Equal(t, "x"+c.json, string(out), c.schema)
	}
}

func TestAppendJSONRefusesDamage(t *testing.T) {
	long := binary.AppendVarint(nil, math.MaxInt64)
	for _, c := range []struct{ schema, avro, why string }{
		{`"long"`, "", "middle of a value"},
		{`"long"`, "80", "middle of a value"},
		{`"long"`, "ffffffffffffffffffff01", "too many bytes"},
		{`"int"`, "8080808010", "beyond 32 bits"},
		{`"boolean"`, "02", "neither 0 nor 1"},
		{`"double"`, "00", "middle of a value"},
		{`"string"`, "04 61", "length beyond"},
		{`"string"`, "01", "length beyond"},
		{`"string"`, hex.EncodeToString(long), "length beyond"},
		{`"bytes"`, hex.EncodeToString(long), "length beyond"},
		{`["null","int"]`, "04", "out of range"},
		{`["null","int"]`, "01", "out of range"},
		{`{"type":"enum","name":"E","symbols":["A"]}`, "02", "out of range"},
		{`{"type":"fixed","name":"F","size":2}`, "00", "middle of a value"},
		{`{"type":"array","items":"int"}`, hex.EncodeToString(long), "more items"},
		{`{"type":"array","items":"int"}`, "04 02", "more items"},
		{`{"type":"array","items":"int"}`, "ffffffffffffffffff01 00", "more items"},
		{`{"type":"array","items":"int"}`, "03 " + hex.EncodeToString(long), "block"},
		{`{"type":"array","items":"int"}`, "03 06 02 04 00", "block"},
		{`{"type":"map","values":"int"}`, hex.EncodeToString(long), "more items"},
		{`"null"`, "00", "after the end"},
		{`"int"`, "00 00", "after the end"},
		{`{"type":"bytes","logicalType":"decimal","precision":9}`, "8208" + strings.Repeat("00", 513), "decimal of too many"},
	} {
		dst := []byte("kept")
		out, err := compile(t, c.schema).AppendJSON(dst, unhex(t, c.avro))
		require.ErrorContains(t, err, c.why, "%s %s", c.schema, c.avro)
		require.Equal(t, "kept", string(out))
	}
}

func TestAppendJSONNamesTheField(t *testing.T) {
	c := compile(t, `{"type":"record","name":"R","fields":[{"name":"a","type":{"type":"record","name":"S","fields":[{"name":"b","type":"boolean"}]}}]}`)
	_, err := c.AppendJSON(nil, []byte{9})
	require.EqualError(t, err, "decode avro: a: b: boolean that is neither 0 nor 1")
}

// Records of nulls say much without bytes; the output is bounded all the same.
func TestAppendJSONBoundsItsOutput(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"type":"array","items":{"type":"record","name":"R0","fields":[{"name":"x","type":"int"}`)
	for range 8 { // each level doubles
		b.WriteString(``)
	}
	inner := `{"type":"record","name":"N0","fields":[{"name":"aaaaaaaaaaaaaaaa","type":"null"},{"name":"b","type":"null"}]}`
	for i := range 20 {
		n := string(rune('a' + i))
		inner = `{"type":"record","name":"M` + n + `","fields":[{"name":"l","type":` + inner + `},{"name":"r","type":"` + map[bool]string{true: "N0", false: "M" + string(rune('a'+i-1))}[i == 0] + `"}]}`
	}
	b.WriteString(`,{"name":"n","type":` + inner + `}]}}`)
	c := compile(t, b.String())
	body := append(binary.AppendVarint(nil, 1000), make([]byte, 1001)...)
	out, err := c.AppendJSON(nil, body)
	require.ErrorContains(t, err, "too large")
	require.Less(t, cap(out), schemas.MaxJSON/4)
}

func TestAppendJSONAllocatesNothing(t *testing.T) {
	c, body := quote(t)
	dst := make([]byte, 0, 1024)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if _, err := c.AppendJSON(dst, body); err != nil {
			t.Fatal(err)
		}
	}))
}

// quote is a codec and a body as the demo writes them.
func quote(t testing.TB) (*schemas.Codec, []byte) {
	t.Helper()
	text, _ := schemas.Embedded("quotes")
	c := compile(t, text)
	body, err := c.AppendAvro(nil, []byte(`{"symbol":"EURUSD","bid":1.14605,"ask":1.14643,"bid_size":1000000,"ask_size":1000000,"ts":1546383600078000}`))
	require.NoError(t, err)
	return c, body
}
