package schemas

import (
	"fmt"
	"strings"
	"sync"

	"github.com/linkedin/goavro/v2"

	"github.com/tapecast/tapecast/schemas/internal/avsc"
)

// Bounds of one value. What exceeds them is an error, never a large allocation.
const (
	// MaxValueDepth bounds how deep the containers of a value may be nested.
	MaxValueDepth = 64
	// MaxJSON bounds the JSON that AppendJSON makes of one value, in bytes.
	MaxJSON = 4 << 20
	// MaxAvro bounds the Avro that AppendAvro makes of one value, in bytes.
	MaxAvro = 4 << 20
	// MaxSchema bounds the text of a schema, in bytes.
	MaxSchema = avsc.MaxText
)

// Codec is one compiled Avro schema. Safe for concurrent use; immutable.
type Codec struct {
	text   string
	root   *node
	amp    int // bytes of JSON that one byte of Avro may make, see nodes.amplification
	fields []Field
	bad    error // the first default that does not fit
}

// Field describes a field of a record schema.
type Field struct {
	Name     string
	Type     string // of the value, without null: "double", "long", "tapecast.Side", "union", ...
	Logical  string // "timestamp-micros", "decimal", ...; "" = none
	Nullable bool
	Default  bool // may be left out
}

// goavroLock serialises goavro's compiler, which keeps a global table.
var goavroLock sync.Mutex

func init() {
	// goavro reserves memory for what a block count promises. Nothing here
	// decodes with it outside of tests; this holds for those who add it.
	goavro.MaxBlockCount = 65_536
}

// Compile parses and compiles a schema, refusing those that can amplify: items
// without a size in arrays and maps, records that contain themselves without
// end, more than 64 nested types, more than 2,000 fields, names of more than
// 255 bytes, more than 1 MiB of text. Recursion through a union, array or map
// is fine; values are bounded to MaxValueDepth.
//
// A default that does not fit its field is not an error here, because data
// can be read without it; see CheckDefaults.
func Compile(schema string) (*Codec, error) {
	s, err := avsc.Parse(schema)
	if err != nil {
		return nil, fmt.Errorf("compile schema: %w", err)
	}
	if err := secondOpinion(s.Canonical()); err != nil {
		return nil, fmt.Errorf("compile schema: %w", err)
	}
	text, err := avsc.Compact(schema)
	if err != nil {
		return nil, fmt.Errorf("compile schema: %w", err)
	}
	b := compiler{nodes: make(map[*avsc.Schema]*node), defaults: make(map[*node]int)}
	c := &Codec{text: text, root: b.node(s), amp: b.amplification()}
	c.bad = b.fillDefaults()
	c.fields = describeFields(s)
	return c, nil
}

// secondOpinion wants goavro to understand the schema too: it is the parser of
// record. It is given the canonical form, for which it has no false alarms.
func secondOpinion(canonical string) (err error) {
	goavroLock.Lock()
	defer goavroLock.Unlock()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("goavro: %v", r)
		}
	}()
	if _, err := goavro.NewCodec(canonical); err != nil {
		return fmt.Errorf("goavro: %w", err)
	}
	return nil
}

// Schema is the schema's text as it was given, without white space. Docs,
// defaults and logical types are still in it, so it can be registered.
func (c *Codec) Schema() string { return c.text }

// Fields lists the fields of a record schema in order; none for other schemas.
func (c *Codec) Fields() []Field { return append([]Field(nil), c.fields...) }

// CheckDefaults returns an error that names the first field whose default does
// not fit its type, as a registry wants it for a new schema.
func (c *Codec) CheckDefaults() error { return c.bad }

func describeFields(s *avsc.Schema) []Field {
	if s.Kind != avsc.Record {
		return nil
	}
	out := make([]Field, 0, len(s.Fields))
	for _, f := range s.Fields {
		t, nullable := withoutNull(f.Type)
		out = append(out, Field{
			Name: f.Name, Type: t.TypeName(), Logical: t.Logical.String(), Nullable: nullable, Default: f.Default != nil,
		})
	}
	return out
}

// withoutNull reduces ["null", X] to X.
func withoutNull(s *avsc.Schema) (t *avsc.Schema, nullable bool) {
	if s.Kind != avsc.Union {
		return s, s.Kind == avsc.Null
	}
	var rest []*avsc.Schema
	for _, b := range s.Branches {
		if b.Kind == avsc.Null {
			nullable = true
		} else {
			rest = append(rest, b)
		}
	}
	if len(rest) == 1 {
		return rest[0], nullable
	}
	return s, nullable
}

// ValueError says where a value does not fit its schema.
type ValueError struct {
	Path   string // e.g. "bid_size", "legs[2].px"; "" = the value itself
	Reason string // e.g. "is a string, want a double"
}

// Error is the path with the reason.
func (e *ValueError) Error() string {
	if e.Path == "" {
		return "the value " + e.Reason
	}
	return e.Path + ": " + e.Reason
}

// under puts a field or index in front of the path.
func (e *ValueError) under(step string) *ValueError {
	switch {
	case len(e.Path) > 512: // deep and long names: the outermost steps are cut
	case e.Path == "" || strings.HasPrefix(e.Path, "["):
		e.Path = step + e.Path
	default:
		e.Path = step + "." + e.Path
	}
	return e
}
