package config

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Input is where a configuration comes from.
type Input struct {
	Role    string            // RoleIngest, RoleFanout, RoleGateway; "" = all of them (printing)
	File    string            // path of the YAML file; "" = the one that TAPECAST_CONFIG names, or none
	Environ []string          // as os.Environ gives it
	Flags   map[string]string // by flag name, without dashes
}

// Source says where a setting came from.
type Source struct {
	Kind string // "default", "file", "environment", "flag"
	Name string // file:line, variable or flag
}

// Loaded is an effective configuration and where each setting came from.
type Loaded struct {
	Config
	sources map[string]Source // by path
}

// Source returns where a key ("gateway.tape_bytes") got its value from.
func (l *Loaded) Source(path string) Source {
	if s, ok := l.sources[path]; ok {
		return s
	}
	return Source{Kind: "default"}
}

// Problems are all mistakes of a configuration, one a line.
type Problems []string

func (p Problems) Error() string {
	if len(p) == 1 {
		return p[0]
	}
	return fmt.Sprintf("%d mistakes in the configuration:\n  %s", len(p), strings.Join(p, "\n  "))
}

// Load reads a configuration: flags over environment over file over defaults.
// All mistakes come at once, as [Problems].
func Load(in Input) (*Loaded, error) {
	l := &Loaded{Config: *Default(), sources: map[string]Source{}}
	b := &builder{l: l, keys: l.keys(), role: in.Role}
	if file := fileName(in); file != "" {
		b.file(file)
	}
	b.environment(in.Environ)
	b.flags(in.Flags)
	if len(b.problems) == 0 {
		b.require()
		b.together()
	}
	if len(b.problems) > 0 {
		return nil, b.problems
	}
	return l, nil
}

func fileName(in Input) string {
	if in.File != "" {
		return in.File
	}
	return lookupEnv(in.Environ, EnvFile)
}

func lookupEnv(environ []string, name string) string {
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}

// Lookup returns the environment's value of a key ("kafka.brokers"), or its
// default: for the commands that take no file. A bad value is an error.
func Lookup(environ []string, path string) (string, error) {
	c := Default()
	for _, k := range c.keys() {
		if k.path != path {
			continue
		}
		if text := lookupEnv(environ, k.env()); text != "" {
			if err := k.value.Set(text); err != nil {
				return "", errors.New(badValue(k.env(), text, err, k))
			}
		}
		return k.value.String(), nil
	}
	return "", fmt.Errorf("no key %q", path)
}

// EnvKafka returns the kafka section as the environment sets it, over the
// defaults: for the commands that take no file.
func EnvKafka(environ []string) (Kafka, error) {
	c := Default()
	var errs []error
	for _, k := range c.keys() {
		text := lookupEnv(environ, k.env())
		if k.section() != "kafka" || text == "" {
			continue
		}
		if err := k.value.Set(text); err != nil {
			errs = append(errs, errors.New(badValue(k.env(), text, err, k)))
		}
	}
	return c.Kafka, errors.Join(errs...)
}

// builder applies the sources in ascending precedence and gathers mistakes.
type builder struct {
	l        *Loaded
	keys     []key
	role     string
	problems Problems
}

func (b *builder) problem(format string, args ...any) {
	b.problems = append(b.problems, fmt.Sprintf(format, args...))
}

func badValue(where, text string, err error, k key) string {
	return fmt.Sprintf("%s: %q %s; expected %s", where, text, err, k.value.expect())
}

func (b *builder) set(k key, text string, where string, src Source) {
	if err := k.value.Set(text); err != nil {
		b.problems = append(b.problems, badValue(where, text, err, k))
		return
	}
	b.l.sources[k.path] = src
}

func (b *builder) file(path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		b.problem("configuration file: %v", err)
		return
	}
	b.yaml(path, text)
}

func (b *builder) environment(environ []string) {
	byEnv := map[string]key{}
	names := []string{strings.TrimPrefix(EnvFile, EnvPrefix)} // the prefix is no sign of likeness
	for _, k := range b.keys {
		byEnv[k.env()] = k
		names = append(names, strings.TrimPrefix(k.env(), EnvPrefix))
	}
	sorted := slices.Sorted(slices.Values(environ))
	for _, kv := range sorted {
		name, text, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, EnvPrefix) || strings.HasPrefix(name, envTest) || name == EnvFile {
			continue
		}
		k, ok := byEnv[name]
		if !ok {
			hint := ""
			if near := Nearest(strings.TrimPrefix(name, EnvPrefix), names); near != "" {
				hint = "; did you mean " + EnvPrefix + near + "?"
			}
			b.problem("environment: unknown variable %s%s", name, hint)
			continue
		}
		b.set(k, text, "environment: "+name, Source{"environment", name})
	}
}

func (b *builder) flags(flags map[string]string) {
	for _, k := range b.keys {
		name := k.flag(b.role)
		if text, ok := flags[name]; ok && name != "" {
			b.set(k, text, "--"+name, Source{"flag", "--" + name})
		}
	}
}

// require checks what no default can give.
func (b *builder) require() {
	if b.role == "" {
		return
	}
	if len(b.l.Kafka.Brokers) == 0 {
		b.problem("kafka.brokers: no broker is named; say --kafka host:port")
	}
	if len(b.l.Topics) == 0 {
		b.problem("topics: no topic is allowed yet, so there is nothing to do; say --topics quotes,trades, or --topics '*' for all, " +
			"or set TAPECAST_TOPICS, or list them in the file under topics:")
	}
	if b.l.Registry.URL == "" && b.role != RoleFanout && slices.ContainsFunc(b.l.Topics, Topic.needsRegistry) {
		b.problem("registry.url: is empty, but a topic's values are read by the registry's schemas; " +
			"say --registry http://host:8081, or give the topic another format")
	}
}

// minBodies is how many of the largest requests must fit the bytes that may wait.
const minBodies = 4

// together checks what settings must hold with each other.
func (b *builder) together() {
	if i := b.l.Ingest; i.MaxBuffered < minBodies*i.MaxBody {
		b.problem("ingest.max_buffered: %s is less than %d times ingest.max_body (%s); raise it or lower ingest.max_body",
			FormatBytes(i.MaxBuffered), minBodies, FormatBytes(i.MaxBody))
	}
}

// needsRegistry tells whether the rule's values are in Confluent's wire format.
func (t Topic) needsRegistry() bool { return !t.Deny && (t.Format == "" || t.Format == "avro") }

// Flag is one flag of a role.
type Flag struct {
	Name, Path, Doc, Default string
	Word                     string // what its value is, in one word: SIZE, DURATION, ...
	Bool                     bool
}

// Flags lists a role's flags in the order in which they are documented.
func Flags(role string) []Flag {
	var out []Flag
	for _, k := range Default().keys() {
		name := k.flag(role)
		if name == "" {
			continue
		}
		_, isBool := k.value.(boolValue)
		out = append(out, Flag{Name: name, Path: k.path, Doc: k.doc, Default: k.value.String(), Word: word(k.value), Bool: isBool})
	}
	return out
}

func word(v value) string {
	switch v := v.(type) {
	case bytesValue:
		return "SIZE"
	case durationValue:
		return "DURATION"
	case intValue, floatValue:
		return "N"
	case stringsValue, rulesValue, prefixesValue, holdsValue:
		return "LIST"
	case enumValue:
		return "WORD"
	case stringValue:
		if v.want == wantAddr {
			return "ADDRESS"
		}
	}
	return "TEXT"
}
