package avsc

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func parse(t testing.TB, text string) *Schema {
	t.Helper()
	s, err := Parse(text)
	require.NoError(t, err, text)
	return s
}

func record(fields string) string {
	return `{"type":"record","name":"a.R","fields":[` + fields + `]}`
}

func TestNormalFormIsTheSameForTheSameSchema(t *testing.T) {
	for _, pair := range [][2]string{
		{`"string"`, ` { "type" : "string" } `},
		{
			`{"type":"record","name":"R","namespace":"a","doc":"d","fields":[{"name":"x","type":"int","default":1}]}`,
			`{"fields":[{"default":1,"type":{"type":"int"},"name":"x"}],"doc":"d","name":"a.R","type":"record"}`,
		},
		{
			`{"type":"record","name":"a.R","fields":[{"name":"f","type":{"type":"fixed","name":"F","size":2}},{"name":"g","type":"F"}]}`,
			`{"type":"record","name":"a.R","fields":[{"name":"f","type":{"type":"fixed","name":"a.F","size":"2"}},{"name":"g","type":"a.F"}]}`,
		},
		{`{"type":"long","logicalType":"timestamp-millis","x":{"b":1,"a":2}}`, `{"x":{"a":2,"b":1},"logicalType":"timestamp-millis","type":"long"}`},
	} {
		require.Equal(t, parse(t, pair[0]).Normal(), parse(t, pair[1]).Normal())
	}
}

func TestNormalFormKeepsWhatDiffers(t *testing.T) {
	base := record(`{"name":"x","type":"int"}`)
	for _, other := range []string{
		record(`{"name":"x","type":"int","default":1}`),
		record(`{"name":"x","type":"int","doc":"d"}`),
		record(`{"name":"x","type":"int","aliases":["y"]}`),
		record(`{"name":"x","type":"int","order":"ignore"}`),
		record(`{"name":"x","type":{"type":"int","logicalType":"date"}}`),
		strings.Replace(base, `"fields"`, `"aliases":["b.S"],"fields"`, 1),
		strings.Replace(base, "a.R", "b.R", 1),
	} {
		require.NotEqual(t, parse(t, base).Normal(), parse(t, other).Normal(), other)
	}
	require.NotEqual(t, parse(t, `{"type":"enum","name":"E","symbols":["A"]}`).Normal(), parse(t, `{"type":"enum","name":"E","symbols":["A"],"default":"A"}`).Normal())
}

func TestCanonicalFormHoldsTheLayoutOnly(t *testing.T) {
	s := parse(t, `{"type":"record","name":"R","namespace":"a","doc":"d","fields":[
		{"name":"x","type":{"type":"bytes","logicalType":"decimal","precision":4},"default":""},
		{"name":"e","type":{"type":"enum","name":"E","symbols":["A"],"default":"A"}},
		{"name":"m","type":{"type":"map","values":["null",{"type":"array","items":"E"}]}}]}`)
	require.Equal(t, `{"name":"a.R","type":"record","fields":[{"name":"x","type":"bytes"},`+
		`{"name":"e","type":{"name":"a.E","type":"enum","symbols":["A"]}},`+
		`{"name":"m","type":{"type":"map","values":["null",{"type":"array","items":"a.E"}]}}]}`, s.Canonical())
}

func TestLogicalTypesThatDoNotFitAreIgnored(t *testing.T) {
	for text, want := range map[string]Logical{
		`{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}`:           Decimal,
		`{"type":"bytes","logicalType":"decimal","precision":4.0}`:                   Decimal,
		`{"type":"bytes","logicalType":"decimal"}`:                                   None,
		`{"type":"bytes","logicalType":"decimal","precision":4,"scale":5}`:           None,
		`{"type":"bytes","logicalType":"decimal","precision":4,"scale":-1}`:          None,
		`{"type":"bytes","logicalType":"decimal","precision":0}`:                     None,
		`{"type":"bytes","logicalType":"decimal","precision":1e6}`:                   None,
		`{"type":"fixed","name":"F","size":2,"logicalType":"decimal","precision":4}`: Decimal,
		`{"type":"fixed","name":"F","size":2,"logicalType":"decimal","precision":5}`: None,
		`{"type":"string","logicalType":"decimal","precision":5}`:                    None,
		`{"type":"long","logicalType":"date"}`:                                       None,
		`{"type":"int","logicalType":"date"}`:                                        Date,
		`{"type":"string","logicalType":"uuid"}`:                                     UUID,
		`{"type":"fixed","name":"F","size":16,"logicalType":"uuid"}`:                 UUID,
		`{"type":"fixed","name":"F","size":15,"logicalType":"uuid"}`:                 None,
		`{"type":"fixed","name":"F","size":12,"logicalType":"duration"}`:             Duration,
		`{"type":"fixed","name":"F","size":11,"logicalType":"duration"}`:             None,
		`{"type":"long","logicalType":"local-timestamp-nanos"}`:                      LocalTimestampNanos,
		`{"type":"long","logicalType":5}`:                                            None,
		`{"type":"record","name":"R","fields":[],"logicalType":"date"}`:              None,
		`{"type":"array","items":"int","logicalType":"date"}`:                        None,
	} {
		require.Equal(t, want, parse(t, text).Logical, text)
	}
}

func TestCanRead(t *testing.T) {
	enum := func(symbols, rest string) string {
		return `{"type":"enum","name":"E","symbols":[` + symbols + `]` + rest + `}`
	}
	tree := func(extra string) string {
		return record(`{"name":"kids","type":{"type":"array","items":"a.R"}}` + extra)
	}
	for _, c := range []struct{ name, reader, writer, why string }{
		{"the same", `"int"`, `"int"`, ""},
		{"int to long", `"long"`, `"int"`, ""},
		{"int to double", `"double"`, `"int"`, ""},
		{"long to float", `"float"`, `"long"`, ""},
		{"float to double", `"double"`, `"float"`, ""},
		{"string to bytes", `"bytes"`, `"string"`, ""},
		{"bytes to string", `"string"`, `"bytes"`, ""},
		{"long to int", `"int"`, `"long"`, "/: a reader of int cannot read long"},
		{"double to float", `"float"`, `"double"`, "cannot read double"},
		{"int to string", `"string"`, `"int"`, "cannot read int"},
		{"into a union", `["null","long"]`, `"int"`, ""},
		{"not into a union", `["null","int"]`, `"string"`, "no type that reads string"},
		{"out of a union", `"long"`, `["int","long"]`, ""},
		{"not out of a union", `"long"`, `["null","long"]`, "a reader of long cannot read null"},
		{"unions", `["null","string","long"]`, `["string","null"]`, ""},
		{"a union with less", `["null"]`, `["null","int"]`, "no type that reads int"},
		{"field with default", record(`{"name":"x","type":"int"},{"name":"y","type":"int","default":0}`), record(`{"name":"x","type":"int"}`), ""},
		{"field without default", record(`{"name":"x","type":"int"},{"name":"y","type":"int"}`), record(`{"name":"x","type":"int"}`), "/y: the reader's field has no default"},
		{"field less", record(`{"name":"x","type":"int"}`), record(`{"name":"x","type":"int"},{"name":"y","type":"int"}`), ""},
		{"renamed field", record(`{"name":"y","type":"int","aliases":["x"]}`), record(`{"name":"x","type":"int"}`), ""},
		{"promoted field", record(`{"name":"x","type":"double"}`), record(`{"name":"x","type":"int"}`), ""},
		{"narrowed field", record(`{"name":"x","type":"int"}`), record(`{"name":"x","type":"double"}`), "/x: a reader of int cannot read double"},
		{"made nullable", record(`{"name":"x","type":["null","int"]}`), record(`{"name":"x","type":"int"}`), ""},
		{"other record name", strings.Replace(record(``), "a.R", "a.S", 1), record(``), "expected the name a.S, the writer has a.R"},
		{"other namespace", strings.Replace(record(``), "a.R", "b.R", 1), record(``), ""},
		{"renamed record", strings.Replace(record(``), `"name":"a.R"`, `"name":"a.S","aliases":["R"]`, 1), record(``), ""},
		{"symbol more", enum(`"A","B"`, ""), enum(`"A"`, ""), ""},
		{"symbol less", enum(`"A"`, ""), enum(`"A","B"`, ""), "lacks the symbol B"},
		{"symbol less with default", enum(`"A"`, `,"default":"A"`), enum(`"A","B"`, ""), ""},
		{"fixed", `{"type":"fixed","name":"F","size":3}`, `{"type":"fixed","name":"F","size":2}`, "fixed of 3 bytes"},
		{"array", `{"type":"array","items":"long"}`, `{"type":"array","items":"int"}`, ""},
		{"array of others", `{"type":"array","items":"int"}`, `{"type":"array","items":"string"}`, "/items: a reader of int"},
		{"map of others", `{"type":"map","values":"int"}`, `{"type":"map","values":"string"}`, "/values: a reader of int"},
		{"array and map", `{"type":"map","values":"int"}`, `{"type":"array","items":"int"}`, "cannot read array"},
		{"scale", `{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}`, `{"type":"bytes","logicalType":"decimal","precision":4,"scale":1}`, "decimal(4,2) is not decimal(4,1)"},
		{"recursive", tree(``), tree(``), ""},
		{"recursive with more", tree(`,{"name":"x","type":"int","default":0}`), tree(``), ""},
		{"recursive without default", tree(`,{"name":"x","type":"int"}`), tree(``), "/x: the reader's field has no default"},
		{
			"recursion through a union",
			record(`{"name":"n","type":["null","a.R"]},{"name":"x","type":"string"}`), record(`{"name":"n","type":["null","a.R"]},{"name":"x","type":"int"}`),
			"/x: a reader of string",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			why := fmt.Sprint(CanRead(parse(t, c.reader), parse(t, c.writer)))
			if c.why == "" {
				require.Equal(t, "[]", why)
			} else {
				require.Contains(t, why, c.why)
			}
		})
	}
}

// Unions of like-named records that hold such unions again multiply.
func TestCanReadIsBounded(t *testing.T) {
	build := func(leaf string) string {
		inner := leaf
		for i := range 20 {
			var b []string
			for k := range 4 {
				v := inner
				if k > 0 && i > 0 {
					v = fmt.Sprintf(`["n0.X%[1]d","n1.X%[1]d","n2.X%[1]d","n3.X%[1]d"]`, i-1)
				}
				b = append(b, fmt.Sprintf(`{"type":"record","name":"n%d.X%d","fields":[{"name":"v","type":%s}]}`, k, i, v))
			}
			inner = "[" + strings.Join(b, ",") + "]"
		}
		return inner
	}
	require.NotEmpty(t, CanRead(parse(t, build(`"int"`)), parse(t, build(`"string"`))))
}
