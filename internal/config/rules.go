package config

import (
	"errors"
	"fmt"
	"strings"
)

// rulesValue is the topics list. On a flag or in the environment a rule is
// written [!][NAME=]TOPIC[:FORMAT], rules are separated by commas.
type rulesValue struct{ p *[]Topic }

const rulesExpect = "a list of topics; on a flag or in the environment [!][NAME=]TOPIC[:FORMAT], separated by commas"

func (v rulesValue) expect() string { return rulesExpect }

func (v rulesValue) String() string {
	var b strings.Builder
	for i, t := range *v.p {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(t.String())
	}
	return b.String()
}

// String writes the rule in its short form.
func (t Topic) String() string {
	s := t.Topic
	if t.Name != "" {
		s = t.Name + "=" + s
	}
	if t.Deny {
		s = "!" + s
	}
	if t.Format != "" {
		s += ":" + t.Format
	}
	return s
}

func (v rulesValue) Set(s string) error {
	var rules []Topic
	for _, it := range splitList(s) {
		t, err := parseRule(it)
		if err != nil {
			return fmt.Errorf("holds %q, which %w", it, err)
		}
		rules = append(rules, t)
	}
	*v.p = rules
	return nil
}

func parseRule(s string) (Topic, error) {
	var t Topic
	s, t.Deny = strings.CutPrefix(s, "!")
	s, t.Format, _ = strings.Cut(s, ":")
	if name, topic, ok := strings.Cut(s, "="); ok {
		t.Name, t.Topic = name, topic
	} else {
		t.Topic = s
	}
	return t, t.check()
}

func (t Topic) check() error {
	if err := checkPattern(t.Topic); err != nil {
		return err
	}
	if t.Name != "" {
		if strings.ContainsAny(t.Topic, "*?") {
			return errors.New("gives a name to a pattern: only an exact topic can have another name")
		}
		if err := checkKafkaName(t.Name); err != nil {
			return fmt.Errorf("has a name that %w", err)
		}
	}
	return checkFormat(t.Format)
}

func checkPattern(s string) error {
	if s == "" {
		return errors.New("names no topic")
	}
	if len(s) > 249 {
		return errors.New("is longer than a Kafka topic's name can be")
	}
	if err := checkKafkaName(strings.NewReplacer("*", "", "?", "").Replace(s[:min(len(s), 100)])); err != nil {
		return fmt.Errorf("cannot be a topic: it %w", err)
	}
	return nil
}

func checkFormat(s string) error {
	switch {
	case s == "", s == "avro", s == "json", s == "string", s == "bytes":
		return nil
	case strings.HasPrefix(s, "avro:") && len(s) > len("avro:"):
		return nil
	}
	return errors.New("has an unknown format: expected avro, avro:FILE, json, string or bytes")
}
