package schemas

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/tapecast/tapecast/internal/jsontext"
)

// Decoder turns the values of one feed into JSON by the feed's format:
//
//	"avro" or ""  Confluent's wire format, schemas from the registry
//	"json"        JSON as it is, without white space, nested 64 deep at most; invalid UTF-8 becomes U+FFFD
//	"string"      a JSON string
//	"bytes"       a JSON string in base64
//	"avro:FILE"   Avro without a header, by the schema in FILE
//
// Safe for concurrent use.
type Decoder struct {
	format   string
	registry *Registry
	codec    *Codec // of "avro:FILE"
}

// PoisonError says why a record can never be read.
type PoisonError struct{ Reason string }

// Error is the reason.
func (e *PoisonError) Error() string { return "undecodable record: " + e.Reason }

// NewDecoder makes the decoder of a format. registry may be nil for formats
// that need none. For "avro:FILE" the file is read here, once.
func NewDecoder(format string, registry *Registry) (*Decoder, error) {
	d := &Decoder{format: format, registry: registry}
	file, fixed := strings.CutPrefix(format, "avro:")
	switch {
	case fixed:
		codec, err := compileFile(file)
		if err != nil {
			return nil, fmt.Errorf("format %q: %w", format, err)
		}
		d.codec, d.format = codec, "avro:"
	case format == "" || format == "avro":
		if registry == nil {
			return nil, errors.New("format avro: needs a schema registry")
		}
		d.format = "avro"
	case format == "json", format == "string", format == "bytes":
	default:
		return nil, fmt.Errorf("unknown format %q: want avro, json, string, bytes or avro:FILE", format)
	}
	return d, nil
}

func compileFile(name string) (*Codec, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxSchema+1))
	if err != nil {
		return nil, err
	}
	return Compile(string(b))
}

// AppendJSON appends the JSON of a record's value; nil value (tombstone) gives
// null. Errors: *PoisonError (the record can never be read), or a transient
// error (registry away and the id not known): ask again later. After an error
// dst has its old length.
func (d *Decoder) AppendJSON(ctx context.Context, dst, value []byte) ([]byte, error) {
	if value == nil {
		return append(dst, "null"...), nil
	}
	var out []byte
	var err error
	switch d.format {
	case "avro":
		return d.wire(ctx, dst, value)
	case "avro:":
		out, err = d.codec.AppendJSON(dst, value)
	case "json":
		out, err = appendCompact(dst, value)
	case "string":
		out = appendString(dst, value)
	default: // bytes
		out = append(base64.StdEncoding.AppendEncode(append(dst, '"'), value), '"')
	}
	if err == nil && len(out)-len(dst) > MaxJSON {
		err = errTooBig
	}
	if err != nil {
		return dst, &PoisonError{Reason: err.Error()}
	}
	return out, nil
}

func (d *Decoder) wire(ctx context.Context, dst, value []byte) ([]byte, error) {
	id, body, ok := SplitWire(value)
	if !ok {
		return dst, &PoisonError{Reason: "not in Confluent's wire format"}
	}
	codec, ok := d.registry.Cached(id)
	if !ok {
		var err error
		if codec, err = d.registry.Codec(ctx, id); err != nil {
			if Transient(err) {
				return dst, err
			}
			return dst, &PoisonError{Reason: err.Error()}
		}
	}
	out, err := codec.AppendJSON(dst, body)
	if err != nil {
		return dst, &PoisonError{Reason: fmt.Sprintf("schema %d: %v", id, err)}
	}
	return out, nil
}

// appendCompact appends JSON without white space and with valid UTF-8 only: a
// text frame with anything else would cost the client its connection.
func appendCompact(dst, value []byte) ([]byte, error) {
	if len(value) > MaxJSON {
		return dst, errTooBig
	}
	validUTF8, err := checkJSON(value)
	if err != nil {
		return dst, fmt.Errorf("not JSON: %w", err)
	}
	for i := 0; i < len(value); {
		switch c := value[i]; {
		case c == '"':
			end := jsontext.StringEnd(value, i)
			if validUTF8 {
				dst = append(dst, value[i:end]...)
			} else {
				dst = appendRepaired(dst, value[i:end])
			}
			i = end
			continue
		case !jsontext.IsSpace(c):
			dst = append(dst, c)
		}
		i++
	}
	return dst, nil
}

func appendRepaired(dst, s []byte) []byte {
	for len(s) > 0 {
		r, size := utf8.DecodeRune(s)
		dst = utf8.AppendRune(dst, r)
		s = s[size:]
	}
	return dst
}
