package config

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// maxHold bounds how long events wait to leave together.
const maxHold = 10 * time.Second

// String gives the short form: PATTERN=DURATION.
func (h TopicHold) String() string { return h.Topic + "=" + FormatDuration(h.Hold) }

// holdsValue is a list of holds in their short form.
type holdsValue struct{ p *[]TopicHold }

func (v holdsValue) expect() string {
	return "TOPIC=DURATION, or several; a topic may have * and ?, a duration is from 0s to " + FormatDuration(maxHold)
}

func (v holdsValue) String() string {
	words := make([]string, len(*v.p))
	for i, h := range *v.p {
		words[i] = h.String()
	}
	return strings.Join(words, ",")
}

func (v holdsValue) Set(s string) error { return v.setList(splitList(s)) }

func (v holdsValue) setList(items []string) error {
	var out []TopicHold
	for _, it := range items {
		h, err := parseHold(it)
		if err != nil {
			return fmt.Errorf("holds %q, which %w", it, err)
		}
		out = append(out, h)
	}
	*v.p = out
	return nil
}

func parseHold(s string) (TopicHold, error) {
	topic, text, ok := strings.Cut(s, "=")
	if !ok {
		return TopicHold{}, errors.New("names no duration")
	}
	h := TopicHold{Topic: topic}
	if err := checkPattern(topic); err != nil {
		return h, err
	}
	return h, durationValue{&h.Hold, 0, maxHold}.Set(text)
}
