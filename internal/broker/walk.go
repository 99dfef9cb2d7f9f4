package broker

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/tapecast/tapecast/internal/sabotage"
	"github.com/tapecast/tapecast/internal/stream"
)

// maxSpanPlain bounds what all the batches of one answer may decompress to;
// the first one has maxBatchPlain.
func maxSpanPlain(maxBytes int) int { return min(max(16*maxBytes, 16<<20), maxBatchPlain) }

// walk makes a span of an answer's batches. need is the size of the first
// batch when the answer does not hold all of it.
func (r *Reader) walk(got *fetched, from int64, maxBytes int) (span Span, need int, err error) {
	span = Span{From: from, To: from, Start: got.start, End: got.stable, Bytes: got.bytes}
	clear(r.aborted)
	r.furnish()
	aborted, budget := got.aborted, maxSpanPlain(maxBytes)
	for b := got.records; len(b) > 0; {
		h, records, rest, whole, err := nextBatch(b)
		if err == nil && !whole {
			if span.To == from && len(b) >= batchPrefix {
				need = int(int32(binary.BigEndian.Uint32(b[offsetLength:]))) + batchPrefix
				if need < batchHeader || need > maxBatchBytes {
					err = fmt.Errorf("%w: a batch of %d bytes", ErrCorrupt, need)
					return Span{}, 0, &CorruptError{From: from, To: corruptTo(b, from, got.stable), Err: err}
				}
			}
			break
		}
		if err == nil && h.last() >= from {
			if got.stable >= 0 && h.last() >= got.stable {
				break // not committed yet
			}
			for len(aborted) > 0 && aborted[0].first <= h.last() {
				r.aborted[aborted[0].producer] = struct{}{}
				aborted = aborted[1:]
			}
			var to int64
			to, err = r.batch(&h, records, from, &budget, span.To > from)
			if err == nil && to <= h.last() {
				span.To = max(span.To, to)
				break
			}
		}
		if err != nil {
			if span.To > from {
				break // what is good comes first; the next call meets the error
			}
			if errors.Is(err, ErrCorrupt) {
				err = &CorruptError{From: from, To: corruptTo(b, from, got.stable), Err: err}
			}
			return Span{}, 0, err
		}
		if h.last() >= from {
			span.To = h.last() + 1
		}
		b = rest
	}
	span.Records = r.records
	return span, need, nil
}

// maxBatchDelta is the most offsets that the header of a batch that is corrupt
// is believed to span.
const maxBatchDelta = 1 << 20

// corruptTo says where what stands behind a corrupt batch begins: where the
// next batch says so, if that one is whole and its checksum is right; else
// where the corrupt one's own header says that it ends, if that makes sense;
// else, nothing better being known, at the next offset. Never beyond the last
// stable offset.
func corruptTo(b []byte, from, stable int64) int64 {
	to := from + 1
	if last, ok := headerLast(b); ok && last >= from {
		to = last + 1
	}
	if size := int64(int32(binary.BigEndian.Uint32(b[offsetLength:]))) + batchPrefix; size >= batchHeader && size < int64(len(b)) {
		if h, _, _, whole, err := nextBatch(b[size:]); err == nil && whole && h.base > from {
			to = h.base
		}
	}
	if stable >= 0 {
		to = max(min(to, stable), from)
	}
	return to
}

// headerLast reads a batch's last offset from a header that nothing vouches
// for: ok if its count says the same.
func headerLast(b []byte) (last int64, ok bool) {
	if len(b) < batchHeader {
		return 0, false
	}
	be := binary.BigEndian
	base, delta := int64(be.Uint64(b)), int64(int32(be.Uint32(b[offsetLastDelta:])))
	count := int64(int32(be.Uint32(b[offsetCount:])))
	return base + delta, base >= 0 && delta >= 0 && delta < maxBatchDelta && count <= delta+1
}

// batch takes one batch's records, all before to: not the whole batch if the answer
// has brought enough.
func (r *Reader) batch(h *header, records []byte, from int64, budget *int, progressed bool) (to int64, err error) {
	to = h.last() + 1
	if h.control() {
		if abortMarker(h, records) {
			delete(r.aborted, h.producer.id)
		}
		return to, nil
	}
	if h.transactional() {
		if _, ok := r.aborted[h.producer.id]; ok && !sabotage.Is(sabotage.AbortedThrough) {
			return to, nil
		}
	}
	if h.codec() != codecNone {
		if progressed && *budget <= 0 {
			return max(from, h.base), nil
		}
		buf := buffers.take()
		plain, err := decompress(*buf, records, h.codec(), maxBatchPlain)
		if err != nil {
			return 0, fmt.Errorf("batch at offset %d: %w", h.base, err)
		}
		*buf, records = plain, plain
		*budget -= len(plain)
		r.plain = append(r.plain, buf)
	}
	kept := len(r.records)
	if to, err = r.decode(h, records, from); err != nil {
		r.records = r.records[:kept]
		return 0, fmt.Errorf("batch at offset %d: %w", h.base, err)
	}
	return to, nil
}

// abortMarker tells whether a control batch ends a transaction by aborting it.
func abortMarker(h *header, records []byte) bool {
	c := cursor{b: records}
	c.varint() // length
	c.skip(1)
	c.varint()
	c.varint()
	key := c.nullable()
	return !c.bad && h.codec() == codecNone && len(key) >= 4 && binary.BigEndian.Uint16(key[2:]) == 0
}

// decode appends a batch's records from offset from on, up to maxRecords in all: to
// is the offset of the first that it did not take.
func (r *Reader) decode(h *header, b []byte, from int64) (to int64, err error) {
	c := cursor{b: b}
	previous := int64(-1)
	for range h.count {
		size := c.varint()
		if c.bad || size < 0 || size > int64(len(c.b)) {
			return 0, fmt.Errorf("%w: a record's length", ErrCorrupt)
		}
		body := cursor{b: c.b[:size:size]}
		c.b = c.b[size:]
		body.skip(1) // attributes
		timeDelta, delta := body.varint(), body.varint()
		if body.bad || delta <= previous || delta > int64(h.lastDelta) {
			return 0, fmt.Errorf("%w: a record's offset", ErrCorrupt)
		}
		previous = delta
		offset := h.base + delta
		if offset < from {
			continue
		}
		if len(r.records) >= maxRecords {
			return offset, nil
		}
		rec := stream.Record{Offset: offset, Time: h.baseTime + timeDelta}
		if h.attributes&maskLogAppendTime != 0 {
			rec.Time = h.maxTime
		}
		rec.Key = body.nullable()
		rec.Value = body.nullable()
		rec.Accepted = body.accepted()
		if body.bad {
			return 0, fmt.Errorf("%w: a record's fields", ErrCorrupt)
		}
		r.records = append(r.records, rec)
	}
	return h.last() + 1, nil
}

// cursor reads the varints of a record.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) varint() int64 {
	if len(c.b) > 0 && c.b[0] < 0x80 { // most are one byte
		u := c.b[0]
		c.b = c.b[1:]
		return int64(u>>1) ^ -int64(u&1)
	}
	v, n := binary.Varint(c.b)
	if n <= 0 {
		c.bad, c.b = true, nil
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) skip(n int) {
	if n > len(c.b) {
		c.bad, c.b = true, nil
		return
	}
	c.b = c.b[n:]
}

// nullable reads bytes that may be null.
func (c *cursor) nullable() []byte {
	n := c.varint()
	if n == -1 || c.bad {
		return nil
	}
	if n < 0 || n > int64(len(c.b)) {
		c.bad, c.b = true, nil
		return nil
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v
}

// accepted looks for the one header that means something here.
func (c *cursor) accepted() int64 {
	var at int64
	n := c.varint()
	if n < 0 || n > int64(len(c.b)) {
		c.bad = true
		return 0
	}
	for ; n > 0 && !c.bad; n-- {
		key := c.nullable()
		value := c.nullable()
		if len(value) == 8 && string(key) == stream.AcceptedHeader {
			at = int64(binary.BigEndian.Uint64(value))
		}
	}
	return at
}
