package broker

import (
	"cmp"
	"slices"
)

// subscription is what a member says when it joins.
type subscription struct {
	member     string
	topics     []string
	owned      []TopicPartition // what it has now
	generation int32            // since when
}

// assign shares the partitions of the topics among the members that want
// them. For each topic the shares differ by one at most, the larger shares are
// dealt so that the totals are even too, and an owner keeps what it has as far
// as its share goes. The same input gives the same result.
func assign(members []subscription, counts map[string]int) map[string][]TopicPartition {
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b subscription) int { return cmp.Compare(a.member, b.member) })
	out := make(map[string][]TopicPartition, len(members))
	wanting := make(map[string][]string) // topic → members, ascending
	for _, m := range members {
		out[m.member] = nil
		for _, t := range m.topics {
			if w := wanting[t]; counts[t] > 0 && (len(w) == 0 || w[len(w)-1] != m.member) {
				wanting[t] = append(w, m.member)
			}
		}
	}
	topics := make([]string, 0, len(wanting))
	for t := range wanting {
		topics = append(topics, t)
	}
	slices.Sort(topics)
	d := dealer{owners: owners(members, counts), out: out, larger: make(map[string]int)}
	for _, t := range topics {
		d.deal(t, counts[t], wanting[t])
	}
	for _, tps := range out {
		slices.SortFunc(tps, func(a, b TopicPartition) int {
			return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
		})
	}
	return out
}

// owners returns who has each partition now. Of two that say so the one with
// the newer generation is believed: the other was away.
func owners(members []subscription, counts map[string]int) map[TopicPartition]string {
	out := make(map[TopicPartition]string)
	members = slices.Clone(members)
	slices.SortStableFunc(members, func(a, b subscription) int { return cmp.Compare(b.generation, a.generation) })
	for _, m := range members {
		for _, tp := range m.owned {
			if _, taken := out[tp]; !taken && int(tp.Partition) < counts[tp.Topic] && slices.Contains(m.topics, tp.Topic) {
				out[tp] = m.member
			}
		}
	}
	return out
}

// dealer deals the partitions topic by topic.
type dealer struct {
	owners map[TopicPartition]string
	out    map[string][]TopicPartition
	larger map[string]int // how many larger shares each member has got
}

func (d *dealer) deal(topic string, partitions int, members []string) {
	share := partitions / len(members)
	has := make(map[string]int, len(members))
	for p := range partitions {
		if o, ok := d.owners[TopicPartition{topic, int32(p)}]; ok {
			has[o]++
		}
	}
	// Who gets one more: who has one more already, unless that makes the totals
	// uneven, then who has got fewest larger shares.
	least := d.larger[members[0]]
	for _, m := range members {
		least = min(least, d.larger[m])
	}
	keeps := func(m string) bool { return has[m] > share && d.larger[m] <= least+1 }
	order := slices.Clone(members)
	slices.SortStableFunc(order, func(a, b string) int {
		return cmp.Or(
			compareBool(keeps(a), keeps(b)),
			cmp.Compare(d.larger[a], d.larger[b]),
			cmp.Compare(len(d.out[a]), len(d.out[b])),
		)
	})
	quota := make(map[string]int, len(members))
	for i, m := range order {
		quota[m] = share
		if i < partitions%len(members) {
			quota[m]++
			d.larger[m]++
		}
	}
	var free []int32
	for p := range partitions {
		tp := TopicPartition{topic, int32(p)}
		if o, ok := d.owners[tp]; ok && quota[o] > 0 {
			quota[o]--
			d.out[o] = append(d.out[o], tp)
		} else {
			free = append(free, int32(p))
		}
	}
	for _, m := range members {
		n := quota[m]
		for _, p := range free[:n] {
			d.out[m] = append(d.out[m], TopicPartition{topic, p})
		}
		free = free[n:]
	}
}

// compareBool orders true before false.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}
