package catalog

import (
	"slices"
	"strings"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
)

// snapshot is one answer of the cluster, seen through the rules. Immutable.
type snapshot struct {
	at      time.Time
	feeds   []Feed // by name
	byName  map[string]Feed
	byTopic map[string]Feed
}

// lostName is a topic that is allowed, but whose name belongs to another.
type lostName struct{ name, topic, winner string }

// build joins the cluster's topics with the rules. Where two topics have one
// name, that of the earlier rule wins, so the answer's order does not matter.
func build(rules []rule, topics []broker.Topic, old *snapshot, at time.Time) (*snapshot, []lostName) {
	s := &snapshot{at: at, byName: make(map[string]Feed), byTopic: make(map[string]Feed)}
	decidedBy := make(map[string]int)
	var lost []lostName
	for _, t := range topics {
		// A topic without partitions is one that is being made.
		if t.Internal || Internal(t.Name) || len(t.Partitions) == 0 {
			continue
		}
		i := firstMatch(rules, t.Name)
		if i < 0 || rules[i].Deny {
			continue
		}
		f := Feed{Name: rules[i].clientName(t.Name), Format: rules[i].Format, Topic: keepPartitions(t, old)}
		if have, ok := s.byName[f.Name]; ok {
			if decidedBy[f.Name] <= i {
				lost = append(lost, lostName{f.Name, t.Name, have.Topic.Name})
				continue
			}
			lost = append(lost, lostName{f.Name, have.Topic.Name, t.Name})
			delete(s.byTopic, have.Topic.Name)
		}
		s.byName[f.Name], s.byTopic[t.Name], decidedBy[f.Name] = f, f, i
	}
	for _, f := range s.byName {
		s.feeds = append(s.feeds, f)
	}
	slices.SortFunc(s.feeds, func(a, b Feed) int { return strings.Compare(a.Name, b.Name) })
	return s, lost
}

// keepPartitions guards against a broker whose metadata is behind: partitions
// of one incarnation of a topic never become fewer.
func keepPartitions(t broker.Topic, old *snapshot) broker.Topic {
	have, ok := old.byTopic[t.Name]
	if ok && have.ID == t.ID && len(have.Partitions) > len(t.Partitions) {
		t.Partitions = have.Partitions
	}
	return t
}

// same tells whether clients would see no difference. Leaders do not count.
func (s *snapshot) same(o *snapshot) bool {
	return slices.EqualFunc(s.feeds, o.feeds, func(a, b Feed) bool {
		return a.Name == b.Name && a.Topic.Name == b.Topic.Name && a.ID == b.ID &&
			len(a.Partitions) == len(b.Partitions)
	})
}
