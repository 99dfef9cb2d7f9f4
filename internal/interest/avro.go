package interest

import (
	"encoding/binary"
	"fmt"
)

func appendLong(dst []byte, n int64) []byte { return binary.AppendVarint(dst, n) }

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendVarint(dst, int64(len(s))), s...)
}

// avroReader reads Avro primitives from b. The first error sticks; what is
// read after it is zero.
type avroReader struct {
	b   []byte
	err error
}

func (a *avroReader) long(field string) int64 {
	if a.err != nil {
		return 0
	}
	n, size := binary.Varint(a.b)
	if size <= 0 {
		a.err = fmt.Errorf("interest record: %s: broken or cut number", field)
		return 0
	}
	a.b = a.b[size:]
	return n
}

// bytes aliases the input.
func (a *avroReader) bytes(field string, limit int) []byte {
	n := a.long(field)
	if a.err != nil {
		return nil
	}
	if n < 0 || n > int64(limit) || n > int64(len(a.b)) {
		a.err = fmt.Errorf("interest record: %s: length %d with %d bytes left, limit %d", field, n, len(a.b), limit)
		return nil
	}
	out := a.b[:n]
	a.b = a.b[n:]
	return out
}
