package feed

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"strconv"
	"sync"
	"unicode/utf8"

	"github.com/tapecast/tapecast/schemas"
)

// decoder is what a source needs of a schemas.Decoder.
type decoder interface {
	AppendJSON(ctx context.Context, dst, value []byte) ([]byte, error)
}

// source is what all events of one partition have in common: how they become frames.
type source struct {
	// static after construction
	prefix  []byte  // {"topic":"price" and ,"partition":1 where it is not 0
	dec     decoder // of the feed's format
	schemas *resolver
	wire    bool   // values are in Confluent's wire format
	waiting func() // called when a frame has to wait for a schema
	counts  *frameCounts
}

// newSource makes the source of a partition. name is the client's name of the topic.
func newSource(name string, partition int32, format string, dec decoder, r *resolver, waiting func(), counts *frameCounts) *source {
	prefix := append([]byte(`{"topic":`), quote(name)...)
	if partition != 0 {
		prefix = append(prefix, `,"partition":`...)
		prefix = strconv.AppendInt(prefix, int64(partition), 10)
	}
	return &source{prefix: prefix, dec: dec, schemas: r, wire: format == "avro", waiting: waiting, counts: counts}
}

// quote gives s as a JSON string, safe also within HTML.
func quote(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil { // a string always marshals
		return []byte(`""`)
	}
	return b
}

// scratch holds buffers in which frames are built before their size is known.
var scratch = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// maxScratch is the largest buffer that is kept.
const maxScratch = 64 << 10

// build runs fill over a pooled buffer that begins with room for the frame's
// header, and returns an exactly sized copy of header and payload.
func build(opcode byte, fill func(b []byte) ([]byte, error)) ([]byte, error) {
	p := scratch.Get().(*[]byte) //nolint:forcetypeassert // only this file puts into the pool
	defer scratch.Put(p)
	b, err := fill((*p)[:0])
	if err != nil {
		return nil, err
	}
	if cap(b) <= maxScratch {
		*p = b[:0]
	}
	out := make([]byte, 0, headerLen(len(b))+len(b))
	return append(appendHeader(out, opcode, len(b)), b...), nil
}

// textFrame encodes an event as one JSON object in a text frame.
func (s *source) textFrame(e *Event) ([]byte, error) {
	if err := s.ready(e); err != nil {
		return nil, err
	}
	return build(opText, func(b []byte) ([]byte, error) {
		b = s.appendStart(b, e)
		b = append(b, `,"data":`...)
		// The schema is at hand, so that nothing waits here.
		b, err := s.dec.AppendJSON(context.Background(), b, e.Value)
		if err != nil {
			if schemas.Transient(err) {
				s.waiting()
			}
			return nil, err
		}
		return append(s.appendPosition(b, e), '}'), nil
	})
}

// binaryFrame gives the value untouched, behind a JSON header.
func (s *source) binaryFrame(e *Event) ([]byte, error) {
	body := e.Value
	var id uint32
	if s.wire && e.Value != nil {
		var ok bool
		if id, body, ok = schemas.SplitWire(e.Value); !ok {
			return nil, &schemas.PoisonError{Reason: "not in Confluent's wire format"}
		}
	}
	return build(opBinary, func(b []byte) ([]byte, error) {
		b = append(b, 0, 0, 0, 0)
		b = s.appendPosition(s.appendStart(b, e), e)
		switch {
		case e.Value == nil:
			b = append(b, `,"tombstone":true`...)
		case s.wire:
			b = strconv.AppendUint(append(b, `,"schema":`...), uint64(id), 10)
		}
		b = append(b, '}')
		binary.BigEndian.PutUint32(b, uint32(len(b)-4)) //nolint:gosec // a header is far below 4 GiB
		return append(b, body...), nil
	})
}

// ready tells whether the value can be decoded without waiting.
func (s *source) ready(e *Event) error {
	if !s.wire || e.Value == nil {
		return nil
	}
	id, _, ok := schemas.SplitWire(e.Value)
	if !ok {
		return nil // the decoder says what is wrong
	}
	err := s.schemas.ready(id)
	if err == errSchemaAway { //nolint:errorlint // our own sentinel, never wrapped
		s.waiting()
	}
	return err
}

func (s *source) appendStart(b []byte, e *Event) []byte {
	b = append(b, s.prefix...)
	switch {
	case e.Key == nil:
	case utf8.Valid(e.Key):
		b = append(b, `,"key":`...)
		if plain(e.Key) {
			b = append(b, '"')
			b = append(b, e.Key...)
			b = append(b, '"')
		} else {
			b = append(b, quote(string(e.Key))...)
		}
	default:
		b = append(b, `,"key_base64":"`...)
		b = base64.StdEncoding.AppendEncode(b, e.Key)
		b = append(b, '"')
	}
	return b
}

func (s *source) appendPosition(b []byte, e *Event) []byte {
	b = strconv.AppendInt(append(b, `,"offset":`...), e.Offset, 10)
	return strconv.AppendInt(append(b, `,"ts":`...), e.Time, 10)
}

// plain tells whether a key needs no escapes.
func plain(k []byte) bool {
	for _, c := range k {
		if c < 0x20 || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}

// WebSocket framing (RFC 6455, section 5.2): server frames are final and not masked.
const (
	opText   = 0x1
	opBinary = 0x2
	finBit   = 0x80

	len16 = 126 // a 16-bit length follows
	len64 = 127 // a 64-bit length follows
)

func headerLen(n int) int {
	switch {
	case n < len16:
		return 2
	case n <= 0xffff:
		return 4
	}
	return 10
}

func appendHeader(b []byte, opcode byte, n int) []byte {
	b = append(b, finBit|opcode)
	switch {
	case n < len16:
		return append(b, byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(b, len16), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(b, len64), uint64(n))
}

// JSON strips the WebSocket header of a FormText frame; it copies nothing.
func JSON(frame []byte) []byte {
	if len(frame) < 2 {
		return nil
	}
	n := 2
	switch frame[1] {
	case len16:
		n = 4
	case len64:
		n = 10
	}
	if len(frame) < n {
		return nil
	}
	return frame[n:]
}
