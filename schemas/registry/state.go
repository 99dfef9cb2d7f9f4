package registry

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"sort"

	"github.com/tapecast/tapecast/schemas/internal/avsc"
)

// event is one change, a line of the log.
type event struct {
	Op        string `json:"op"`
	Subject   string `json:"subject,omitempty"` // "" with opLevel = the global level
	Version   int    `json:"version,omitempty"`
	ID        uint32 `json:"id,omitempty"`
	Schema    string `json:"schema,omitempty"` // with the first use of an id
	Level     string `json:"level,omitempty"`  // "" = back to the default
	Permanent bool   `json:"permanent,omitempty"`
}

const (
	opRegister = "register"
	opDelete   = "delete" // of a version
	opLevel    = "level"
)

// state is everything the log says.
type state struct {
	subjects map[string]*subject
	schemas  map[uint32]*entry
	byDigest map[[sha256.Size]byte]uint32
	lastID   uint32
	level    string // of all subjects without their own
	bytes    int    // of schema text
}

type entry struct {
	text   string
	parsed *avsc.Schema
}

type subject struct {
	versions []version // ascending
	level    string    // "" = the global one
}

type version struct {
	number  int
	id      uint32
	deleted bool // softly: data that uses it stays readable
}

func newState() *state {
	return &state{
		subjects: make(map[string]*subject),
		schemas:  make(map[uint32]*entry),
		byDigest: make(map[[sha256.Size]byte]uint32),
		level:    levelBackward,
	}
}

// apply makes a change that was checked before, or finds it impossible, which
// says that the log is damaged.
func (st *state) apply(e event) error {
	switch e.Op {
	case opRegister:
		return st.applyRegister(e)
	case opDelete:
		return st.applyDelete(e)
	case opLevel:
		return st.applyLevel(e)
	}
	return fmt.Errorf("unknown change %q", e.Op)
}

func (st *state) applyRegister(e event) error {
	if e.Schema != "" {
		if e.ID != st.lastID+1 {
			return fmt.Errorf("schema id %d follows id %d", e.ID, st.lastID)
		}
		c, err := parseCandidate(e.Schema)
		if err != nil {
			return fmt.Errorf("schema %d: %w", e.ID, err)
		}
		st.lastID = e.ID
		st.schemas[e.ID] = &entry{text: c.text, parsed: c.parsed}
		st.byDigest[c.digest] = e.ID
		st.bytes += len(c.text)
	}
	sub := st.subjects[e.Subject]
	if st.schemas[e.ID] == nil || e.Version < sub.next() {
		return fmt.Errorf("version %d with schema %d does not fit its subject", e.Version, e.ID)
	}
	if sub == nil {
		sub = &subject{}
		st.subjects[e.Subject] = sub
	}
	sub.versions = append(sub.versions, version{number: e.Version, id: e.ID})
	return nil
}

func (st *state) applyDelete(e event) error {
	sub := st.subjects[e.Subject]
	v := sub.number(e.Version, true)
	if v == nil {
		return fmt.Errorf("no version %d to delete", e.Version)
	}
	v.deleted = true
	if e.Permanent {
		sub.versions = slices.DeleteFunc(sub.versions, func(v version) bool { return v.number == e.Version })
		st.dropEmpty(e.Subject)
	}
	return nil
}

func (st *state) applyLevel(e event) error {
	if e.Level != "" && !validLevel(e.Level) {
		return fmt.Errorf("unknown compatibility level %q", e.Level)
	}
	if e.Subject == "" {
		st.level = e.Level
		if e.Level == "" {
			st.level = levelBackward
		}
		return nil
	}
	sub := st.subjects[e.Subject]
	if sub == nil {
		sub = &subject{}
		st.subjects[e.Subject] = sub
	}
	sub.level = e.Level
	st.dropEmpty(e.Subject)
	return nil
}

func (st *state) dropEmpty(name string) {
	if sub := st.subjects[name]; len(sub.versions) == 0 && sub.level == "" {
		delete(st.subjects, name)
	}
}

func (st *state) levelOf(sub *subject) string {
	if sub != nil && sub.level != "" {
		return sub.level
	}
	return st.level
}

// The methods of a subject work on nil: a subject that is not there.

func (sub *subject) next() int {
	if sub == nil || len(sub.versions) == 0 {
		return 1
	}
	return sub.versions[len(sub.versions)-1].number + 1
}

// find returns the last version that a test holds for, softly deleted ones only if asked for.
func (sub *subject) find(deleted bool, test func(*version) bool) *version {
	if sub == nil {
		return nil
	}
	for i := len(sub.versions) - 1; i >= 0; i-- {
		if v := &sub.versions[i]; (deleted || !v.deleted) && test(v) {
			return v
		}
	}
	return nil
}

func (sub *subject) withID(id uint32, deleted bool) *version {
	return sub.find(deleted, func(v *version) bool { return v.id == id })
}

func (sub *subject) number(n int, deleted bool) *version {
	return sub.find(deleted, func(v *version) bool { return v.number == n })
}

func (sub *subject) latest(deleted bool) *version {
	return sub.find(deleted, func(*version) bool { return true })
}

// live lists the versions, softly deleted ones only if asked for.
func (sub *subject) live(deleted bool) []version {
	if sub == nil {
		return nil
	}
	var out []version
	for _, v := range sub.versions {
		if deleted || !v.deleted {
			out = append(out, v)
		}
	}
	return out
}

// names lists the subjects that have a version, sorted.
func (st *state) names(deleted bool) []string {
	out := []string{}
	for name, sub := range st.subjects {
		if sub.latest(deleted) != nil {
			out = append(out, name)
		}
	}
	sort.Strings(out)
	return out
}
