package schemas

import (
	"fmt"

	"github.com/tapecast/tapecast/schemas/internal/avsc"
)

// op is what the transcoders do at a node.
type op uint8

const (
	opNull op = iota
	opBool
	opInt
	opLong
	opFloat
	opDouble
	opBytes
	opString
	opEnum
	opFixed
	opArray
	opMap
	opUnion
	opRecord
	opDecimal      // of bytes
	opDecimalFixed // of a fixed
	opDate
	opUUIDFixed
	opDuration
)

// node is one type, compiled for the transcoders. Immutable after Compile.
type node struct {
	op          op
	name        string // as a union's branch is called
	want        string // for errors: "a double"
	size        int    // of a fixed
	prec, scale int
	texts       []string // of an enum: the symbols, quoted for JSON
	elem        *node
	branches    []*node
	fields      []field
	index       map[string]int // fields or symbols by name
}

type field struct {
	name string
	key  string // ready to write: `"name":`
	node *node

	json   []byte // the default as the schema has it; nil = none
	def    []byte // the default in Avro, if hasDef
	hasDef bool
	defErr string // why there is no def although there is json
}

var ops = map[avsc.Kind]op{
	avsc.Null: opNull, avsc.Boolean: opBool, avsc.Int: opInt, avsc.Long: opLong, avsc.Float: opFloat, avsc.Double: opDouble,
	avsc.Bytes: opBytes, avsc.String: opString, avsc.Record: opRecord, avsc.Enum: opEnum, avsc.Fixed: opFixed,
	avsc.Array: opArray, avsc.Map: opMap, avsc.Union: opUnion,
}

type compiler struct {
	nodes    map[*avsc.Schema]*node
	records  []*node       // in the order of the schema
	defaults map[*node]int // records whose defaults are being encoded (1) or are (2)
	longest  int           // the longest text that one byte can stand for
	bad      error         // the first default that does not fit
}

func (b *compiler) node(s *avsc.Schema) *node {
	if n, ok := b.nodes[s]; ok {
		return n
	}
	n := &node{op: ops[s.Kind], name: s.TypeName(), size: s.Size, prec: s.Precision, scale: s.Scale}
	b.nodes[s] = n
	switch s.Logical {
	case avsc.Decimal:
		n.op = opDecimal
		if s.Kind == avsc.Fixed {
			n.op = opDecimalFixed
		}
	case avsc.Date:
		n.op = opDate
	case avsc.Duration:
		n.op = opDuration
	case avsc.UUID:
		if s.Kind == avsc.Fixed {
			n.op = opUUIDFixed
		}
	}
	n.want = wanted(n, s)
	switch s.Kind {
	case avsc.Array, avsc.Map:
		n.elem = b.node(s.Elem)
	case avsc.Union:
		for _, branch := range s.Branches {
			n.branches = append(n.branches, b.node(branch))
		}
	case avsc.Enum:
		b.enum(n, s)
	case avsc.Record:
		b.record(n, s)
	}
	return n
}

func (b *compiler) enum(n *node, s *avsc.Schema) {
	n.index = make(map[string]int, len(s.Symbols))
	for i, sym := range s.Symbols {
		n.index[sym] = i
		n.texts = append(n.texts, `"`+sym+`"`)
		b.longest = max(b.longest, len(sym)+2)
	}
}

func (b *compiler) record(n *node, s *avsc.Schema) {
	b.records = append(b.records, n)
	n.index = make(map[string]int, len(s.Fields))
	n.fields = make([]field, len(s.Fields))
	for i, f := range s.Fields {
		n.index[f.Name] = i
		n.fields[i] = field{name: f.Name, key: `"` + f.Name + `":`, node: b.node(f.Type), json: f.Default}
		b.longest = max(b.longest, len(f.Name)+3)
	}
}

// amplification is how many bytes of JSON one byte of Avro may become: a
// field's name with the longest symbol, and some room. Only records full of
// nulls without a union, which say nothing, can exceed it.
func (b *compiler) amplification() int { return max(64, 2*b.longest+32) }

func wanted(n *node, s *avsc.Schema) string {
	switch n.op {
	case opNull:
		return "null"
	case opInt:
		return "an int"
	case opArray:
		return "an array"
	case opDecimal, opDecimalFixed:
		return fmt.Sprintf("a decimal(%d,%d)", n.prec, n.scale)
	case opDate:
		return "a date"
	case opUUIDFixed:
		return "a uuid"
	case opDuration:
		return "a duration"
	case opBytes:
		return "bytes"
	case opEnum, opFixed, opRecord:
		return s.Kind.String() + " " + s.Name
	}
	return "a " + s.Kind.String()
}

// fillDefaults encodes the defaults of all records; the error is the first
// that does not fit.
func (b *compiler) fillDefaults() error {
	for _, n := range b.records {
		b.recordDefaults(n)
	}
	return b.bad
}

const (
	defaultsOpen = 1
	defaultsDone = 2
)

func (b *compiler) recordDefaults(n *node) {
	if b.defaults[n] != 0 {
		return
	}
	b.defaults[n] = defaultsOpen
	for i := range n.fields {
		f := &n.fields[i]
		if f.json == nil {
			continue
		}
		e := encoder{form: formDefault, before: b.beforeDefault}
		def, err := e.encode(nil, f.json, f.node)
		if err == nil {
			f.def, f.hasDef = def, true
			continue
		}
		f.defErr = "has a default that does not fit: " + err.Error()
		if b.bad == nil {
			b.bad = fmt.Errorf("record %s: field %s %s", n.name, f.name, f.defErr)
		}
	}
	b.defaults[n] = defaultsDone
}

// beforeDefault readies a record that a default holds: its own defaults may be needed.
func (b *compiler) beforeDefault(n *node) *ValueError {
	if b.defaults[n] == defaultsOpen {
		return &ValueError{Reason: "needs the defaults of the record that it is in"}
	}
	b.recordDefaults(n)
	return nil
}
