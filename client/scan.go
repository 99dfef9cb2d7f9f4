package client

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
)

// header is what a data frame says beside its value. Its slices lie in the frame.
type header struct {
	control bool // it is a control frame: nothing else is set

	topic, key text
	key64      []byte
	data       []byte
	partition  int64
	offset, ts int64
	schema     int64
	snapshot   bool
	latest     bool
	tombstone  bool
}

// text is a JSON string's inside.
type text struct {
	b       []byte
	escaped bool // it has backslashes
}

// bytes returns the string's bytes; without escapes they lie in the frame.
func (t text) bytes() []byte {
	if !t.escaped {
		return t.b
	}
	var s string
	quoted := append(append([]byte{'"'}, t.b...), '"')
	if json.Unmarshal(quoted, &s) != nil {
		return t.b
	}
	return []byte(s)
}

// keyBytes returns the record's key.
func (h *header) keyBytes() []byte {
	if h.key64 != nil {
		if b, err := base64.StdEncoding.DecodeString(string(h.key64)); err == nil {
			return b
		}
	}
	return h.key.bytes()
}

var errNotJSON = errors.New("frame is not a JSON object")

// scan reads a frame's header in one pass. The value is only walked over: what
// is wrong inside it is found when it is decoded.
func scan(b []byte, h *header) error {
	*h = header{}
	i := space(b, 0)
	if i >= len(b) || b[i] != '{' {
		return errNotJSON
	}
	i = space(b, i+1)
	if i < len(b) && b[i] == '}' {
		return nil
	}
	for {
		name, end, ok := scanString(b, i)
		if !ok {
			return errNotJSON
		}
		i = space(b, end)
		if i >= len(b) || b[i] != ':' {
			return errNotJSON
		}
		i = space(b, i+1)
		end = skip(b, i)
		if end < 0 {
			return errNotJSON
		}
		if string(name.b) == "event" {
			h.control = true
			return nil
		}
		if !h.field(string(name.b), b[i:end]) {
			return errors.New("field " + string(name.b) + " of a frame has a wrong type")
		}
		i = space(b, end)
		switch {
		case i < len(b) && b[i] == ',':
			i = space(b, i+1)
		case i < len(b) && b[i] == '}':
			return nil
		default:
			return errNotJSON
		}
	}
}

// field takes one field; false = a known one of a wrong type.
func (h *header) field(name string, v []byte) (ok bool) {
	switch name {
	case "data":
		h.data, ok = v, true
		h.tombstone = string(v) == "null"
	case "topic":
		h.topic, _, ok = scanString(v, 0)
	case "key":
		h.key, _, ok = scanString(v, 0)
	case "key_base64":
		var t text
		t, _, ok = scanString(v, 0)
		h.key64 = t.bytes()
	case "offset":
		h.offset, ok = integer(v)
	case "ts":
		h.ts, ok = integer(v)
	case "partition":
		h.partition, ok = integer(v)
		ok = ok && h.partition >= 0 && h.partition <= math.MaxInt32
	case "schema":
		h.schema, ok = integer(v)
		ok = ok && h.schema >= 0 && h.schema <= math.MaxUint32
	case "snapshot":
		h.snapshot, ok = string(v) == "true", true
	case "latest":
		h.latest, ok = string(v) == "true", true
	case "tombstone":
		h.tombstone, ok = string(v) == "true", true
	default:
		ok = true // a newer gateway may say more; ignored, as the protocol asks
	}
	return ok
}

func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\r' || b[i] == '\n') {
		i++
	}
	return i
}

// scanString reads the string that begins at i; end is behind its quote.
func scanString(b []byte, i int) (t text, end int, ok bool) {
	if i >= len(b) || b[i] != '"' {
		return text{}, 0, false
	}
	start := i + 1
	for i = start; i < len(b); i++ {
		switch b[i] {
		case '"':
			t.b = b[start:i]
			return t, i + 1, true
		case '\\':
			t.escaped = true
			i++
		}
	}
	return text{}, 0, false
}

// skip returns the end of the value that begins at i; -1 = there is none.
func skip(b []byte, i int) int {
	if i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"':
		if _, end, ok := scanString(b, i); ok {
			return end
		}
		return -1
	case '{', '[':
		return skipNested(b, i)
	}
	start := i
	for i < len(b) && b[i] != ',' && b[i] != '}' && b[i] != ']' && b[i] != ' ' && b[i] != '\t' && b[i] != '\r' && b[i] != '\n' {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

func skipNested(b []byte, i int) int {
	depth := 0
	for ; i < len(b); i++ {
		switch b[i] {
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		case '"':
			_, end, ok := scanString(b, i)
			if !ok {
				return -1
			}
			i = end - 1
		}
	}
	return -1
}

// integer reads a JSON integer without allocating.
func integer(v []byte) (n int64, ok bool) {
	neg := len(v) > 0 && v[0] == '-'
	if neg {
		v = v[1:]
	}
	if len(v) == 0 || len(v) > 19 {
		return 0, false
	}
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		d := int64(c - '0')
		if n > (math.MaxInt64-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	if neg {
		n = -n
	}
	return n, true
}
