package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Plan is what a cluster is to have before the roles start: feed topics and
// schemas. It is a file of its own, which `tapecast topics apply` reads.
type Plan struct {
	Topics  []PlannedTopic  `yaml:"topics"`
	Schemas []PlannedSchema `yaml:"schemas"`
}

// PlannedTopic is one feed topic.
type PlannedTopic struct {
	Name       string            `yaml:"name"`
	Partitions int               `yaml:"partitions"` // 0 = 1
	Replicas   int               `yaml:"replicas"`   // 0 = the cluster's default
	Schema     string            `yaml:"schema"`     // file with the Avro schema of the values; "" = none
	Config     map[string]string `yaml:"config"`     // Kafka's topic configuration
}

// PlannedSchema is a schema that is no feed topic's.
type PlannedSchema struct {
	Subject string `yaml:"subject"`
	File    string `yaml:"file"`
}

// maxPlan is the longest plan that is read, bytes.
const maxPlan = 1 << 20

// LoadPlan reads a plan. Names of files in it are relative to its own folder,
// and come back joined to it. Its error holds every mistake (Problems).
func LoadPlan(path string) (*Plan, error) {
	f, err := os.Open(path) //nolint:gosec // the operator's own file
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	text, err := io.ReadAll(io.LimitReader(f, maxPlan+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxPlan {
		return nil, Problems{path + ": is longer than 1 MiB"}
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	p := &Plan{}
	if err := dec.Decode(p); err != nil && !errors.Is(err, io.EOF) {
		return nil, Problems(planMistakes(path, err))
	}
	if problems := p.check(path); len(problems) > 0 {
		return nil, problems
	}
	return p, nil
}

// planMistakes words YAML's complaints as file:line: what.
func planMistakes(path string, err error) []string {
	lines := []string{err.Error()}
	var typed *yaml.TypeError
	if errors.As(err, &typed) {
		lines = typed.Errors
	}
	for i, l := range lines {
		l = strings.TrimPrefix(l, "yaml: ")
		if at, ok := strings.CutPrefix(l, "line "); ok {
			lines[i] = path + ":" + at
			continue
		}
		lines[i] = path + ": " + l
	}
	return lines
}

// check fills in defaults, joins the names of files, and looks for what cannot be.
func (p *Plan) check(path string) (problems Problems) {
	bad := func(format string, args ...any) {
		problems = append(problems, path+": "+fmt.Sprintf(format, args...))
	}
	dir := filepath.Dir(path)
	var names []string
	for i := range p.Topics {
		t := &p.Topics[i]
		if t.Partitions == 0 {
			t.Partitions = 1
		}
		if t.Schema != "" {
			t.Schema = filepath.Join(dir, t.Schema)
		}
		switch {
		case t.Name == "" || checkKafkaName(t.Name) != nil:
			bad("topic %d: name %q is not a Kafka topic's name", i+1, t.Name)
		case slices.Contains(names, t.Name):
			bad("topic %s stands twice", t.Name)
		case t.Partitions < 1 || t.Replicas < 0:
			bad("topic %s: partitions must be at least 1, replicas at least 0", t.Name)
		}
		names = append(names, t.Name)
	}
	for i := range p.Schemas {
		s := &p.Schemas[i]
		if s.Subject == "" || s.File == "" {
			bad("schema %d: needs a subject and a file", i+1)
			continue
		}
		s.File = filepath.Join(dir, s.File)
	}
	if len(p.Topics) == 0 && len(p.Schemas) == 0 {
		bad("names no topic and no schema")
	}
	return problems
}
