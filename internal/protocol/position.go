package protocol

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tapecast/tapecast/internal/stream"
)

// FromKind says how a subscription names where it begins.
type FromKind uint8

// The forms of from.
const (
	FromLive FromKind = iota
	FromEarliest
	FromLast
	FromTime
	FromOffset
	FromOffsets
	FromCursor
)

// From is where a subscription begins.
type From struct {
	Kind    FromKind
	Named   bool            // FromLive: the command said so
	Last    int             // FromLast: events
	Time    time.Time       // FromTime
	Offset  int64           // FromOffset
	Offsets map[int32]int64 // FromOffsets
	Epoch   stream.TopicID  // beside offset and offsets: guards them; zero = not given
	Cursor  Cursor          // FromCursor
}

// UntilKind says how a subscription names where it ends.
type UntilKind uint8

// The forms of until.
const (
	UntilNone UntilKind = iota
	UntilLive           // the end as of the command
	UntilTime
	UntilOffset
	UntilOffsets
)

// Until is where a subscription ends: the first offset that it does not want.
type Until struct {
	Kind    UntilKind
	Time    time.Time
	Offset  int64
	Offsets map[int32]int64
}

const (
	fromMessage  = `must be "live", "earliest", {"last":N}, {"time":T}, {"offset":N}, {"offsets":{"0":N}} or {"cursor":"..."}`
	untilMessage = `must be "live", {"time":T}, {"offset":N} or {"offsets":{"0":N}}`
)

func parseFrom(raw json.RawMessage, now time.Time) (From, *Error) {
	if s, ok := stringOf(raw); ok {
		switch s {
		case "live":
			return From{Named: true}, nil
		case "earliest":
			return From{Kind: FromEarliest}, nil
		}
		return From{}, invalid("from", fromMessage)
	}
	if !isKind(raw, '{') {
		return From{}, invalid("from", fromMessage)
	}
	f, err := parseObject(raw)
	if err != nil {
		return From{}, invalid("from", err.Message)
	}
	return fromFields(f, now)
}

func fromFields(f fields, now time.Time) (out From, err *Error) {
	if only(f, "last", "time", "offset", "offsets", "cursor") != 1 {
		return From{}, invalid("from", fromMessage)
	}
	if raw, ok := f["epoch"]; ok {
		if out.Epoch, err = parseEpoch(raw); err != nil {
			return From{}, err
		}
	}
	for name, raw := range f {
		switch name {
		case "last":
			n, ok := intOf(raw)
			if !ok || n < 1 || n > MaxLast {
				return From{}, invalid("from.last", fmt.Sprintf("must be an integer from 1 to %d", MaxLast))
			}
			out.Kind, out.Last = FromLast, int(n)
		case "time":
			out.Kind = FromTime
			out.Time, err = parseTime("from.time", raw, now)
		case "offset":
			out.Kind = FromOffset
			out.Offset, err = parseOffset("from.offset", raw)
		case "offsets":
			out.Kind = FromOffsets
			out.Offsets, err = parseOffsets("from.offsets", raw)
		case "cursor":
			out.Kind = FromCursor
			out.Cursor, err = parseCursorField(raw)
		}
		if err != nil {
			return From{}, err
		}
	}
	return out, nil
}

func parseUntil(raw json.RawMessage, now time.Time) (out Until, err *Error) {
	if s, ok := stringOf(raw); ok && s == "live" {
		return Until{Kind: UntilLive}, nil
	}
	if !isKind(raw, '{') {
		return Until{}, invalid("until", untilMessage)
	}
	f, err := parseObject(raw)
	if err != nil {
		return Until{}, invalid("until", err.Message)
	}
	if only(f, "time", "offset", "offsets") != 1 {
		return Until{}, invalid("until", untilMessage)
	}
	for name, raw := range f {
		switch name {
		case "time":
			out.Kind = UntilTime
			out.Time, err = parseTime("until.time", raw, now)
			if err == nil && out.Time.After(now) {
				err = invalid("until.time", "lies in the future; leave until out and unsubscribe then")
			}
		case "offset":
			out.Kind = UntilOffset
			out.Offset, err = parseOffset("until.offset", raw)
		case "offsets":
			out.Kind = UntilOffsets
			out.Offsets, err = parseOffsets("until.offsets", raw)
		}
		if err != nil {
			return Until{}, err
		}
	}
	return out, nil
}

// only counts how many of the names are there.
func only(f fields, names ...string) (n int) {
	for _, name := range names {
		if _, ok := f[name]; ok {
			n++
		}
	}
	return n
}

func parseOffset(field string, raw json.RawMessage) (int64, *Error) {
	n, ok := intOf(raw)
	if !ok || n < 0 {
		return 0, invalid(field, "an offset is an integer from 0 on")
	}
	return n, nil
}

func parseOffsets(field string, raw json.RawMessage) (map[int32]int64, *Error) {
	if !isKind(raw, '{') {
		return nil, invalid(field, `must be an object of partition: offset, as {"0":4711}`)
	}
	f, err := parseObject(raw)
	if err != nil {
		return nil, invalid(field, err.Message)
	}
	if len(f) == 0 || len(f) > MaxPositions {
		return nil, invalid(field, fmt.Sprintf("must name 1 to %d partitions", MaxPositions))
	}
	out := make(map[int32]int64, len(f))
	for name, raw := range f {
		p, perr := strconv.ParseUint(name, 10, 31)
		if perr != nil || strconv.FormatUint(p, 10) != name {
			return nil, invalid(field, "a partition is named by its number")
		}
		if out[int32(p)], err = parseOffset(field, raw); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func parseEpoch(raw json.RawMessage) (stream.TopicID, *Error) {
	s, ok := stringOf(raw)
	if !ok {
		return stream.TopicID{}, invalid("from.epoch", "must be a string")
	}
	id, err := stream.ParseTopicID(s)
	if err != nil {
		return stream.TopicID{}, invalid("from.epoch", "must be the epoch that subscribed told")
	}
	return id, nil
}

func parseCursorField(raw json.RawMessage) (Cursor, *Error) {
	s, ok := stringOf(raw)
	if !ok {
		return Cursor{}, invalid("from.cursor", "must be a string")
	}
	c, err := ParseCursor(s)
	if err != nil {
		return Cursor{}, invalid("from.cursor", "is not a cursor of this server, or was cut")
	}
	return c, nil
}

// maxTime is the last millisecond of the year 9999.
const maxTime = 253402300799999

func parseTime(field string, raw json.RawMessage, now time.Time) (time.Time, *Error) {
	bad := invalid(field, "must be RFC 3339, milliseconds since 1970, or a duration before now as -5m")
	if n, ok := intOf(raw); ok {
		if n < 0 || n > maxTime {
			return time.Time{}, bad
		}
		return time.UnixMilli(n).UTC(), nil
	}
	s, ok := stringOf(raw)
	if !ok {
		return time.Time{}, bad
	}
	t, ok := timeOf(s, now)
	if !ok {
		return time.Time{}, bad
	}
	return t, nil
}

// timeOf reads RFC 3339, or a duration before now ("-5m").
func timeOf(s string, now time.Time) (time.Time, bool) {
	if len(s) > 64 {
		return time.Time{}, false
	}
	if strings.HasPrefix(s, "-") {
		d, err := time.ParseDuration(s)
		if err != nil {
			return time.Time{}, false
		}
		return inRange(now.Add(d))
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, false
	}
	return inRange(t)
}

func inRange(t time.Time) (time.Time, bool) {
	ms := t.UnixMilli()
	return t.UTC(), ms >= 0 && ms <= maxTime
}

// ParseFromText parses from as people type it: live, earliest, last:100, an
// offset (4711), a time (RFC 3339 or -5m), a cursor, or the JSON of a command.
func ParseFromText(s string, now time.Time) (From, *Error) {
	switch {
	case s == "":
		return From{}, nil
	case s == "live":
		return From{Named: true}, nil
	case s == "earliest":
		return From{Kind: FromEarliest}, nil
	case strings.HasPrefix(s, "{"), strings.HasPrefix(s, `"`):
		return jsonFrom(s, now)
	case strings.HasPrefix(s, "last:"):
		return fromFields(fields{"last": json.RawMessage(s[len("last:"):])}, now)
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		if n < 0 {
			return From{}, invalid("from", "an offset is an integer from 0 on")
		}
		return From{Kind: FromOffset, Offset: n}, nil
	}
	if t, ok := timeOf(s, now); ok {
		return From{Kind: FromTime, Time: t}, nil
	}
	if c, err := ParseCursor(s); err == nil {
		return From{Kind: FromCursor, Cursor: c}, nil
	}
	return From{}, invalid("from", "must be live, earliest, last:N, an offset, a time (RFC 3339 or -5m), a cursor, or JSON")
}

func jsonFrom(s string, now time.Time) (From, *Error) {
	if len(s) > 2*MaxCursor || !json.Valid([]byte(s)) {
		return From{}, invalid("from", "is not JSON")
	}
	return parseFrom(json.RawMessage(s), now)
}

// ParseUntilText parses until as people type it: live, an offset, a time
// (RFC 3339 or -5m), or the JSON of a command.
func ParseUntilText(s string, now time.Time) (Until, *Error) {
	switch {
	case s == "":
		return Until{}, nil
	case s == "live":
		return Until{Kind: UntilLive}, nil
	case strings.HasPrefix(s, "{"):
		if len(s) > 2*MaxCursor || !json.Valid([]byte(s)) {
			return Until{}, invalid("until", "is not JSON")
		}
		return parseUntil(json.RawMessage(s), now)
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 {
		return Until{Kind: UntilOffset, Offset: n}, nil
	}
	quoted, _ := json.Marshal(s)
	return parseUntil(json.RawMessage(`{"time":`+string(quoted)+`}`), now)
}
