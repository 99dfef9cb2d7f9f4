package client

import (
	"encoding/json"
	"maps"
	"strconv"
	"time"
)

// From says where a subscription begins, or (as Until) ends: before that place.
// The zero value is live, or never.
type From struct {
	wire json.RawMessage
	at   *Position // a position that a client held
}

// Position is what to keep to go on later: the next offset per partition, and
// the incarnation of the topic that they belong to. It is plain JSON.
type Position struct {
	Epoch string          `json:"epoch,omitempty"`
	Next  map[int32]int64 `json:"offsets"`
}

// Live begins with what is written from now on.
func Live() From { return From{wire: json.RawMessage(`"live"`)} }

// Earliest begins at the first retained offset.
func Earliest() From { return From{wire: json.RawMessage(`"earliest"`)} }

// Last begins n matching events back: 1 to 10,000, found among the last million offsets.
func Last(n int) From { return From{wire: json.RawMessage(`{"last":` + strconv.Itoa(n) + `}`)} }

// Time begins at the first event at or after t, by the records' timestamps; a
// time after the newest is live. As Until it must not lie in the future.
func Time(t time.Time) From {
	return From{wire: mustJSON(map[string]string{"time": t.UTC().Format(time.RFC3339Nano)})}
}

// Offset begins at an offset of a topic with one partition: the next one wanted.
func Offset(o int64) From { return From{wire: mustJSON(map[string]int64{"offset": o})} }

// Offsets begins at the next offsets that a client holds; epoch is the topic's
// identity that they belong to ("" = do not check). With an epoch it is [At].
func Offsets(next map[int32]int64, epoch string) From {
	if epoch != "" {
		return At(Position{Epoch: epoch, Next: next})
	}
	return From{wire: positionJSON(next, epoch)}
}

// At goes on where an earlier subscription of the same topic stood, see
// [Subscription.Position]. Partitions that the topic has got since then are
// read from their beginning. A position without offsets is live.
func At(p Position) From {
	if len(p.Next) == 0 {
		return From{}
	}
	p.Next = maps.Clone(p.Next)
	return From{wire: positionJSON(p.Next, p.Epoch), at: &p}
}

// Cursor begins where a cursor of the protocol stands.
func Cursor(c string) From { return From{wire: mustJSON(map[string]string{"cursor": c})} }

// Raw is any `from` or `until` of the protocol, as JSON.
func Raw(j json.RawMessage) From { return From{wire: j} }

func positionJSON(next map[int32]int64, epoch string) json.RawMessage {
	m := map[string]any{"offsets": wireOffsets(next)}
	if epoch != "" {
		m["epoch"] = epoch
	}
	return mustJSON(m)
}

func wireOffsets(next map[int32]int64) map[string]int64 {
	m := make(map[string]int64, len(next))
	for p, o := range next {
		m[strconv.Itoa(int(p))] = o
	}
	return m
}

func mustJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only maps of strings, numbers and JSON that was checked come here
	}
	return b
}
