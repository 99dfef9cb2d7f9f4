package schemas

import (
	"encoding/binary"

	"github.com/tapecast/tapecast/internal/jsontext"
)

// union finds the type of a value, see AppendAvro.
func (e *encoder) union(n *node, i, depth int) (int, *ValueError) {
	var first, tagged *ValueError
	if e.form == formAvro {
		end, err := e.tagged(n, i, depth)
		if err == nil {
			return end, nil
		}
		tagged = err
	}
	fits := 0
	for _, lenient := range [...]bool{false, true} {
		for k, b := range n.branches {
			if !admits(b.op, e.src[i], lenient) {
				continue
			}
			end, err := e.branch(k, b, i, lenient, depth)
			if err == nil {
				return end, nil
			}
			if lenient {
				fits++
				if first == nil {
					first = err
				}
			}
		}
	}
	if e.form == formPlain {
		end, err := e.tagged(n, i, depth)
		if err == nil {
			return end, nil
		}
		tagged = err
	}
	switch {
	case tagged != errNoTag && tagged != nil: // it names a type, so that one was meant
		return 0, tagged
	case fits == 1:
		return 0, first
	}
	return 0, &ValueError{Reason: "is " + tokenName(e.src[i]) + ", want " + unionWants(n)}
}

func (e *encoder) branch(k int, b *node, i int, lenient bool, depth int) (int, *ValueError) {
	mark := len(e.dst)
	e.dst = binary.AppendVarint(e.dst, int64(k))
	end, err := e.value(b, i, lenient, depth)
	if err != nil {
		e.dst = e.dst[:mark]
	}
	return end, err
}

// errNoTag says that a value does not have the named form at all.
var errNoTag = &ValueError{Reason: "names no type of the union"}

// tagged encodes an object of one member that names the type.
func (e *encoder) tagged(n *node, i, depth int) (int, *ValueError) {
	if e.src[i] != '{' {
		return 0, errNoTag
	}
	at := jsontext.SkipSpace(e.src, i+1)
	if e.src[at] != '"' {
		return 0, errNoTag
	}
	end := jsontext.StringEnd(e.src, at)
	name := e.src[at+1 : end-1] // names need no escapes
	for k, b := range n.branches {
		if b.name != string(name) || b.op == opNull {
			continue
		}
		end, err := e.branch(k, b, jsontext.SkipSpace(e.src, jsontext.SkipSpace(e.src, end)+1), true, depth)
		if err != nil {
			return 0, err
		}
		if end = jsontext.SkipSpace(e.src, end); e.src[end] != '}' {
			return 0, errNoTag
		}
		return end + 1, nil
	}
	return 0, errNoTag
}

// admits tells whether a type may begin with a token, so that hopeless types
// are not tried and not blamed.
func admits(o op, token byte, lenient bool) bool {
	switch token {
	case 'n':
		return o == opNull
	case 't', 'f':
		return o == opBool
	case '[':
		return o == opArray
	case '{':
		return o == opRecord || o == opMap
	case '"':
		switch o {
		case opString, opEnum, opBytes, opFixed, opDecimal, opDecimalFixed, opDate, opUUIDFixed, opDuration:
			return true
		case opLong, opFloat, opDouble:
			return lenient
		}
		return false
	}
	switch o {
	case opInt, opLong, opFloat, opDouble:
		return true
	case opDecimal, opDecimalFixed, opDate:
		return lenient
	}
	return false
}

func unionWants(n *node) string {
	s := ""
	for k, b := range n.branches {
		switch {
		case k == 0:
		case k == len(n.branches)-1:
			s += " or "
		default:
			s += ", "
		}
		if s += b.want; len(s) > 256 {
			return s[:256] + "..."
		}
	}
	return s
}
