// Package avsc reads Avro schemas: a strict parser with bounds, a normal form
// that tells whether two schemas are the same one, and the rules by which data
// of one schema can be read with another. It knows nothing of values.
package avsc

import "encoding/json"

// Bounds of a schema. They keep a schema that somebody else wrote from costing
// more than its own text.
const (
	MaxText      = 1 << 20 // bytes of schema text
	MaxDepth     = 64      // nested types in the text
	MaxFields    = 2_000   // fields of all records together
	MaxName      = 255     // bytes of a name with its namespace
	MaxSymbols   = 10_000  // symbols of all enums together
	MaxFixed     = 1 << 20 // bytes of a fixed
	MaxPrecision = 1_000   // digits of a decimal
)

// Kind is the kind of a schema.
type Kind uint8

// The kinds, primitive ones first.
const (
	Null Kind = iota
	Boolean
	Int
	Long
	Float
	Double
	Bytes
	String
	Record
	Enum
	Fixed
	Array
	Map
	Union
)

var kindNames = [...]string{
	"null", "boolean", "int", "long", "float", "double", "bytes", "string",
	"record", "enum", "fixed", "array", "map", "union",
}

// String is Avro's name of the kind.
func (k Kind) String() string { return kindNames[k] }

// Logical is a logical type that is known and fits its schema. One that is
// unknown or does not fit is None, as the specification asks.
type Logical uint8

// The logical types.
const (
	None Logical = iota
	Decimal
	Date
	TimeMillis
	TimeMicros
	TimestampMillis
	TimestampMicros
	TimestampNanos
	LocalTimestampMillis
	LocalTimestampMicros
	LocalTimestampNanos
	UUID
	Duration
)

var logicalNames = [...]string{
	"", "decimal", "date", "time-millis", "time-micros", "timestamp-millis", "timestamp-micros", "timestamp-nanos",
	"local-timestamp-millis", "local-timestamp-micros", "local-timestamp-nanos", "uuid", "duration",
}

// String is Avro's name of the logical type, empty for None.
func (l Logical) String() string { return logicalNames[l] }

// Schema is one type. Named types that are used again are the same pointer, so
// a recursive schema is a graph with circles.
type Schema struct {
	Kind          Kind
	Name          string   // full name of a record, enum or fixed
	Aliases       []string // full names
	Fields        []Field  // of a record
	Symbols       []string // of an enum
	SymbolDefault string   // of an enum: what a reader takes for a symbol it does not know; "" = none
	Size          int      // of a fixed, bytes
	Elem          *Schema  // of an array or map
	Branches      []*Schema

	Logical          Logical
	Precision, Scale int // of a decimal

	props map[string]any // everything that does not change the layout: doc, logicalType, ...
}

// Field of a record.
type Field struct {
	Name    string
	Aliases []string
	Type    *Schema
	Default json.RawMessage // nil = none

	props map[string]any
}

// TypeName is how a union's branch is called in Avro's JSON encoding.
func (s *Schema) TypeName() string {
	if s.Name != "" {
		return s.Name
	}
	return s.Kind.String()
}
