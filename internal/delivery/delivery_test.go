package delivery_test

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/linkedin/goavro/v2"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/delivery"
	"github.com/tapecast/tapecast/internal/snap"
	"github.com/tapecast/tapecast/internal/stream"
)

// random makes a batch of n sections; values compress about as quotes do.
func random(seed uint64, n int) *delivery.Batch {
	r := rand.New(rand.NewPCG(seed, 7))
	b := &delivery.Batch{Incarnation: "g1-4fx9", Writer: "fanout-0", WrittenUs: 1_764_000_000_000_000 + r.Int64N(1e9)}
	for range n {
		s := stream.Section{
			Partition: r.Int32N(64), Generation: r.Int32N(100),
			Interests: stream.InterestPos{Log: stream.TopicID{1, 2, 3}, Offset: r.Int64N(1e6) - 1},
			From:      r.Int64N(1e9),
		}
		s.Topic[r.IntN(16)] = byte(r.IntN(256))
		s.To = s.From
		for range r.IntN(6) {
			rec := stream.Record{Offset: s.To + r.Int64N(3), Time: 1_764_000_000_000 + r.Int64N(1e6), Accepted: r.Int64N(2) * b.WrittenUs}
			switch r.IntN(8) {
			case 0:
				rec.Accepted = rec.Time * 1000
			case 1: // what a foreign producer may come up with
				rec.Time, rec.Accepted = int64(r.Uint64()), int64(r.Uint64())
			case 2:
				rec.Time = []int64{-1, 0, math.MaxInt64, math.MinInt64}[r.IntN(4)]
			}
			if r.IntN(5) > 0 {
				rec.Key = []byte("EURUSD")[:r.IntN(7)]
			}
			if r.IntN(9) > 0 {
				rec.Value = []byte(strings.Repeat("quote 1.14605 ", r.IntN(6)))
			}
			s.Deliveries = append(s.Deliveries, rec)
			s.To = rec.Offset + 1
		}
		s.To += r.Int64N(3)
		s.End = s.To + r.Int64N(10)
		if len(s.Deliveries) > 0 && r.IntN(4) > 0 {
			s.ReadFirst = b.WrittenUs - 100 - r.Int64N(5000)
			s.ReadLast = s.ReadFirst + r.Int64N(2)*100
		}
		b.Sections = append(b.Sections, s)
	}
	return b
}

func TestDecodesWhatItAppends(t *testing.T) {
	for seed := range uint64(200) {
		b := random(seed, int(seed%40))
		prefix := []byte("before")
		enc, err := delivery.Append(prefix, b)
		require.NoError(t, err)
		require.Equal(t, "before", string(enc[:6]))
		got, err := delivery.Decode(enc[6:])
		require.NoError(t, err)
		require.Equal(t, b, got)
	}
}

func TestNullAndEmptyAreToldApart(t *testing.T) {
	b := &delivery.Batch{Sections: []stream.Section{{To: 2, Deliveries: []stream.Record{
		{Offset: 0, Key: nil, Value: []byte{}}, {Offset: 1, Key: []byte{}, Value: nil},
	}}}}
	enc, err := delivery.Append(nil, b)
	require.NoError(t, err)
	got, err := delivery.Decode(enc)
	require.NoError(t, err)
	d := got.Sections[0].Deliveries
	require.Nil(t, d[0].Key)
	require.NotNil(t, d[0].Value)
	require.NotNil(t, d[1].Key)
	require.Nil(t, d[1].Value)
}

func TestDeliveriesDoNotAliasThePayload(t *testing.T) {
	for _, n := range []int{1, 50} { // plain, and compressed
		b := random(3, n)
		b.Sections[0] = stream.Section{To: 1, Deliveries: []stream.Record{{Value: []byte("v")}}}
		enc, err := delivery.Append(nil, b)
		require.NoError(t, err)
		require.EqualValues(t, min(1, n/50), enc[1], "codec")
		got, err := delivery.Decode(enc)
		require.NoError(t, err)
		clear(enc)
		require.Equal(t, b, got)
		// One delivery cannot grow into its neighbour.
		v := got.Sections[0].Deliveries[0].Value
		require.Equal(t, len(v), cap(v))
	}
}

// body is the Avro record of a payload, as any tool would get at it.
func body(t testing.TB, payload []byte) []byte {
	stored := payload[10:]
	if payload[1] == 0 {
		return stored
	}
	out, err := snap.Decode(nil, stored, delivery.MaxBody)
	require.NoError(t, err)
	return out
}

// envelope puts a body, plain, into a payload.
func envelope(body []byte) []byte {
	p := []byte{4, 0}
	p = binary.BigEndian.AppendUint32(p, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	p = binary.BigEndian.AppendUint32(p, uint32(len(body)))
	return append(p, body...)
}

func codec(t testing.TB) *goavro.Codec {
	schema, err := os.ReadFile("../../schemas/tapecast.DeliveryBatch.avsc")
	require.NoError(t, err)
	c, err := goavro.NewCodec(string(schema))
	require.NoError(t, err)
	return c
}

func native(b *delivery.Batch) map[string]any {
	null := func(b []byte) any {
		if b == nil {
			return nil
		}
		return map[string]any{"bytes": b}
	}
	sections := []any{}
	for _, s := range b.Sections {
		ds := []any{}
		next, ago, before := s.From, int64(-1), b.WrittenUs/1000
		if s.ReadFirst != 0 {
			ago = b.WrittenUs - s.ReadFirst
		}
		for _, d := range s.Deliveries {
			after := d.Accepted - d.Time*1000
			if d.Accepted == 0 {
				after = 0
			} else if after == 0 {
				after = -d.Time * 1000
			}
			ds = append(ds, map[string]any{"skip": d.Offset - next, "time_later_ms": d.Time - before, "accepted_after_us": after, "key": null(d.Key), "value": null(d.Value)})
			next, before = d.Offset+1, d.Time
		}
		sections = append(sections, map[string]any{
			"topic": s.Topic[:], "partition": s.Partition, "interest_log": s.Interests.Log[:], "interest_offset": s.Interests.Offset,
			"generation": s.Generation, "from": s.From, "to": s.To, "end": s.End, "deliveries": ds,
			"read_ago_us": ago, "read_span_us": s.ReadLast - s.ReadFirst,
		})
	}
	return map[string]any{"incarnation": b.Incarnation, "writer": b.Writer, "written_us": b.WrittenUs, "sections": sections}
}

func TestTheBodyIsTheAvroRecordOfTheSchema(t *testing.T) {
	c := codec(t)
	for seed := range uint64(100) {
		b := random(seed, int(seed%30))
		enc, err := delivery.Append(nil, b)
		require.NoError(t, err)
		datum, rest, err := c.NativeFromBinary(body(t, enc))
		require.NoError(t, err)
		require.Empty(t, rest)
		require.Equal(t, native(b), datum)

		theirs, err := c.BinaryFromNative(nil, native(b))
		require.NoError(t, err)
		got, err := delivery.Decode(envelope(theirs))
		require.NoError(t, err)
		require.Equal(t, b, got)
	}
}

func TestAvroArraysInSeveralAndSizedBlocksAreRead(t *testing.T) {
	section := func(from int64) []byte {
		b := append(make([]byte, 16), 0)
		b = append(append(b, make([]byte, 16)...), 1, 0)
		b = binary.AppendVarint(b, from)
		b = binary.AppendVarint(b, from)
		return append(b, 0, 1, 0, 0)
	}
	b := append([]byte{0, 0, 0, 2}, section(5)...)
	b = binary.AppendVarint(b, -2)
	two := append(section(6), section(7)...)
	b = append(binary.AppendVarint(b, int64(len(two))), two...)
	b = append(b, 0)
	got, err := delivery.Decode(envelope(b))
	require.NoError(t, err)
	require.Len(t, got.Sections, 3)
	for i, s := range got.Sections {
		require.EqualValues(t, 5+i, s.From)
		require.EqualValues(t, -1, s.Interests.Offset)
	}
}

// A gateway is upgraded before the fan-outs: it reads what they still write.
func TestVersionOneIsRead(t *testing.T) {
	b := append([]byte{0, 0, 0, 2}, make([]byte, 17)...)
	b = append(append(b, make([]byte, 16)...), 1, 0)
	for _, n := range []int64{5, 9, 12, 2, 5, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0} {
		b = binary.AppendVarint(b, n)
	}
	p := envelope(b)
	p[0] = 1
	got, err := delivery.Decode(p)
	require.NoError(t, err)
	require.Equal(t, []stream.Section{{
		Interests: stream.InterestPos{Offset: -1}, From: 5, To: 9, End: 12, Deliveries: []stream.Record{{Offset: 5}, {Offset: 8}},
	}}, got.Sections)
}

// Version 2 has absolute times.
func TestVersionTwoIsRead(t *testing.T) {
	b := append([]byte{0, 0}, binary.AppendVarint(nil, 7_000_000)...)
	b = append(binary.AppendVarint(b, 1), make([]byte, 17)...)
	b = append(append(b, make([]byte, 16)...), 1, 0)
	for _, n := range []int64{5, 9, 12, -1, 0, 2, 0, 6000, 6_000_123, 0, 0, 2, 6001, 0, 0, 0, 0, 0} {
		b = binary.AppendVarint(b, n)
	}
	p := envelope(b)
	p[0] = 2
	got, err := delivery.Decode(p)
	require.NoError(t, err)
	require.Equal(t, []stream.Record{{Offset: 5, Time: 6000, Accepted: 6_000_123}, {Offset: 8, Time: 6001}}, got.Sections[0].Deliveries)
}

func TestAnyFlippedBitAndAnyCutIsAnError(t *testing.T) {
	for _, n := range []int{1, 12} {
		enc, err := delivery.Append(nil, random(11, n))
		require.NoError(t, err)
		for i := range enc {
			_, err := delivery.Decode(enc[:i])
			require.Error(t, err)
			for bit := range 8 {
				enc[i] ^= 1 << bit
				_, err := delivery.Decode(enc)
				require.Error(t, err, "byte %d bit %d", i, bit)
				enc[i] ^= 1 << bit
			}
		}
		_, err = delivery.Decode(append(enc, 0))
		require.Error(t, err)
	}
}

func TestRefusedBodiesAreNamed(t *testing.T) {
	head := []byte{0, 0, 0} // two empty names, time 0
	long := func(n int64) []byte { return binary.AppendVarint(nil, n) }
	section := func(part, from, to int64, deliveries ...byte) []byte {
		b := append([]byte{}, head...)
		b = append(b, 2)
		b = append(b, make([]byte, 16)...)
		b = append(b, long(part)...)
		b = append(b, make([]byte, 16)...)
		b = append(b, 0, 0)
		b = append(append(b, long(from)...), long(to)...)
		b = append(append(b, 0, 1, 0), deliveries...)
		return append(b, 0)
	}
	ok := section(3, 1, 9, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	_, err := delivery.Decode(envelope(ok))
	require.NoError(t, err)
	for want, b := range map[string][]byte{
		"incarnation of 257 bytes":                        append(append(long(257), make([]byte, 300)...), 0, 0, 0),
		"length -1":                                       {1},
		"array block of 100000 items":                     append(append([]byte{}, head...), long(100_000)...),
		"array block of 64 bytes":                         append(append([]byte{}, head...), 1, 0x80, 1),
		"broken or cut number at byte 3":                  {0, 0, 0},
		"bytes after the body's record":                   append(append([]byte{}, head...), 0, 0),
		"section 0: partition -1":                         section(-1, 0, 0, 0),
		"read 3 us before 0":                              append(append(append(append([]byte{}, head...), 2), make([]byte, 38)...), 6, 0, 0, 0),
		"no 32-bit int":                                   section(math.MaxInt32+1, 0, 0, 0),
		"range [5, 4)":                                    section(0, 5, 4, 0),
		"range [-5, 4)":                                   section(0, -5, 4, 0),
		"delivery 0: offset 9 after 0 in [1, 9)":          section(0, 1, 9, 2, 16, 0, 0, 0, 0, 0),
		"delivery 1: offset 1 after 1 in [1, 9)":          section(0, 1, 9, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0),
		"union branch 2":                                  section(0, 1, 9, 2, 2, 0, 0, 4, 0, 0),
		"section 0: array block of 1000 items with 1 byt": section(0, 1, 9, long(1000)...),
		"section 0: length 7 with 2 bytes left":           section(0, 1, 9, 2, 2, 0, 0, 0, 2, 14, 0),
	} {
		_, err := delivery.Decode(envelope(b))
		require.ErrorContains(t, err, want)
	}
	p := envelope(ok)
	p[0] = 3
	_, err = delivery.Decode(p)
	require.ErrorContains(t, err, "version 3")
	p[0], p[1] = 4, 7
	_, err = delivery.Decode(p)
	require.ErrorContains(t, err, "codec 7")
	_, err = delivery.Decode(make([]byte, delivery.MaxPayload+1))
	require.ErrorContains(t, err, "limit")
}

func TestAppendRefusesWhatDecodeWouldAndLeavesDst(t *testing.T) {
	for want, b := range map[string]*delivery.Batch{
		"limit 256":                       {Writer: strings.Repeat("w", 257)},
		"section 1: range [2, 1)":         {Sections: []stream.Section{{}, {From: 2, To: 1}}},
		"section 0: delivery 0: offset 5": {Sections: []stream.Section{{From: 1, To: 2, Deliveries: []stream.Record{{Offset: 5}}}}},
		"sections, limit":                 {Sections: make([]stream.Section, delivery.MaxSections+1)},
		"limit 4194304":                   {Sections: []stream.Section{{To: 1, Deliveries: []stream.Record{{Value: make([]byte, delivery.MaxBody-16)}}}}},
	} {
		dst, err := delivery.Append([]byte("x"), b)
		require.ErrorContains(t, err, want)
		require.Equal(t, "x", string(dst))
	}
}

// The bodies' sizes decide whether a queue's bound holds.
func TestSizeIsNeverBelowWhatIsEncoded(t *testing.T) {
	for seed := range uint64(300) {
		b := random(seed, int(seed%7))
		if seed%3 == 0 {
			for i := range b.Sections {
				s := &b.Sections[i]
				s.Deliveries = nil
				s.From, s.To, s.End, s.Generation, s.Partition = math.MaxInt64-1, math.MaxInt64, math.MinInt64, math.MinInt32, math.MaxInt32
			}
		}
		sum := delivery.Overhead
		for i := range b.Sections {
			sum += delivery.Size(&b.Sections[i])
		}
		enc, err := delivery.Append(nil, b)
		require.NoError(t, err)
		require.GreaterOrEqual(t, sum, len(body(t, enc)))
	}
	full := stream.Section{To: math.MaxInt64}
	for i := range int64(delivery.MaxDeliveries) {
		full.Deliveries = append(full.Deliveries, stream.Record{Offset: i})
	}
	require.Greater(t, delivery.Size(&full), delivery.MaxBody, "a sum below MaxBody keeps the count, too")
}

func TestAppendIntoAReusedBufferAllocatesNothing(t *testing.T) {
	for _, n := range []int{1, 50} {
		b := random(5, n)
		buf, err := delivery.Append(nil, b)
		require.NoError(t, err)
		buf, err = delivery.Append(buf[:0], b)
		require.NoError(t, err)
		require.Zero(t, testing.AllocsPerRun(100, func() { buf, _ = delivery.Append(buf[:0], b) }))
	}
}

func FuzzDecode(f *testing.F) {
	for seed := range uint64(6) {
		enc, err := delivery.Append(nil, random(seed, int(seed)))
		require.NoError(f, err)
		f.Add(enc, false)
		f.Add(body(f, enc), true)
	}
	f.Add([]byte{0, 0, 0, 1, 2, 0}, true)
	c := codec(f)
	f.Fuzz(func(t *testing.T, in []byte, wrap bool) {
		if wrap { // past the checksum, where a fuzzer never gets by itself
			in = envelope(in)
		}
		b, err := delivery.Decode(in)
		if err != nil {
			return
		}
		enc, err := delivery.Append(nil, b)
		require.NoError(t, err, "what is read can be written")
		again, err := delivery.Decode(enc)
		require.NoError(t, err)
		require.Equal(t, b, again)
		datum, rest, err := c.NativeFromBinary(body(t, in))
		require.NoError(t, err, "goavro reads whatever is read here")
		require.Empty(t, rest)
		if validUTF8(b) {
			require.Equal(t, native(b), datum)
		}
	})
}

func validUTF8(b *delivery.Batch) bool {
	return strings.ToValidUTF8(b.Incarnation+b.Writer, "") == b.Incarnation+b.Writer
}

func bench(b *testing.B, n int) (*delivery.Batch, []byte) {
	batch := random(1, n)
	enc, err := delivery.Append(nil, batch)
	require.NoError(b, err)
	b.SetBytes(int64(len(body(b, enc))))
	b.ReportAllocs()
	return batch, enc
}

func BenchmarkAppend(b *testing.B) {
	batch, enc := bench(b, 200)
	for b.Loop() {
		enc, _ = delivery.Append(enc[:0], batch)
	}
}

func BenchmarkDecode(b *testing.B) {
	_, enc := bench(b, 200)
	for b.Loop() {
		if _, err := delivery.Decode(enc); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeSmall(b *testing.B) {
	_, enc := bench(b, 1)
	for b.Loop() {
		if _, err := delivery.Decode(enc); err != nil {
			b.Fatal(err)
		}
	}
}
