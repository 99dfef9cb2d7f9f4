package schemas

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/big"
	"math/bits"
	"strconv"
	"time"
	"unicode/utf8"
)

// safeInteger is the largest integer up to which every double is exact.
const safeInteger = 1 << 53

func appendLong(dst []byte, v int64) []byte {
	if v > safeInteger || v < -safeInteger {
		return append(strconv.AppendInt(append(dst, '"'), v, 10), '"')
	}
	return strconv.AppendInt(dst, v, 10)
}

// appendFloat writes the shortest text that reads back as the same number, in
// the form that encoding/json and JavaScript write.
func appendFloat(dst []byte, v float64, size int) []byte {
	abs := math.Abs(v)
	if math.IsInf(v, 0) || v != v {
		return append(dst, "null"...)
	}
	small, large := 1e-6, 1e21
	if abs == 0 || abs >= small && abs < large {
		return strconv.AppendFloat(dst, v, 'f', -1, size)
	}
	dst = strconv.AppendFloat(dst, v, 'e', -1, size)
	if n := len(dst); n >= 4 && dst[n-4] == 'e' && dst[n-3] == '-' && dst[n-2] == '0' { // e-09 to e-9
		dst[n-2] = dst[n-1]
		dst = dst[:n-1]
	}
	return dst
}

// plain marks the bytes that a JSON string holds as they are, in HTML too.
var plain = func() (t [256]bool) {
	for c := 0x20; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
	}
	return t
}()

const hexDigits = "0123456789abcdef"

// appendString writes a JSON string. Invalid UTF-8 becomes U+FFFD; what HTML or
// JavaScript would take for its own is escaped.
func appendString(dst, s []byte) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		if plain[s[i]] {
			i++
			continue
		}
		if s[i] < utf8.RuneSelf {
			dst = appendEscape(append(dst, s[start:i]...), s[i])
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRune(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			dst = append(append(dst, s[start:i]...), "\ufffd"...)
		case r == '\u2028' || r == '\u2029':
			dst = append(append(dst, s[start:i]...), `\u202`...)
			dst = append(dst, hexDigits[r&0xf])
		default:
			i += size
			continue
		}
		i += size
		start = i
	}
	return append(append(dst, s[start:]...), '"')
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
}

// appendDate writes days since 1970 as an ISO 8601 date.
func appendDate(dst []byte, days int64) []byte {
	t := time.Unix(days*86_400, 0).UTC()
	year, month, day := t.Date()
	dst = append(dst, '"')
	switch {
	case year < 0:
		dst = appendPadded(append(dst, '-'), -year, 6)
	case year > 9999:
		dst = appendPadded(append(dst, '+'), year, 6)
	default:
		dst = appendPadded(dst, year, 4)
	}
	dst = appendPadded(append(dst, '-'), int(month), 2)
	dst = appendPadded(append(dst, '-'), day, 2)
	return append(dst, '"')
}

// appendPadded writes v >= 0 with leading zeros up to a width.
func appendPadded(dst []byte, v, width int) []byte {
	var buf [20]byte
	b := strconv.AppendInt(buf[:0], int64(v), 10)
	for range width - len(b) {
		dst = append(dst, '0')
	}
	return append(dst, b...)
}

// maxDecimalBytes bounds a decimal's own bytes; the digits of more of them
// would cost more than they say.
const maxDecimalBytes = 512

// appendDecimal writes a big-endian two's complement number with its scale.
func appendDecimal(dst, b []byte, scale int) []byte {
	for len(b) > 1 && (b[0] == 0 && b[1] < 0x80 || b[0] == 0xff && b[1] >= 0x80) {
		b = b[1:]
	}
	if len(b) > 16 {
		return appendScaled(dst, bigDigits(b), b[0] >= 0x80, scale)
	}
	var hi, lo uint64
	if len(b) > 0 && b[0] >= 0x80 {
		hi, lo = math.MaxUint64, math.MaxUint64
	}
	for _, c := range b {
		hi = hi<<8 | lo>>56
		lo = lo<<8 | uint64(c)
	}
	negative := hi>>63 == 1
	if negative {
		var carry uint64
		lo, carry = bits.Add64(^lo, 1, 0)
		hi, _ = bits.Add64(^hi, 0, carry)
	}
	var buf [40]byte // 2^127 has 39 digits
	i := len(buf)
	for {
		var r uint64
		hi, r = hi/10, hi%10
		lo, r = bits.Div64(r, lo, 10)
		i--
		buf[i] = byte('0' + r)
		if hi|lo == 0 {
			break
		}
	}
	return appendScaled(dst, buf[i:], negative, scale)
}

func bigDigits(b []byte) []byte {
	v := new(big.Int).SetBytes(b)
	if b[0] >= 0x80 {
		v.Sub(v, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
		v.Neg(v)
	}
	return v.Append(nil, 10)
}

// appendScaled puts the point scale digits before the end.
func appendScaled(dst, digits []byte, negative bool, scale int) []byte {
	if negative {
		dst = append(dst, '-')
	}
	whole := len(digits) - scale
	if whole <= 0 {
		dst = append(dst, '0')
	} else {
		dst = append(dst, digits[:whole]...)
	}
	if scale == 0 {
		return dst
	}
	dst = append(dst, '.')
	for range -whole {
		dst = append(dst, '0')
	}
	return append(dst, digits[max(whole, 0):]...)
}

// appendUUID writes 16 bytes as a uuid.
func appendUUID(dst, b []byte) []byte {
	dst = append(hex.AppendEncode(dst, b[:4]), '-')
	dst = append(hex.AppendEncode(dst, b[4:6]), '-')
	dst = append(hex.AppendEncode(dst, b[6:8]), '-')
	dst = append(hex.AppendEncode(dst, b[8:10]), '-')
	return hex.AppendEncode(dst, b[10:16])
}

// appendDuration writes Avro's months, days and milliseconds as an ISO 8601 duration.
func appendDuration(dst, b []byte) []byte {
	months := binary.LittleEndian.Uint32(b)
	days := binary.LittleEndian.Uint32(b[4:])
	ms := binary.LittleEndian.Uint32(b[8:])
	dst = append(dst, 'P')
	if months > 0 {
		dst = append(strconv.AppendUint(dst, uint64(months), 10), 'M')
	}
	if days > 0 {
		dst = append(strconv.AppendUint(dst, uint64(days), 10), 'D')
	}
	if ms == 0 && months|days != 0 {
		return dst
	}
	dst = strconv.AppendUint(append(dst, 'T'), uint64(ms/1000), 10)
	if rest := ms % 1000; rest != 0 {
		dst = appendPadded(append(dst, '.'), int(rest), 3)
	}
	return append(dst, 'S')
}
