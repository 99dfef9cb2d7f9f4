// Package jsontext walks the text of JSON without parsing it: what everybody
// who reads JSON from outside needs before, or instead of, a decoder.
//
// Guarantees: each function reads a byte once at most or looks at it twice, and
// allocates nothing; the text need not be JSON. The package starts no goroutines.
package jsontext

import "bytes"

// SkipSpace returns the index of the next token at or after i, len(b) if there is none.
func SkipSpace(b []byte, i int) int {
	for i < len(b) && IsSpace(b[i]) {
		i++
	}
	return i
}

// IsSpace tells whether c is white space between tokens.
func IsSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

// StringEnd returns the index after the string that begins at i, or -1.
func StringEnd(b []byte, i int) int {
	quote := -1 // the quote that was found last: kept, or each escape would search it again
	for i++; i < len(b); {
		if quote < i {
			n := bytes.IndexByte(b[i:], '"')
			if n < 0 {
				return -1
			}
			quote = i + n
		}
		escape := bytes.IndexByte(b[i:quote], '\\')
		if escape < 0 {
			return quote + 1
		}
		i += escape + 2
	}
	return -1
}

// TooDeep tells whether brackets outside of strings are nested deeper than most.
func TooDeep(b []byte, most int) bool {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			if i = StringEnd(b, i); i < 0 {
				return false
			}
			i--
		case '{', '[':
			if depth++; depth > most {
				return true
			}
		case '}', ']':
			depth--
		}
	}
	return false
}
