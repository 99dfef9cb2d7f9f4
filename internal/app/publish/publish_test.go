package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/schemas"
)

const quoteSchema = `{"type":"record","name":"Quote","fields":[
	{"name":"symbol","type":"string"},{"name":"bid","type":"double"},{"name":"size","type":"long"},
	{"name":"note","type":["null","string"],"default":null},
	{"name":"ts","type":{"type":"long","logicalType":"timestamp-micros"}}]}`

// written is one record as the fake cluster got it.
type written struct {
	key, json string
	time      time.Time
	at        time.Time
}

// fakeKafka takes everything; fail may refuse a record.
type fakeKafka struct {
	t     *testing.T
	codec *schemas.Codec
	fail  func(n int, r broker.ProduceRecord) error

	mu   sync.Mutex
	recs []written
	n    int
}

func (f *fakeKafka) Produce(_ context.Context, _ string, recs []broker.ProduceRecord) ([]broker.Produced, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]broker.Produced, len(recs))
	for i, r := range recs {
		f.n++
		if f.fail != nil {
			if err := f.fail(f.n, r); err != nil {
				out[i].Err = err
				continue
			}
		}
		w := written{key: string(r.Key), time: r.Time, at: time.Now()}
		if r.Value != nil {
			id, body, ok := schemas.SplitWire(r.Value)
			require.True(f.t, ok)
			require.Equal(f.t, uint32(7), id)
			js, err := f.codec.AppendJSON(nil, body)
			require.NoError(f.t, err)
			w.json = string(js)
		}
		out[i] = broker.Produced{Partition: 0, Offset: int64(len(f.recs))}
		f.recs = append(f.recs, w)
	}
	return out, nil
}

func (f *fakeKafka) json() []string {
	out := []string{}
	for _, r := range f.recs {
		out = append(out, r.json)
	}
	return out
}

func options(t *testing.T, schema, stdin string) (Options, *fakeKafka) {
	t.Helper()
	codec, err := schemas.Compile(schema)
	require.NoError(t, err)
	k := &fakeKafka{t: t, codec: codec}
	return Options{Topic: "t", Codec: codec, SchemaID: 7, Producer: k, Stdin: strings.NewReader(stdin)}, k
}

func TestCSVCellsAreTypedByTheSchemaAndTheTimeFillsTheTimestamp(t *testing.T) {
	o, k := options(t, quoteSchema, "ts_ns,symbol,bid,size,note\n"+
		"1546383600071000000,USDJPY,109.676,1000000,\n1546383600078000000,EURUSD,.5,2,\"a, \"\"b\"\"\"\n")
	o.Key, o.Time = "symbol", "ts_ns"
	s, err := Run(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, []string{
		`{"symbol":"USDJPY","bid":109.676,"size":1000000,"note":null,"ts":1546383600071000}`,
		`{"symbol":"EURUSD","bid":0.5,"size":2,"note":"a, \"b\"","ts":1546383600078000}`,
	}, k.json())
	require.Equal(t, "USDJPY", k.recs[0].key)
	require.Equal(t, time.UnixMilli(1546383600071).UTC(), k.recs[0].time)
	require.Equal(t, int64(2), s.Sent)
	require.Equal(t, map[int32]Range{0: {0, 1}}, s.Offsets)
}

func TestABadRowStopsAndNamesFileAndLine(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "q.csv")
	require.NoError(t, os.WriteFile(file, []byte("symbol,bid,size,ts\nA,1,1,1\nB,x,1,1\nC,1,1,1\n"), 0o600))
	o, k := options(t, quoteSchema, "")
	o.Files = []string{file}
	s, err := Run(t.Context(), o)
	var row *RowError
	require.ErrorAs(t, err, &row)
	require.Equal(t, file, row.File)
	require.Equal(t, 3, row.Line)
	require.ErrorContains(t, err, `bid: "x" is not a number`)
	require.Len(t, k.recs, 1, "what came before is sent, nothing after")
	require.Equal(t, int64(1), s.Sent)
}

func TestBadRowsCanBeSkipped(t *testing.T) {
	lines := []string{
		`{"symbol":"A","bid":1,"size":1,"ts":1}`,
		`{"symbol":"B","bid":"x","size":1,"ts":1}`,
		`not json`,
		``,
		`{"symbol":"C","bid":1,"size":1.5,"ts":1}`,
		`{"symbol":"` + strings.Repeat("x", maxRow) + `"}`,
		`{"symbol":"D","bid":1,"size":1,"ts":1}`,
	}
	o, k := options(t, quoteSchema, strings.Join(lines, "\n"))
	o.Skip = true
	var bad []string
	o.Bad = func(err error) { bad = append(bad, err.Error()) }
	s, err := Run(t.Context(), o)
	require.NoError(t, err)
	require.Len(t, k.recs, 2)
	require.Equal(t, int64(4), s.Skipped)
	require.Len(t, bad, 4)
	for i, want := range []string{"standard input:2: bid", "standard input:3: not JSON", "standard input:5: size", "standard input:6: longer than"} {
		require.Contains(t, bad[i], want)
	}
}

func TestCSVRowErrorsCanBeSkipped(t *testing.T) {
	o, k := options(t, quoteSchema, "symbol,bid,size,ts\nA,1,1,1\nB,1\nC,1,1,1,9\nD,\"1,1\n")
	o.Skip = true
	var bad []string
	o.Bad = func(err error) { bad = append(bad, err.Error()) }
	_, err := Run(t.Context(), o)
	require.NoError(t, err)
	require.Len(t, k.recs, 1)
	require.Len(t, bad, 3, "%v", bad)
	require.Contains(t, bad[0], "standard input:3: has not the 4 cells")
	require.Contains(t, bad[2], "standard input:5:")
}

func TestAnUnclosedQuoteDoesNotEatTheFile(t *testing.T) {
	o, _ := options(t, quoteSchema, "symbol,bid,size,ts\n\"A,1,1,1\n"+strings.Repeat("B,1,1,1\n", 1<<18))
	o.Skip = true
	_, err := Run(t.Context(), o)
	require.ErrorContains(t, err, "is a quote not closed?")
}

func TestHeadersAreChecked(t *testing.T) {
	for in, want := range map[string]string{
		"symbol,bidd,size,ts\n":    "column bidd is no field",
		"symbol,symbol\n":          "twice",
		"symbol,,bid\n":            "column 2 has no name",
		"symbol,bid,size,when\nx,": "column when is no field of the schema, which has symbol, bid, size, note, ts",
	} {
		o, k := options(t, quoteSchema, in)
		_, err := Run(t.Context(), o)
		require.ErrorContains(t, err, want)
		require.Empty(t, k.recs)
	}
	o, _ := options(t, quoteSchema, "symbol,bid,size,ts\n")
	o.Key = "symbl"
	_, err := Run(t.Context(), o)
	require.ErrorContains(t, err, "there is no column symbl, which --key names; did you mean symbol?")
}

func TestNDJSONTimeIsConvertedToTheSchemasUnit(t *testing.T) {
	o, k := options(t, quoteSchema,
		`{"symbol":"A","bid":1,"size":1,"ts":"2019-01-01T23:00:00.071Z"}`+"\n"+`{"symbol":"B","bid":1,"size":1,"ts":"2019-01-01T23:00:00.078Z"}`)
	o.Time, o.Key = "ts", "symbol"
	_, err := Run(t.Context(), o)
	require.NoError(t, err)
	require.Contains(t, k.recs[0].json, `"ts":1546383600071000`)
	require.Equal(t, int64(1546383600078), k.recs[1].time.UnixMilli())

	o, k = options(t, quoteSchema, `{"symbol":"A","bid":1,"size":1,"when":1546383600071,"id":12}`)
	o.Time, o.Key = "when", "id"
	_, err = Run(t.Context(), o)
	require.NoError(t, err)
	require.Contains(t, k.recs[0].json, `"ts":1546383600071000`)
	require.Equal(t, "12", k.recs[0].key)
}

func TestEnvelopes(t *testing.T) {
	o, k := options(t, `"long"`, `{"key":"a","value":1024,"ts":1546383600078}`+"\n"+`{"key":"a","value":null}`+"\n"+`{"value":7}`)
	o.Envelope = true
	_, err := Run(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, []string{"1024", "", "7"}, k.json())
	require.Equal(t, "a", k.recs[1].key)
	require.Equal(t, int64(1546383600078), k.recs[0].time.UnixMilli())
	for in, want := range map[string]string{`{"valu":1}`: "no envelope", `{"key":"a"}`: "has no value", `{"key":{},"value":1}`: "cannot be a key"} {
		o, _ := options(t, `"long"`, in)
		o.Envelope = true
		_, err := Run(t.Context(), o)
		require.ErrorContains(t, err, want)
	}
}

func TestPlainValues(t *testing.T) {
	o, k := options(t, `"long"`, "1024\n\n 7 \n")
	_, err := Run(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, []string{"1024", "7"}, k.json())

	o, k = options(t, `"long"`, "when,value\n1546383600,5\n")
	o.Time = "when"
	_, err = Run(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, []string{"5"}, k.json())
}

func TestClockRecognisesUnitsOnceAndIsExact(t *testing.T) {
	for text, want := range map[string]int64{
		"1546383600":                     1546383600000000000,
		"1546383600.071":                 1546383600071000000,
		"1546383600071":                  1546383600071000000,
		"1546383600071.5":                1546383600071500000,
		"1546383600071003":               1546383600071003000,
		"1546383600071003009":            1546383600071003009,
		"-1.5":                           -1500000000,
		"2019-01-01T23:00:00.071003009Z": 1546383600071003009,
		"2019-01-02T00:00:00.071+01:00":  1546383600071000000,
		"2019-01-01 23:00:00.071003009Z": 1546383600071003009,
	} {
		var c clock
		got, err := c.parse(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got.UnixNano(), text)
	}
	var c clock
	_, err := c.parse("soon")
	require.ErrorContains(t, err, "neither a number nor RFC 3339")
	_, err = c.parse("1546383600071")
	require.NoError(t, err, "a bad first row decides nothing")
	got, err := c.parse("5")
	require.NoError(t, err)
	require.Equal(t, int64(5), got.UnixMilli(), "the unit is kept")
	_, err = c.parse("2019-01-01T23:00:00Z")
	require.ErrorContains(t, err, "first row's is in ms")
	for _, text := range []string{"", "99999999999999999999", "1e9", "0x10", "NaN"} {
		_, err := c.parse(text)
		require.Error(t, err, text)
	}
}

func TestAnotherUnitThanTheFirstRowsIsAnErrorWithRowAndColumn(t *testing.T) {
	for _, c := range []struct {
		first, later string
		wrong        string // "" = a time in the first row's unit
	}{
		{"1546383600", "1546383600071", "looks like ms, but the first row's is in s"},
		{"1546383600071", "1546383600", "looks like s, but the first row's is in ms"},
		{"1546383600071", "1546383600071000000", "looks like ns, but the first row's is in ms"},
		{"1546383600071000000", "1546383600071000", "looks like us, but the first row's is in ns"},
		{"12", "1546383600071", "looks like ms"},
		{"1546383600071", "0", ""},
		{"1546383600071", "86400000", ""},
		{"99999999999", "100000000000", "looks like ms"}, // the year 5138
		{"1546383600071", "946684800000", ""},
	} {
		var k clock
		_, err := k.parse(c.first)
		require.NoError(t, err)
		_, err = k.parse(c.later)
		if c.wrong == "" {
			require.NoError(t, err, c.later)
			continue
		}
		require.ErrorContains(t, err, c.wrong)
	}
	o, _ := options(t, `{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}`, "a,when\n1,1546383600\n2,1546383600071\n")
	o.Time = "when"
	_, err := Run(t.Context(), o)
	require.ErrorContains(t, err, `:3: when: time "1546383600071" looks like ms`)
}

func TestCells(t *testing.T) {
	const schema = `{"type":"record","name":"R","fields":[
		{"name":"i","type":"int"},{"name":"b","type":"boolean"},{"name":"e","type":{"type":"enum","name":"E","symbols":["X","Y"]}},
		{"name":"u","type":["null","long","string"]},{"name":"a","type":{"type":"array","items":"int"}},{"name":"again","type":"E"},
		{"name":"t","type":{"type":"long","logicalType":"timestamp-millis"}}]}`
	s, err := parseShape(schema)
	require.NoError(t, err)
	cell := func(name, text string) string {
		f, ok := s.field(name)
		require.True(t, ok)
		out, err := f.typ.appendCell(nil, text)
		if err != nil {
			return "error"
		}
		return string(out)
	}
	for in, want := range map[[2]string]string{
		{"i", "5"}: "5", {"i", "+5"}: "5", {"i", "3000000000"}: "error", {"i", "1.0"}: "error", {"i", ""}: "error",
		{"b", "TRUE"}: "true", {"b", "0"}: "false", {"b", "yes"}: "error",
		{"e", "X"}: `"X"`, {"again", "Y"}: `"Y"`,
		{"u", ""}: "null", {"u", "5"}: "5", {"u", "x"}: `"x"`,
		{"a", "[1,2]"}: "[1,2]", {"a", "1;2"}: "error", {"t", "17"}: "17", {"u", "\xff"}: "error",
	} {
		require.Equal(t, want, cell(in[0], in[1]), "%v", in)
	}
}

func TestFormatIsRecognised(t *testing.T) {
	for in, want := range map[string]string{
		"{\"a\":1}": "*publish.ndjsonRows", "1024\n5": "*publish.ndjsonRows", "\"x\"": "*publish.ndjsonRows", "": "*publish.ndjsonRows",
		"\xef\xbb\xbfa,b\n1,2\n": "*publish.csvRows", "value\n5\n": "*publish.csvRows", "{broken": "*publish.ndjsonRows",
	} {
		r, err := openRows("standard input", "", strings.NewReader(in))
		require.NoError(t, err)
		require.Equal(t, want, fmt.Sprintf("%T", r), "%q", in)
	}
	r, err := openRows("x.CSV", "", strings.NewReader("1,2\n"))
	require.NoError(t, err)
	require.IsType(t, &csvRows{}, r)
}

func TestRecordedPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, k := options(t, quoteSchema, "ts_ms,symbol,bid,size\n1000000000000,A,1,1\n1000000001000,B,1,1\n1000000011000,C,1,1\n1000000010000,D,1,1\n")
		o.Time, o.Speed = "ts_ms", 10
		start := time.Now()
		_, err := Run(t.Context(), o)
		require.NoError(t, err)
		var at []time.Duration
		for _, r := range k.recs {
			at = append(at, r.at.Sub(start))
		}
		require.Equal(t, []time.Duration{0, 100 * time.Millisecond, 1100 * time.Millisecond, 1100 * time.Millisecond}, at)
	})
}

func TestWhatHasArrivedIsSentWhileTheInputIsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, k := options(t, `"long"`, "")
		r, w := io.Pipe()
		o.Stdin = r
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { _, err := Run(ctx, o); done <- err }()
		_, err := w.Write([]byte("1\n"))
		require.NoError(t, err)
		synctest.Wait()
		k.mu.Lock()
		require.Len(t, k.recs, 1)
		k.mu.Unlock()
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		require.NoError(t, w.Close()) // lets the reader go
	})
}

func TestRecordsThatKafkaRefusesAreBadRows(t *testing.T) {
	refuse := func(n int, _ broker.ProduceRecord) error {
		if n == 2 {
			return broker.ErrRecordTooLarge
		}
		return nil
	}
	o, k := options(t, `"long"`, "1\n2\n3\n")
	k.fail = refuse
	_, err := Run(t.Context(), o)
	require.ErrorIs(t, err, broker.ErrRecordTooLarge)
	require.ErrorContains(t, err, "standard input:2:")

	o, k = options(t, `"long"`, "1\n2\n3\n")
	k.fail, o.Skip = refuse, true
	s, err := Run(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, []string{"1", "3"}, k.json())
	require.Equal(t, int64(1), s.Skipped)
}

func TestUnknownOutcomesAreCountedAndEndTheRun(t *testing.T) {
	o, k := options(t, `"long"`, "1\n2\n")
	o.Skip = true
	k.fail = func(int, broker.ProduceRecord) error { return broker.ErrUnknownOutcome }
	s, err := Run(t.Context(), o)
	require.ErrorIs(t, err, broker.ErrUnknownOutcome)
	require.Positive(t, s.Unknown, "one or both, as they went out")
	require.Zero(t, s.Sent)
}

func TestAFileThatIsNotThereIsAnError(t *testing.T) {
	o, _ := options(t, `"long"`, "")
	o.Files = []string{filepath.Join(t.TempDir(), "nothing.csv")}
	_, err := Run(t.Context(), o)
	require.True(t, errors.Is(err, os.ErrNotExist))
}

func FuzzRows(f *testing.F) {
	f.Add([]byte("ts_ns,symbol,bid,size\n1546383600071000000,A,1,1\n"), "symbol", "ts_ns", false)
	f.Add([]byte(`{"symbol":"A","bid":1,"size":1,"ts":1}`), "symbol", "ts", false)
	f.Add([]byte(`{"key":"a","value":{"symbol":"A"},"ts":"x"}`), "", "", true)
	codec, err := schemas.Compile(quoteSchema)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, in []byte, key, tm string, envelope bool) {
		k := &fakeKafka{t: t, codec: codec}
		o := Options{Topic: "t", Codec: codec, SchemaID: 7, Producer: k, Stdin: strings.NewReader(string(in)), Key: key, Time: tm, Envelope: envelope, Skip: true}
		_, _ = Run(t.Context(), o) // every record that was written is decoded by the fake
	})
}
