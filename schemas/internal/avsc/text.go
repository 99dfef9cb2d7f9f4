package avsc

import (
	"encoding/json"
	"sort"
	"strconv"
)

// Canonical is the schema's text with full names and without everything that
// does not change the layout of data: docs, defaults, aliases, logical types.
func (s *Schema) Canonical() string { return s.text(false) }

// Normal is the schema's text with everything it says, in one fixed order and
// with full names. Two texts of the same schema have the same normal form.
func (s *Schema) Normal() string { return s.text(true) }

func (s *Schema) text(full bool) string {
	w := textWriter{full: full, seen: make(map[*Schema]bool)}
	w.schema(s)
	return string(w.buf)
}

type textWriter struct {
	buf  []byte
	full bool
	seen map[*Schema]bool // named types that are written
}

func (w *textWriter) schema(s *Schema) {
	props := w.full && len(s.props) > 0
	switch {
	case s.Name != "" && w.seen[s]:
		w.str(s.Name)
	case s.Name != "":
		w.seen[s] = true
		w.namedType(s)
	case s.Kind == Union:
		w.list(len(s.Branches), func(i int) { w.schema(s.Branches[i]) })
	case s.Kind == Array || s.Kind == Map:
		w.raw(`{"type":`)
		w.str(s.Kind.String())
		w.raw(map[Kind]string{Array: `,"items":`, Map: `,"values":`}[s.Kind])
		w.schema(s.Elem)
		w.props(s.props)
		w.raw("}")
	case props:
		w.raw(`{"type":`)
		w.str(s.Kind.String())
		w.props(s.props)
		w.raw("}")
	default:
		w.str(s.Kind.String())
	}
}

func (w *textWriter) namedType(s *Schema) {
	w.raw(`{"name":`)
	w.str(s.Name)
	w.raw(`,"type":`)
	w.str(s.Kind.String())
	switch s.Kind {
	case Record:
		w.raw(`,"fields":`)
		w.list(len(s.Fields), func(i int) { w.field(&s.Fields[i]) })
	case Enum:
		w.raw(`,"symbols":`)
		w.list(len(s.Symbols), func(i int) { w.str(s.Symbols[i]) })
		if w.full && s.SymbolDefault != "" {
			w.raw(`,"default":`)
			w.str(s.SymbolDefault)
		}
	default: // fixed
		w.raw(`,"size":`)
		w.buf = strconv.AppendInt(w.buf, int64(s.Size), 10)
	}
	w.aliases(s.Aliases)
	w.props(s.props)
	w.raw("}")
}

func (w *textWriter) field(f *Field) {
	w.raw(`{"name":`)
	w.str(f.Name)
	w.raw(`,"type":`)
	w.schema(f.Type)
	if w.full && f.Default != nil {
		w.raw(`,"default":`)
		w.buf = append(w.buf, f.Default...)
	}
	w.aliases(f.Aliases)
	w.props(f.props)
	w.raw("}")
}

func (w *textWriter) aliases(list []string) {
	if w.full && len(list) > 0 {
		w.raw(`,"aliases":`)
		w.list(len(list), func(i int) { w.str(list[i]) })
	}
}

func (w *textWriter) props(m map[string]any) {
	if !w.full {
		return
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		w.raw(",")
		w.str(k)
		w.raw(":")
		v, err := json.Marshal(m[k])
		if err != nil { // cannot be: it came out of a JSON decoder
			v = []byte("null")
		}
		w.buf = append(w.buf, v...)
	}
}

func (w *textWriter) list(n int, item func(i int)) {
	w.raw("[")
	for i := range n {
		if i > 0 {
			w.raw(",")
		}
		item(i)
	}
	w.raw("]")
}

func (w *textWriter) raw(s string) { w.buf = append(w.buf, s...) }

func (w *textWriter) str(s string) {
	b, err := json.Marshal(s)
	if err != nil { // cannot be: every string has a JSON form
		return
	}
	w.buf = append(w.buf, b...)
}
