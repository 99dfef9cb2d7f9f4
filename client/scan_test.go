package client

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestScanReadsWhatJSONReads(t *testing.T) {
	for _, text := range []string{
		`{"topic":"price","data":1024,"offset":4711,"ts":1546383604711}`,
		`{"topic":"q","partition":3,"key":"EURUSD","data":{"a":[1,2,{"b":"]}\""}]},"offset":9007199254740993,"ts":-5,"snapshot":true}`,
		` { "offset" : 1 , "data" : null , "topic" : "aäb" , "key" : "" } `,
		`{"key":"\ud83d\ude00\\\"","topic":"t","data":"x","offset":0,"latest":true,"more":[[]],"ts":0}`,
		`{}`, `{"event":"live"}`, `{"data":{"event":"x"},"topic":"t","offset":1,"ts":1}`,
	} {
		var h header
		require.NoError(t, scan([]byte(text), &h), text)
		var want struct {
			Event            *string
			Topic, Key       string
			Partition        int64
			Offset, TS       int64
			Data             json.RawMessage
			Snapshot, Latest bool
		}
		require.NoError(t, json.Unmarshal([]byte(text), &want))
		require.Equal(t, want.Event != nil, h.control, text)
		if h.control {
			continue
		}
		require.Equal(t, want.Topic, string(h.topic.bytes()))
		require.Equal(t, want.Key, string(h.key.bytes()))
		require.Equal(t, []any{want.Partition, want.Offset, want.TS, want.Snapshot, want.Latest}, []any{h.partition, h.offset, h.ts, h.snapshot, h.latest})
		require.Equal(t, string(want.Data), string(h.data))
	}
}

func TestScanRefusesWhatIsNoFrame(t *testing.T) {
	for _, text := range []string{
		``, `x`, `[]`, `"a"`, `{`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{"a" 1}`, `{"a":"x}`, `{"a":[1}`, `{"offset":"1"}`,
		`{"offset":1.5}`, `{"offset":9223372036854775808}`, `{"partition":-1}`, `{"partition":2147483648}`, `{"topic":1}`, `{"data":}`,
	} {
		var h header
		require.Error(t, scan([]byte(text), &h), text)
	}
}

func TestScanAllocatesNothing(t *testing.T) {
	text := []byte(`{"topic":"quotes","partition":1,"key":"EURUSD","data":{"bid":1.0841,"ask":1.0843},"offset":4711,"ts":1546383604711}`)
	var h header
	require.Zero(t, testing.AllocsPerRun(100, func() { _ = scan(text, &h) }))
}

// FuzzScan: what scan takes for a data frame, encoding/json reads alike.
func FuzzScan(f *testing.F) {
	f.Add([]byte(`{"topic":"q","partition":3,"key":"EURUSD","data":{"a":[1,2,{"b":"]}"}]},"offset":12,"ts":5}`))
	f.Add([]byte(`{"event":"heartbeat","covered":{"1":{"0":4}}}`))
	f.Add([]byte("{\"key\":\"\\u00e9\",\"data\":\"\\\\\"}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var h header
		err := scan(b, &h)
		var want map[string]json.RawMessage
		if json.Unmarshal(b, &want) != nil || want == nil {
			return // scan does not look into values; it must only survive
		}
		for k := range want {
			if strings.EqualFold(k, "event") && k != "event" {
				return
			}
		}
		if _, control := want["event"]; control || err != nil || h.control {
			return
		}
		if n, e := strconv.ParseInt(string(want["offset"]), 10, 64); e == nil && n != h.offset {
			t.Fatalf("offset %d, not %d: %s", h.offset, n, b)
		}
		if d, has := want["data"]; has && string(d) != string(h.data) {
			t.Fatalf("data %s, not %s: %s", h.data, d, b)
		}
	})
}

func TestDroppedEventsAreReportedPerPartition(t *testing.T) {
	var q queue
	raw := []byte(strings.Repeat("x", 100))
	for i := range int64(10) {
		q.push(&Frame{Kind: KindData, Raw: raw, Partition: int32(i % 2), Offset: i})
		if i == 4 {
			q.push(&Frame{Kind: KindReset, Raw: raw})
		}
	}
	require.True(t, q.drop(800))
	var got []string
	for q.len() > 0 {
		f := q.pop()
		got = append(got, f.Kind.String()+" "+strconv.Itoa(int(f.Partition))+" "+strconv.FormatInt(f.Offset+f.GapFrom, 10)+" "+strconv.FormatInt(f.GapTo, 10))
		require.NotEmpty(t, f.Raw)
	}
	require.Equal(t, "gap 0 0 5", got[0])
	require.Equal(t, "gap 1 1 4", got[1])
	require.Equal(t, "reset 0 0 0", got[2], "a gap does not reach over a reset: %v", got)
	require.Zero(t, q.bytes)
}

func BenchmarkReadPath(b *testing.B) {
	text := []byte(`{"topic":"quotes","partition":1,"key":"EURUSD","data":{"symbol":"EURUSD","bid":1.08412,"ask":1.08415,"bid_size":1000000,"ask_size":2000000,"ts":1546383604711000},"offset":4711,"ts":1546383604711}`)
	b.Run("scan", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		b.ReportAllocs()
		var h header
		for b.Loop() {
			if err := scan(text, &h); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding-json-as-before", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		b.ReportAllocs()
		for b.Loop() {
			var w control
			var d struct {
				Topic      string
				Partition  int32
				Key        string
				Data       json.RawMessage
				Offset, TS int64
			}
			if json.Unmarshal(text, &w) != nil || json.Unmarshal(text, &d) != nil {
				b.Fatal()
			}
		}
	})
}
