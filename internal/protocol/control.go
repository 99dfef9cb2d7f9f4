package protocol

import (
	"encoding/json"
	"slices"
	"strconv"

	"github.com/tapecast/tapecast/internal/stream"
)

// Resume says how a wished position was met.
type Resume string

// The ways.
const (
	ResumeExact   Resume = "exact"   // from there, everything
	ResumeClamped Resume = "clamped" // a part is gone; gap frames follow
	ResumeReset   Resume = "reset"   // the position means nothing here; from tells where it begins instead
)

// Positions are next offsets by partition.
type Positions map[int32]int64

// Label is how a control frame names a subscription: by id, else by topic.
type Label struct {
	ID    *ID    `json:"id,omitempty"`
	Topic string `json:"topic,omitempty"`
}

// NewLabel makes a label; topic goes along also where there is an id.
func NewLabel(id ID, topic string) Label {
	if id.IsZero() {
		return Label{Topic: topic}
	}
	return Label{ID: &id, Topic: topic}
}

// Subscribed acknowledges a sub.
type Subscribed struct {
	Event string `json:"event"`
	Label
	Epoch  string    `json:"epoch"`
	From   Positions `json:"from"`
	Live   Positions `json:"live"`
	Until  Positions `json:"until,omitempty"`
	Resume Resume    `json:"resume"`
	Mode   string    `json:"mode,omitempty"`
	Last   *int      `json:"last,omitempty"` // from {"last":N}: how many were found
	Cursor string    `json:"cursor"`
}

// Live says that a subscription has caught up.
type Live struct {
	Event string `json:"event"`
	Label
	At       Positions `json:"at"`
	Replayed int64     `json:"replayed"`
}

// Gap says what is missing, and why: [From, To) of one partition.
type Gap struct {
	Event string `json:"event"`
	Label
	Partition int32 `json:"partition"`
	From      int64 `json:"from"`
	To        int64 `json:"to"`
	Cause     Cause `json:"cause"`
}

// Reset says that a subscription begins anew: its topic was made again, or
// its position lay beyond the log's end.
type Reset struct {
	Event string `json:"event"`
	Label
	Epoch  string    `json:"epoch"`
	From   Positions `json:"from"`
	Cause  string    `json:"cause"` // epoch, beyond
	Cursor string    `json:"cursor"`
}

// End says that until was reached, or (event unsubscribed) that an unsub was done.
type End struct {
	Event string `json:"event"`
	Label
	At     Positions `json:"at,omitempty"`
	Cursor string    `json:"cursor,omitempty"`
}

// Heartbeat says up to where each subscription was served.
type Heartbeat struct {
	Event   string               `json:"event"`
	TS      int64                `json:"ts"`
	Covered map[string]Positions `json:"covered"`
	Cursor  map[string]string    `json:"cursor"`
	Skipped map[string]int64     `json:"skipped,omitempty"` // mode latest: events that newer ones replaced
}

// Bye comes before the server closes.
type Bye struct {
	Event  string            `json:"event"`
	Code   string            `json:"code"`
	Retry  bool              `json:"retry"`
	WaitMS *[2]int64         `json:"wait_ms,omitempty"` // come back after a random time between these
	Cursor map[string]string `json:"cursor,omitempty"`
}

// PongFrame answers a ping.
type PongFrame struct {
	Event string `json:"event"`
	ID    *ID    `json:"id,omitempty"`
	TS    int64  `json:"ts"`
}

// List answers a list.
type List struct {
	Event         string         `json:"event"`
	ID            *ID            `json:"id,omitempty"`
	Subscriptions []Subscription `json:"subscriptions"`
}

// Subscription is one line of a List.
type Subscription struct {
	Label
	State string `json:"state"` // requested, replaying, live
	Mode  string `json:"mode"`
	Keys  int    `json:"keys,omitempty"` // how many; left out = all
}

// errorFrame is an Error as a frame.
type errorFrame struct {
	Event string `json:"event"`
	Label
	Code    Code   `json:"code"`
	Retry   bool   `json:"retry"`
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
}

// Frame encodes an error.
func (e *Error) Frame() []byte {
	return Encode(errorFrame{
		Event: "error", Label: NewLabel(e.ID, e.Topic), Code: e.Code, Retry: e.Code.Retry(), Field: e.Field, Message: e.Message,
	})
}

// Encode encodes a control frame as JSON text. Strings are escaped so that
// the text is also safe inside a page.
func Encode(frame any) []byte {
	b, err := json.Marshal(frame)
	if err != nil {
		// The frames above hold nothing that cannot be encoded but an id,
		// which the parser has checked.
		return (&Error{Code: CodeInternal, Message: "a control frame could not be encoded"}).Frame()
	}
	return b
}

// EpochText is an epoch as clients see it; "" = not known.
func EpochText(id stream.TopicID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

// MarshalJSON keeps partitions in their numbers' order.
func (p Positions) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, part := range p.Partitions() {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = strconv.AppendInt(b, int64(part), 10)
		b = append(b, '"', ':')
		b = strconv.AppendInt(b, p[part], 10)
	}
	return append(b, '}'), nil
}

// Partitions lists the partitions, ascending.
func (p Positions) Partitions() []int32 {
	out := make([]int32, 0, len(p))
	for part := range p {
		out = append(out, part)
	}
	slices.Sort(out)
	return out
}
