package broker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/snap"
	"github.com/tapecast/tapecast/internal/stream"
)

func TestMurmurAsJava(t *testing.T) {
	// Vectors of Apache Kafka's UtilsTest.
	for key, want := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	} {
		require.Equal(t, want, int32(murmur2([]byte(key))), key)
	}
}

// encode makes a batch as the producer does.
func encode(t testing.TB, base int64, codec int16, recs ...plainRecord) []byte {
	t.Helper()
	var w batchWriter
	w.begin()
	for i := range recs {
		w.add(&recs[i], recs[i].time-recs[0].time, i)
	}
	b, err := w.finish(len(recs), recs[0].time, recs[0].time, codec, noProducer)
	require.NoError(t, err)
	binary.BigEndian.PutUint64(b, uint64(base))
	return b
}

func some(n int) []plainRecord {
	var recs []plainRecord
	for i := range n {
		recs = append(recs, plainRecord{key: fmt.Append(nil, i%9), value: fmt.Append(nil, "some value ", i), time: 1000 + int64(i)})
	}
	return recs
}

func walkAll(records []byte, from, stable int64, aborted ...abortedTxn) (Span, int, error) {
	r := &Reader{aborted: map[int64]struct{}{}}
	return r.walk(&fetched{stable: stable, records: records, aborted: aborted}, from, 1<<20)
}

func TestWalkTakesWholeBatchesOnly(t *testing.T) {
	a, b := encode(t, 10, codecSnappy, some(5)...), encode(t, 20, codecZstd, some(3)...)
	all := slices.Concat(a, b)
	span, need, err := walkAll(all, 12, 100)
	require.NoError(t, err)
	require.Zero(t, need)
	require.EqualValues(t, 23, span.To)
	require.Len(t, span.Records, 6)
	require.EqualValues(t, 12, span.Records[0].Offset)

	span, need, err = walkAll(all[:len(all)-1], 10, 100)
	require.NoError(t, err)
	require.Zero(t, need)
	require.EqualValues(t, 15, span.To)

	span, need, err = walkAll(a[:len(a)-1], 10, 100)
	require.NoError(t, err)
	require.Equal(t, len(a), need)
	require.EqualValues(t, 10, span.To)

	span, _, err = walkAll(all, 10, 20) // the second batch is not committed
	require.NoError(t, err)
	require.EqualValues(t, 15, span.To)

	span, _, err = walkAll(b, 15, 100) // what was compacted away before it is covered
	require.NoError(t, err)
	require.EqualValues(t, 15, span.From)
	require.EqualValues(t, 23, span.To)
}

func TestWalkRefusesWhatItCannotTrust(t *testing.T) {
	good := encode(t, 0, codecNone, some(3)...)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	_, _, err := walkAll(flipped, 0, 10)
	require.ErrorIs(t, err, ErrCorrupt)
	require.False(t, Retryable(err))

	span, _, err := walkAll(slices.Concat(good, func() []byte { b := bytes.Clone(flipped); binary.BigEndian.PutUint64(b, 3); return b }()), 0, 10)
	require.NoError(t, err) // what is good comes first
	require.EqualValues(t, 3, span.To)

	for _, magic := range []byte{0, 1} {
		old := bytes.Clone(good)
		old[offsetMagic] = magic
		_, _, err = walkAll(old, 0, 10)
		require.ErrorIs(t, err, ErrLegacyFormat)
	}
	newer := bytes.Clone(good)
	newer[offsetMagic] = 3
	_, _, err = walkAll(newer, 0, 10)
	require.ErrorIs(t, err, ErrCorrupt)

	huge := bytes.Clone(good)
	binary.BigEndian.PutUint32(huge[offsetLength:], 1<<30)
	_, _, err = walkAll(huge, 0, 10)
	require.ErrorIs(t, err, ErrCorrupt)
}

func TestABatchMayNotDecompressToMoreThanItsLimit(t *testing.T) {
	zeros := make([]byte, maxBatchPlain+1)
	for _, codec := range []int16{codecSnappy, codecGzip, codecZstd} {
		packed, err := compress(nil, zeros, codec)
		require.NoError(t, err)
		_, err = decompress(nil, packed, codec, maxBatchPlain)
		require.ErrorIs(t, err, ErrCorrupt, codec)
		packed, err = compress(nil, zeros[:1<<20], codec)
		require.NoError(t, err)
		plain, err := decompress(nil, packed, codec, 1<<20)
		require.NoError(t, err)
		require.Len(t, plain, 1<<20)
		_, err = decompress(nil, packed, codec, 1<<20-1)
		require.ErrorIs(t, err, ErrCorrupt, codec)
	}
	// A zstd frame that hides its size.
	var hidden bytes.Buffer
	w, err := zstd.NewWriter(&hidden)
	require.NoError(t, err)
	for range 70 {
		_, err = w.Write(zeros[:1<<20])
		require.NoError(t, err)
		require.NoError(t, w.Flush())
	}
	require.NoError(t, w.Close())
	_, err = decompress(nil, hidden.Bytes(), codecZstd, maxBatchPlain)
	require.ErrorIs(t, err, ErrCorrupt)

	block := snap.Encode(nil, zeros[:1<<20])
	framed := append(bytes.Clone(xerialMagic), 0, 0, 0, 1, 0, 0, 0, 1)
	for range 3 {
		framed = binary.BigEndian.AppendUint32(framed, uint32(len(block)))
		framed = append(framed, block...)
	}
	plain, err := decompress(nil, framed, codecSnappy, 3<<20)
	require.NoError(t, err)
	require.Len(t, plain, 3<<20)
	_, err = decompress(nil, framed, codecSnappy, 3<<20-1)
	require.ErrorIs(t, err, ErrCorrupt)
	for cut := range 30 {
		_, err = decompress(nil, framed[:cut], codecSnappy, 3<<20)
		if cut != xerialHeader {
			require.Error(t, err, cut)
		}
	}
}

func TestManyCompressedBatchesEndASpanEarly(t *testing.T) {
	big := []plainRecord{{value: make([]byte, 10<<20)}}
	var all []byte
	for i := range 5 {
		all = append(all, encode(t, int64(i), codecZstd, big...)...)
	}
	span, _, err := walkAll(all, 0, 100)
	require.NoError(t, err)
	require.Less(t, span.To, int64(5))
	require.Positive(t, span.To)
}

func TestDecodingAllocatesNothingPerRecord(t *testing.T) {
	for _, codec := range []int16{codecNone, codecSnappy, codecZstd} {
		var all []byte
		for i := range 10 {
			all = append(all, encode(t, int64(i*1000), codec, some(1000)...)...)
		}
		r := &Reader{aborted: map[int64]struct{}{}}
		n := testing.AllocsPerRun(20, func() {
			r.release()
			span, _, err := r.walk(&fetched{stable: 1 << 40, records: all}, 0, 1<<20)
			if err != nil || len(span.Records) != 10_000 {
				t.Fatal(len(span.Records), err)
			}
		})
		require.Less(t, n, 100.0, "codec %d: allocations for 10,000 records", codec)
	}
}

// Records that are next to nothing in Kafka take ten times that here: a span
// ends, in the middle of a batch if it must, and what it took is not kept.
func TestASpanHasSoManyRecords(t *testing.T) {
	for _, batches := range [][]int{{maxRecords + 5}, {maxRecords - 3, 10}, {maxRecords, 1}, {3, maxRecords, 7}} {
		var all []byte
		total := 0
		for _, n := range batches {
			all = append(all, encode(t, int64(total), codecZstd, some(n)...)...)
			total += n
		}
		r := &Reader{aborted: map[int64]struct{}{}}
		next := int64(0)
		for spans := 0; next < int64(total); spans++ {
			require.Less(t, spans, 3, batches)
			span, need, err := r.walk(&fetched{stable: int64(total), records: all}, next, 1<<20)
			require.NoError(t, err)
			require.Zero(t, need)
			require.LessOrEqual(t, len(span.Records), maxRecords)
			require.Equal(t, span.To-next, int64(len(span.Records)))
			for i := range span.Records {
				if span.Records[i].Offset != next+int64(i) {
					t.Fatal(batches, i, span.Records[i].Offset, next)
				}
			}
			next = span.To
			r.release()
			require.Nil(t, r.records, "who waits for records holds no memory for them")
		}
	}
}

// FuzzWalk feeds the walker what no broker would send: it may refuse, but not
// panic, loop, or say something about records that it did not see.
func FuzzWalk(f *testing.F) {
	for codec := range int16(5) {
		if codec != codecLZ4 {
			f.Add(encode(f, 5, codec, some(4)...), int64(6), int64(100), false)
		}
	}
	f.Add(slices.Concat(encode(f, 0, codecNone, some(2)...), encode(f, 9, codecNone, some(2)...)), int64(0), int64(10), true)
	f.Fuzz(func(t *testing.T, b []byte, from, stable int64, fix bool) {
		if fix { // make the checksums right, to get behind them
			for rest := b; len(rest) > batchHeader; {
				size := int(binary.BigEndian.Uint32(rest[offsetLength:])) + batchPrefix
				if size < batchHeader || size > len(rest) {
					break
				}
				restamp(rest[:size], producerState{id: 1, sequence: 2})
				rest = rest[size:]
			}
		}
		span, need, err := walkAll(b, from, stable, abortedTxn{1, 3})
		if err != nil {
			return
		}
		require.GreaterOrEqual(t, span.To, span.From)
		require.GreaterOrEqual(t, need, 0)
		for _, r := range span.Records {
			require.GreaterOrEqual(t, r.Offset, span.From)
			require.Less(t, r.Offset, span.To)
		}
	})
}

// FuzzAnswers feeds every reader of answers what no broker would send.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 2, 1, 2, 3, 4})
	f.Add(bytes.Repeat([]byte{0x7f}, 200))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _, _ = readMetadata(&answer{b: b})
		_, _ = readConfig(&answer{b: b})
		_, _ = readProduced(&answer{b: b})
		_, _ = readFetched(&answer{b: b}, []*pull{{ask: fetchAsk{version: fetchByID}}})
		_, _ = readFetched(&answer{b: b}, []*pull{{ask: fetchAsk{version: fetchByName}}})
		_, _ = decodeSubscription("m", b)
		_, _, _ = decodeAssignment(b)
		_ = readResult(&answer{b: b}, true)
		_, _ = readCreated(&answer{b: b})
	})
}

func TestRecordBoundIsEnough(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		rec := plainRecord{value: make([]byte, r.IntN(300)), time: r.Int64N(1 << 50)}
		if r.IntN(2) == 0 {
			rec.key = make([]byte, r.IntN(100))
		}
		if r.IntN(2) == 0 {
			rec.headerKey = stream.AcceptedHeader
		}
		var w batchWriter
		w.add(&rec, r.Int64()-r.Int64(), r.IntN(1<<31))
		require.LessOrEqual(t, len(w.records), recordBound(&rec))
	}
}

func TestRetryable(t *testing.T) {
	require.True(t, Retryable(fmt.Errorf("x: %w", kafka.NotLeaderForPartition)))
	require.True(t, Retryable(fmt.Errorf("x: %w", kafka.RebalanceInProgress)))
	for _, err := range []error{nil, stream.ErrUnknownTopic, stream.ErrTopicChanged, &stream.OutOfRangeError{}, ErrRecordTooLarge, ErrStaleGeneration, kafka.TopicAuthorizationFailed, errors.New("x")} {
		require.False(t, Retryable(err), "%v", err)
	}
}

func TestAddressesAreSplitAndChecked(t *testing.T) {
	c, err := New(Options{Addrs: []string{"a:1,b:2", " c:3 "}})
	require.NoError(t, err)
	require.Equal(t, "a:1,b:2,c:3", c.addr.String())
	for _, bad := range [][]string{nil, {""}, {"nohost"}, {"a:1,b"}} {
		_, err := New(Options{Addrs: bad})
		require.Error(t, err, "%s", strings.Join(bad, " "))
	}
}

func TestThePaceOfAPuller(t *testing.T) {
	const every, burst = 2 * time.Millisecond, 4
	p := (&Client{}).NewPuller(func() time.Duration { return every }, burst, nil)
	l := &pullLeader{puller: p}
	now := time.Now()
	early := func() time.Duration {
		d, hold := l.pace(now)
		require.LessOrEqual(t, hold, time.Duration(0))
		return d
	}
	for range burst {
		require.Zero(t, early(), "a burst goes at once")
	}
	require.Equal(t, every, early())
	for range 10 {
		l.forgive(every)
		require.Equal(t, every, early(), "a leader that answers early is not waited for any longer")
	}
	now = now.Add(every)
	require.Equal(t, every, early())
	now = now.Add(3 * every / 2)
	require.Equal(t, every/2, early(), "a late one is made up for")
	now = now.Add(time.Second)
	for range burst {
		require.Zero(t, early())
	}
	l.hold = now.Add(time.Millisecond)
	_, hold := l.pace(now)
	require.Equal(t, time.Millisecond, hold)
}
