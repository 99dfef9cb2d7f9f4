package schemas

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
)

// What an Avro body can have wrong. They are wrapped with the field's name.
var (
	errShort    = errors.New("ends in the middle of a value")
	errVarint   = errors.New("number of too many bytes")
	errInt      = errors.New("int beyond 32 bits")
	errBool     = errors.New("boolean that is neither 0 nor 1")
	errLength   = errors.New("length beyond the end")
	errCount    = errors.New("more items than bytes left")
	errBlock    = errors.New("block whose size does not match its items")
	errIndex    = errors.New("union or enum index out of range")
	errDepth    = errors.New("nested too deep")
	errTooBig   = errors.New("JSON would be too large")
	errDecimal  = errors.New("decimal of too many bytes")
	errTrailing = errors.New("bytes after the end of the value")
)

// AppendJSON appends the JSON of one Avro body (no wire header) to dst, in
// schema order, in the form that the package describes. The whole body must be
// consumed. It allocates nothing when dst has room, and bounds what it writes
// by MaxJSON and by a multiple of the body's length. After an error dst has its
// old length.
func (c *Codec) AppendJSON(dst, avro []byte) ([]byte, error) {
	w := jsonWriter{
		dst:   dst,
		src:   avro,
		limit: len(dst) + min(MaxJSON, 4096+len(c.text)+c.amp*len(avro)),
	}
	err := w.value(c.root, 0)
	switch {
	case err != nil:
	case w.pos != len(avro):
		err = errTrailing
	case len(w.dst) > w.limit:
		err = errTooBig
	default:
		return w.dst, nil
	}
	return w.dst[:len(dst)], fmt.Errorf("decode avro: %w", err)
}

// jsonWriter transcodes one body. It lives on the stack.
type jsonWriter struct {
	dst, src []byte
	pos      int
	limit    int // of len(dst)
}

func (w *jsonWriter) value(n *node, depth int) error {
	switch n.op {
	case opNull:
		w.dst = append(w.dst, "null"...)
		return nil
	case opLong:
		v, err := w.long()
		if err != nil {
			return err
		}
		w.dst = appendLong(w.dst, v)
		return nil
	case opDouble:
		b, err := w.take(8)
		if err != nil {
			return err
		}
		w.dst = appendFloat(w.dst, math.Float64frombits(binary.LittleEndian.Uint64(b)), 64)
		return nil
	case opString:
		b, err := w.bytes()
		if err != nil {
			return err
		}
		w.dst = appendString(w.dst, b)
		return nil
	case opUnion:
		i, err := w.indexBelow(len(n.branches))
		if err != nil {
			return err
		}
		return w.value(n.branches[i], depth)
	case opRecord:
		return w.record(n, depth+1)
	case opArray:
		return w.array(n, depth+1)
	case opMap:
		return w.mapValue(n, depth+1)
	default:
		return w.scalar(n)
	}
}

func (w *jsonWriter) record(n *node, depth int) error {
	if depth > MaxValueDepth {
		return errDepth
	}
	sep := byte('{')
	for i := range n.fields {
		f := &n.fields[i]
		w.dst = append(append(w.dst, sep), f.key...)
		if err := w.value(f.node, depth); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if len(w.dst) > w.limit {
			return errTooBig
		}
		sep = ','
	}
	if len(n.fields) == 0 {
		w.dst = append(w.dst, '{')
	}
	w.dst = append(w.dst, '}')
	return nil
}

func (w *jsonWriter) array(n *node, depth int) error {
	if depth > MaxValueDepth {
		return errDepth
	}
	w.dst = append(w.dst, '[')
	first := true
	for {
		count, end, err := w.block()
		if err != nil {
			return err
		}
		if count == 0 {
			break
		}
		for range count {
			if !first {
				w.dst = append(w.dst, ',')
			}
			first = false
			if err := w.value(n.elem, depth); err != nil {
				return err
			}
			if len(w.dst) > w.limit {
				return errTooBig
			}
		}
		if end >= 0 && w.pos != end {
			return errBlock
		}
	}
	w.dst = append(w.dst, ']')
	return nil
}

func (w *jsonWriter) mapValue(n *node, depth int) error {
	if depth > MaxValueDepth {
		return errDepth
	}
	w.dst = append(w.dst, '{')
	first := true
	for {
		count, end, err := w.block()
		if err != nil {
			return err
		}
		if count == 0 {
			break
		}
		for range count {
			if !first {
				w.dst = append(w.dst, ',')
			}
			first = false
			key, err := w.bytes()
			if err != nil {
				return err
			}
			w.dst = append(appendString(w.dst, key), ':')
			if err := w.value(n.elem, depth); err != nil {
				return err
			}
			if len(w.dst) > w.limit {
				return errTooBig
			}
		}
		if end >= 0 && w.pos != end {
			return errBlock
		}
	}
	w.dst = append(w.dst, '}')
	return nil
}

// block reads a block's header. Every item takes a byte at least (Compile saw
// to it), so a count beyond the bytes left is a lie. end is where a block that
// tells its size ends, else -1.
func (w *jsonWriter) block() (count, end int, err error) {
	n, err := w.long()
	if err != nil {
		return 0, 0, err
	}
	end = -1
	if n < 0 {
		if n == math.MinInt64 {
			return 0, 0, errCount
		}
		n = -n
		size, err := w.long()
		if err != nil {
			return 0, 0, err
		}
		if size < 0 || size > int64(len(w.src)-w.pos) {
			return 0, 0, errBlock
		}
		end = w.pos + int(size)
	}
	if n > int64(len(w.src)-w.pos) {
		return 0, 0, errCount
	}
	return int(n), end, nil
}

// scalar writes the types that are rarer.
func (w *jsonWriter) scalar(n *node) error {
	switch n.op {
	case opBool:
		b, err := w.take(1)
		if err != nil {
			return err
		}
		if b[0] > 1 {
			return errBool
		}
		w.dst = strconv.AppendBool(w.dst, b[0] == 1)
	case opInt, opDate:
		v, err := w.long()
		if err != nil {
			return err
		}
		if v != int64(int32(v)) {
			return errInt
		}
		if n.op == opDate {
			w.dst = appendDate(w.dst, v)
		} else {
			w.dst = strconv.AppendInt(w.dst, v, 10)
		}
	case opFloat:
		b, err := w.take(4)
		if err != nil {
			return err
		}
		w.dst = appendFloat(w.dst, float64(math.Float32frombits(binary.LittleEndian.Uint32(b))), 32)
	case opEnum:
		i, err := w.indexBelow(len(n.texts))
		if err != nil {
			return err
		}
		w.dst = append(w.dst, n.texts[i]...)
	default:
		return w.binary(n)
	}
	return nil
}

// binary writes bytes and fixed, and what is made of them.
func (w *jsonWriter) binary(n *node) error {
	var b []byte
	var err error
	if n.op == opBytes || n.op == opDecimal {
		b, err = w.bytes()
	} else {
		b, err = w.take(n.size)
	}
	if err != nil {
		return err
	}
	switch n.op {
	case opDecimal, opDecimalFixed:
		if len(b) > maxDecimalBytes {
			return errDecimal
		}
		w.dst = append(appendDecimal(append(w.dst, '"'), b, n.scale), '"')
	case opUUIDFixed:
		w.dst = append(appendUUID(append(w.dst, '"'), b), '"')
	case opDuration:
		w.dst = append(appendDuration(append(w.dst, '"'), b), '"')
	default:
		w.dst = append(base64.StdEncoding.AppendEncode(append(w.dst, '"'), b), '"')
	}
	return nil
}

func (w *jsonWriter) take(n int) ([]byte, error) {
	if n > len(w.src)-w.pos {
		return nil, errShort
	}
	b := w.src[w.pos : w.pos+n]
	w.pos += n
	return b, nil
}

func (w *jsonWriter) bytes() ([]byte, error) {
	n, err := w.long()
	if err != nil {
		return nil, err
	}
	if n < 0 || n > int64(len(w.src)-w.pos) {
		return nil, errLength
	}
	b := w.src[w.pos : w.pos+int(n)]
	w.pos += int(n)
	return b, nil
}

func (w *jsonWriter) indexBelow(n int) (int, error) {
	i, err := w.long()
	if err != nil {
		return 0, err
	}
	if i < 0 || i >= int64(n) {
		return 0, errIndex
	}
	return int(i), nil
}

// long reads a zig-zag varint of at most 64 bits.
func (w *jsonWriter) long() (int64, error) {
	if w.pos < len(w.src) && w.src[w.pos] < 0x80 {
		v := w.src[w.pos]
		w.pos++
		return int64(v>>1) ^ -int64(v&1), nil
	}
	v, n := binary.Uvarint(w.src[w.pos:])
	if n == 0 {
		return 0, errShort
	}
	if n < 0 {
		return 0, errVarint
	}
	w.pos += n
	return int64(v>>1) ^ -int64(v&1), nil
}
