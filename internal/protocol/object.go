package protocol

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/tapecast/tapecast/internal/jsontext"
)

// fields of a JSON object, not yet looked into. They alias its text.
type fields map[string]json.RawMessage

func (f fields) str(name string) (string, bool) { return stringOf(f[name]) }

// parseObject splits one JSON object into its fields. Doubled fields are
// refused: two parsers may disagree on which one counts.
func parseObject(text []byte) (fields, *Error) {
	if jsontext.TooDeep(text, MaxDepth) {
		return nil, &Error{Code: CodeBadJSON, Message: fmt.Sprintf("nested deeper than %d", MaxDepth)}
	}
	if f, ok := split(text); ok {
		return f, nil
	}
	return decodeObject(text)
}

// split is decodeObject for what is well-formed, several times as fast: ten
// thousand clients that come back at once have their commands parsed by a core.
// False: that has to say what is wrong.
func split(text []byte) (fields, bool) {
	if !utf8.Valid(text) || !json.Valid(text) {
		return nil, false
	}
	rest := space(text)
	if rest[0] != '{' {
		return nil, false
	}
	f := make(fields, 8)
	for rest = space(rest[1:]); rest[0] != '}'; {
		if rest[0] == ',' {
			rest = space(rest[1:])
		}
		n := jsontext.StringEnd(rest, 0)
		name, ok := stringOf(rest[:n])
		rest = space(space(rest[n:])[1:]) // the colon
		n = valueEnd(rest)
		if _, double := f[name]; double || !ok {
			return nil, false
		}
		f[name] = rest[:n:n]
		rest = space(rest[n:])
	}
	return f, true
}

// space skips white space of well-formed JSON that goes on behind it.
func space(b []byte) []byte { return b[jsontext.SkipSpace(b, 0):] }

// valueEnd tells where the value ends that well-formed JSON begins with, in an
// object.
func valueEnd(b []byte) int {
	depth := 0
	for i := 0; ; i++ {
		switch b[i] {
		case '"':
			i = jsontext.StringEnd(b, i) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth < 0 {
				return i
			}
		case ',', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return i
			}
		}
	}
}

// decodeObject is parseObject for any text.
func decodeObject(text []byte) (fields, *Error) {
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, syntaxError(err, "a command is one JSON object")
	}
	f := fields{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, syntaxError(err, "not JSON")
		}
		name, _ := t.(string)
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, syntaxError(err, "not JSON")
		}
		if _, double := f[name]; double {
			return nil, &Error{Code: CodeBadJSON, Message: "a field is there twice"}
		}
		f[name] = raw
	}
	if _, err := d.Token(); err != nil {
		return nil, syntaxError(err, "not JSON")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, &Error{Code: CodeBadJSON, Message: "more than one JSON object"}
	}
	return f, nil
}

func syntaxError(err error, message string) *Error {
	var s *json.SyntaxError
	switch {
	case errors.As(err, &s):
		message = fmt.Sprintf("not JSON at byte %d", s.Offset)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		message = "not JSON: it ends too early"
	}
	return &Error{Code: CodeBadJSON, Message: message}
}

func stringOf(raw json.RawMessage) (string, bool) {
	if !isKind(raw, '"') {
		return "", false
	}
	if s, ok := plain(raw); ok {
		return s, true
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return "", false
	}
	return s, true
}

// plain takes a string that stands for itself.
func plain(raw []byte) (string, bool) {
	n := len(raw) - 1
	if n < 1 || raw[n] != '"' {
		return "", false
	}
	for _, c := range raw[1:n] {
		if c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return "", false
		}
	}
	return string(raw[1:n]), true
}
