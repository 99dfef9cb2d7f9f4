package ingest

import (
	"fmt"
	"strconv"
	"time"
)

const (
	// maxEvents bounds the events of one request that is not streamed.
	maxEvents = 10_000
	// eventCost is what one event costs beside its bytes, roughly: the parsed
	// event, the record, the verdict, the answer.
	eventCost = 256
	// maxTime is the last millisecond of the year 9999.
	maxTime = 253402300799999
	// maxAhead keeps timestamps inside Kafka's default bound of one hour, with
	// room for clocks that differ. Beyond it Kafka would refuse the whole
	// batch, and with it the events of other requests.
	maxAhead = 55 * time.Minute
)

// event is one event as it was handed in, its value not yet encoded. It may
// alias the request's body.
type event struct {
	key       []byte // nil = none
	value     []byte // trimmed JSON text; "null" = tombstone
	ts        int64  // milliseconds; -1 = when it is accepted
	partition int32  // -1 = by key
}

func (e *event) tombstone() bool { return isNull(e.value) }

// mistakes collects the first few mistakes of a request.
type mistakes struct{ list []fieldError }

func (m *mistakes) add(index int, field, message string) {
	if len(m.list) < maxErrors {
		m.list = append(m.list, fieldError{Index: index, Field: field, Message: message})
	}
}

// parseBody reads a body that holds one event or an array of them.
func parseBody(body []byte) ([]event, *problem) {
	if err := checkText(body); err != nil {
		return nil, invalid("the body " + err.Error())
	}
	body = trim(body)
	var m mistakes
	var events []event
	tooMany := false
	switch body[0] {
	case '{':
		events = append(events, parseEvent(body, 0, &m))
	case '[':
		walkArray(body, func(raw []byte) bool {
			if tooMany = len(events) == maxEvents; tooMany {
				return false
			}
			events = append(events, parseEvent(raw, len(events), &m))
			return true
		})
	default:
		return nil, invalid("the body is " + kindOf(body) + ", want an event or an array of events")
	}
	if tooMany {
		return nil, tooLarge(fmt.Sprintf("more than %d events in one request; send them as NDJSON", maxEvents))
	}
	if len(m.list) > 0 {
		return nil, invalidEvents(m.list)
	}
	return events, nil
}

// Fields of an event, as bits to find the second of a name.
const (
	hasKey = 1 << iota
	hasValue
	hasTS
	hasPartition
)

// parseEvent reads one event from text that checkText accepted.
func parseEvent(raw []byte, index int, m *mistakes) event {
	e := event{ts: -1, partition: -1}
	if raw[0] != '{' {
		m.add(index, "", "is "+kindOf(raw)+", want an object")
		return e
	}
	seen := 0
	walkObject(raw, func(name, raw []byte) {
		var bit int
		var reason string
		switch string(name) {
		case "key":
			bit = hasKey
			e.key, reason = parseKey(raw)
		case "value":
			bit = hasValue
			e.value = raw
		case "ts":
			bit = hasTS
			e.ts, reason = parseTime(raw)
		case "partition":
			bit = hasPartition
			e.partition, reason = parsePartition(raw)
		default:
			m.add(index, clip(string(name)), "is no field of an event; there are key, value, ts and partition")
			return
		}
		if reason == "" && seen&bit != 0 {
			reason = "is there twice"
		}
		seen |= bit
		if reason != "" {
			m.add(index, string(name), reason)
		}
	})
	if seen&hasValue == 0 {
		m.add(index, "value", "is missing; a tombstone needs an explicit null")
		e.value = []byte("null")
	}
	return e
}

// parseKey takes a string, a number as its text, or null = none.
func parseKey(raw []byte) (key []byte, reason string) {
	switch {
	case raw[0] == '"':
		return unquote(raw), ""
	case isNull(raw):
		return nil, ""
	case isNumber(raw):
		return raw, ""
	}
	return nil, "is " + kindOf(raw) + ", want a string"
}

func parseTime(raw []byte) (ms int64, reason string) {
	if isNull(raw) {
		return -1, ""
	}
	if !isNumber(raw) {
		return -1, "is " + kindOf(raw) + ", want milliseconds since 1970"
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || n < 0 || n > maxTime {
		return -1, "is no whole number of milliseconds since 1970"
	}
	return n, ""
}

func parsePartition(raw []byte) (p int32, reason string) {
	if isNull(raw) {
		return -1, ""
	}
	if !isNumber(raw) {
		return -1, "is " + kindOf(raw) + ", want a number"
	}
	n, err := strconv.ParseInt(string(raw), 10, 32)
	if err != nil || n < 0 {
		return -1, "is no partition's number"
	}
	return int32(n), ""
}

func isNumber(raw []byte) bool { return raw[0] == '-' || (raw[0] >= '0' && raw[0] <= '9') }

// clip bounds what an answer repeats of a request.
func clip(s string) string {
	const most = 64
	r := []rune(s)
	if len(r) > most {
		return string(r[:most]) + "..."
	}
	return s
}
