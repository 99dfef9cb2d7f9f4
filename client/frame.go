package client

import (
	"encoding/json"
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
	KindReset                  // the topic's history is another one now; reading goes on at its start
	KindEnd                    // `until` was reached: the last frame
	KindHeartbeat              // coverage moved on
)

var kindNames = map[string]Kind{
	"subscribed": KindSubscribed, "live": KindLive, "gap": KindGap, "reset": KindReset, "end": KindEnd, "heartbeat": KindHeartbeat,
}

// String returns the protocol's word for the kind.
func (k Kind) String() string {
	for w, kk := range kindNames {
		if kk == k {
			return w
		}
	}
	return "data"
}

// Frame is one frame of a subscription, in the order in which the gateway sent it.
type Frame struct {
	Kind Kind
	Raw  []byte // the JSON text as received

	// Data frames.
	Topic     string
	Partition int32
	Offset    int64
	Key       string // "" when the record has none
	Value     json.RawMessage
	Time      int64 // the record's timestamp, milliseconds since the Unix epoch
	Snapshot  bool  // part of the snapshot, not an event after it

	// Subscribed: where each partition starts, where live was, and how.
	From, LiveAt map[int32]int64
	Epoch        string
	Resume       string // exact, clamped or reset

	// Gap: [GapFrom, GapTo) of Partition.
	GapFrom, GapTo int64
	Cause          string
}

// Decode unmarshals a data frame's value.
func (f *Frame) Decode(v any) error { return json.Unmarshal(f.Value, v) }

// At returns the record's timestamp.
func (f *Frame) At() time.Time { return time.UnixMilli(f.Time) }

// wire is any frame of the gateway, data or control.
type wire struct {
	Event     string          `json:"event"`
	ID        json.RawMessage `json:"id"`
	Topic     string          `json:"topic"`
	Partition int32           `json:"partition"`
	Key       string          `json:"key"`
	KeyBase64 string          `json:"key_base64"`
	Data      json.RawMessage `json:"data"`
	Offset    int64           `json:"offset"`
	Time      int64           `json:"ts"`
	Snapshot  bool            `json:"snapshot"`

	Epoch   string                     `json:"epoch"`
	From    json.RawMessage            `json:"from"`
	To      int64                      `json:"to"`
	Live    offsets                    `json:"live"`
	At      offsets                    `json:"at"`
	Resume  string                     `json:"resume"`
	Cause   string                     `json:"cause"`
	Covered map[string]offsets         `json:"covered"`
	Cursor  json.RawMessage            `json:"cursor"`
	Code    string                     `json:"code"`
	Message string                     `json:"message"`
	Retry   bool                       `json:"retry"`
	WaitMs  []int64                    `json:"wait_ms"`
	_       map[string]json.RawMessage // unknown fields are ignored, as the protocol asks
}

// offsets is partition to offset, as the protocol writes it: {"0":4711}.
type offsets map[int32]int64

// UnmarshalJSON reads {"0":4711}.
func (o *offsets) UnmarshalJSON(b []byte) error {
	var m map[string]int64
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	out, err := parseOffsets(m)
	*o = out
	return err
}

func parseOffsets(m map[string]int64) (offsets, error) {
	if m == nil {
		return nil, nil
	}
	out := make(offsets, len(m))
	for k, v := range m {
		p, err := strconv.ParseInt(k, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("partition %q is not a number", k)
		}
		out[int32(p)] = v
	}
	return out, nil
}

// Error is an error that the gateway reported.
type Error struct {
	Code    string // a stable word
	Message string
	Retry   bool // the same may succeed later
}

func (e *Error) Error() string { return "gateway: " + e.Code + ": " + e.Message }
