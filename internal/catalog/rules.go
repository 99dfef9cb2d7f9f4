package catalog

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tapecast/tapecast/internal/stream"
)

// Rule allows topics. The first rule that matches a Kafka topic's name decides.
type Rule struct {
	Pattern string // exact name, or a glob with * and ?; never matches tapecast's, Kafka's or the registry's own topics
	Name    string // what clients call it; "" = the Kafka name (only with an exact Pattern)
	Format  string // how values are read: "avro" (default, Confluent wire format), "json", "string", "bytes", "avro:FILE" (fixed schema, no header)
	Deny    bool
}

// Formats of values.
const (
	FormatAvro   = "avro"
	FormatJSON   = "json"
	FormatString = "string"
	FormatBytes  = "bytes"
	// FormatAvroFile is the prefix of "avro:FILE".
	FormatAvroFile = "avro:"
)

// maxName is Kafka's limit for a topic's name, in bytes.
const maxName = 249

// internalPrefixes begin the names of topics that belong to machines:
// tapecast's, Kafka's, the schema registry's and Confluent's.
var internalPrefixes = []string{stream.InternalPrefix, "__", "_schemas", "_confluent"}

// Internal tells whether a Kafka topic's name is one that no rule can allow.
func Internal(name string) bool {
	for _, p := range internalPrefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// rule is a checked Rule.
type rule struct {
	Rule
	glob bool
}

func (r *rule) matches(topic string) bool {
	if !r.glob {
		return r.Pattern == topic
	}
	return globMatch(r.Pattern, topic)
}

// clientName is what clients call a topic that r allows.
func (r *rule) clientName(topic string) string {
	if r.Name != "" {
		return r.Name
	}
	return topic
}

// compile checks all rules; its error names every mistake.
func compile(rules []Rule) ([]rule, error) {
	out := make([]rule, 0, len(rules))
	claimed := make(map[string]string) // client name -> pattern, of exact rules
	var errs []error
	for i, r := range rules {
		c := rule{Rule: r, glob: strings.ContainsAny(r.Pattern, "*?")}
		if c.Format == "" {
			c.Format = FormatAvro
		}
		if err := c.check(); err != nil {
			errs = append(errs, fmt.Errorf("topic rule %d (%q): %w", i, r.Pattern, err))
			continue
		}
		decided := firstMatch(out, r.Pattern) >= 0
		out = append(out, c)
		if c.glob || c.Deny || decided {
			continue // a rule that an earlier one hides can claim nothing
		}
		name := c.clientName(c.Pattern)
		if other, ok := claimed[name]; ok {
			errs = append(errs, fmt.Errorf("topic rule %d (%q): the name %q is already that of topic %q", i, r.Pattern, name, other))
			continue
		}
		claimed[name] = c.Pattern
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return out, nil
}

func (r *rule) check() error {
	switch {
	case !validName(r.Pattern, r.glob):
		return fmt.Errorf("a pattern is 1 to %d of the characters a-z A-Z 0-9 . _ - and, as a glob, * and ?", maxName)
	case !r.glob && Internal(r.Pattern):
		return errors.New("internal topics can be no feeds")
	case r.Name != "" && r.glob:
		return errors.New("a name needs an exact pattern, not a glob")
	case r.Name != "" && r.Deny:
		return errors.New("a rule that denies can give no name")
	case r.Name != "" && (!validName(r.Name, false) || Internal(r.Name)):
		return fmt.Errorf("%q is no name for a topic", r.Name)
	}
	return checkFormat(r.Format)
}

func checkFormat(f string) error {
	switch f {
	case FormatAvro, FormatJSON, FormatString, FormatBytes:
		return nil
	}
	if file, ok := strings.CutPrefix(f, FormatAvroFile); ok && file != "" {
		return nil
	}
	return fmt.Errorf("unknown format %q, want avro, json, string, bytes or avro:FILE", f)
}

// validName holds s to what Kafka allows in a topic's name.
func validName(s string, glob bool) bool {
	if s == "" || len(s) > maxName || s == "." || s == ".." {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		case glob && (c == '*' || c == '?'):
		default:
			return false
		}
	}
	return true
}

// firstMatch returns the index of the rule that decides on a Kafka topic, -1 = none.
func firstMatch(rules []rule, topic string) int {
	for i := range rules {
		if rules[i].matches(topic) {
			return i
		}
	}
	return -1
}

// Match tells whether a name fits a pattern as rules have it: * stands for any
// run of characters, dots too, ? for any one.
func Match(pattern, name string) bool { return globMatch(pattern, name) }

// globMatch matches * (any run of characters, dots too) and ? (any one). It
// goes back to the last star only, so it takes at most len(pattern)*len(s) steps.
func globMatch(pattern, s string) bool {
	p, i := 0, 0
	star, mark := -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
