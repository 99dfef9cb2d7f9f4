package protocol_test

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/protocol"
	"github.com/tapecast/tapecast/internal/stream"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestIDsAreEchoedAsTheyCame(t *testing.T) {
	for raw, label := range map[string]string{
		`7`: "7", `"7"`: "7", `-1.50`: "-1.50", `1e3`: "1e3", `"a\u00e9"`: "aé", `12345678901234567890`: "12345678901234567890",
	} {
		c, err := protocol.Parse([]byte(`{"cmd":"ping","id":`+raw+`}`), now)
		require.Nil(t, err, raw)
		require.Equal(t, label, c.ID.Label())
		b, merr := json.Marshal(c.ID)
		require.NoError(t, merr)
		require.Equal(t, raw, string(b))
	}
	for _, raw := range []string{`null`, `true`, `[]`, `{}`, `""`, `"\u0000"`, `"` + strings.Repeat("x", 63) + `"`} {
		_, err := protocol.Parse([]byte(`{"cmd":"ping","id":`+raw+`}`), now)
		require.NotNil(t, err, raw)
		require.Equal(t, "id", err.Field)
	}
}

func TestErrorsEchoTheIDAndNothingElse(t *testing.T) {
	_, err := protocol.Parse([]byte(`{"cmd":"<script>\u2028","id":"me"}`), now)
	require.Equal(t, protocol.CodeUnknown, err.Code)
	require.JSONEq(t, `{"event":"error","id":"me","code":"unknown_command","retry":false,"message":"cmd must be sub, unsub, ping or list"}`, string(err.Frame()))
	_, err = protocol.Parse([]byte(`{"cmd":"sub","topic":"x","id":"<b>","mode":"</script>"}`), now)
	require.NotContains(t, string(err.Frame()), "<")
	require.NotContains(t, string(err.Frame()), "script")
}

func TestLevels(t *testing.T) {
	for text, level := range map[string]int{
		`{"cmd":"sub","topic":"x"}`:                             0,
		`{"cmd":"sub","topic":"x","colour":1}`:                  0,
		`{"cmd":"sub","topic":"x","id":1}`:                      1,
		`{"cmd":"sub","topic":"x","from":"live"}`:               1,
		`{"cmd":"sub","topic":"x","key":"a"}`:                   1,
		`{"cmd":"sub","topic":"x","mode":"all"}`:                1,
		`{"cmd":"sub","topic":"x","on_slow":"replay"}`:          1,
		`{"cmd":"sub","topic":"x","until":"live"}`:              1,
		`{"cmd":"sub","topic":"x","interval_ms":100}`:           1,
		`{"cmd":"sub","topic":"x","keys":["b","a","b"]}`:        1,
		" \n{\"cmd\" : \"sub\" , \"topic\" : \"\\u0078\" }\r\n": 0,
	} {
		c, err := protocol.Parse([]byte(text), now)
		require.Nil(t, err, text)
		require.Equal(t, level, c.Sub.Level, text)
		require.Equal(t, "x", c.Topic)
	}
	c, err := protocol.Parse([]byte(`{"cmd":"sub","topic":"x","keys":["b","a","b"]}`), now)
	require.Nil(t, err)
	require.Equal(t, [][]byte{[]byte("a"), []byte("b")}, c.Sub.Keys)
}

func TestASnapshotTakesNoFrom(t *testing.T) {
	for _, from := range []string{`"live"`, `"earliest"`, `{"last":1}`, `{"offset":0}`} {
		_, err := protocol.Parse([]byte(`{"cmd":"sub","id":1,"topic":"x","mode":"snapshot","from":`+from+`}`), now)
		require.NotNil(t, err, from)
		require.Equal(t, protocol.CodeInvalid, err.Code)
		require.Equal(t, "from", err.Field)
	}
	wish := protocol.Subscribe{Mode: protocol.ModeSnapshot}
	var err *protocol.Error
	wish.From, err = protocol.ParseFromText("live", now) // the HTTP twin
	require.Nil(t, err)
	require.NotNil(t, protocol.CheckSubscribe(&wish))
	wish.From, err = protocol.ParseFromText("", now)
	require.Nil(t, err)
	require.Nil(t, protocol.CheckSubscribe(&wish))
}

func TestFromAsPeopleTypeIt(t *testing.T) {
	cursor := protocol.Cursor{Topic: 1, Next: []int64{5}}
	for text, want := range map[string]protocol.From{
		"":                          {},
		"live":                      {Named: true},
		`"live"`:                    {Named: true},
		"earliest":                  {Kind: protocol.FromEarliest},
		"last:100":                  {Kind: protocol.FromLast, Last: 100},
		"4711":                      {Kind: protocol.FromOffset, Offset: 4711},
		"-5m":                       {Kind: protocol.FromTime, Time: now.Add(-5 * time.Minute)},
		"2026-01-01T00:00:00Z":      {Kind: protocol.FromTime, Time: now.Add(-27*time.Hour - 245*time.Second)},
		`{"time":0}`:                {Kind: protocol.FromTime, Time: time.UnixMilli(0).UTC()},
		`{"offsets":{"0":1,"2":3}}`: {Kind: protocol.FromOffsets, Offsets: map[int32]int64{0: 1, 2: 3}},
		cursor.String():             {Kind: protocol.FromCursor, Cursor: cursor},
	} {
		got, err := protocol.ParseFromText(text, now)
		require.Nil(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"never", "-4711", "last:x", "last:", "{", "{}", `{"offset":"1"}`, `{"offset":1.5}`, `{"offset":9223372036854775808}`,
		"2026-13-01T00:00:00Z", "-5", "-9999999h", `{"offsets":{"01":1}}`, `{"offsets":{"2147483648":1}}`, `{"epoch":"x","offset":1}`, `{"time":-1}`} {
		_, err := protocol.ParseFromText(text, now)
		require.NotNil(t, err, text)
		require.Equal(t, protocol.CodeInvalid, err.Code)
	}
}

func TestCursorsAreReadBackAndNothingElseIs(t *testing.T) {
	id, err := stream.ParseTopicID("AQEBAQEBAQEBAQEBAQEBAQ")
	require.NoError(t, err)
	for _, c := range []protocol.Cursor{
		{Next: []int64{}},
		{Topic: protocol.CursorTopic("price"), Epoch: id, Time: 1_546_383_600_078, Next: []int64{0, 1, 1 << 62}},
		{Next: make([]int64, protocol.MaxPositions)},
	} {
		text := c.String()
		got, err := protocol.ParseCursor(text)
		require.NoError(t, err)
		require.Equal(t, c, got)
		for i := range min(len(text), 100) { // any cut, any flip
			_, err = protocol.ParseCursor(text[:i])
			require.Error(t, err)
			flipped := []byte(text)
			flipped[i] ^= 1
			_, err = protocol.ParseCursor(string(flipped))
			require.Error(t, err, "%d", i)
		}
	}
	_, err = protocol.ParseCursor(strings.Repeat("A", 1<<20))
	require.Error(t, err)
}

func TestBounds(t *testing.T) {
	keys := make([]string, protocol.MaxKeys+1)
	for i := range keys {
		keys[i] = strconv.Itoa(i)
	}
	_, err := protocol.NormalKeys(keys)
	require.NotNil(t, err)
	_, err = protocol.NormalKeys(keys[1:])
	require.Nil(t, err)
	_, err = protocol.NormalKeys([]string{strings.Repeat("x", protocol.MaxKey+1)})
	require.NotNil(t, err)
	_, err = protocol.Parse([]byte(`{"cmd":"ping","x":`+strings.Repeat(`[`, 100_000)+`}`), now)
	require.Equal(t, protocol.CodeBadJSON, err.Code)
	_, err = protocol.Parse([]byte("{\"cmd\":\"ping\",\"x\":\"\xff\"}"), now)
	require.Equal(t, protocol.CodeBadJSON, err.Code)
}

func TestCloseCodesCarryTheVerdict(t *testing.T) {
	for code, back := range map[protocol.CloseCode]bool{
		protocol.CloseRestart: true, protocol.CloseSlow: true, protocol.CloseTimeout: true, protocol.CloseInternalErr: true, 1001: true,
		protocol.CloseFlood: false, protocol.CloseNormal: false, protocol.CloseBadUTF8: false, protocol.CloseTooBig: false, 4499: true, 4999: false,
	} {
		require.Equal(t, back, code.ComesBack(), code)
	}
}

func TestPositionsAreInOrder(t *testing.T) {
	b, err := json.Marshal(protocol.Positions{10: 1, 2: 3, 0: 5})
	require.NoError(t, err)
	require.Equal(t, `{"0":5,"2":3,"10":1}`, string(b))
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"cmd":"sub","topic":"price"}`, `{"cmd":"sub","id":7,"topic":"price","keys":["EURUSD"],"from":{"offsets":{"0":4712}}}`,
		`{"cmd":"sub","topic":"p","from":{"last":100},"until":{"time":"-5m"},"mode":"latest","interval_ms":250,"on_slow":"latest"}`,
		`{"cmd":"unsub","id":"x"}`, `{"cmd":"ping"}`, `{"cmd":"list","id":1e999}`, `PING`, `{"a":[[[[[[[[[[`, `{"cmd":"sub","from":{"cursor":"AWyPTLQBAQEBAQEBAQEBAQEBAQEBAAEGLjSGiw"}}`,
		`{"id":"\ud800","cmd":"x"}`, "{\"\\u0000\":1}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := protocol.Parse(text, now)
		if err != nil {
			if !json.Valid(err.Frame()) {
				t.Fatalf("error frame is not JSON: %q", err.Frame())
			}
			return
		}
		frame := protocol.Encode(protocol.End{Event: "unsubscribed", Label: protocol.NewLabel(c.ID, "t")})
		if !json.Valid(frame) || len(frame) > 1000 {
			t.Fatalf("frame %q", frame)
		}
		for _, k := range c.Sub.Keys {
			if len(k) > protocol.MaxKey {
				t.Fatal("key too long")
			}
		}
		for _, o := range c.Sub.From.Offsets {
			if o < 0 {
				t.Fatal("negative offset")
			}
		}
	})
}

func FuzzParseCursor(f *testing.F) {
	f.Add("")
	f.Add(protocol.Cursor{Topic: 5, Time: 7, Next: []int64{1, 2, 3}}.String())
	f.Fuzz(func(t *testing.T, text string) {
		c, err := protocol.ParseCursor(text)
		if err == nil && c.String() != text {
			t.Fatalf("%q is read as %q", text, c.String())
		}
	})
}

func FuzzParseFromText(f *testing.F) {
	for _, s := range []string{"live", "-5m", "4711", `{"time":1}`, "last:3", "2026-01-01T00:00:00Z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		from, err := protocol.ParseFromText(text, now)
		if err == nil && (from.Offset < 0 || from.Last < 0 || from.Last > protocol.MaxLast) {
			t.Fatalf("%+v", from)
		}
		_, _ = protocol.ParseUntilText(text, now)
	})
}
