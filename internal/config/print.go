package config

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Print writes the effective configuration as YAML that Load reads back; each
// line says where its value came from. role "" prints all sections.
func (l *Loaded) Print(w io.Writer, role string) error {
	var b strings.Builder
	section := ""
	for _, k := range l.keys() {
		if role != "" && k.flag(role) == "" {
			continue
		}
		name := k.path
		if sec, rest, nested := strings.Cut(k.path, "."); nested {
			if sec != section {
				fmt.Fprintf(&b, "%s:\n", sec)
				section = sec
			}
			name = "  " + rest
		}
		l.printKey(&b, k, name)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (l *Loaded) printKey(b *strings.Builder, k key, name string) {
	from := "  # default"
	if s := l.Source(k.path); s.Kind != "default" {
		from = "  # " + s.Name
	}
	switch v := k.value.(type) {
	case rulesValue:
		printList(b, name, from, len(*v.p), func(i int) string { return (*v.p)[i].yaml() })
	case stringsValue:
		printList(b, name, from, len(*v.p), func(i int) string { return strconv.Quote((*v.p)[i]) })
	case prefixesValue:
		printList(b, name, from, len(*v.p), func(i int) string { return strconv.Quote((*v.p)[i].String()) })
	case holdsValue:
		printList(b, name, from, len(*v.p), func(i int) string { return strconv.Quote((*v.p)[i].String()) })
	case stringValue:
		fmt.Fprintf(b, "%s: %q%s\n", name, v.String(), from)
	default:
		fmt.Fprintf(b, "%s: %s%s\n", name, k.value.String(), from)
	}
}

func printList(b *strings.Builder, name, from string, n int, item func(int) string) {
	if n == 0 {
		fmt.Fprintf(b, "%s: []%s\n", name, from)
		return
	}
	fmt.Fprintf(b, "%s:%s\n", name, from)
	indent := strings.Repeat(" ", len(name)-len(strings.TrimLeft(name, " "))+2)
	for i := range n {
		fmt.Fprintf(b, "%s- %s\n", indent, item(i))
	}
}

// yaml writes the rule as a flow mapping.
func (t Topic) yaml() string {
	s := "{topic: " + strconv.Quote(t.Topic)
	if t.Name != "" {
		s += ", name: " + strconv.Quote(t.Name)
	}
	if t.Format != "" {
		s += ", format: " + strconv.Quote(t.Format)
	}
	if t.Deny {
		s += ", deny: true"
	}
	return s + "}"
}
