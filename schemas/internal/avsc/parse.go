package avsc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// Parse reads a schema's text. It refuses what the specification forbids, what
// exceeds the bounds, and what could make little data cost much: items of no
// size in arrays and maps, and records that contain themselves without end.
func Parse(text string) (*Schema, error) {
	if len(text) > MaxText {
		return nil, fmt.Errorf("schema text of %d bytes, at most %d are allowed", len(text), MaxText)
	}
	v, err := decode(text)
	if err != nil {
		return nil, err
	}
	p := parser{names: make(map[string]*Schema)}
	s, err := p.schema(v, "", 1)
	if err != nil {
		return nil, err
	}
	return s, p.checkSizes(s)
}

func decode(text string) (any, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("schema is not JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("schema has text after its end")
	}
	return v, nil
}

type parser struct {
	names           map[string]*Schema
	fields, symbols int
	elems           []*Schema // arrays and maps, to be checked when all names are known
}

var primitives = map[string]Kind{
	"null": Null, "boolean": Boolean, "int": Int, "long": Long, "float": Float, "double": Double, "bytes": Bytes, "string": String,
}

func (p *parser) schema(v any, ns string, depth int) (*Schema, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("schema is nested more than %d deep", MaxDepth)
	}
	switch v := v.(type) {
	case string:
		return p.named(v, ns)
	case []any:
		return p.union(v, ns, depth)
	case map[string]any:
		return p.object(v, ns, depth)
	}
	return nil, fmt.Errorf("a schema is a string, an object or an array, not %s", describe(v))
}

// named finds a primitive or a type that was defined before.
func (p *parser) named(name, ns string) (*Schema, error) {
	if k, ok := primitives[name]; ok {
		return &Schema{Kind: k}, nil
	}
	if ns != "" && !strings.Contains(name, ".") {
		if s, ok := p.names[ns+"."+name]; ok {
			return s, nil
		}
	}
	if s, ok := p.names[name]; ok {
		return s, nil
	}
	return nil, fmt.Errorf("unknown type %s", quote(name))
}

func (p *parser) union(list []any, ns string, depth int) (*Schema, error) {
	s := &Schema{Kind: Union}
	if len(list) == 0 {
		return nil, errors.New("union without types")
	}
	seen := make(map[string]bool, len(list))
	for i, v := range list {
		b, err := p.schema(v, ns, depth+1)
		if err != nil {
			return nil, fmt.Errorf("union type %d: %w", i, err)
		}
		if b.Kind == Union {
			return nil, errors.New("union directly inside a union")
		}
		if seen[b.TypeName()] {
			return nil, fmt.Errorf("union holds %s twice", b.TypeName())
		}
		seen[b.TypeName()] = true
		s.Branches = append(s.Branches, b)
	}
	return s, nil
}

func (p *parser) object(m map[string]any, ns string, depth int) (*Schema, error) {
	t, ok := m["type"].(string)
	if !ok {
		switch inner := m["type"].(type) {
		case map[string]any, []any: // {"type": {...}} says the same as its inside
			return p.schema(inner, ns, depth+1)
		}
		return nil, errors.New("schema object without a type")
	}
	var s *Schema
	var err error
	switch t {
	case "record", "error":
		s, err = p.record(m, ns, depth)
	case "enum":
		s, err = p.enum(m, ns)
	case "fixed":
		s, err = p.fixed(m, ns)
	case "array":
		s, err = p.container(Array, "items", m, ns, depth)
	case "map":
		s, err = p.container(Map, "values", m, ns, depth)
	default:
		s, err = p.named(t, ns)
		if err == nil && s.Name != "" {
			return s, nil // a reference; its definition holds the attributes
		}
	}
	if err != nil {
		return nil, err
	}
	s.props = rest(m, "type", "name", "namespace", "fields", "symbols", "default", "items", "values", "size", "aliases")
	s.setLogical()
	return s, nil
}

// define takes the name of a record, enum or fixed, and returns its namespace.
func (p *parser) define(kind Kind, m map[string]any, ns string) (*Schema, string, error) {
	name, ok := m["name"].(string)
	if !ok {
		return nil, "", fmt.Errorf("%s without a name", kind)
	}
	if v, ok := m["namespace"]; ok {
		if ns, ok = v.(string); !ok {
			return nil, "", fmt.Errorf("namespace of %s is %s, want a string", quote(name), describe(v))
		}
	}
	full, ns := fullName(name, ns)
	if err := checkName(full); err != nil {
		return nil, "", fmt.Errorf("%s: %w", kind, err)
	}
	if reserved(full) {
		return nil, "", fmt.Errorf("%s is a name of Avro's own", quote(full))
	}
	if p.names[full] != nil {
		return nil, "", fmt.Errorf("%s is defined twice", quote(full))
	}
	s := &Schema{Kind: kind, Name: full}
	aliases, err := stringList(m["aliases"], "aliases")
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", full, err)
	}
	for _, a := range aliases {
		a, _ = fullName(a, ns)
		s.Aliases = append(s.Aliases, a)
	}
	p.names[full] = s
	return s, ns, nil
}

func fullName(name, ns string) (full, namespace string) {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		return name, name[:i]
	}
	if ns == "" {
		return name, ""
	}
	return ns + "." + name, ns
}

func reserved(name string) bool {
	switch name {
	case "record", "error", "enum", "fixed", "array", "map", "union":
		return true
	}
	_, ok := primitives[name]
	return ok
}

func (p *parser) record(m map[string]any, ns string, depth int) (*Schema, error) {
	s, ns, err := p.define(Record, m, ns)
	if err != nil {
		return nil, err
	}
	list, ok := m["fields"].([]any)
	if !ok {
		return nil, fmt.Errorf("record %s without fields", s.Name)
	}
	seen := make(map[string]bool, min(len(list), MaxFields))
	for i, v := range list {
		if p.fields++; p.fields > MaxFields {
			return nil, fmt.Errorf("schema with more than %d fields", MaxFields)
		}
		fm, ok := v.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("record %s: field %d is %s, want an object", s.Name, i, describe(v))
		}
		f, err := p.field(fm, ns, depth)
		if err != nil {
			return nil, fmt.Errorf("record %s: field %d: %w", s.Name, i, err)
		}
		if seen[f.Name] {
			return nil, fmt.Errorf("record %s holds the field %s twice", s.Name, f.Name)
		}
		seen[f.Name] = true
		s.Fields = append(s.Fields, f)
	}
	return s, nil
}

func (p *parser) field(m map[string]any, ns string, depth int) (Field, error) {
	f := Field{}
	name, ok := m["name"].(string)
	if !ok {
		return f, errors.New("no name")
	}
	if err := checkPart(name); err != nil {
		return f, err
	}
	f.Name = name
	t, ok := m["type"]
	if !ok {
		return f, fmt.Errorf("%s has no type", name)
	}
	var err error
	if f.Type, err = p.schema(t, ns, depth+1); err != nil {
		return f, fmt.Errorf("%s: %w", name, err)
	}
	if f.Aliases, err = stringList(m["aliases"], "aliases"); err != nil {
		return f, fmt.Errorf("%s: %w", name, err)
	}
	if v, ok := m["default"]; ok {
		if f.Default, err = json.Marshal(v); err != nil {
			return f, fmt.Errorf("%s: default: %w", name, err)
		}
	}
	f.props = rest(m, "type", "name", "aliases", "default")
	return f, nil
}

func (p *parser) enum(m map[string]any, ns string) (*Schema, error) {
	s, _, err := p.define(Enum, m, ns)
	if err != nil {
		return nil, err
	}
	if s.Symbols, err = stringList(m["symbols"], "symbols"); err != nil {
		return nil, fmt.Errorf("enum %s: %w", s.Name, err)
	}
	if len(s.Symbols) == 0 {
		return nil, fmt.Errorf("enum %s without symbols", s.Name)
	}
	if p.symbols += len(s.Symbols); p.symbols > MaxSymbols {
		return nil, fmt.Errorf("schema with more than %d enum symbols", MaxSymbols)
	}
	seen := make(map[string]bool, len(s.Symbols))
	for _, sym := range s.Symbols {
		if err := checkPart(sym); err != nil {
			return nil, fmt.Errorf("enum %s: symbol: %w", s.Name, err)
		}
		if seen[sym] {
			return nil, fmt.Errorf("enum %s holds the symbol %s twice", s.Name, sym)
		}
		seen[sym] = true
	}
	if v, ok := m["default"]; ok {
		d, _ := v.(string)
		if !seen[d] {
			return nil, fmt.Errorf("enum %s: the default is not one of its symbols", s.Name)
		}
		s.SymbolDefault = d
	}
	return s, nil
}

func (p *parser) fixed(m map[string]any, ns string) (*Schema, error) {
	s, _, err := p.define(Fixed, m, ns)
	if err != nil {
		return nil, err
	}
	size, ok := integer(m["size"])
	if !ok || size < 1 || size > MaxFixed {
		return nil, fmt.Errorf("fixed %s: the size must be a number from 1 to %d", s.Name, MaxFixed)
	}
	s.Size = size
	return s, nil
}

func (p *parser) container(kind Kind, attr string, m map[string]any, ns string, depth int) (*Schema, error) {
	v, ok := m[attr]
	if !ok {
		return nil, fmt.Errorf("%s without %s", kind, attr)
	}
	elem, err := p.schema(v, ns, depth+1)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	s := &Schema{Kind: kind, Elem: elem}
	p.elems = append(p.elems, s)
	return s, nil
}

// checkSizes refuses items of no size, which a block count could multiply, and
// records that no data could ever end.
func (p *parser) checkSizes(root *Schema) error {
	z := sizes{zero: make(map[*Schema]bool), open: make(map[*Schema]bool)}
	for _, s := range p.elems {
		zero, err := z.isZero(s.Elem)
		if err != nil {
			return err
		}
		if zero {
			return fmt.Errorf("%s of items without a size (%s)", s.Kind, s.Elem.TypeName())
		}
	}
	for _, s := range p.names {
		if _, err := z.isZero(s); err != nil {
			return err
		}
	}
	_, err := z.isZero(root)
	return err
}

type sizes struct {
	zero map[*Schema]bool // records that are known
	open map[*Schema]bool // records being looked at
}

func (z *sizes) isZero(s *Schema) (bool, error) {
	if s.Kind != Record {
		return s.Kind == Null, nil
	}
	if zero, ok := z.zero[s]; ok {
		return zero, nil
	}
	if z.open[s] {
		return false, fmt.Errorf("record %s contains itself without end", s.Name)
	}
	z.open[s] = true
	zero := true
	for _, f := range s.Fields {
		fz, err := z.isZero(f.Type)
		if err != nil {
			return false, err
		}
		zero = zero && fz
	}
	delete(z.open, s)
	z.zero[s] = zero
	return zero, nil
}

func checkName(full string) error {
	if len(full) > MaxName {
		return fmt.Errorf("name of %d bytes, at most %d are allowed", len(full), MaxName)
	}
	for part := range strings.SplitSeq(full, ".") {
		if err := checkPart(part); err != nil {
			return err
		}
	}
	return nil
}

func checkPart(s string) error {
	if len(s) > MaxName {
		return fmt.Errorf("name of %d bytes, at most %d are allowed", len(s), MaxName)
	}
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return fmt.Errorf("%s is not a name", quote(s))
		}
	}
	if s == "" {
		return errors.New("empty name")
	}
	return nil
}

func stringList(v any, what string) ([]string, error) {
	if v == nil {
		return nil, nil
	}
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("%s are %s, want a list of strings", what, describe(v))
	}
	out := make([]string, 0, len(list))
	for _, e := range list {
		s, ok := e.(string)
		if !ok {
			return nil, fmt.Errorf("%s hold %s, want strings", what, describe(e))
		}
		out = append(out, s)
	}
	return out, nil
}

// integer reads a whole number; sizes are sometimes written as strings.
func integer(v any) (int, bool) {
	var text string
	switch v := v.(type) {
	case json.Number:
		text = v.String()
	case string:
		text = v
	default:
		return 0, false
	}
	if n, err := strconv.ParseInt(text, 10, 32); err == nil {
		return int(n), true
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > math.MaxInt32 {
		return 0, false
	}
	return int(f), true
}

func rest(m map[string]any, known ...string) map[string]any {
	var out map[string]any
next:
	for k, v := range m {
		for _, n := range known {
			if k == n {
				continue next
			}
		}
		if out == nil {
			out = make(map[string]any)
		}
		out[k] = v
	}
	return out
}

func describe(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case json.Number:
		return "a number"
	case string:
		return "a string"
	case []any:
		return "an array"
	}
	return "an object"
}

// quote makes foreign text fit for an error message.
func quote(s string) string {
	if len(s) > 64 {
		s = s[:64] + "..."
	}
	return strconv.QuoteToASCII(s)
}

// Compact removes the white space of a schema's text.
func Compact(text string) (string, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(text)); err != nil {
		return "", fmt.Errorf("schema is not JSON: %w", err)
	}
	return b.String(), nil
}
