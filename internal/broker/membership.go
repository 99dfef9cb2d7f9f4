package broker

import (
	"maps"
	"slices"
)

// What members and their leader tell each other. The layout is that of Kafka's
// consumers, so that Kafka's own tools can show it.

// groupProtocol is the name under which members agree on the assignment.
const groupProtocol = "tapecast-sticky"

// encodeSubscription writes what a member wants, and has since which generation.
// nudge differs each time it wants a rebalance: Kafka ignores a member that
// says the same again.
func encodeSubscription(topics []string, owned []TopicPartition, generation, nudge int32) []byte {
	f := &frame{}
	f.int16(1)
	f.array(len(topics))
	for _, t := range topics {
		f.string(t)
	}
	n := &frame{}
	n.int32(generation)
	n.int32(nudge)
	f.bytes32(n.b)
	encodePartitions(f, owned)
	return f.b
}

func encodePartitions(f *frame, tps []TopicPartition) {
	set := make(map[TopicPartition]struct{}, len(tps))
	for _, tp := range tps {
		set[tp] = struct{}{}
	}
	topics, parts := byTopic(set)
	f.array(len(topics))
	for _, t := range topics {
		f.string(t)
		f.array(len(parts[t]))
		for _, p := range parts[t] {
			f.int32(p)
		}
	}
}

func decodePartitions(a *answer) (out []TopicPartition) {
	for n := a.array(6); n > 0; n-- {
		t := a.string()
		for m := a.array(4); m > 0; m-- {
			out = append(out, TopicPartition{t, a.int32()})
		}
	}
	return out
}

func decodeSubscription(member string, b []byte) (subscription, error) {
	a := &answer{b: b}
	s := subscription{member: member}
	version := a.int16()
	for n := a.array(2); n > 0; n-- {
		s.topics = append(s.topics, a.string())
	}
	if own := (&answer{b: a.bytes32()}); len(own.b) == 8 {
		s.generation = own.int32()
	}
	if version >= 1 {
		s.owned = decodePartitions(a)
	}
	return s, a.done("a member's subscription")
}

// encodeAssignment writes one member's share, and how many partitions the
// leader saw in each topic: a member that sees others knows that it is time to
// join again.
func encodeAssignment(tps []TopicPartition, counts map[string]int) []byte {
	f, u := &frame{}, &frame{}
	f.int16(0)
	encodePartitions(f, tps)
	u.array(len(counts))
	for _, t := range slices.Sorted(maps.Keys(counts)) {
		u.string(t)
		u.int32(int32(counts[t]))
	}
	f.bytes32(u.b)
	return f.b
}

func decodeAssignment(b []byte) (tps []TopicPartition, counts map[string]int, err error) {
	counts = make(map[string]int)
	if len(b) == 0 {
		return nil, counts, nil
	}
	a := &answer{b: b}
	a.int16()
	tps = decodePartitions(a)
	u := &answer{b: a.bytes32()}
	if len(u.b) > 0 {
		for n := u.array(6); n > 0; n-- {
			t := u.string()
			counts[t] = int(u.int32())
		}
	}
	if a.err == nil {
		a.err = u.err
	}
	return tps, counts, a.done("an assignment")
}
