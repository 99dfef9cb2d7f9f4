// Package delivery is the form of one Kafka record of a delivery topic: a
// batch of sections for one gateway node, as a snappy block with a header.
//
// The body is an Avro record (schemas/tapecast.DeliveryBatch.avsc), so any Avro
// tool can open a delivery topic; it is read and written here without goavro,
// and held to goavro by a test over both. The package has no goroutines and
// does no I/O.
package delivery

import "github.com/tapecast/tapecast/internal/stream"

// Batch is what one Kafka record of a delivery topic holds.
type Batch struct {
	Incarnation string // the gateway process addressed
	Writer      string // the fan-out instance that wrote it
	WrittenUs   int64  // when, microseconds since the Unix epoch
	Sections    []stream.Section
}

// Limits of a batch. A batch beyond them is refused by Decode before anything
// is allocated for it.
const (
	MaxBody    = 4 << 20 // bytes, uncompressed
	MaxPayload = 4<<20 + 64
)

// TopicName returns the delivery topic of one incarnation of a node.
func TopicName(node, incarnation string) string {
	return stream.InternalPrefix + "delivery." + node + "." + incarnation
}

// Append appends the encoded batch to dst. Small bodies stay uncompressed.
func Append(dst []byte, b *Batch) ([]byte, error) { panic("not built") }

// Decode decodes one batch. Deliveries do not alias payload. Every error says
// what is wrong and where; no input makes it allocate beyond MaxBody and a
// small multiple of len(payload).
func Decode(payload []byte) (*Batch, error) { panic("not built") }
