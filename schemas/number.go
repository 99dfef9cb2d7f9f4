package schemas

import (
	"bytes"
	"math/big"
	"strconv"
)

// decimalNumber is a JSON number taken apart, exactly: digits × 10^exp.
type decimalNumber struct {
	negative bool
	digits   []byte // no zeros at either end; empty = 0
	exp      int
}

// maxExponent bounds the exponents that are looked at.
const maxExponent = 1_000_000

// parseNumber takes a JSON number apart. ok tells that the text is one.
func parseNumber(text, scratch []byte) (n decimalNumber, newScratch []byte, ok bool) {
	i := 0
	if i < len(text) && text[i] == '-' {
		n.negative = true
		i++
	}
	digits := scratch[:0]
	start := i
	for ; i < len(text) && isDigit(text[i]); i++ {
		digits = append(digits, text[i])
	}
	if i == start || text[start] == '0' && i > start+1 {
		return n, digits, false
	}
	if i < len(text) && text[i] == '.' {
		i++
		start = i
		for ; i < len(text) && isDigit(text[i]); i++ {
			digits = append(digits, text[i])
		}
		if n.exp = start - i; n.exp == 0 {
			return n, digits, false
		}
	}
	if i < len(text) && (text[i] == 'e' || text[i] == 'E') {
		e, good := parseExponent(text[i+1:])
		if !good {
			return n, digits, false
		}
		n.exp += e
		i = len(text)
	}
	if i != len(text) {
		return n, digits, false
	}
	trimmed := bytes.TrimLeft(digits, "0")
	n.digits = bytes.TrimRight(trimmed, "0")
	n.exp += len(trimmed) - len(n.digits)
	if len(n.digits) == 0 {
		n.exp, n.negative = 0, false
	}
	return n, digits, true
}

func parseExponent(text []byte) (int, bool) {
	negative := false
	if len(text) > 0 && (text[0] == '+' || text[0] == '-') {
		negative = text[0] == '-'
		text = text[1:]
	}
	e := 0
	for _, c := range text {
		if !isDigit(c) {
			return 0, false
		}
		e = min(e*10+int(c-'0'), maxExponent)
	}
	if negative {
		e = -e
	}
	return e, len(text) > 0
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// long returns the number as 64 bits. whole is false for a fraction, fits for
// one that is too large.
func (n decimalNumber) long() (v int64, whole, fits bool) {
	if n.exp < 0 {
		return 0, false, false
	}
	if len(n.digits)+n.exp > 19 {
		return 0, true, false
	}
	var buf [20]byte
	b := buf[:0]
	if n.negative {
		b = append(b, '-')
	}
	b = append(b, n.digits...)
	for range n.exp {
		b = append(b, '0')
	}
	if len(n.digits) == 0 {
		b = append(b, '0')
	}
	v, err := strconv.ParseInt(string(b), 10, 64)
	return v, true, err == nil
}

// unscaled returns digits × 10^(exp+scale) as big-endian two's complement of
// the fewest bytes. why tells what does not fit.
func (n decimalNumber) unscaled(precision, scale int) (b []byte, why string) {
	zeros := n.exp + scale
	if zeros < 0 {
		return nil, "has more than " + strconv.Itoa(scale) + " decimal places"
	}
	if len(n.digits) == 0 {
		return []byte{0}, ""
	}
	if len(n.digits)+zeros > precision {
		return nil, "has more than " + strconv.Itoa(precision) + " digits"
	}
	text := append(append(make([]byte, 0, precision), n.digits...), bytes.Repeat([]byte{'0'}, zeros)...)
	v, _ := new(big.Int).SetString(string(text), 10)
	if n.negative {
		return negativeBytes(v), ""
	}
	return v.FillBytes(make([]byte, v.BitLen()/8+1)), "" // a leading bit for the sign
}

// negativeBytes returns -v in two's complement.
func negativeBytes(v *big.Int) []byte {
	less := new(big.Int).Sub(v, big.NewInt(1)) // -v is the complement of v-1
	size := less.BitLen()/8 + 1
	b := less.FillBytes(make([]byte, size))
	for i := range b {
		b[i] = ^b[i]
	}
	return b
}
