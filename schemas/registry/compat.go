package registry

import (
	"fmt"
	"strings"

	"github.com/tapecast/tapecast/schemas/internal/avsc"
)

const (
	levelNone     = "NONE"
	levelBackward = "BACKWARD" // the default, as Confluent's
)

// levels tells what a level asks for.
var levels = map[string]struct{ backward, forward, transitive bool }{
	levelNone:             {},
	levelBackward:         {backward: true},
	"BACKWARD_TRANSITIVE": {backward: true, transitive: true},
	"FORWARD":             {forward: true},
	"FORWARD_TRANSITIVE":  {forward: true, transitive: true},
	"FULL":                {backward: true, forward: true},
	"FULL_TRANSITIVE":     {backward: true, forward: true, transitive: true},
}

func validLevel(level string) bool {
	_, ok := levels[level]
	return ok
}

// incompatible checks a new schema against a subject's versions.
func (st *state) incompatible(sub *subject, c *avsc.Schema, level string) []string {
	versions := sub.live(false)
	if !levels[level].transitive && len(versions) > 1 {
		versions = versions[len(versions)-1:]
	}
	return st.incompatibleWith(versions, c, level)
}

func (st *state) incompatibleWith(versions []version, c *avsc.Schema, level string) []string {
	want := levels[level]
	var out []string
	for i := len(versions) - 1; i >= 0 && len(out) == 0; i-- {
		old := st.schemas[versions[i].id].parsed
		if want.backward {
			out = append(out, reasons(avsc.CanRead(c, old), "the new schema cannot read data of version %d", versions[i].number)...)
		}
		if want.forward {
			out = append(out, reasons(avsc.CanRead(old, c), "version %d cannot read data of the new schema", versions[i].number)...)
		}
	}
	return out
}

func reasons(list []avsc.Incompatibility, format string, number int) []string {
	out := make([]string, 0, len(list))
	for _, r := range list {
		out = append(out, fmt.Sprintf(format, number)+": "+r.String())
	}
	return out
}

func errIncompatible(subject string, why []string) error {
	return &apiError{409, 409, fmt.Sprintf(
		"Schema being registered is incompatible with an earlier schema for subject %q, details: [%s]", subject, strings.Join(why, "; "))}
}
