package publish

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// shape is what publishing needs to know of an Avro schema: which fields a
// record has, and how a CSV cell becomes JSON for each. The codec itself
// checks everything else.
type shape struct {
	record bool
	fields []field
	root   cellType // of a schema that is no record
}

type field struct {
	name string
	typ  cellType
}

// cellType says how a cell is written as JSON.
type cellType struct {
	kind     string     // an Avro type: "long", "string", "record", ...; "union"
	logical  string     // "timestamp-millis", ...
	branches []cellType // of a union
}

func parseShape(schema string) (*shape, error) {
	var raw any
	if err := json.Unmarshal([]byte(schema), &raw); err != nil {
		return nil, fmt.Errorf("read the schema: %w", err)
	}
	named := map[string]cellType{}
	s := &shape{root: typeOf(raw, named)}
	obj, ok := raw.(map[string]any)
	if !ok || s.root.kind != "record" {
		return s, nil
	}
	s.record = true
	fields, _ := obj["fields"].([]any)
	for _, f := range fields {
		m, _ := f.(map[string]any)
		name, _ := m["name"].(string)
		s.fields = append(s.fields, field{name, typeOf(m["type"], named)})
	}
	return s, nil
}

// typeOf reads a type, and notes named types so that later fields can refer to them.
func typeOf(raw any, named map[string]cellType) cellType {
	switch v := raw.(type) {
	case string:
		if t, ok := named[v]; ok {
			return t
		}
		return cellType{kind: v}
	case []any:
		u := cellType{kind: "union"}
		for _, b := range v {
			u.branches = append(u.branches, typeOf(b, named))
		}
		return u
	case map[string]any:
		return objectType(v, named)
	}
	return cellType{}
}

func objectType(v map[string]any, named map[string]cellType) cellType {
	if _, nested := v["type"].(string); !nested {
		return typeOf(v["type"], named)
	}
	kind := v["type"].(string)
	t := cellType{kind: kind}
	if known, ok := named[kind]; ok {
		t = known
	}
	t.logical, _ = v["logicalType"].(string)
	if name, _ := v["name"].(string); name != "" {
		namespace, _ := v["namespace"].(string)
		named[name] = t
		if namespace != "" {
			named[namespace+"."+name] = t
		}
	}
	if fields, ok := v["fields"].([]any); ok && kind == "record" {
		for _, f := range fields { // only for the names they define
			if m, ok := f.(map[string]any); ok {
				typeOf(m["type"], named)
			}
		}
	}
	return t
}

func (s *shape) field(name string) (field, bool) {
	for _, f := range s.fields {
		if f.name == name {
			return f, true
		}
	}
	return field{}, false
}

func (s *shape) names() []string {
	out := make([]string, len(s.fields))
	for i, f := range s.fields {
		out[i] = f.name
	}
	return out
}

// timestamp returns the unit of a timestamp type, nullable or not.
func (t cellType) timestamp() (unit, bool) {
	switch strings.TrimPrefix(t.logical, "local-") {
	case "timestamp-millis":
		return unitMillis, true
	case "timestamp-micros":
		return unitMicros, true
	case "timestamp-nanos":
		return unitNanos, true
	}
	for _, b := range t.branches {
		if u, ok := b.timestamp(); ok {
			return u, true
		}
	}
	return 0, false
}

// timeNames are the fields that --time fills when a row lacks them.
var timeNames = []string{"ts", "time", "timestamp"}

// timeFields lists the fields that --time fills.
func (s *shape) timeFields() []field {
	var out []field
	for _, f := range s.fields {
		if _, ok := f.typ.timestamp(); ok && slices.Contains(timeNames, strings.ToLower(f.name)) {
			out = append(out, f)
		}
	}
	return out
}

// appendCell writes one CSV cell as JSON.
func (t cellType) appendCell(dst []byte, cell string) ([]byte, error) {
	switch t.kind {
	case "null":
		if cell != "" && cell != "null" {
			return nil, fmt.Errorf("%q is not empty", cell)
		}
		return append(dst, "null"...), nil
	case "boolean":
		return appendBool(dst, cell)
	case "int":
		return appendInt(dst, cell, 32)
	case "long":
		return appendInt(dst, cell, 64)
	case "float", "double":
		return appendFloat(dst, cell)
	case "union":
		return t.appendUnion(dst, cell)
	case "record", "array", "map":
		if !json.Valid([]byte(cell)) {
			return nil, fmt.Errorf("%s is not JSON, as %s needs", quoteShort(cell), article(t.kind))
		}
		return append(dst, cell...), nil
	}
	return appendString(dst, cell) // string, enum, bytes, fixed, and decimals over them
}

func article(kind string) string {
	if kind == "array" {
		return "an array"
	}
	return "a " + kind
}

func quoteShort(s string) string {
	if len(s) > 60 {
		s = s[:60] + "..."
	}
	return strconv.Quote(s)
}

// appendUnion takes the first branch that the cell fits; an empty cell is null
// where null is allowed.
func (t cellType) appendUnion(dst []byte, cell string) ([]byte, error) {
	nullable := slices.ContainsFunc(t.branches, func(b cellType) bool { return b.kind == "null" })
	if cell == "" && nullable {
		return append(dst, "null"...), nil
	}
	var first error
	for _, b := range t.branches {
		if b.kind == "null" {
			continue
		}
		out, err := b.appendCell(dst, cell)
		if err == nil {
			return out, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

func appendBool(dst []byte, cell string) ([]byte, error) {
	switch strings.ToLower(cell) {
	case "true", "1":
		return append(dst, "true"...), nil
	case "false", "0":
		return append(dst, "false"...), nil
	}
	return nil, fmt.Errorf("%s is neither true nor false", quoteShort(cell))
}

func appendInt(dst []byte, cell string, bits int) ([]byte, error) {
	n, err := strconv.ParseInt(cell, 10, bits)
	if err != nil {
		return nil, fmt.Errorf("%s is not a whole number of %d bits", quoteShort(cell), bits)
	}
	return strconv.AppendInt(dst, n, 10), nil
}

func appendFloat(dst []byte, cell string) ([]byte, error) {
	f, err := strconv.ParseFloat(cell, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, fmt.Errorf("%s is not a number", quoteShort(cell))
	}
	if json.Valid([]byte(cell)) {
		return append(dst, cell...), nil // as it stands: every digit the file has
	}
	return strconv.AppendFloat(dst, f, 'g', -1, 64), nil // .5, +1, 1.
}

func appendString(dst []byte, s string) ([]byte, error) {
	if !utf8.ValidString(s) {
		return nil, fmt.Errorf("%s is not UTF-8", quoteShort(s))
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return append(dst, text...), nil
}
