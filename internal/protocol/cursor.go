package protocol

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"

	"github.com/tapecast/tapecast/internal/stream"
)

// Cursor is where a subscription stands: what a client keeps to resume. It is
// opaque to clients; any node of any cluster can read it.
type Cursor struct {
	Topic uint32         // CursorTopic of the name it belongs to
	Epoch stream.TopicID // which incarnation of the topic
	Time  int64          // ms of a record before it; the fallback where offsets mean nothing. 0 = not known
	Next  []int64        // next offset, by partition: its length is the partition count
}

const (
	cursorVersion = 1
	cursorFixed   = 1 + 4 + 16 // version, topic, epoch
	cursorSum     = 4
)

var (
	crcTable  = crc32.MakeTable(crc32.Castagnoli)
	errCursor = errors.New("not a cursor")
	b64       = base64.RawURLEncoding.Strict()
)

// CursorTopic is the short sum of a topic's name that a cursor carries, so
// that a cursor of one topic is not taken for another's.
func CursorTopic(name string) uint32 { return crc32.Checksum([]byte(name), crcTable) }

// Append appends the cursor's text to dst.
func (c Cursor) Append(dst []byte) []byte {
	var small [256]byte
	b := append(small[:0], cursorVersion)
	b = binary.BigEndian.AppendUint32(b, c.Topic)
	b = append(b, c.Epoch[:]...)
	b = binary.AppendUvarint(b, uint64(max(c.Time, 0)))
	b = binary.AppendUvarint(b, uint64(len(c.Next)))
	for _, n := range c.Next {
		b = binary.AppendUvarint(b, uint64(max(n, 0)))
	}
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, crcTable))
	return b64.AppendEncode(dst, b)
}

// String returns the cursor's text.
func (c Cursor) String() string { return string(c.Append(nil)) }

// ParseCursor reads a cursor's text. It takes what Append wrote and nothing
// else, and allocates at most a small multiple of the text.
func ParseCursor(s string) (Cursor, error) {
	if len(s) > MaxCursor {
		return Cursor{}, errCursor
	}
	b, err := b64.DecodeString(s)
	if err != nil || len(b) < cursorFixed+2+cursorSum || b[0] != cursorVersion {
		return Cursor{}, errCursor
	}
	body, sum := b[:len(b)-cursorSum], b[len(b)-cursorSum:]
	if crc32.Checksum(body, crcTable) != binary.BigEndian.Uint32(sum) {
		return Cursor{}, errCursor
	}
	c := Cursor{Topic: binary.BigEndian.Uint32(body[1:])}
	copy(c.Epoch[:], body[5:])
	r := varints{b: body[cursorFixed:]}
	c.Time = r.next()
	count := r.next()
	if r.bad || c.Time > maxTime || count > MaxPositions || count > int64(len(r.b)) {
		return Cursor{}, errCursor
	}
	c.Next = make([]int64, count)
	for i := range c.Next {
		c.Next[i] = r.next()
	}
	if r.bad || len(r.b) != 0 {
		return Cursor{}, errCursor
	}
	return c, nil
}

// varints reads unsigned varints of at most 63 bits, in their shortest form.
type varints struct {
	b   []byte
	bad bool
}

func (r *varints) next() int64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 || n > math.MaxInt64 || size > 1 && r.b[size-1] == 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[size:]
	return int64(n)
}
