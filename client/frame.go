package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Kind tells the frames of a subscription apart.
type Kind uint8

// The kinds of frame.
const (
	KindData       Kind = iota // an event
	KindSubscribed             // the gateway acknowledged (again, after each reconnection)
	KindLive                   // the replay has reached the live edge
	KindGap                    // a stretch is missing, with its cause
	KindReset                  // the topic's history is another one now; reading goes on at From
	KindEnd                    // `until` was reached: the last frame
	KindHeartbeat              // coverage moved on
)

var kindNames = [...]string{"data", "subscribed", "live", "gap", "reset", "end", "heartbeat"}

// String returns the protocol's word for the kind.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

func kindOf(event string) (Kind, bool) {
	for k, w := range kindNames {
		if w == event && k != int(KindData) {
			return Kind(k), true
		}
	}
	return 0, false
}

// Frame is one frame of a subscription, in the order in which the gateway sent it.
// Its bytes are never written again, but share a block of memory with their
// neighbours: clone what is to be kept for long.
type Frame struct {
	Kind Kind
	Raw  []byte // the JSON text as received; a gap that the client made itself has one too

	// Data frames.
	Topic     string
	Partition int32
	Offset    int64
	Key       string          // "" when the record has none
	Value     json.RawMessage // JSON; or the Avro body with the Avro format
	Time      int64           // the record's timestamp, milliseconds since the Unix epoch
	Schema    uint32          // Avro format: the body's schema in the registry; 0 = not Avro
	Tombstone bool            // the key was deleted: no value
	Snapshot  bool            // part of a snapshot: state, not an event after it
	Latest    bool            // newest value of a skipped stretch (on_slow), inside the gap reported before

	// Subscribed and Reset: where each partition starts, where live was, and how.
	// Live, End and Heartbeat: LiveAt is the position that was reached.
	From, LiveAt map[int32]int64
	Epoch        string
	Resume       string // exact, clamped or reset

	// Gap: [GapFrom, GapTo) of Partition. Reset: Cause is epoch or beyond.
	GapFrom, GapTo int64
	Cause          string

	avro func(schema uint32, body []byte, v any) error
}

// Decode unmarshals a data frame's value: JSON, or Avro by Options.DecodeAvro.
// A tombstone leaves v as it is. Any other kind of frame is an error.
func (f *Frame) Decode(v any) error {
	switch {
	case f.Kind != KindData:
		return fmt.Errorf("a %s frame has no value", f.Kind)
	case f.Tombstone:
		return nil
	case f.Schema == 0:
		return json.Unmarshal(f.Value, v)
	case f.avro == nil:
		return errors.New("client: no Options.DecodeAvro is given")
	}
	return f.avro(f.Schema, f.Value, v)
}

// At returns the record's timestamp.
func (f *Frame) At() time.Time { return time.UnixMilli(f.Time) }

// control is any control frame of the gateway.
type control struct {
	Event     string             `json:"event"`
	ID        json.RawMessage    `json:"id"`
	Topic     string             `json:"topic"`
	Partition int32              `json:"partition"`
	Epoch     string             `json:"epoch"`
	From      json.RawMessage    `json:"from"` // offsets, or a gap's offset
	To        int64              `json:"to"`
	Live      offsets            `json:"live"`
	Until     offsets            `json:"until"`
	At        offsets            `json:"at"`
	Resume    string             `json:"resume"`
	Cause     string             `json:"cause"`
	Covered   map[string]offsets `json:"covered"`
	Code      string             `json:"code"`
	Message   string             `json:"message"`
	Retry     bool               `json:"retry"`
	WaitMs    []int64            `json:"wait_ms"`
}

// id is the subscription's number; 0 = none of ours.
func (w *control) id() int {
	n, err := strconv.Atoi(string(w.ID))
	if err != nil {
		return 0
	}
	return n
}

// offset reads a gap's from.
func (w *control) offset() int64 {
	n, _ := integer(w.From)
	return n
}

// from reads a set of offsets.
func (w *control) from() offsets {
	var o offsets
	if json.Unmarshal(w.From, &o) != nil {
		return nil
	}
	return o
}

// offsets is partition to offset, as the protocol writes it: {"0":4711}.
type offsets map[int32]int64

// UnmarshalJSON reads {"0":4711}.
func (o *offsets) UnmarshalJSON(b []byte) error {
	var m map[string]int64
	if err := json.Unmarshal(b, &m); err != nil || m == nil {
		return err
	}
	out := make(offsets, len(m))
	for k, v := range m {
		p, err := strconv.ParseInt(k, 10, 32)
		if err != nil {
			return fmt.Errorf("partition %q is not a number", k)
		}
		out[int32(p)] = v
	}
	*o = out
	return nil
}

// Error is an error that the gateway reported, or the client itself (overlap;
// "close 4500" and the like for a connection that was closed without a word).
type Error struct {
	Code    string // a stable word, from the closed list of docs/PROTOCOL.md, "Errors": unknown_topic, invalid, ...
	Message string // for people; may change
	Retry   bool   // the same may succeed later. The client does so by itself
}

func (e *Error) Error() string {
	if e.Message == "" {
		return "gateway: " + e.Code
	}
	return "gateway: " + e.Code + ": " + e.Message
}
