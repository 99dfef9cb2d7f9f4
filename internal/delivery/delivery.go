// Package delivery is the form of one Kafka record of a delivery topic: a
// batch of sections for one gateway node, as a snappy block with a header.
//
//	byte 0      version, 4; read are also 2 (absolute times of records) and 1 (absolute
//	            offsets, too, and no times of reading). There is no 3: no flipped
//	            bit of a version makes another one
//	byte 1      codec: 0 = plain, 1 = snappy block
//	bytes 2-5   CRC-32C of the stored body, big endian
//	bytes 6-9   length of the body before compression, big endian
//	bytes 10-   the body
//
// The body is an Avro record (schemas/tapecast.DeliveryBatch.avsc), so any Avro
// tool can open a delivery topic; it is read and written here without goavro,
// and held to goavro by a test over both. The package has no goroutines and
// does no I/O.
package delivery

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/tapecast/tapecast/internal/snap"
	"github.com/tapecast/tapecast/internal/stream"
)

// Batch is what one Kafka record of a delivery topic holds.
type Batch struct {
	Incarnation string // the gateway process addressed
	Writer      string // the fan-out instance that wrote it
	WrittenUs   int64  // when, microseconds since the Unix epoch
	Sections    []stream.Section
}

// Limits of a batch. A batch beyond them is refused by Decode before anything
// is allocated for it, and by Append. Whoever keeps the sum of [Size] over the
// sections, plus [Overhead], below MaxBody meets all of them.
const (
	MaxBody       = 4 << 20 // bytes, uncompressed
	MaxPayload    = 4<<20 + 64
	MaxName       = 256                    // bytes of Incarnation, of Writer
	MaxSections   = MaxBody / sectionFloor // in a batch
	MaxDeliveries = MaxBody / recordFloor  // in a batch, over all sections
	// Overhead is what a batch takes beside its sections, at most: the header,
	// the names, the time, the array's frame.
	Overhead = headerSize + 2*(MaxName+2) + 4*binary.MaxVarintLen64
)

const (
	version    = 4
	oldest     = 1 // that is read
	headerSize = 10

	codecPlain  = 0
	codecSnappy = 1

	// compressFrom is the body below which compression is not tried: two or
	// three covering sections.
	compressFrom = 128

	// What a section and a delivery count for at the least; see Size.
	sectionFloor = 64
	recordFloor  = 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// TopicName returns the delivery topic of one incarnation of a node.
func TopicName(node, incarnation string) string {
	return stream.InternalPrefix + "delivery." + node + "." + incarnation
}

// Size is an upper bound of what a section takes in a body, in bytes, close
// enough to bound queues by: it is never below what is encoded.
func Size(s *stream.Section) int {
	// Two ids, two ints of at most 5 bytes, six longs, the array's frame.
	const fixed = 2*len(stream.TopicID{}) + 2*binary.MaxVarintLen32 + 6*binary.MaxVarintLen64 + 16
	n := max(fixed, sectionFloor)
	for i := range s.Deliveries {
		n += RecordSize(&s.Deliveries[i])
	}
	return n
}

// RecordSize is what one delivery adds to [Size]: an upper bound of its bytes.
func RecordSize(r *stream.Record) int {
	// Three longs, differences all, of which nothing is known here; two union
	// branches, two lengths. Most of it is rarely used.
	n := varintLen(r.Offset) + 2*binary.MaxVarintLen64 + 2
	if r.Key != nil {
		n += varintLen(int64(len(r.Key))) + len(r.Key)
	}
	if r.Value != nil {
		n += varintLen(int64(len(r.Value))) + len(r.Value)
	}
	return max(n, recordFloor)
}

// Append appends the encoded batch to dst. Small bodies, and those that snappy
// makes no smaller, stay uncompressed. A dst with enough room (about 2.2 times
// the body) is not allocated anew. A batch beyond the limits is an error, and
// dst comes back as it was.
func Append(dst []byte, b *Batch) ([]byte, error) {
	if err := checkLimits(b); err != nil {
		return dst, err
	}
	start := len(dst)
	dst = append(dst, version, codecPlain, 0, 0, 0, 0, 0, 0, 0, 0)
	dst = appendBody(dst, b)
	bodyAt := start + headerSize
	length := len(dst) - bodyAt
	if length > MaxBody {
		return dst[:start], fmt.Errorf("delivery batch: body of %d bytes, limit %d", length, MaxBody)
	}
	binary.BigEndian.PutUint32(dst[start+6:], uint32(length))
	if length >= compressFrom {
		dst = compress(dst, start)
	}
	binary.BigEndian.PutUint32(dst[start+2:], crc32.Checksum(dst[bodyAt:], castagnoli))
	return dst, nil
}

// compress replaces the plain body by its snappy block if that is smaller. The
// block is made behind the body, in the same buffer, and moved down.
func compress(dst []byte, start int) []byte {
	bodyAt := start + headerSize
	body := dst[bodyAt:]
	dst = slices.Grow(dst, snap.MaxEncodedLen(len(body)))
	body = dst[bodyAt:]
	block := snap.Encode(dst[len(dst):cap(dst)], body)
	if len(block) >= len(body) {
		return dst
	}
	dst[start+1] = codecSnappy
	return dst[:bodyAt+copy(dst[bodyAt:], block)]
}

func checkLimits(b *Batch) error {
	if len(b.Incarnation) > MaxName || len(b.Writer) > MaxName {
		return fmt.Errorf("delivery batch: names of %d and %d bytes, limit %d", len(b.Incarnation), len(b.Writer), MaxName)
	}
	if len(b.Sections) > MaxSections {
		return fmt.Errorf("delivery batch: %d sections, limit %d", len(b.Sections), MaxSections)
	}
	total := 0
	for i := range b.Sections {
		s := &b.Sections[i]
		if err := checkSection(s); err != nil {
			return fmt.Errorf("delivery batch: section %d: %w", i, err)
		}
		if total += len(s.Deliveries); total > MaxDeliveries {
			return fmt.Errorf("delivery batch: section %d: more than %d deliveries", i, MaxDeliveries)
		}
	}
	return nil
}

// checkSection holds a section to what makes it a sentence at all. Writer and
// reader share it, so that no writer makes what no reader takes.
func checkSection(s *stream.Section) error {
	if s.Partition < 0 {
		return fmt.Errorf("partition %d", s.Partition)
	}
	if s.From < 0 || s.To < s.From {
		return fmt.Errorf("range [%d, %d)", s.From, s.To)
	}
	prev := s.From - 1
	for i := range s.Deliveries {
		o := s.Deliveries[i].Offset
		if o <= prev || o >= s.To {
			return fmt.Errorf("delivery %d: offset %d after %d in [%d, %d)", i, o, prev, s.From, s.To)
		}
		prev = o
	}
	return nil
}

// Decode decodes one batch. Deliveries do not alias payload; those of one
// batch share one copy of its body. Every error says what is wrong and where.
// Nothing is allocated before the header, the checksum and the limits were
// checked; then at most MaxBody, and the slices for MaxSections and
// MaxDeliveries (about 30 MiB in all, for a batch made to be so).
func Decode(payload []byte) (*Batch, error) {
	body, err := decodeEnvelope(payload)
	if err != nil {
		return nil, fmt.Errorf("delivery batch: %w", err)
	}
	r := reader{b: body, version: payload[0]}
	b := r.batch()
	if r.err != nil {
		return nil, fmt.Errorf("delivery batch: %w at byte %d of the body", r.err, r.at)
	}
	if r.at != len(body) {
		return nil, fmt.Errorf("delivery batch: %d bytes after the body's record", len(body)-r.at)
	}
	return b, nil
}

// decodeEnvelope checks the header and returns the body, which is the caller's.
func decodeEnvelope(payload []byte) ([]byte, error) {
	switch {
	case len(payload) < headerSize:
		return nil, fmt.Errorf("%d bytes are no header", len(payload))
	case len(payload) > MaxPayload:
		return nil, fmt.Errorf("payload of %d bytes, limit %d", len(payload), MaxPayload)
	case payload[0] < oldest || payload[0] > version || payload[0] == 3:
		return nil, fmt.Errorf("version %d, this is %d", payload[0], version)
	}
	stored := payload[headerSize:]
	length := int(binary.BigEndian.Uint32(payload[6:]))
	if length > MaxBody {
		return nil, fmt.Errorf("body of %d bytes, limit %d", length, MaxBody)
	}
	if want, got := binary.BigEndian.Uint32(payload[2:]), crc32.Checksum(stored, castagnoli); want != got {
		return nil, fmt.Errorf("checksum %08x, the header says %08x", got, want)
	}
	switch payload[1] {
	case codecPlain:
		if len(stored) != length {
			return nil, fmt.Errorf("plain body of %d bytes, the header says %d", len(stored), length)
		}
		return slices.Clone(stored), nil
	case codecSnappy:
		body, err := snap.Decode(nil, stored, length)
		if err != nil {
			return nil, fmt.Errorf("snappy block: %w", err)
		}
		if len(body) != length {
			return nil, fmt.Errorf("snappy block of %d bytes, the header says %d", len(body), length)
		}
		return body, nil
	}
	return nil, fmt.Errorf("codec %d", payload[1])
}

var errNumber = errors.New("broken or cut number")
