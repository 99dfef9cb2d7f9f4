package ingest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/tapecast/tapecast/internal/jsontext"
	"github.com/tapecast/tapecast/schemas"
)

// maxDepth bounds the nesting of a request: more than any schema that
// schemas.Compile accepts, and nothing to a stack.
const maxDepth = schemas.MaxValueDepth

var (
	errNotUTF8   = errors.New("is not valid UTF-8")
	errTooDeep   = fmt.Errorf("is nested deeper than %d", maxDepth)
	errSurrogate = errors.New(`has half a surrogate pair (\ud800 to \udfff) in a string`)
	errEmpty     = errors.New("is empty")
)

// checkText tells whether b is one JSON text that the functions below may
// walk: valid UTF-8, valid syntax, bounded depth, whole surrogate pairs (half
// ones would become one and the same replacement character, and two keys one).
func checkText(b []byte) error {
	if bytes.IndexByte(b, '\\') < 0 && schemas.ValidJSON(b) {
		return nil // nearly all
	}
	return checkSlowly(b)
}

// checkSlowly also says what is wrong.
func checkSlowly(b []byte) error {
	if !utf8.Valid(b) {
		return errNotUTF8
	}
	if jsontext.SkipSpace(b, 0) == len(b) {
		return errEmpty
	}
	depth, inString := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			inString = !inString
		case inString && c == '\\':
			n, ok := escapeLen(b[i:])
			if !ok {
				return errSurrogate
			}
			i += n - 1
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return errTooDeep
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	if json.Valid(b) {
		return nil
	}
	var raw json.RawMessage
	err := json.Unmarshal(b, &raw)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("is not JSON: %s at byte %d", syntax.Error(), syntax.Offset)
	}
	return errors.New("is not JSON")
}

// escapeLen is the length of the escape sequence (both halves of a surrogate
// pair) that b begins with; false = half a pair. What is no valid escape is
// left to the syntax check.
func escapeLen(b []byte) (int, bool) {
	r, ok := hex4(b)
	switch {
	case !ok:
		return min(2, len(b)), true
	case r >= 0xd800 && r < 0xdc00:
		low, ok := hex4(b[6:])
		return 12, ok && low >= 0xdc00 && low < 0xe000
	case r >= 0xdc00 && r < 0xe000:
		return 6, false
	}
	return 6, true
}

// hex4 reads an escape of four hexadecimal digits, \u20ac, at the beginning of b.
func hex4(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range b[2:6] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// The walk. All below holds for text that checkText accepted, and only there.

// skipString returns the index after the string that begins at i.
func skipString(b []byte, i int) int {
	if end := jsontext.StringEnd(b, i); end >= 0 {
		return end
	}
	return len(b)
}

// skipValue returns the index after the value that begins at i.
func skipValue(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			i = skipString(b, i)
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		case ',', ':', ' ', '\t', '\n', '\r':
			i++
		default:
			for i < len(b) && !endsLiteral(b[i]) {
				i++
			}
		}
		if depth == 0 {
			return i
		}
	}
	return len(b)
}

func endsLiteral(c byte) bool {
	switch c {
	case ',', ']', '}':
		return true
	}
	return jsontext.IsSpace(c)
}

// walkObject calls field for each member of the object that raw is. Raw is
// trimmed, as are the values it hands on.
func walkObject(raw []byte, field func(name, raw []byte)) {
	i := jsontext.SkipSpace(raw, 1)
	for i < len(raw) && raw[i] != '}' {
		end := skipString(raw, i)
		name := unquote(raw[i:end])
		i = jsontext.SkipSpace(raw, jsontext.SkipSpace(raw, end)+1) // the colon
		end = skipValue(raw, i)
		field(name, raw[i:end])
		i = jsontext.SkipSpace(raw, end)
		if i < len(raw) && raw[i] == ',' {
			i = jsontext.SkipSpace(raw, i+1)
		}
	}
}

// walkArray calls item for each element of the array that raw is, until it
// returns false.
func walkArray(raw []byte, item func(raw []byte) bool) {
	i := jsontext.SkipSpace(raw, 1)
	for i < len(raw) && raw[i] != ']' {
		end := skipValue(raw, i)
		if !item(raw[i:end]) {
			return
		}
		i = jsontext.SkipSpace(raw, end)
		if i < len(raw) && raw[i] == ',' {
			i = jsontext.SkipSpace(raw, i+1)
		}
	}
}

// unquote returns the bytes of a JSON string; without escapes they alias raw.
func unquote(raw []byte) []byte {
	for _, c := range raw {
		if c == '\\' {
			var s string
			_ = json.Unmarshal(raw, &s) // raw was checked
			return []byte(s)
		}
	}
	return raw[1 : len(raw)-1 : len(raw)-1]
}

// trim cuts the white space around a text.
func trim(b []byte) []byte {
	i, end := jsontext.SkipSpace(b, 0), len(b)
	for end > i && jsontext.IsSpace(b[end-1]) {
		end--
	}
	return b[i:end]
}

// kindOf names the kind of a trimmed value, with its article.
func kindOf(raw []byte) string {
	switch raw[0] {
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

func isNull(raw []byte) bool { return raw[0] == 'n' }
