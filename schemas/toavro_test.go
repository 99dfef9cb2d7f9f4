package schemas_test

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/schemas"
)

const orderSchema = `{"type":"record","name":"Order","namespace":"shop","fields":[
	{"name":"id","type":"long"},
	{"name":"note","type":["null","string"],"default":null},
	{"name":"legs","type":{"type":"array","items":{"type":"record","name":"Leg","fields":[
		{"name":"px","type":"double"},
		{"name":"side","type":{"type":"enum","name":"Side","symbols":["BUY","SELL"]},"default":"BUY"}]}},"default":[]},
	{"name":"tags","type":{"type":"map","values":"int"},"default":{}},
	{"name":"fee","type":{"type":"bytes","logicalType":"decimal","precision":5,"scale":2},"default":"\u0000"},
	{"name":"day","type":{"type":"int","logicalType":"date"},"default":0},
	{"name":"raw","type":"bytes","default":""},
	{"name":"pair","type":{"type":"fixed","name":"Pair","size":2},"default":"ab"},
	{"name":"f","type":"float","default":0},
	{"name":"ok","type":"boolean","default":false}]}`

func TestAppendAvroNamesWhatIsWrong(t *testing.T) {
	c := compile(t, orderSchema)
	for _, e := range []struct{ json, path, reason string }{
		{`{"id":1,"legs":[{"px":1},{"px":2},{"px":"3"}]}`, "legs[2].px", "is a string, want a double"},
		{`{"id":1,"legs":{}}`, "legs", "is an object, want an array"},
		{`{"id":1,"legs":[{"px":1,"side":"HOLD"}]}`, "legs[0].side", `is "HOLD", which is no symbol of shop.Side`},
		{`{"id":1,"tags":{"a b":true}}`, `tags["a b"]`, "is a boolean, want an int"},
		{`{"id":1,"tags":{"a":1,"\u0061":2}}`, `tags["a"]`, "is there twice"},
		{`{"id":1,"note":5}`, "note", "is a number, want null or a string"},
		{`{"id":1,"note":{"string":5}}`, "note", "is a number, want a string"},
		{`{}`, "id", "is missing"},
		{`{"id":1,"id":2}`, "id", "is there twice"},
		{`{"id":1,"px":2}`, "px", "is not a field of shop.Order"},
		{`{"id":1,"a b\n":2}`, `"a b\n"`, "is not a field of shop.Order"},
		{`{"id":null}`, "id", "is null, want a long"},
		{`{"id":1.5}`, "id", "has a fraction, want a long"},
		{`{"id":9223372036854775808}`, "id", "is out of the range of a long"},
		{`{"id":1e99}`, "id", "is out of the range of a long"},
		{`{"id":"12x"}`, "id", "is a string, want a long"},
		{`{"id":1,"tags":{"a":2147483648}}`, `tags["a"]`, "is out of the range of an int"},
		{`{"id":1,"fee":"1.234"}`, "fee", "has more than 2 decimal places, want a decimal(5,2)"},
		{`{"id":1,"fee":1000}`, "fee", "has more than 5 digits, want a decimal(5,2)"},
		{`{"id":1,"fee":"abc"}`, "fee", "is no decimal number"},
		{`{"id":1,"fee":true}`, "fee", "is a boolean, want a decimal(5,2)"},
		{`{"id":1,"day":"2026-02-30"}`, "day", "is no date such as 2026-01-02"},
		{`{"id":1,"raw":"a"}`, "raw", "is no base64"},
		{`{"id":1,"raw":"QR=="}`, "raw", "is no base64"},
		{`{"id":1,"pair":"AAAA"}`, "pair", "has 3 bytes, want 2"},
		{`{"id":1,"f":1e39}`, "f", "is out of the range of a float"},
		{`{"id":1,"note":"\ud800"}`, "note", "holds half of a surrogate pair"},
		{`{"id":1,"note":"\udc00\ud800"}`, "note", "holds half of a surrogate pair"},
		{"{\"id\":1,\"note\":\"\xff\"}", "", "holds invalid UTF-8"},
		{`{"id":1`, "", "is not JSON: unexpected end of JSON input (at byte 7)"},
		{`{"id":1} x`, "", "is not JSON: invalid character 'x' after top-level value (at byte 10)"},
		{``, "", "is not JSON: unexpected end of JSON input (at byte 0)"},
		{strings.Repeat("[", 100_000), "", "is not JSON: nested more than 64 deep"},
		{`[1]`, "", "is an array, want record shop.Order"},
	} {
		out, err := c.AppendAvro([]byte("kept"), []byte(e.json))
		var v *schemas.ValueError
		require.ErrorAs(t, err, &v, e.json)
		require.Equal(t, e.path, v.Path, e.json)
		require.Equal(t, e.reason, v.Reason, e.json)
		require.Equal(t, "kept", string(out))
	}
}

func TestAppendAvroForms(t *testing.T) {
	union := `["null","int","long","string",{"type":"map","values":"string"},{"type":"record","name":"P","fields":[{"name":"x","type":"int"}]}]`
	for _, c := range []struct{ schema, json, avro string }{
		{`"long"`, `9007199254740993`, "82 80 80 80 80 80 80 20"},
		{`"long"`, `"-9223372036854775808"`, "ffffffffffffffffff01"},
		{`"long"`, ` 5.0 `, "0a"},
		{`"long"`, `50e-1`, "0a"},
		{`"long"`, `0.5e1`, "0a"},
		{`"long"`, `-0`, "00"},
		{`"double"`, `1`, "000000000000f03f"},
		{`"string"`, `"\ud83d\ude00\/\u00e9"`, "0e f09f98802fc3a9"},
		{`"bytes"`, `"AP8Q"`, "06 00ff10"},
		{`{"type":"array","items":"int"}`, `[ 1 , 2 ]`, "04 02 04 00"},
		{`{"type":"array","items":"int"}`, `[ ]`, "00"},
		{`{"type":"map","values":"int"}`, `{ "a" : 1 }`, "02 02 61 02 00"},
		{`{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}`, `"-12.34"`, "04 fb2e"},
		{`{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}`, `1.28`, "04 0080"},
		{`{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}`, `-1.28`, "02 80"},
		{`{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}`, `"0"`, "02 00"},
		{`{"type":"fixed","name":"F","size":4,"logicalType":"decimal","precision":9,"scale":2}`, `"-0.01"`, "ffffffff"},
		{`{"type":"int","logicalType":"date"}`, `"1969-12-31"`, "01"},
		{`{"type":"int","logicalType":"date"}`, `"+5881580-07-11"`, "feffffff0f"},
		{`{"type":"int","logicalType":"date"}`, `3`, "06"},
		{`{"type":"fixed","name":"F","size":12,"logicalType":"duration"}`, `"P1M2DT3.004S"`, "0100000002000000bc0b0000"},
		{`{"type":"fixed","name":"F","size":16,"logicalType":"uuid"}`, `"123E4567-e89b-12d3-a456-426614174000"`, "123e4567e89b12d3a456426614174000"},
		{union, `null`, "00"},
		{union, `5`, "02 0a"},
		{union, `2147483648`, "04 8080808010"},
		{union, `"5"`, "06 02 35"},
		{union, `{"y":"z"}`, "08 02 02 79 02 7a 00"},
		{union, `{"x":5}`, "0a 0a"},
		{union, `{"long":5}`, "04 0a"},
		{union, `{"string":"z"}`, "08 02 0c 737472696e67 02 7a 00"},
		{union, `{"P":{"x":5}}`, "0a 0a"},
		{`["float","double"]`, `0.1`, "02 9a9999999999b93f"},
		{`["float","double"]`, `0.5`, "00 0000003f"},
		{`["null","long"]`, `"5"`, "02 0a"},
		{`["null",{"type":"enum","name":"E","symbols":["A"]},"string"]`, `"B"`, "04 02 42"},
	} {
		out, err := compile(t, c.schema).AppendAvro(nil, []byte(c.json))
		require.NoError(t, err, "%s %s", c.schema, c.json)
		require.Equal(t, strings.ReplaceAll(c.avro, " ", ""), hex.EncodeToString(out), "%s %s", c.schema, c.json)
	}
}

func TestAppendAvroJSONReadsAvrosOwnEncoding(t *testing.T) {
	union := `["null","string",{"type":"map","values":"string"}]`
	for _, c := range []struct{ schema, json, avro string }{
		{`"bytes"`, `"\u0000\u00ffA"`, "06 00ff41"},
		{`"bytes"`, `"AAAA"`, "08 41414141"},
		{`{"type":"fixed","name":"F","size":2}`, `"ÿA"`, "ff41"},
		{`{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}`, `"\u0004\u00d2"`, "04 04d2"},
		{`{"type":"fixed","name":"F","size":12,"logicalType":"duration"}`, `"P1M2DT3.004S"`, hex.EncodeToString([]byte("P1M2DT3.004S"))},
		{`"double"`, `"NaN"`, "010000000000f87f"},
		{`"double"`, `"-Infinity"`, "000000000000f0ff"},
		{union, `{"string":"z"}`, "02 02 7a"},
		{union, `"z"`, "02 02 7a"},
		{union, `{"map":{"a":"b"}}`, "04 02 02 61 02 62 00"},
	} {
		out, err := compile(t, c.schema).AppendAvroJSON(nil, []byte(c.json))
		require.NoError(t, err, "%s %s", c.schema, c.json)
		require.Equal(t, strings.ReplaceAll(c.avro, " ", ""), hex.EncodeToString(out), "%s %s", c.schema, c.json)
	}
	_, err := compile(t, `"bytes"`).AppendAvroJSON(nil, []byte(`"Ā"`))
	require.ErrorContains(t, err, "stands for no byte")
}

// Like-named branches at every level could be tried in every combination.
func TestAppendAvroBoundsAmbiguity(t *testing.T) {
	inner := `"int"`
	for i := range 30 {
		n := string(rune('a'+i%26)) + string(rune('a'+i/26))
		inner = `[{"type":"record","name":"X` + n + `","fields":[{"name":"v","type":` + inner + `}]},{"type":"record","name":"Y` + n + `","fields":[{"name":"v","type":`
		inner += map[bool]string{true: `"int"`, false: `["X` + string(rune('a'+(i+25)%26)) + string(rune('a'+(i-1)/26)) + `","Y` + string(rune('a'+(i+25)%26)) + string(rune('a'+(i-1)/26)) + `"]`}[i == 0] + `}]}]`
	}
	c := compile(t, inner)
	_, err := c.AppendAvro(nil, []byte(strings.Repeat(`{"v":`, 30)+`"x"`+strings.Repeat(`}`, 30)))
	require.Error(t, err)
	_, err = c.AppendAvro(nil, []byte(strings.Repeat(`{"v":`, 30)+`1`+strings.Repeat(`}`, 30)))
	require.NoError(t, err)
}

func TestAppendAvroBoundsWhatDefaultsAdd(t *testing.T) {
	c := compile(t, `{"type":"array","items":{"type":"record","name":"R","fields":[{"name":"s","type":"string","default":"`+strings.Repeat("x", 10_000)+`"}]}}`)
	_, err := c.AppendAvro(nil, []byte("["+strings.Repeat("{},", 10_000)+"{}]"))
	require.ErrorContains(t, err, "too large")
}

func TestAppendAvroAllocatesNothing(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector makes sync.Pool drop its contents at random")
	}
	c, _ := quote(t)
	dst, text := make([]byte, 0, 1024), []byte(quoteJSON)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if _, err := c.AppendAvro(dst, text); err != nil {
			t.Fatal(err)
		}
	}))
}
