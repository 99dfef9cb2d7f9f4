package delivery

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/tapecast/tapecast/internal/stream"
)

// The least bytes that a section and a delivery take in a body: what a declared
// count is checked against before anything is allocated for it.
const (
	notRead    = 1 // -1 as an Avro long
	minSection = 2*len(stream.TopicID{}) + 7
	minRecord  = 5
)

// varintLen is the length of n as an Avro long.
func varintLen(n int64) int {
	return (bits.Len64(uint64(n<<1)^uint64(n>>63)|1) + 6) / 7
}

func appendBody(dst []byte, b *Batch) []byte {
	dst = appendString(dst, b.Incarnation)
	dst = appendString(dst, b.Writer)
	dst = binary.AppendVarint(dst, b.WrittenUs)
	if len(b.Sections) > 0 {
		dst = binary.AppendVarint(dst, int64(len(b.Sections)))
		for i := range b.Sections {
			dst = appendSection(dst, &b.Sections[i], b.WrittenUs)
		}
	}
	return binary.AppendVarint(dst, 0)
}

func appendSection(dst []byte, s *stream.Section, written int64) []byte {
	dst = append(dst, s.Topic[:]...)
	dst = binary.AppendVarint(dst, int64(s.Partition))
	dst = append(dst, s.Interests.Log[:]...)
	dst = binary.AppendVarint(dst, s.Interests.Offset)
	dst = binary.AppendVarint(dst, int64(s.Generation))
	dst = binary.AppendVarint(dst, s.From)
	dst = binary.AppendVarint(dst, s.To)
	dst = binary.AppendVarint(dst, s.End)
	dst = appendRead(dst, s, written)
	if len(s.Deliveries) > 0 {
		dst = binary.AppendVarint(dst, int64(len(s.Deliveries)))
		next, before := s.From, written/1000
		for i := range s.Deliveries {
			r := &s.Deliveries[i]
			dst = binary.AppendVarint(dst, r.Offset-next)
			next = r.Offset + 1
			dst = binary.AppendVarint(dst, r.Time-before)
			before = r.Time
			dst = binary.AppendVarint(dst, acceptedAfter(r.Accepted, r.Time))
			dst = appendNullable(dst, r.Key)
			dst = appendNullable(dst, r.Value)
		}
	}
	return binary.AppendVarint(dst, 0)
}

// acceptedAfter is how many microseconds after the record's time it was
// accepted: two bytes, mostly. 0 is "not known"; the one difference that would
// be 0, too, is written as the number that nothing else has. So nothing is
// lost, whatever the times are, and also where they overflow.
func acceptedAfter(accepted, timeMs int64) int64 {
	switch base := timeMs * 1000; accepted {
	case 0:
		return 0
	case base:
		return -base
	default:
		return accepted - base
	}
}

// acceptedAt is the inverse of acceptedAfter.
func acceptedAt(after, timeMs int64) int64 {
	switch base := timeMs * 1000; after {
	case 0:
		return 0
	case -base:
		return base
	default:
		return after + base
	}
}

// appendRead writes when the deliveries were read, as far back from when the
// batch was written: a few bytes. A clock that was set meanwhile says nothing.
func appendRead(dst []byte, s *stream.Section, written int64) []byte {
	ago, span := written-s.ReadFirst, s.ReadLast-s.ReadFirst
	if s.ReadFirst <= 0 || ago < 0 || span < 0 || span > ago {
		return append(dst, notRead, 0)
	}
	return binary.AppendVarint(binary.AppendVarint(dst, ago), span)
}

func (r *reader) read(s *stream.Section, written int64) {
	switch ago, span := r.long(), r.long(); {
	case ago == -1 && span == 0:
	case ago < 0 || ago >= written || span < 0 || span > ago:
		r.fail(fmt.Errorf("read %d us before %d, for %d us", ago, written, span))
	default:
		s.ReadFirst = written - ago
		s.ReadLast = s.ReadFirst + span
	}
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendVarint(dst, int64(len(s))), s...)
}

// appendNullable writes the union of null and bytes.
func appendNullable(dst, b []byte) []byte {
	if b == nil {
		return binary.AppendVarint(dst, 0)
	}
	dst = binary.AppendVarint(dst, 1)
	return append(binary.AppendVarint(dst, int64(len(b))), b...)
}

// reader walks a body. The first error sticks; what is read after it is zero.
type reader struct {
	b          []byte
	at         int
	version    byte // 1: offsets stand for themselves, and nothing was said of reads; below 4: times, too
	err        error
	deliveries int // so far, over all sections
}

func (r *reader) left() int { return len(r.b) - r.at }

// fail keeps the first error and ends all loops by leaving nothing to read.
func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *reader) long() int64 {
	if r.err != nil {
		return 0
	}
	// Most numbers here are small: one or two bytes.
	if r.at < len(r.b) && r.b[r.at] < 0x80 {
		u := r.b[r.at]
		r.at++
		return int64(u>>1) ^ -int64(u&1)
	}
	n, size := binary.Varint(r.b[r.at:])
	if size <= 0 {
		r.fail(errNumber)
		return 0
	}
	r.at += size
	return n
}

func (r *reader) int() int32 {
	n := r.long()
	if n < math.MinInt32 || n > math.MaxInt32 {
		r.fail(fmt.Errorf("%d is no 32-bit int", n))
		return 0
	}
	return int32(n)
}

func (r *reader) id() (id stream.TopicID) {
	if r.err == nil && r.left() < len(id) {
		r.fail(fmt.Errorf("topic id cut after %d bytes", r.left()))
	}
	if r.err == nil {
		r.at += copy(id[:], r.b[r.at:])
	}
	return id
}

// bytes aliases the body, which the batch owns.
func (r *reader) bytes() []byte {
	n := r.long()
	if r.err == nil && (n < 0 || n > int64(r.left())) {
		r.fail(fmt.Errorf("length %d with %d bytes left", n, r.left()))
	}
	if r.err != nil {
		return nil
	}
	end := r.at + int(n)
	out := r.b[r.at:end:end]
	r.at = end
	return out
}

func (r *reader) name(field string) string {
	b := r.bytes()
	if len(b) > MaxName {
		r.fail(fmt.Errorf("%s of %d bytes, limit %d", field, len(b), MaxName))
		return ""
	}
	return string(b)
}

func (r *reader) nullable() []byte {
	switch n := r.long(); {
	case r.err != nil || n == 0:
		return nil
	case n == 1:
		return r.bytes()
	default:
		r.fail(fmt.Errorf("union branch %d", n))
		return nil
	}
}

// block reads the count of an array's next block; 0 = the array ends. A count
// that the bytes left cannot hold, or that passes limit, is an error.
func (r *reader) block(have, limit, least int) int {
	n := r.long()
	if n < 0 { // the form with the block's size in bytes, which is of no use here
		size := r.long()
		if r.err == nil && (n == math.MinInt64 || size < 0 || size > int64(r.left())) {
			r.fail(fmt.Errorf("array block of %d bytes with %d left", size, r.left()))
		}
		n = -n
	}
	if r.err == nil && (n > int64(r.left()/least) || n > int64(limit-have)) {
		r.fail(fmt.Errorf("array block of %d items with %d bytes left, limit %d", n, r.left(), limit))
	}
	if r.err != nil {
		return 0
	}
	return int(n)
}

func (r *reader) batch() *Batch {
	b := &Batch{Incarnation: r.name("incarnation"), Writer: r.name("writer"), WrittenUs: r.long()}
	for n := r.block(0, MaxSections, minSection); n > 0; n = r.block(len(b.Sections), MaxSections, minSection) {
		b.Sections = slices.Grow(b.Sections, n)
		for ; n > 0 && r.err == nil; n-- {
			b.Sections = append(b.Sections, r.section(b.WrittenUs))
			if r.err == nil {
				r.check(&b.Sections[len(b.Sections)-1])
			}
			if r.err != nil {
				r.err = fmt.Errorf("section %d: %w", len(b.Sections)-1, r.err)
			}
		}
	}
	return b
}

func (r *reader) check(s *stream.Section) {
	if err := checkSection(s); err != nil {
		r.fail(err)
	}
}

func (r *reader) section(written int64) stream.Section {
	s := stream.Section{Topic: r.id(), Partition: r.int()}
	s.Interests = stream.InterestPos{Log: r.id(), Offset: r.long()}
	s.Generation = r.int()
	s.From, s.To, s.End = r.long(), r.long(), r.long()
	var next int64 // what offsets count from
	if r.version > 1 {
		next = s.From
		r.read(&s, written)
	}
	before := written / 1000
	for n := r.block(r.deliveries, MaxDeliveries, minRecord); n > 0; n = r.block(r.deliveries, MaxDeliveries, minRecord) {
		s.Deliveries = slices.Grow(s.Deliveries, n)
		r.deliveries += n
		for ; n > 0 && r.err == nil; n-- {
			d := stream.Record{Offset: next + r.long(), Time: r.long(), Accepted: r.long(), Key: r.nullable(), Value: r.nullable()}
			if r.version > 1 {
				next = d.Offset + 1
			}
			if r.version > 2 {
				d.Time += before
				before = d.Time
				d.Accepted = acceptedAt(d.Accepted, d.Time)
			}
			s.Deliveries = append(s.Deliveries, d)
		}
	}
	return s
}
