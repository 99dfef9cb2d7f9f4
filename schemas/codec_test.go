package schemas_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/schemas"
)

func compile(t testing.TB, schema string) *schemas.Codec {
	t.Helper()
	c, err := schemas.Compile(schema)
	require.NoError(t, err)
	return c
}

func TestEmbeddedSchemasCompile(t *testing.T) {
	names := schemas.EmbeddedNames()
	require.Subset(t, names, []string{"quotes", "trades", "price"})
	for _, name := range names {
		text, ok := schemas.Embedded(name)
		require.True(t, ok)
		c, err := schemas.Compile(text)
		require.NoError(t, err, name)
		require.NoError(t, c.CheckDefaults(), name)
	}
	_, ok := schemas.Embedded("../go.mod")
	require.False(t, ok)
}

func TestFieldsDescribeARecord(t *testing.T) {
	text, _ := schemas.Embedded("quotes")
	fields := compile(t, text).Fields()
	require.Len(t, fields, 6)
	require.Equal(t, schemas.Field{Name: "bid", Type: "double"}, fields[1])
	require.Equal(t, schemas.Field{Name: "ts", Type: "long", Logical: "timestamp-micros"}, fields[5])

	c := compile(t, `{"type":"record","name":"R","fields":[
		{"name":"a","type":["null","string"],"default":null},{"name":"b","type":["int","string"]},{"name":"c","type":"null"}]}`)
	require.Equal(t, []schemas.Field{
		{Name: "a", Type: "string", Nullable: true, Default: true}, {Name: "b", Type: "union"}, {Name: "c", Type: "null", Nullable: true},
	}, c.Fields())
	require.Empty(t, compile(t, `"long"`).Fields())
}

func TestSchemaKeepsWhatRegistrationNeeds(t *testing.T) {
	c := compile(t, "{ \"type\" : \"long\",\n \"logicalType\":\"timestamp-millis\", \"doc\":\"a  b\" }")
	require.Equal(t, `{"type":"long","logicalType":"timestamp-millis","doc":"a  b"}`, c.Schema())
}

func TestCompileRefuses(t *testing.T) {
	nested := strings.Repeat(`{"type":"array","items":`, 70) + `"int"` + strings.Repeat(`}`, 70)
	var many strings.Builder
	for i := range 2001 {
		fmt.Fprintf(&many, `,{"name":"f%d","type":"int"}`, i)
	}
	record := func(fields string) string { return `{"type":"record","name":"R","fields":[` + fields + `]}` }
	for _, c := range []struct{ name, schema, why string }{
		{"not JSON", `{`, "not JSON"},
		{"two values", `"int" "int"`, "after its end"},
		{"a number", `5`, "a schema is"},
		{"unknown type", `"integer"`, "unknown type"},
		{"too long a text", `"int"` + strings.Repeat(" ", schemas.MaxSchema), "bytes, at most"},
		{"too deep", nested, "more than 64 deep"},
		{"too many fields", record(many.String()[1:]), "more than 2000 fields"},
		{"long name", `{"type":"fixed","name":"` + strings.Repeat("n", 256) + `","size":1}`, "name of 256 bytes"},
		{"long field name", record(`{"name":"` + strings.Repeat("n", 256) + `","type":"int"}`), "name of 256 bytes"},
		{"bad name", record(`{"name":"a-b","type":"int"}`), "is not a name"},
		{"array of null", `{"type":"array","items":"null"}`, "without a size"},
		{"map of null", `{"type":"map","values":"null"}`, "without a size"},
		{"array of empty records", `{"type":"array","items":` + record("") + `}`, "without a size"},
		{"array of records of nothing", `{"type":"array","items":` + record(`{"name":"a","type":"null"}`) + `}`, "without a size"},
		{"fixed 0", `{"type":"fixed","name":"F","size":0}`, "size must be"},
		{"fixed of a gigabyte", `{"type":"fixed","name":"F","size":1e9}`, "size must be"},
		{"endless record", record(`{"name":"r","type":"R"}`), "without end"},
		{"endless records", record(`{"name":"s","type":{"type":"record","name":"S","fields":[{"name":"r","type":"R"}]}}`), "without end"},
		{"empty union", `[]`, "union without types"},
		{"union in union", `["null",["int"]]`, "directly inside"},
		{"union with twice the same", `["int",{"type":"int","logicalType":"date"}]`, "twice"},
		{"field twice", record(`{"name":"a","type":"int"},{"name":"a","type":"int"}`), "twice"},
		{"symbol twice", `{"type":"enum","name":"E","symbols":["A","A"]}`, "twice"},
		{"enum without symbols", `{"type":"enum","name":"E","symbols":[]}`, "without symbols"},
		{"enum's default", `{"type":"enum","name":"E","symbols":["A"],"default":"B"}`, "default"},
		{"defined twice", record(`{"name":"a","type":{"type":"fixed","name":"R","size":1}}`), "defined twice"},
		{"Avro's own name", `{"type":"record","name":"string","fields":[]}`, "Avro's own"},
		{"no name", `{"type":"record","fields":[]}`, "without a name"},
		{"no fields", `{"type":"record","name":"R"}`, "without fields"},
		{"no items", `{"type":"array"}`, "without items"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := schemas.Compile(c.schema)
			require.ErrorContains(t, err, c.why)
			require.Less(t, len(err.Error()), 600)
		})
	}
}

// goavro panics or stumbles over these when it is given the whole text.
func TestCompileAcceptsWhatGoavroStumblesOver(t *testing.T) {
	for _, schema := range []string{
		`{"type":"record","name":"R","fields":[{"name":"a","type":{"type":"bytes","logicalType":"decimal","precision":4}},
			{"name":"b","type":{"type":"bytes","logicalType":"decimal","precision":4}}]}`,
		`{"type":"string","logicalType":"validated-string","pattern":5}`,
		`{"type":"record","name":"R","fields":[{"name":"a","type":"long","default":9007199254740993}]}`,
		`{"type":"error","name":"Oops","fields":[{"name":"a","type":"string"}]}`,
		`{"type":{"type":{"type":"string"}}}`,
		`{"type":"record","name":"R","namespace":"a","fields":[{"name":"x","type":{"type":"fixed","name":"F","namespace":"","size":2}},{"name":"y","type":"F"}]}`,
	} {
		compile(t, schema)
	}
}

func TestBadDefaultsAreReportedButDoNotPreventReading(t *testing.T) {
	c := compile(t, `{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":"x"}]}`)
	require.EqualError(t, c.CheckDefaults(), "record R: field a has a default that does not fit: the value is a string, want an int")
	out, err := c.AppendJSON(nil, []byte{2})
	require.NoError(t, err)
	require.Equal(t, `{"a":1}`, string(out))
	_, err = c.AppendAvro(nil, []byte(`{}`))
	require.ErrorContains(t, err, "a: has a default that does not fit")
}

func TestRecursiveSchemaIsBoundedByDepth(t *testing.T) {
	c := compile(t, `{"type":"record","name":"N","fields":[{"name":"n","type":["null","N"]}]}`)
	out, err := c.AppendJSON(nil, []byte{2, 2, 0})
	require.NoError(t, err)
	require.Equal(t, `{"n":{"n":{"n":null}}}`, string(out))

	deep := append(make([]byte, 0, 100), []byte(strings.Repeat("\x02", 63))...)
	_, err = c.AppendJSON(nil, append(deep, 0))
	require.NoError(t, err)
	_, err = c.AppendJSON(nil, append(deep, 2, 0))
	require.ErrorContains(t, err, "nested too deep")
	_, err = c.AppendJSON(nil, []byte(strings.Repeat("\x02", 1<<20)))
	require.ErrorContains(t, err, "nested too deep")
}

func TestDefaultsMayNeedOtherDefaults(t *testing.T) {
	c := compile(t, `{"type":"record","name":"A","fields":[
		{"name":"b","type":{"type":"record","name":"B","fields":[
			{"name":"x","type":"int","default":7},
			{"name":"raw","type":"bytes","default":"\u00ff"},
			{"name":"u","type":["null","string"],"default":null},
			{"name":"v","type":["null","string"],"default":"late"}]},"default":{"x":8}},
		{"name":"list","type":{"type":"array","items":"B"},"default":[{}]}]}`)
	require.NoError(t, c.CheckDefaults())
	avro, err := c.AppendAvro(nil, []byte(`{}`))
	require.NoError(t, err)
	out, err := c.AppendJSON(nil, avro)
	require.NoError(t, err)
	require.Equal(t, `{"b":{"x":8,"raw":"/w==","u":null,"v":"late"},"list":[{"x":7,"raw":"/w==","u":null,"v":"late"}]}`, string(out))

	c = compile(t, `{"type":"record","name":"L","fields":[{"name":"n","type":["null","L"],"default":{}}]}`)
	require.ErrorContains(t, c.CheckDefaults(), "does not fit")
}
