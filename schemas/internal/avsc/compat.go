package avsc

import (
	"fmt"
	"slices"
	"strings"
)

// Incompatibility is one reason why a reader cannot read a writer's data.
type Incompatibility struct {
	Path   string // fields from the top, "/" = the schema itself
	Reason string
}

// String is the path with the reason.
func (i Incompatibility) String() string { return i.Path + ": " + i.Reason }

const (
	maxReasons     = 20        // what one comparison reports
	maxComparisons = 1_000_000 // what it looks at; unions of like-named records could multiply
)

// CanRead checks by Avro's rules of schema resolution whether everything that
// writer wrote can be read with reader. No reason means yes.
func CanRead(reader, writer *Schema) []Incompatibility {
	c := resolution{seen: make(map[[2]*Schema]bool), work: new(int)}
	c.check(reader, writer, "")
	return c.reasons
}

type resolution struct {
	seen    map[[2]*Schema]bool // pairs being looked at or done; ends recursion
	work    *int                // comparisons so far, shared with what is tried aside
	reasons []Incompatibility
}

func (c *resolution) fail(path, format string, args ...any) {
	if len(c.reasons) < maxReasons {
		if path == "" {
			path = "/"
		}
		c.reasons = append(c.reasons, Incompatibility{path, fmt.Sprintf(format, args...)})
	}
}

func (c *resolution) check(r, w *Schema, path string) {
	if *c.work++; *c.work > maxComparisons {
		c.fail(path, "the schemas are too complex to be compared")
		return
	}
	switch {
	case w.Kind == Union:
		for _, b := range w.Branches {
			c.check(r, b, path)
		}
	case r.Kind == Union:
		c.anyBranch(r, w, path)
	case r.Kind != w.Kind:
		if !promotes(r.Kind, w.Kind) {
			c.fail(path, "a reader of %s cannot read %s", r.TypeName(), w.TypeName())
		}
	default:
		c.sameKind(r, w, path)
	}
}

// anyBranch wants one branch of the reader's union that reads the writer's type.
func (c *resolution) anyBranch(r, w *Schema, path string) {
	for _, b := range r.Branches {
		if len(c.try(b, w)) == 0 {
			return
		}
	}
	for _, b := range r.Branches { // the one that was meant gives the better reason
		if b.Kind == w.Kind && b.Name != "" && shortName(b.Name) == shortName(w.Name) {
			c.check(b, w, path)
			return
		}
	}
	c.fail(path, "the reader's union has no type that reads %s", w.TypeName())
}

// try compares aside: a failed branch must leave nothing behind. Pairs that
// are open further up count as readable, which is what ends recursion.
func (c *resolution) try(r, w *Schema) []Incompatibility {
	t := resolution{seen: make(map[[2]*Schema]bool, len(c.seen)), work: c.work}
	*c.work += len(c.seen)
	for k := range c.seen {
		t.seen[k] = true
	}
	t.check(r, w, "")
	return t.reasons
}

func promotes(r, w Kind) bool {
	switch w {
	case Int:
		return r == Long || r == Float || r == Double
	case Long:
		return r == Float || r == Double
	case Float:
		return r == Double
	case String:
		return r == Bytes
	case Bytes:
		return r == String
	}
	return false
}

func (c *resolution) sameKind(r, w *Schema, path string) {
	if r.Logical == Decimal && w.Logical == Decimal && (r.Scale != w.Scale || r.Precision != w.Precision) {
		c.fail(path, "decimal(%d,%d) is not decimal(%d,%d)", r.Precision, r.Scale, w.Precision, w.Scale)
	}
	switch r.Kind {
	case Array, Map:
		c.check(r.Elem, w.Elem, path+"/"+map[Kind]string{Array: "items", Map: "values"}[r.Kind])
	case Enum:
		c.enum(r, w, path)
	case Fixed:
		if c.names(r, w, path) && r.Size != w.Size {
			c.fail(path, "fixed of %d bytes, the writer's has %d", r.Size, w.Size)
		}
	case Record:
		pair := [2]*Schema{r, w}
		if !c.seen[pair] {
			c.seen[pair] = true
			c.record(r, w, path)
		}
	}
}

func shortName(full string) string { return full[strings.LastIndexByte(full, '.')+1:] }

func (c *resolution) names(r, w *Schema, path string) bool {
	if shortName(r.Name) == shortName(w.Name) || slices.Contains(r.Aliases, w.Name) {
		return true
	}
	c.fail(path, "expected the name %s, the writer has %s", r.Name, w.Name)
	return false
}

func (c *resolution) enum(r, w *Schema, path string) {
	if !c.names(r, w, path) || r.SymbolDefault != "" {
		return
	}
	for _, sym := range w.Symbols {
		if !slices.Contains(r.Symbols, sym) {
			c.fail(path, "the reader's enum lacks the symbol %s and has no default", sym)
		}
	}
}

func (c *resolution) record(r, w *Schema, path string) {
	if !c.names(r, w, path) {
		return
	}
	for i := range r.Fields {
		rf := &r.Fields[i]
		wf := w.fieldFor(rf)
		at := path + "/" + rf.Name
		switch {
		case wf != nil:
			c.check(rf.Type, wf.Type, at)
		case rf.Default == nil:
			c.fail(at, "the reader's field has no default and is missing in the writer's record")
		}
	}
}

// fieldFor finds the field a reader's field is filled from.
func (s *Schema) fieldFor(rf *Field) *Field {
	for i := range s.Fields {
		if s.Fields[i].Name == rf.Name {
			return &s.Fields[i]
		}
	}
	for i := range s.Fields {
		if slices.Contains(rf.Aliases, s.Fields[i].Name) {
			return &s.Fields[i]
		}
	}
	return nil
}
