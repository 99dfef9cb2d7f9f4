package protocol

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Verb of a command.
type Verb uint8

// The verbs.
const (
	VerbSub Verb = iota + 1
	VerbUnsub
	VerbPing
	VerbList
)

// ID is what a client calls its subscription: a JSON number or string of at
// most MaxID bytes, echoed as it came. The zero ID means none.
type ID struct{ raw, label string }

// IsZero tells whether there is no id.
func (id ID) IsZero() bool { return id.raw == "" }

// Label is the id as the name of a JSON field: the string's content or the
// number's text. Ids with one label are one id.
func (id ID) Label() string { return id.label }

// MarshalJSON returns the id as it came.
func (id ID) MarshalJSON() ([]byte, error) {
	if id.raw == "" {
		return []byte("null"), nil
	}
	return []byte(id.raw), nil
}

// Mode of a subscription.
type Mode uint8

// The modes.
const (
	ModeAll      Mode = iota // every event
	ModeLatest               // the newest value per key, at most every interval
	ModeSnapshot             // the newest value per key as of one offset, then every event
)

func (m Mode) String() string { return [...]string{"all", "latest", "snapshot"}[m] }

// Bounds and default of interval_ms.
const (
	MinInterval     = 50 * time.Millisecond
	DefaultInterval = 250 * time.Millisecond
	MaxInterval     = time.Minute
)

// Command is one parsed command.
type Command struct {
	Verb  Verb
	ID    ID
	Topic string // sub, unsub
	Sub   Subscribe
}

// Subscribe holds what a sub command wishes.
type Subscribe struct {
	Keys     [][]byte // nil = all; else ascending, without doubles
	From     From
	Until    Until
	Mode     Mode
	Interval time.Duration // mode latest
	OnSlow   bool          // "on_slow":"latest": skip to the newest values instead of catching up
	Level    int           // 1 = the client gave an id or an option and gets control frames
}

// Ping is the bare text that Pong answers.
const (
	Ping = "PING"
	Pong = "PONG"
)

// Parse parses one command. The caller has bounded its size and checked that
// it is UTF-8. Unknown fields are ignored; fields of the wrong type are not.
func Parse(text []byte, now time.Time) (Command, *Error) {
	if !utf8.Valid(text) {
		return Command{}, &Error{Code: CodeBadJSON, Message: "the command is not UTF-8"}
	}
	if string(bytes.TrimSpace(text)) == Ping {
		return Command{Verb: VerbPing, ID: ID{}, Topic: Ping}, nil
	}
	f, err := parseObject(text)
	if err != nil {
		return Command{}, err
	}
	var c Command
	if c.ID, err = parseID(f["id"]); err != nil {
		return Command{}, err
	}
	if err = c.fill(f, now); err != nil {
		err.ID = c.ID
		return Command{}, err
	}
	return c, nil
}

func (c *Command) fill(f fields, now time.Time) *Error {
	verb, ok := f.str("cmd")
	if !ok {
		return invalid("cmd", "must be a string: sub, unsub, ping or list")
	}
	switch verb {
	case "sub":
		c.Verb = VerbSub
	case "unsub":
		c.Verb = VerbUnsub
	case "ping":
		c.Verb = VerbPing
		return nil
	case "list":
		c.Verb = VerbList
		return nil
	default:
		return &Error{Code: CodeUnknown, Message: "cmd must be sub, unsub, ping or list"}
	}
	if raw, given := f["topic"]; given || c.Verb == VerbSub || c.ID.IsZero() {
		if c.Topic, ok = stringOf(raw); !ok || c.Topic == "" || len(c.Topic) > MaxTopic {
			return invalid("topic", fmt.Sprintf("must be a string of 1 to %d bytes", MaxTopic))
		}
	}
	if c.Verb == VerbUnsub {
		return nil
	}
	s, err := parseSubscribe(f, now)
	if err != nil {
		return err
	}
	if !c.ID.IsZero() {
		s.Level = 1
	}
	c.Sub = s
	return nil
}

// options are the fields that opt into level 1.
var options = []string{"key", "keys", "from", "until", "mode", "interval_ms", "on_slow"}

func parseSubscribe(f fields, now time.Time) (s Subscribe, err *Error) {
	for _, o := range options {
		if _, ok := f[o]; ok {
			s.Level = 1
		}
	}
	if s.Keys, err = parseKeys(f); err != nil {
		return s, err
	}
	if err = parseMode(f, &s); err != nil {
		return s, err
	}
	if raw, ok := f["from"]; ok {
		if s.From, err = parseFrom(raw, now); err != nil {
			return s, err
		}
	}
	if raw, ok := f["until"]; ok {
		if s.Until, err = parseUntil(raw, now); err != nil {
			return s, err
		}
	}
	return s, s.check()
}

// check refuses options that contradict each other.
func (s *Subscribe) check() *Error {
	switch {
	case s.Mode == ModeSnapshot && (s.From.Kind != FromLive || s.From.Named):
		return invalid("from", `mode "snapshot" chooses its own position; leave from out`)
	case s.Mode == ModeSnapshot && s.Until.Kind != UntilNone && s.Until.Kind != UntilLive:
		return invalid("until", `mode "snapshot" takes no until but "live"`)
	}
	return nil
}

// CheckSubscribe checks options that did not come through Parse (the HTTP twin).
func CheckSubscribe(s *Subscribe) *Error {
	if s.Mode == ModeLatest && (s.Interval < MinInterval || s.Interval > MaxInterval) {
		return invalid("interval_ms", intervalMessage)
	}
	return s.check()
}

const intervalMessage = "must be an integer from 50 to 60000"

func parseMode(f fields, s *Subscribe) *Error {
	if raw, ok := f["mode"]; ok {
		name, _ := stringOf(raw)
		m, ok := ParseMode(name)
		if !ok {
			return invalid("mode", `must be "all", "latest" or "snapshot"`)
		}
		s.Mode = m
	}
	s.Interval = DefaultInterval
	if raw, ok := f["interval_ms"]; ok {
		n, ok := intOf(raw)
		s.Interval = time.Duration(n) * time.Millisecond
		if !ok || n < MinInterval.Milliseconds() || n > MaxInterval.Milliseconds() {
			return invalid("interval_ms", intervalMessage)
		}
	}
	if raw, ok := f["on_slow"]; ok {
		switch v, _ := stringOf(raw); v {
		case "latest":
			s.OnSlow = true
		case "replay":
		default:
			return invalid("on_slow", `must be "replay" or "latest"`)
		}
	}
	return nil
}

// ParseMode parses the name of a mode.
func ParseMode(name string) (Mode, bool) {
	switch name {
	case "all":
		return ModeAll, true
	case "latest":
		return ModeLatest, true
	case "snapshot":
		return ModeSnapshot, true
	}
	return 0, false
}

func parseKeys(f fields) ([][]byte, *Error) {
	raw, many := f["keys"]
	one, single := f["key"]
	switch {
	case many && single:
		return nil, invalid("key", "give key or keys, not both")
	case single:
		k, ok := stringOf(one)
		if !ok {
			return nil, invalid("key", "must be a string")
		}
		return NormalKeys([]string{k})
	case !many:
		return nil, nil
	}
	var list []string
	if !isKind(raw, '[') || json.Unmarshal(raw, &list) != nil || nullIn(raw) {
		return nil, invalid("keys", "must be an array of strings")
	}
	return NormalKeys(list)
}

// nullIn tells whether an array of strings holds a null, which Unmarshal takes for "".
func nullIn(raw json.RawMessage) bool {
	if !bytes.Contains(raw, []byte("null")) {
		return false
	}
	var list []*string
	return json.Unmarshal(raw, &list) != nil || slices.Contains(list, nil)
}

// NormalKeys checks and sorts keys, and leaves doubles out.
func NormalKeys(list []string) ([][]byte, *Error) {
	if len(list) == 0 || len(list) > MaxKeys {
		return nil, invalid("keys", fmt.Sprintf("must hold 1 to %d keys; leave it out for all", MaxKeys))
	}
	slices.Sort(list)
	list = slices.Compact(list)
	out := make([][]byte, len(list))
	for i, k := range list {
		if len(k) > MaxKey {
			return nil, invalid("keys", fmt.Sprintf("a key has at most %d bytes", MaxKey))
		}
		out[i] = []byte(k)
	}
	return out, nil
}

func isKind(raw json.RawMessage, first byte) bool { return len(raw) > 0 && raw[0] == first }

func isNumber(raw json.RawMessage) bool {
	return len(raw) > 0 && (raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9')
}

// intOf takes whole numbers only, also written as 1e3 or 5.0.
func intOf(raw json.RawMessage) (int64, bool) {
	if !isNumber(raw) {
		return 0, false
	}
	if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		return n, true
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || f != float64(int64(f)) || f > 1<<53 || f < -(1<<53) {
		return 0, false
	}
	return int64(f), true
}

func parseID(raw json.RawMessage) (ID, *Error) {
	if raw == nil {
		return ID{}, nil
	}
	bad := invalid("id", fmt.Sprintf("must be a number or a string of 1 to %d bytes", MaxID))
	if len(raw) > MaxID {
		return ID{}, bad
	}
	if isNumber(raw) {
		return ID{raw: string(raw), label: string(raw)}, nil
	}
	s, ok := stringOf(raw)
	if !ok || s == "" || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return ID{}, bad
	}
	return ID{raw: string(raw), label: s}, nil
}
