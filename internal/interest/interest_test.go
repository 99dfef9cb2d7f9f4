package interest_test

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/linkedin/goavro/v2"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/stream"
)

var samples = []interest.Record{
	{Kind: interest.KindAdd, Incarnation: "g1-x", ID: "1a", Feed: "quotes", Key: []byte("EURUSD")},
	{Kind: interest.KindAdd, Incarnation: "g1-x", ID: "1b", Feed: "quotes"},
	{Kind: interest.KindAdd, Incarnation: "g1-x", ID: "1c", Feed: "quotes", Key: []byte{}},
	{Kind: interest.KindEnd1, Incarnation: "g1-x", ID: "1a"},
	{Kind: interest.KindLease, Incarnation: "g1-x", Node: "g1", Delivery: "tapecast.delivery.g1.x", LeaseMs: 10_000},
	{Kind: interest.KindEnd, Incarnation: "g1-x"},
	{Kind: interest.KindGone, Incarnation: "g1-x", ID: interest.GoneLease},
	{Kind: interest.KindGone, Incarnation: "g1-x", ID: interest.GoneEnd},
}

func TestDecodesWhatItEncodes(t *testing.T) {
	for _, r := range samples {
		key, value, err := r.Encode()
		require.NoError(t, err)
		require.Equal(t, value == nil, r.Kind == interest.KindEnd1 || r.Kind == interest.KindGone)
		got, err := interest.Decode(key, value)
		require.NoError(t, err)
		require.Equal(t, r, got)
		clear(value)
		require.Equal(t, r, got, "it aliases nothing")
	}
	key, _, err := interest.Record{Kind: interest.KindGone, Incarnation: "a"}.Encode()
	require.NoError(t, err)
	require.Equal(t, "a/lease", string(key))
}

func codec(t testing.TB) *goavro.Codec {
	schema, err := os.ReadFile("../../schemas/tapecast.Interest.avsc")
	require.NoError(t, err)
	c, err := goavro.NewCodec(string(schema))
	require.NoError(t, err)
	return c
}

func native(r interest.Record) map[string]any {
	switch r.Kind {
	case interest.KindAdd:
		var key any
		if r.Key != nil {
			key = map[string]any{"bytes": r.Key}
		}
		return map[string]any{"entry": map[string]any{"tapecast.Want": map[string]any{"feed": r.Feed, "key": key}}}
	case interest.KindLease:
		return map[string]any{"entry": map[string]any{"tapecast.Lease": map[string]any{"node": r.Node, "delivery": r.Delivery, "lease_ms": r.LeaseMs}}}
	default:
		return map[string]any{"entry": map[string]any{"tapecast.End": map[string]any{"incarnation": r.Incarnation}}}
	}
}

func TestTheValueIsTheAvroRecordOfTheSchema(t *testing.T) {
	c := codec(t)
	for _, r := range samples {
		key, value, err := r.Encode()
		require.NoError(t, err)
		if value == nil {
			continue
		}
		datum, rest, err := c.NativeFromBinary(value)
		require.NoError(t, err)
		require.Empty(t, rest)
		require.Equal(t, native(r), datum)
		theirs, err := c.BinaryFromNative(nil, native(r))
		require.NoError(t, err)
		got, err := interest.Decode(key, theirs)
		require.NoError(t, err)
		require.Equal(t, r, got)
	}
}

func TestARecordThatCannotBeReadIsNamed(t *testing.T) {
	_, lease, err := samples[4].Encode()
	require.NoError(t, err)
	_, want, err := samples[0].Encode()
	require.NoError(t, err)
	_, end, err := samples[5].Encode()
	require.NoError(t, err)
	for _, c := range []struct {
		key   string
		value []byte
		err   string
	}{
		{"", nil, "has no kind"},
		{"a", nil, "has no kind"},
		{"a/x", nil, "no known kind"},
		{"/lease", lease, "incarnation of 0 bytes"},
		{"a b/lease", lease, "incarnation \"a b\" holds a character"},
		{"a/i/", want, "id of 0 bytes"},
		{"a/i/b/c", want, "id \"b/c\" holds a character"},
		{strings.Repeat("a", 300), nil, "too long"},
		{"a/i/b", lease, "entry: union branch 1 under a key that asks for 0"},
		{"a/lease", want, "entry: union branch 0"},
		{"g2-x/end", end, "incarnation differs"},
		{"a/i/b", []byte{}, "entry: broken or cut number"},
		{"a/i/b", want[:3], "feed: length 6 with"},
		{"a/i/b", want[:len(want)-1], "key: length 6 with 5 bytes left"},
		{"a/i/b", append(bytes.Clone(want), 0), "1 bytes after the value"},
		{"a/i/b", []byte{0, 2, 'q', 4}, "key: union branch 2"},
		{"a/i/b", []byte{0, 0, 0}, "feed of 0 bytes"},
		{"a/i/b", []byte{0, 1}, "feed: length -1"},
		{"a/i/b", []byte{0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, "feed: broken"},
		{"a/lease", []byte{2, 2, 'n', 2, 'd', 0}, "lease_ms 0"},
	} {
		_, err := interest.Decode([]byte(c.key), c.value)
		require.ErrorContains(t, err, c.err, "%q %x", c.key, c.value)
	}
}

func TestEncodeRefusesWhatDecodeWould(t *testing.T) {
	for want, r := range map[string]interest.Record{
		"unknown kind 0":       {Incarnation: "a"},
		"incarnation":          {Kind: interest.KindEnd, Incarnation: "a/b"},
		"id of 0 bytes":        {Kind: interest.KindAdd, Incarnation: "a", Feed: "f"},
		"feed":                 {Kind: interest.KindAdd, Incarnation: "a", ID: "b", Feed: strings.Repeat("f", 250)},
		"key of 65537 bytes":   {Kind: interest.KindAdd, Incarnation: "a", ID: "b", Feed: "f", Key: make([]byte, interest.MaxKey+1)},
		"lease_ms":             {Kind: interest.KindLease, Incarnation: "a", Node: "n", Delivery: "d"},
		"id \"x\" of a gone r": {Kind: interest.KindGone, Incarnation: "a", ID: "x"},
	} {
		_, _, err := r.Encode()
		require.ErrorContains(t, err, want)
	}
}

func FuzzDecode(f *testing.F) {
	for _, r := range samples {
		key, value, err := r.Encode()
		require.NoError(f, err)
		f.Add(key, value, value == nil)
	}
	c := codec(f)
	f.Fuzz(func(t *testing.T, key, value []byte, null bool) {
		if null {
			value = nil
		} else if value == nil {
			value = []byte{}
		}
		r, err := interest.Decode(key, value)
		if err != nil {
			return
		}
		k, v, err := r.Encode()
		require.NoError(t, err)
		require.Equal(t, string(key), string(k))
		again, err := interest.Decode(k, v)
		require.NoError(t, err)
		require.Equal(t, r, again)
		if value != nil {
			datum, rest, err := c.NativeFromBinary(value)
			require.NoError(t, err)
			require.Empty(t, rest)
			require.Equal(t, native(r), datum)
		}
	})
}

// fold applies records one after the other and returns the last change.
func fold(s *interest.State, now time.Time, rs ...interest.Record) (c interest.Change) {
	for _, r := range rs {
		c = s.Apply(stream.InterestPos{Log: s.Pos().Log, Offset: s.Pos().Offset + 1}, r, true, now)
	}
	return c
}

func add(id, key string) interest.Record {
	return interest.Record{Kind: interest.KindAdd, Incarnation: "a", ID: id, Feed: "f", Key: []byte(key)}
}

func end1(id string) interest.Record {
	return interest.Record{Kind: interest.KindEnd1, Incarnation: "a", ID: id}
}

var (
	now   = time.Unix(1000, 0)
	lease = interest.Record{Kind: interest.KindLease, Incarnation: "a", Node: "n", Delivery: "d", LeaseMs: 10_000}
	end   = interest.Record{Kind: interest.KindEnd, Incarnation: "a"}
)

func TestATombstoneEndsOneIDAndNoOther(t *testing.T) {
	var s interest.State
	s.Reset(stream.TopicID{1})
	require.EqualValues(t, -1, s.Pos().Offset)
	c := fold(&s, now, add("1", "k"))
	require.True(t, c.Edge)
	require.False(t, c.Incarnation.Alive(), "without a lease there is nowhere to write to")
	require.True(t, fold(&s, now, lease).Born)
	require.True(t, s.Get("a").Alive())
	require.False(t, fold(&s, now, add("2", "k")).Edge)
	require.False(t, fold(&s, now, add("2", "k")).Edge, "a doubled append")
	require.False(t, fold(&s, now, end1("1")).Edge)
	require.Equal(t, 1, s.Get("a").Count())
	require.False(t, fold(&s, now, end1("1")).Edge)
	c = fold(&s, now, end1("2"))
	require.True(t, c.Edge)
	require.Equal(t, interest.Want{Feed: "f", Key: "k"}, c.Want)
	require.Zero(t, s.Wants())
	require.EqualValues(t, 6, s.Pos().Offset)
	require.False(t, fold(&s, now, lease).Born)
}

func TestAnEndIsForGood(t *testing.T) {
	for _, last := range []interest.Record{end, {Kind: interest.KindGone, Incarnation: "a", ID: interest.GoneLease}} {
		var s interest.State
		fold(&s, now, lease, add("1", "k"), add("2", "k2"))
		require.True(t, fold(&s, now, last).Ended)
		require.Nil(t, fold(&s, now, lease, add("3", "k")).Incarnation)
		a := s.Get("a")
		require.False(t, a.Alive())
		require.Zero(t, a.Count())
		require.Zero(t, s.Wants())
		ids := map[string]bool{}
		for id := range a.IDs {
			ids[id] = true
		}
		require.Equal(t, map[string]bool{"1": true, "2": true, "3": true}, ids, "what is still to be removed from the log")
		fold(&s, now, end1("1"), end1("2"), end1("3"), interest.Record{Kind: interest.KindGone, Incarnation: "a", ID: interest.GoneEnd})
		require.Nil(t, fold(&s, now, lease).Incarnation, "a write that was under way does not bring it back")
		require.Empty(t, s.Expired(now.Add(time.Hour), time.Minute))
	}
}

func TestALeaseRunsOutWhenItIsNotRenewed(t *testing.T) {
	var s interest.State
	fold(&s, now, lease, add("1", "k"))
	fold(&s, now, interest.Record{Kind: interest.KindAdd, Incarnation: "orphan", ID: "1", Feed: "f"})
	require.Empty(t, s.Expired(now.Add(10*time.Second), time.Minute))
	require.Equal(t, []string{"a"}, s.Expired(now.Add(10*time.Second+1), time.Minute))
	fold(&s, now.Add(9*time.Second), lease)
	require.Empty(t, s.Expired(now.Add(19*time.Second), time.Minute))
	require.Len(t, s.Expired(now.Add(2*time.Minute), time.Minute), 2, "also one that never had a lease")
	huge := lease
	huge.LeaseMs = 1 << 62
	fold(&s, now, huge)
	require.Equal(t, time.Hour, s.Get("a").Lease)
}

func TestARecordThatCouldNotBeReadOnlyMovesThePosition(t *testing.T) {
	var s interest.State
	s.Reset(stream.TopicID{1})
	c := s.Apply(stream.InterestPos{Log: stream.TopicID{1}, Offset: 41}, interest.Record{}, false, now)
	require.Nil(t, c.Incarnation)
	require.EqualValues(t, 41, s.Pos().Offset)
	require.Nil(t, fold(&s, now, end1("1")).Incarnation)
	for range s.All {
		t.Fatal("nobody is there")
	}
}
