package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// errShort says that an answer ends before its fields do, or declares more
// than it holds.
var errShort = errors.New("kafka's answer is truncated or malformed")

// frame is a request in the making: size, header, body.
type frame struct{ b []byte }

// newFrame begins a request, in memory if there is any. Flexible requests have
// header version 2.
func newFrame(memory *[]byte, key, version int16, flexible bool, correlation int32, client string) *frame {
	f := &frame{b: make([]byte, 0, 128)}
	if memory != nil {
		f.b = (*memory)[:0]
	}
	f.int32(0) // the size: see bytes
	f.int16(key)
	f.int16(version)
	f.int32(correlation)
	f.string(client)
	if flexible {
		f.tags()
	}
	return f
}

// bytes finishes the frame.
func (f *frame) bytes() []byte {
	binary.BigEndian.PutUint32(f.b, uint32(len(f.b)-4))
	return f.b
}

func (f *frame) int8(v int8)        { f.b = append(f.b, byte(v)) }
func (f *frame) int16(v int16)      { f.b = binary.BigEndian.AppendUint16(f.b, uint16(v)) }
func (f *frame) int32(v int32)      { f.b = binary.BigEndian.AppendUint32(f.b, uint32(v)) }
func (f *frame) int64(v int64)      { f.b = binary.BigEndian.AppendUint64(f.b, uint64(v)) }
func (f *frame) uvarint(v uint64)   { f.b = binary.AppendUvarint(f.b, v) }
func (f *frame) raw(v []byte)       { f.b = append(f.b, v...) }
func (f *frame) array(n int)        { f.int32(int32(n)) }
func (f *frame) compactArray(n int) { f.uvarint(uint64(n) + 1) }

// tags writes "no tagged fields".
func (f *frame) tags() { f.b = append(f.b, 0) }

func (f *frame) bool(v bool) {
	if v {
		f.int8(1)
		return
	}
	f.int8(0)
}

func (f *frame) string(v string) {
	f.int16(int16(len(v)))
	f.b = append(f.b, v...)
}

// nullString writes null for the empty string.
func (f *frame) nullString(v string) {
	if v == "" {
		f.int16(-1)
		return
	}
	f.string(v)
}

func (f *frame) compactString(v string) {
	f.uvarint(uint64(len(v)) + 1)
	f.b = append(f.b, v...)
}

func (f *frame) bytes32(v []byte) {
	f.int32(int32(len(v)))
	f.b = append(f.b, v...)
}

// answer reads the fields of a response. After the first field that is not
// there every further one is zero, and err says so.
type answer struct {
	b   []byte
	err error
	buf *[]byte // the whole answer; the caller's to give back if it was pooled
}

func (a *answer) take(n int) []byte {
	if n < 0 || n > len(a.b) {
		a.fail()
		return nil
	}
	v := a.b[:n:n]
	a.b = a.b[n:]
	return v
}

func (a *answer) fail() {
	a.b = nil
	if a.err == nil {
		a.err = errShort
	}
}

func (a *answer) int8() int8 {
	if v := a.take(1); v != nil {
		return int8(v[0])
	}
	return 0
}

func (a *answer) int16() int16 {
	if v := a.take(2); v != nil {
		return int16(binary.BigEndian.Uint16(v))
	}
	return 0
}

func (a *answer) int32() int32 {
	if v := a.take(4); v != nil {
		return int32(binary.BigEndian.Uint32(v))
	}
	return 0
}

func (a *answer) int64() int64 {
	if v := a.take(8); v != nil {
		return int64(binary.BigEndian.Uint64(v))
	}
	return 0
}

func (a *answer) bool() bool { return a.int8() != 0 }

func (a *answer) uvarint() uint64 {
	v, n := binary.Uvarint(a.b)
	if n <= 0 {
		a.fail()
		return 0
	}
	a.b = a.b[n:]
	return v
}

// array returns a length that the bytes left can hold: each element takes at
// least min bytes. A null array has length 0.
func (a *answer) array(min int) int {
	n := int(a.int32())
	if n < 0 {
		return 0
	}
	return a.plausible(n, min)
}

func (a *answer) compactArray(min int) int {
	n := a.uvarint()
	if n == 0 {
		return 0
	}
	if n > 1<<31 {
		a.fail()
		return 0
	}
	return a.plausible(int(n-1), min)
}

func (a *answer) plausible(n, min int) int {
	if n > len(a.b)/max(min, 1) {
		a.fail()
		return 0
	}
	return n
}

// string reads a string or null, which is "".
func (a *answer) string() string {
	n := a.int16()
	if n < 0 {
		return ""
	}
	return string(a.take(int(n)))
}

func (a *answer) compactString() string { return string(a.compactBytes()) }

// bytes32 reads bytes or null. They alias the answer.
func (a *answer) bytes32() []byte {
	n := a.int32()
	if n < 0 {
		return nil
	}
	return a.take(int(n))
}

// compactBytes reads bytes or null. They alias the answer.
func (a *answer) compactBytes() []byte {
	n := a.uvarint()
	if n == 0 {
		return nil
	}
	if n > 1<<31 {
		a.fail()
		return nil
	}
	return a.take(int(n - 1))
}

// tags skips tagged fields.
func (a *answer) tags() {
	for n := a.uvarint(); n > 0 && a.err == nil; n-- {
		a.uvarint()
		size := a.uvarint()
		if size > uint64(len(a.b)) {
			a.fail()
			return
		}
		a.take(int(size))
	}
}

// done returns the error of the whole answer, named after what was asked.
func (a *answer) done(what string) error {
	if a.err != nil {
		return fmt.Errorf("%s: %w", what, a.err)
	}
	return nil
}
