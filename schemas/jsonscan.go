package schemas

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/tapecast/tapecast/internal/jsontext"
)

// checkJSON wants one valid JSON value, nested no deeper than MaxValueDepth
// containers. It tells whether strings hold invalid UTF-8.
func checkJSON(b []byte) (validUTF8 bool, err error) {
	if valid, validUTF8 := scan(b); valid {
		return validUTF8, nil
	}
	return false, whyInvalid(b)
}

// ValidJSON tells whether b is one JSON value of valid UTF-8, nested no deeper
// than MaxValueDepth containers. It allocates nothing.
func ValidJSON(b []byte) bool {
	valid, validUTF8 := scan(b)
	return valid && validUTF8
}

// scan tells whether b is such a value, and its strings such.
func scan(b []byte) (valid, validUTF8 bool) {
	v := validator{b: b}
	end := v.value(jsontext.SkipSpace(b, 0), 0)
	return end >= 0 && jsontext.SkipSpace(b, end) == len(b), !v.badUTF8
}

// whyInvalid words what checkJSON refuses.
func whyInvalid(b []byte) error {
	if jsontext.TooDeep(b, MaxValueDepth) {
		return fmt.Errorf("nested more than %d deep", MaxValueDepth)
	}
	var v json.RawMessage
	err := json.Unmarshal(b, &v)
	if err == nil { // cannot be, see FuzzDecoderJSON
		return errors.New("invalid JSON")
	}
	return fmt.Errorf("%w (at byte %d)", err, syntaxOffset(err))
}

func syntaxOffset(err error) int64 {
	var s *json.SyntaxError
	if errors.As(err, &s) {
		return s.Offset
	}
	return 0
}

// The functions below walk JSON that checkJSON has found good.

// skipValue returns the index after the value that begins at i.
func skipValue(b []byte, i int) int {
	switch b[i] {
	case '"':
		return jsontext.StringEnd(b, i)
	case '{', '[':
		depth := 0
		for ; ; i++ {
			switch b[i] {
			case '"':
				i = jsontext.StringEnd(b, i) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
	}
	return scalarEnd(b, i)
}

// scalarEnd returns the index after a number or word.
func scalarEnd(b []byte, i int) int {
	for i < len(b) && b[i] != ',' && b[i] != '}' && b[i] != ']' && !jsontext.IsSpace(b[i]) {
		i++
	}
	return i
}

// tokenName says what begins with c, for errors.
func tokenName(c byte) string {
	switch c {
	case '"':
		return "a string"
	case '{':
		return "an object"
	case '[':
		return "an array"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

var errSurrogate = errors.New("holds half of a surrogate pair")

// unquote returns what the string token says: a part of the token where it has
// no escapes, else scratch's memory.
func unquote(token, scratch []byte) (text, newScratch []byte, err error) {
	inner := token[1 : len(token)-1]
	at := bytes.IndexByte(inner, '\\')
	if at < 0 {
		return inner, scratch, nil
	}
	out := scratch[:0]
	out = append(out, inner[:at]...)
	for i := at; i < len(inner); i++ {
		if inner[i] != '\\' {
			out = append(out, inner[i])
			continue
		}
		i++
		switch inner[i] {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r := hex4(inner[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				if len(inner) < i+7 || inner[i+1] != '\\' || inner[i+2] != 'u' {
					return nil, out, errSurrogate
				}
				if r = utf16.DecodeRune(r, hex4(inner[i+3:])); r == utf8.RuneError {
					return nil, out, errSurrogate
				}
				i += 6
			}
			out = utf8.AppendRune(out, r)
		default: // a quote, slash or backslash
			out = append(out, inner[i])
		}
	}
	return out, out, nil
}

func hex4(b []byte) (r rune) {
	for _, c := range b[:4] {
		switch {
		case c >= 'a':
			c -= 'a' - 10
		case c >= 'A':
			c -= 'A' - 10
		default:
			c -= '0'
		}
		r = r<<4 | rune(c)
	}
	return r
}
