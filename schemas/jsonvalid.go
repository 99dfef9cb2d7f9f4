package schemas

import (
	"unicode/utf8"

	"github.com/tapecast/tapecast/internal/jsontext"
)

// validator checks JSON in one pass: the grammar, the depth and UTF-8. It says
// yes or no only; encoding/json words the reason when it is no.
type validator struct {
	b       []byte
	badUTF8 bool // in strings; anywhere else it is bad grammar too
}

// value checks the value that begins at i, and returns the index after it or -1.
func (v *validator) value(i, depth int) int {
	if i >= len(v.b) {
		return -1
	}
	switch c := v.b[i]; {
	case c == '"':
		return v.text(i + 1)
	case c == '{':
		return v.object(i+1, depth+1)
	case c == '[':
		return v.array(i+1, depth+1)
	case c == '-' || isDigit(c):
		return v.number(i)
	case c == 't':
		return v.word(i, "true")
	case c == 'f':
		return v.word(i, "false")
	case c == 'n':
		return v.word(i, "null")
	}
	return -1
}

func (v *validator) word(i int, w string) int {
	if len(v.b)-i >= len(w) && string(v.b[i:i+len(w)]) == w {
		return i + len(w)
	}
	return -1
}

func (v *validator) object(i, depth int) int {
	if depth > MaxValueDepth {
		return -1
	}
	if i = jsontext.SkipSpace(v.b, i); i < len(v.b) && v.b[i] == '}' {
		return i + 1
	}
	for i < len(v.b) && v.b[i] == '"' {
		if i = v.text(i + 1); i < 0 {
			return -1
		}
		if i = jsontext.SkipSpace(v.b, i); i >= len(v.b) || v.b[i] != ':' {
			return -1
		}
		if i = v.value(jsontext.SkipSpace(v.b, i+1), depth); i < 0 {
			return -1
		}
		if i = jsontext.SkipSpace(v.b, i); i >= len(v.b) {
			return -1
		}
		if v.b[i] == '}' {
			return i + 1
		}
		if v.b[i] != ',' {
			return -1
		}
		i = jsontext.SkipSpace(v.b, i+1)
	}
	return -1
}

func (v *validator) array(i, depth int) int {
	if depth > MaxValueDepth {
		return -1
	}
	if i = jsontext.SkipSpace(v.b, i); i < len(v.b) && v.b[i] == ']' {
		return i + 1
	}
	for {
		if i = v.value(i, depth); i < 0 {
			return -1
		}
		if i = jsontext.SkipSpace(v.b, i); i >= len(v.b) {
			return -1
		}
		if v.b[i] == ']' {
			return i + 1
		}
		if v.b[i] != ',' {
			return -1
		}
		i = jsontext.SkipSpace(v.b, i+1)
	}
}

// text checks a string from behind its first quote.
func (v *validator) text(i int) int {
	for {
		for i < len(v.b) && plainText[v.b[i]] {
			i++
		}
		if i >= len(v.b) {
			return -1
		}
		switch c := v.b[i]; {
		case c == '"':
			return i + 1
		case c < 0x20:
			return -1
		case c == '\\':
			if i = v.escape(i + 1); i < 0 {
				return -1
			}
		default:
			r, size := utf8.DecodeRune(v.b[i:])
			v.badUTF8 = v.badUTF8 || r == utf8.RuneError && size == 1
			i += size
		}
	}
}

// plainText are the bytes that may stand in a string and mean themselves.
var plainText = func() (plain [256]bool) {
	for c := byte(' '); c < utf8.RuneSelf; c++ {
		plain[c] = c != '"' && c != '\\'
	}
	return plain
}()

// escape checks what follows a backslash.
func (v *validator) escape(i int) int {
	if i >= len(v.b) {
		return -1
	}
	switch v.b[i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 1
	case 'u':
		if len(v.b)-i < 5 {
			return -1
		}
		for _, c := range v.b[i+1 : i+5] {
			if !isDigit(c) && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return -1
			}
		}
		return i + 5
	}
	return -1
}

func (v *validator) number(i int) int {
	if v.b[i] == '-' {
		i++
	}
	if i < len(v.b) && v.b[i] == '0' {
		i++
	} else if i = v.digits(i); i < 0 {
		return -1
	}
	if i < len(v.b) && v.b[i] == '.' {
		if i = v.digits(i + 1); i < 0 {
			return -1
		}
	}
	if i < len(v.b) && (v.b[i] == 'e' || v.b[i] == 'E') {
		i++
		if i < len(v.b) && (v.b[i] == '+' || v.b[i] == '-') {
			i++
		}
		i = v.digits(i)
	}
	return i
}

// digits wants one at least.
func (v *validator) digits(i int) int {
	start := i
	for i < len(v.b) && isDigit(v.b[i]) {
		i++
	}
	if i == start {
		return -1
	}
	return i
}
