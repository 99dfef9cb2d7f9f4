package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// fileReader reads one YAML file into the table.
type fileReader struct {
	*builder
	path string
}

func (b *builder) yaml(path string, text []byte) {
	r := &fileReader{builder: b, path: path}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return // an empty file
	case err != nil:
		r.syntax(err)
		return
	}
	if len(doc.Content) == 1 && !isNull(doc.Content[0]) {
		r.mapping(doc.Content[0], "")
	}
	var second yaml.Node
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		r.problem("%s: holds more than one YAML document", path)
	}
}

var yamlLine = regexp.MustCompile(`^yaml: line (\d+): `)

// syntax reports YAML's own complaint in the form of all others, file:line.
func (r *fileReader) syntax(err error) {
	msg := err.Error()
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		r.problem("%s:%s: %s", r.path, m[1], msg[len(m[0]):])
		return
	}
	r.problem("%s: %s", r.path, strings.TrimPrefix(msg, "yaml: "))
}

func (r *fileReader) at(n *yaml.Node) string { return fmt.Sprintf("%s:%d", r.path, n.Line) }

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

// mapping reads a section ("" = the whole file).
func (r *fileReader) mapping(n *yaml.Node, section string) {
	if n.Kind != yaml.MappingNode {
		r.problem("%s: %s is not a mapping of keys to values", r.at(n), nameOr(section, "the file"))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, val := n.Content[i], resolve(n.Content[i+1])
		path := join(section, name.Value)
		if line, dup := seen[name.Value]; dup {
			r.problem("%s: %s is already set on line %d", r.at(name), path, line)
			continue
		}
		seen[name.Value] = name.Line
		r.entry(name, val, path)
	}
}

func nameOr(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func join(section, name string) string {
	if section == "" {
		return name
	}
	return section + "." + name
}

func (r *fileReader) entry(name, val *yaml.Node, path string) {
	for _, k := range r.keys {
		if k.path == path {
			r.leaf(k, val)
			return
		}
	}
	if r.isSection(path) {
		if !isNull(val) {
			r.mapping(val, path)
		}
		return
	}
	r.problem("%s: unknown key %s%s", r.at(name), path, DidYouMean(path, r.known(path)))
}

func (r *fileReader) isSection(path string) bool {
	for _, k := range r.keys {
		if strings.HasPrefix(k.path, path+".") {
			return true
		}
	}
	return false
}

// known lists what could have stood where path stands.
func (r *fileReader) known(path string) []string {
	nested := strings.Contains(path, ".")
	var out []string
	for _, k := range r.keys {
		if nested {
			out = append(out, k.path)
		} else {
			out = append(out, k.section())
		}
	}
	return out
}

func (r *fileReader) leaf(k key, n *yaml.Node) {
	src := Source{"file", r.at(n)}
	if rules, ok := k.value.(rulesValue); ok && n.Kind == yaml.SequenceNode {
		r.rules(rules, n)
		r.l.sources[k.path] = src
		return
	}
	where := r.at(n) + ": " + k.path
	switch {
	case isNull(n):
		r.problem("%s: has no value; expected %s", where, k.value.expect())
	case n.Kind == yaml.ScalarNode:
		r.set(k, n.Value, where, src)
	case n.Kind == yaml.SequenceNode:
		r.list(k, n, where, src)
	default:
		r.problem("%s: is a mapping; expected %s", where, k.value.expect())
	}
}

func (r *fileReader) list(k key, n *yaml.Node, where string, src Source) {
	list, ok := k.value.(listValue)
	if !ok {
		r.problem("%s: is a list; expected %s", where, k.value.expect())
		return
	}
	var items []string
	for _, it := range n.Content {
		it = resolve(it)
		if it.Kind != yaml.ScalarNode || isNull(it) {
			r.problem("%s: %s: an entry is not a plain value; expected %s", r.at(it), k.path, k.value.expect())
			return
		}
		items = append(items, it.Value)
	}
	if err := list.setList(items); err != nil {
		r.problem("%s: %s; expected %s", where, err, k.value.expect())
		return
	}
	r.l.sources[k.path] = src
}

var ruleKeys = []string{"topic", "name", "format", "deny"}

// rules reads the topics list: each entry is a rule in its short form, or a mapping.
func (r *fileReader) rules(v rulesValue, n *yaml.Node) {
	rules := []Topic{}
	for i, it := range n.Content {
		it = resolve(it)
		path := fmt.Sprintf("topics[%d]", i)
		var t Topic
		var err error
		switch it.Kind {
		case yaml.ScalarNode:
			t, err = parseRule(it.Value)
		case yaml.MappingNode:
			var ok bool
			if t, ok = r.rule(it, path); !ok {
				continue
			}
			err = t.check()
		default:
			err = errors.New("is neither a topic nor a mapping with topic, name, format and deny")
		}
		if err != nil {
			r.problem("%s: %s: %s", r.at(it), path, err)
			continue
		}
		rules = append(rules, t)
	}
	*v.p = rules
}

func (r *fileReader) rule(n *yaml.Node, path string) (t Topic, ok bool) {
	ok = true
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, val := n.Content[i], resolve(n.Content[i+1])
		if val.Kind != yaml.ScalarNode || seen[name.Value] {
			r.problem("%s: %s.%s: is set twice or is not a plain value", r.at(val), path, name.Value)
			ok = false
			continue
		}
		seen[name.Value] = true
		switch name.Value {
		case "topic":
			t.Topic = val.Value
		case "name":
			t.Name = val.Value
		case "format":
			t.Format = val.Value
		case "deny":
			if err := (boolValue{&t.Deny}).Set(val.Value); err != nil {
				r.problem("%s: %s.deny: %q %s; expected true or false", r.at(val), path, val.Value, err)
				ok = false
			}
		default:
			r.problem("%s: unknown key %s.%s%s", r.at(name), path, name.Value, DidYouMean(name.Value, ruleKeys))
			ok = false
		}
	}
	return t, ok
}
