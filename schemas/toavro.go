package schemas

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"strconv"
	"sync"

	"github.com/tapecast/tapecast/internal/jsontext"
)

// form is how a JSON text writes what JSON has no type for.
type form uint8

const (
	formPlain   form = iota // as AppendJSON writes it
	formAvro                // Avro's JSON encoding: one character per byte, tagged unions
	formDefault             // a schema's default: one character per byte, plain unions
)

// AppendAvro encodes one JSON value, in the form that the package describes.
// Fields that are missing take their defaults, fields that the schema does not
// have are errors. An error is a *ValueError that names the field; dst then has
// its old length.
//
// A union takes the first of its types, in the schema's order, in whose plain
// form the value is; then the first that reads it with some good will (a long
// in a string, a rounded float); then the type that an object of one member
// names, as in Avro's JSON encoding: {"string":"x"}.
func (c *Codec) AppendAvro(dst, json []byte) ([]byte, error) {
	return c.appendAvro(dst, json, formPlain)
}

// AppendAvroJSON is AppendAvro for Avro's own JSON encoding, which REST proxies
// speak: bytes, fixed and decimals are strings of one character (U+0000 to
// U+00FF) per byte. Unions are looked at the other way round, the named form
// first.
func (c *Codec) AppendAvroJSON(dst, json []byte) ([]byte, error) {
	return c.appendAvro(dst, json, formAvro)
}

// strictBase64 refuses what has a second spelling.
var strictBase64 = base64.StdEncoding.Strict()

var encoders = sync.Pool{New: func() any { return new(encoder) }}

func (c *Codec) appendAvro(dst, json []byte, f form) ([]byte, error) {
	e, _ := encoders.Get().(*encoder)
	e.form, e.before, e.work = f, nil, 0
	out, err := e.encode(dst, json, c.root)
	e.src, e.dst = nil, nil
	if cap(e.scratch) <= 64<<10 && cap(e.spans) <= 16<<10 {
		encoders.Put(e)
	}
	if err != nil {
		return dst, err
	}
	return out, nil
}

// encoder turns one JSON value into Avro. Owned by one call.
type encoder struct {
	src, dst []byte
	limit    int // of len(dst)
	form     form
	before   func(record *node) *ValueError // for defaults of defaults; nil = none

	scratch []byte // of unquoted strings and digits
	spans   []int  // where the fields of the open records begin
	work    int    // bytes looked at; unions of unions could look again and again
}

func (e *encoder) encode(dst, json []byte, n *node) ([]byte, error) {
	validUTF8, err := checkJSON(json)
	if err != nil {
		return dst, &ValueError{Reason: "is not JSON: " + err.Error()}
	}
	if !validUTF8 {
		return dst, &ValueError{Reason: "holds invalid UTF-8"}
	}
	e.src, e.dst, e.limit, e.spans = json, dst, len(dst)+MaxAvro, e.spans[:0]
	if _, err := e.value(n, jsontext.SkipSpace(json, 0), true, 0); err != nil {
		return dst, err
	}
	return e.dst, nil
}

// value encodes the value that begins at i and returns the index after it.
// lenient admits a scalar that is not in its type's own plain form, see union.
func (e *encoder) value(n *node, i int, lenient bool, depth int) (int, *ValueError) {
	e.work++
	if e.work > 1<<16+64*len(e.src) {
		return 0, &ValueError{Reason: "fits its unions in too many ways"}
	}
	if len(e.dst) > e.limit {
		return 0, &ValueError{Reason: "is too large"}
	}
	switch n.op {
	case opUnion:
		return e.union(n, i, depth)
	case opRecord, opArray, opMap:
		if depth == MaxValueDepth {
			return 0, &ValueError{Reason: "is nested too deep"}
		}
	}
	switch n.op {
	case opRecord:
		return e.record(n, i, depth+1)
	case opArray:
		return e.array(n, i, depth+1)
	case opMap:
		return e.mapValue(n, i, depth+1)
	}
	end := skipValue(e.src, i)
	e.work += (end - i) / 64
	return end, e.scalar(n, e.src[i:end], lenient)
}

func mismatch(token byte, n *node) *ValueError {
	return &ValueError{Reason: "is " + tokenName(token) + ", want " + n.want}
}

func (e *encoder) array(n *node, i, depth int) (int, *ValueError) {
	if e.src[i] != '[' {
		return 0, mismatch(e.src[i], n)
	}
	start, count := len(e.dst), 0
	for i = jsontext.SkipSpace(e.src, i+1); e.src[i] != ']'; count++ {
		end, err := e.value(n.elem, i, true, depth)
		if err != nil {
			return 0, err.under("[" + strconv.Itoa(count) + "]")
		}
		i = e.afterComma(end)
	}
	e.closeBlock(start, count)
	return i + 1, nil
}

// afterComma goes on from the end of an item to the next one or the bracket.
func (e *encoder) afterComma(i int) int {
	if i = jsontext.SkipSpace(e.src, i); e.src[i] == ',' {
		i = jsontext.SkipSpace(e.src, i+1)
	}
	return i
}

// closeBlock puts the count in front of the items that were written from start.
func (e *encoder) closeBlock(start, count int) {
	if count > 0 {
		var head [binary.MaxVarintLen64]byte
		n := binary.PutVarint(head[:], int64(count))
		items := len(e.dst) - start
		e.dst = append(e.dst, head[:n]...)
		copy(e.dst[start+n:], e.dst[start:start+items])
		copy(e.dst[start:], head[:n])
	}
	e.dst = append(e.dst, 0)
}

func (e *encoder) mapValue(n *node, i, depth int) (int, *ValueError) {
	if e.src[i] != '{' {
		return 0, mismatch(e.src[i], n)
	}
	start := len(e.dst)
	seen := make(map[string]struct{})
	for i = jsontext.SkipSpace(e.src, i+1); e.src[i] != '}'; {
		end := jsontext.StringEnd(e.src, i)
		key, err := e.unquote(e.src[i:end])
		if err != nil {
			return 0, err
		}
		if _, twice := seen[string(key)]; twice {
			return 0, &ValueError{Path: "[" + quoteName(string(key)) + "]", Reason: "is there twice"}
		}
		name := string(key)
		seen[name] = struct{}{}
		e.dst = append(binary.AppendVarint(e.dst, int64(len(name))), name...)
		i = jsontext.SkipSpace(e.src, jsontext.SkipSpace(e.src, end)+1)
		if i, err = e.value(n.elem, i, true, depth); err != nil {
			return 0, err.under("[" + quoteName(name) + "]")
		}
		i = e.afterComma(i)
	}
	e.closeBlock(start, len(seen))
	return i + 1, nil
}

// quoteName makes foreign text fit for an error message.
func quoteName(s string) string {
	if len(s) > 64 {
		s = s[:64] + "..."
	}
	return strconv.QuoteToASCII(s)
}

// record finds where the fields begin, then encodes them in the schema's order.
func (e *encoder) record(n *node, i, depth int) (int, *ValueError) {
	if e.src[i] != '{' {
		return 0, mismatch(e.src[i], n)
	}
	if e.before != nil {
		if err := e.before(n); err != nil {
			return 0, err
		}
	}
	base := len(e.spans)
	defer func() { e.spans = e.spans[:base] }()
	for range n.fields {
		e.spans = append(e.spans, -1)
	}
	end, err := e.findFields(n, i, base)
	if err != nil {
		return 0, err
	}
	for k := range n.fields {
		f := &n.fields[k]
		at := e.spans[base+k]
		switch {
		case at >= 0:
			if _, err := e.value(f.node, at, true, depth); err != nil {
				return 0, err.under(f.name)
			}
		case f.hasDef:
			e.dst = append(e.dst, f.def...)
		case f.defErr != "":
			return 0, &ValueError{Path: f.name, Reason: f.defErr}
		default:
			return 0, &ValueError{Path: f.name, Reason: "is missing"}
		}
		if len(e.dst) > e.limit {
			return 0, &ValueError{Path: f.name, Reason: "is too large"}
		}
	}
	return end, nil
}

func (e *encoder) findFields(n *node, i, base int) (int, *ValueError) {
	start := i
	for i = jsontext.SkipSpace(e.src, i+1); e.src[i] != '}'; {
		end := jsontext.StringEnd(e.src, i)
		key, err := e.unquote(e.src[i:end])
		if err != nil {
			return 0, err
		}
		k, ok := n.index[string(key)]
		if !ok {
			return 0, &ValueError{Path: fieldPath(string(key)), Reason: "is not a field of " + n.name}
		}
		if e.spans[base+k] >= 0 {
			return 0, &ValueError{Path: n.fields[k].name, Reason: "is there twice"}
		}
		i = jsontext.SkipSpace(e.src, jsontext.SkipSpace(e.src, end)+1)
		e.spans[base+k] = i
		i = e.afterComma(skipValue(e.src, i))
	}
	e.work += (i - start) / 64
	return i + 1, nil
}

// fieldPath is a foreign name as a path: as it is if it is a plain name.
func fieldPath(s string) string {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '_' && (c < '0' || c > '9') {
			return quoteName(s)
		}
	}
	if s == "" || len(s) > 64 {
		return quoteName(s)
	}
	return s
}

// unquote returns what a string token says. It is good until the next call.
func (e *encoder) unquote(token []byte) ([]byte, *ValueError) {
	text, scratch, err := unquote(token, e.scratch)
	e.scratch = scratch
	if err != nil {
		return nil, &ValueError{Reason: err.Error()}
	}
	return text, nil
}

// scalar encodes a token that is no container. lenient admits what is not in
// the type's own plain form.
func (e *encoder) scalar(n *node, token []byte, lenient bool) *ValueError {
	switch n.op {
	case opNull:
		if token[0] != 'n' {
			return mismatch(token[0], n)
		}
		return nil
	case opBool:
		if token[0] != 't' && token[0] != 'f' {
			return mismatch(token[0], n)
		}
		bit := byte(0)
		if token[0] == 't' {
			bit = 1
		}
		e.dst = append(e.dst, bit)
		return nil
	case opInt, opLong:
		return e.integer(n, token, lenient)
	case opFloat, opDouble:
		return e.float(n, token, lenient)
	case opDate:
		return e.date(n, token, lenient)
	case opDecimal, opDecimalFixed:
		if e.form == formPlain {
			return e.decimal(n, token, lenient)
		}
	}
	if token[0] != '"' {
		return mismatch(token[0], n)
	}
	text, err := e.unquote(token)
	if err != nil {
		return err
	}
	return e.text(n, text)
}

// text encodes the types whose JSON is always a string.
func (e *encoder) text(n *node, text []byte) *ValueError {
	switch n.op {
	case opString:
		e.dst = append(binary.AppendVarint(e.dst, int64(len(text))), text...)
		return nil
	case opEnum:
		k, ok := n.index[string(text)]
		if !ok {
			return &ValueError{Reason: "is " + quoteName(string(text)) + ", which is no symbol of " + n.name}
		}
		e.dst = binary.AppendVarint(e.dst, int64(k))
		return nil
	case opUUIDFixed:
		if b, ok := parseUUID(text); ok {
			e.dst = append(e.dst, b[:]...)
			return nil
		}
		if e.form == formPlain {
			return &ValueError{Reason: "is no uuid"}
		}
	case opDuration:
		if e.form == formPlain {
			b, ok := parseDuration(text)
			if !ok {
				return &ValueError{Reason: "is no duration such as P1M2DT3.004S"}
			}
			e.dst = append(e.dst, b[:]...)
			return nil
		}
	}
	return e.binary(n, text)
}

// binary encodes bytes and fixed from base64 or from one character per byte.
func (e *encoder) binary(n *node, text []byte) *ValueError {
	variable := n.op == opBytes || n.op == opDecimal
	start := len(e.dst)
	if e.form == formPlain {
		var err error
		if variable {
			if len(text) > MaxAvro*4/3 {
				return &ValueError{Reason: "is too large"}
			}
			size := strictBase64.DecodedLen(len(text))
			for k := len(text); k > 0 && text[k-1] == '='; k-- {
				size--
			}
			e.dst = binary.AppendVarint(e.dst, int64(size))
			start = len(e.dst)
			if e.dst, err = strictBase64.AppendDecode(e.dst, text); err == nil && len(e.dst)-start != size {
				err = base64.CorruptInputError(0)
			}
		} else {
			e.dst, err = strictBase64.AppendDecode(e.dst, text)
		}
		if err != nil {
			return &ValueError{Reason: "is no base64"}
		}
	} else {
		if variable {
			e.dst = binary.AppendVarint(e.dst, int64(runeCount(text)))
			start = len(e.dst)
		}
		for _, r := range string(text) {
			if r > 0xff {
				return &ValueError{Reason: "holds a character that stands for no byte (beyond U+00FF)"}
			}
			e.dst = append(e.dst, byte(r))
		}
	}
	if got := len(e.dst) - start; !variable && got != n.size {
		return &ValueError{Reason: "has " + strconv.Itoa(got) + " bytes, want " + strconv.Itoa(n.size)}
	}
	return nil
}

func (e *encoder) integer(n *node, token []byte, lenient bool) *ValueError {
	switch c := token[0]; {
	case c == '"' && n.op == opLong && lenient && e.form != formDefault:
		token = token[1 : len(token)-1] // digits need no escapes
	case c != '-' && !isDigit(c):
		return mismatch(c, n)
	}
	num, scratch, ok := parseNumber(token, e.scratch)
	e.scratch = scratch
	if !ok {
		return mismatch('"', n)
	}
	v, whole, fits := num.long()
	switch {
	case !whole:
		return &ValueError{Reason: "has a fraction, want " + n.want}
	case !fits || n.op == opInt && v != int64(int32(v)):
		return &ValueError{Reason: "is out of the range of " + n.want}
	}
	e.dst = binary.AppendVarint(e.dst, v)
	return nil
}

func (e *encoder) float(n *node, token []byte, lenient bool) *ValueError {
	size := 64
	if n.op == opFloat {
		size = 32
	}
	var v float64
	switch c := token[0]; {
	case c == '"' && lenient && e.form != formPlain && nonFinite(token, &v):
	case c != '-' && !isDigit(c):
		return mismatch(c, n)
	default:
		var err error
		if v, err = strconv.ParseFloat(string(token), size); err != nil {
			return &ValueError{Reason: "is out of the range of " + n.want}
		}
		if full, err := strconv.ParseFloat(string(token), 64); size == 32 && !lenient && (err != nil || full != v) {
			return &ValueError{Reason: "is no exact float"}
		}
	}
	if size == 32 {
		e.dst = binary.LittleEndian.AppendUint32(e.dst, math.Float32bits(float32(v)))
	} else {
		e.dst = binary.LittleEndian.AppendUint64(e.dst, math.Float64bits(v))
	}
	return nil
}

// nonFinite reads what Java's encoder writes for numbers that JSON lacks.
func nonFinite(token []byte, v *float64) bool {
	switch string(token) {
	case `"NaN"`:
		*v = math.NaN()
	case `"Infinity"`:
		*v = math.Inf(1)
	case `"-Infinity"`:
		*v = math.Inf(-1)
	default:
		return false
	}
	return true
}
