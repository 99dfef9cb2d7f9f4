package broker

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
)

// The layout of a record batch of format 2. Everything from offsetAttributes
// on is under the checksum.
const (
	offsetLength     = 8
	offsetMagic      = 16
	offsetCRC        = 17
	offsetAttributes = 21
	offsetLastDelta  = 23
	offsetBaseTime   = 27
	offsetMaxTime    = 35
	offsetProducerID = 43
	offsetEpoch      = 51
	offsetSequence   = 53
	offsetCount      = 57
	batchHeader      = 61

	// batchPrefix is what the length field does not count.
	batchPrefix = 12
)

// Attributes of a batch.
const (
	maskCodec         = 0x07
	maskLogAppendTime = 0x08
	maskTransactional = 0x10
	maskControl       = 0x20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// producerState is what makes a batch idempotent.
type producerState struct {
	id       int64 // -1 = none
	epoch    int16
	sequence int32
}

var noProducer = producerState{id: -1, epoch: -1, sequence: -1}

// plainRecord is a record about to be encoded.
type plainRecord struct {
	key, value  []byte // nil = null
	time        int64  // milliseconds
	headerKey   string // "" = no header
	headerValue [8]byte
}

// batchWriter encodes batches. It keeps its scratch memory.
type batchWriter struct{ records []byte }

// begin starts a batch.
func (w *batchWriter) begin() { w.records = w.records[:0] }

// add appends the record with the given deltas.
func (w *batchWriter) add(r *plainRecord, timeDelta int64, offsetDelta int) {
	b := binary.AppendVarint(w.records, int64(recordBody(r, timeDelta, offsetDelta)))
	b = append(b, 0) // attributes
	b = binary.AppendVarint(b, timeDelta)
	b = binary.AppendVarint(b, int64(offsetDelta))
	b = appendNullable(b, r.key)
	b = appendNullable(b, r.value)
	if r.headerKey == "" {
		b = append(b, 0)
	} else {
		b = binary.AppendVarint(b, 1)
		b = binary.AppendVarint(b, int64(len(r.headerKey)))
		b = append(b, r.headerKey...)
		b = appendNullable(b, r.headerValue[:])
	}
	w.records = b
}

// finish returns the batch, in new memory.
func (w *batchWriter) finish(count int, baseTime, maxTime int64, codec int16, p producerState) ([]byte, error) {
	b := make([]byte, batchHeader, batchHeader+len(w.records)+len(w.records)/6+64)
	b, err := compress(b, w.records, codec)
	if err != nil {
		return nil, fmt.Errorf("compress a batch: %w", err)
	}
	sealBatch(b, count, baseTime, maxTime, codec, p)
	return b, nil
}

// sealBatch fills the header of a batch whose records are in place.
func sealBatch(b []byte, count int, baseTime, maxTime int64, codec int16, p producerState) {
	be := binary.BigEndian
	be.PutUint64(b, 0)
	be.PutUint32(b[offsetLength:], uint32(len(b)-batchPrefix))
	be.PutUint32(b[offsetLength+4:], math.MaxUint32) // leader epoch -1: the broker sets it
	b[offsetMagic] = 2
	be.PutUint16(b[offsetAttributes:], uint16(codec))
	be.PutUint32(b[offsetLastDelta:], uint32(count-1))
	be.PutUint64(b[offsetBaseTime:], uint64(baseTime))
	be.PutUint64(b[offsetMaxTime:], uint64(maxTime))
	be.PutUint64(b[offsetProducerID:], uint64(p.id))
	be.PutUint16(b[offsetEpoch:], uint16(p.epoch))
	be.PutUint32(b[offsetSequence:], uint32(p.sequence))
	be.PutUint32(b[offsetCount:], uint32(count))
	be.PutUint32(b[offsetCRC:], crc32.Checksum(b[offsetAttributes:], castagnoli))
}

func appendNullable(b, v []byte) []byte {
	if v == nil {
		return binary.AppendVarint(b, -1)
	}
	b = binary.AppendVarint(b, int64(len(v)))
	return append(b, v...)
}

// recordBody returns the length of a record without its length field.
func recordBody(r *plainRecord, timeDelta int64, offsetDelta int) int {
	n := 1 + varintLen(timeDelta) + varintLen(int64(offsetDelta)) + nullableLen(r.key) + nullableLen(r.value) + 1
	if r.headerKey != "" {
		n += varintLen(int64(len(r.headerKey))) + len(r.headerKey) + nullableLen(r.headerValue[:])
	}
	return n
}

// recordBound returns the most bytes that a record can take in a batch.
func recordBound(r *plainRecord) int {
	return 5 + recordBody(r, math.MinInt64, math.MaxInt32)
}

func nullableLen(v []byte) int {
	if v == nil {
		return 1
	}
	return varintLen(int64(len(v))) + len(v)
}

func varintLen(v int64) int {
	n, u := 1, uint64(v)<<1^uint64(v>>63)
	for ; u >= 0x80; u >>= 7 {
		n++
	}
	return n
}

// header is what a batch says of itself.
type header struct {
	base       int64
	lastDelta  int32
	attributes int16
	baseTime   int64
	maxTime    int64
	producer   producerState
	count      int32
}

func (h *header) last() int64         { return h.base + int64(h.lastDelta) }
func (h *header) codec() int16        { return h.attributes & maskCodec }
func (h *header) control() bool       { return h.attributes&maskControl != 0 }
func (h *header) transactional() bool { return h.attributes&maskTransactional != 0 }

// nextBatch cuts the first batch off b. A batch that is cut short gives
// whole=false: Kafka sends such at an answer's end.
func nextBatch(b []byte) (h header, records, rest []byte, whole bool, err error) {
	if len(b) <= offsetMagic {
		return h, nil, nil, false, nil
	}
	be := binary.BigEndian
	if magic := b[offsetMagic]; magic < 2 {
		return h, nil, nil, false, ErrLegacyFormat
	} else if magic > 2 {
		return h, nil, nil, false, fmt.Errorf("%w: format %d", ErrCorrupt, magic)
	}
	size := int(int32(be.Uint32(b[offsetLength:])))
	if size < batchHeader-batchPrefix {
		return h, nil, nil, false, fmt.Errorf("%w: length %d", ErrCorrupt, size)
	}
	if size += batchPrefix; size > len(b) {
		return h, nil, nil, false, nil
	}
	h = header{
		base:       int64(be.Uint64(b)),
		attributes: int16(be.Uint16(b[offsetAttributes:])),
		lastDelta:  int32(be.Uint32(b[offsetLastDelta:])),
		baseTime:   int64(be.Uint64(b[offsetBaseTime:])),
		maxTime:    int64(be.Uint64(b[offsetMaxTime:])),
		producer: producerState{
			id:       int64(be.Uint64(b[offsetProducerID:])),
			epoch:    int16(be.Uint16(b[offsetEpoch:])),
			sequence: int32(be.Uint32(b[offsetSequence:])),
		},
		count: int32(be.Uint32(b[offsetCount:])),
	}
	if crc32.Checksum(b[offsetAttributes:size], castagnoli) != be.Uint32(b[offsetCRC:]) {
		return h, nil, nil, false, fmt.Errorf("%w: checksum at offset %d", ErrCorrupt, h.base)
	}
	if h.base < 0 || h.lastDelta < 0 || h.count < 0 {
		return h, nil, nil, false, fmt.Errorf("%w: base %d, last delta %d, count %d", ErrCorrupt, h.base, h.lastDelta, h.count)
	}
	return h, b[batchHeader:size], b[size:], true, nil
}
