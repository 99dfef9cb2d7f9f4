package broker

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// checkShares checks that every partition has one owner who wants it, and
// that the shares are even per topic, and in total where all want the same.
func checkShares(t *testing.T, members []subscription, counts map[string]int, got map[string][]TopicPartition) {
	t.Helper()
	owner := map[TopicPartition]string{}
	wants := map[string]map[string]bool{}
	same := true
	for _, m := range members {
		wants[m.member] = map[string]bool{}
		for _, topic := range m.topics {
			wants[m.member][topic] = true
		}
		same = same && fmt.Sprint(m.topics) == fmt.Sprint(members[0].topics)
	}
	for m, tps := range got {
		for _, tp := range tps {
			require.Empty(t, owner[tp], "two owners of %v", tp)
			require.True(t, wants[m][tp.Topic])
			owner[tp] = m
		}
	}
	for topic, n := range counts {
		lo, hi, anybody := 1<<30, 0, false
		for _, m := range members {
			if !wants[m.member][topic] {
				continue
			}
			anybody = true
			has := 0
			for _, tp := range got[m.member] {
				if tp.Topic == topic {
					has++
				}
			}
			lo, hi = min(lo, has), max(hi, has)
		}
		if !anybody {
			continue
		}
		require.LessOrEqual(t, hi-lo, 1, "topic %s", topic)
		for p := range n {
			require.NotEmpty(t, owner[TopicPartition{topic, int32(p)}])
		}
	}
	if same && len(members) > 0 {
		lo, hi := 1<<30, 0
		for _, tps := range got {
			lo, hi = min(lo, len(tps)), max(hi, len(tps))
		}
		require.LessOrEqual(t, hi-lo, 2, "totals")
	}
}

func TestSharesAreEvenAndStick(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		counts := map[string]int{}
		var topics []string
		for i := range r.IntN(12) {
			topic := fmt.Sprint("topic", i)
			counts[topic] = r.IntN(9)
			topics = append(topics, topic)
		}
		members := map[string]subscription{}
		next := 0
		var last map[string][]TopicPartition
		for range 8 {
			if r.IntN(3) > 0 || len(members) == 0 {
				name := fmt.Sprint("m", next)
				next++
				members[name] = subscription{member: name}
			} else {
				for name := range members {
					delete(members, name)
					break
				}
			}
			var subs []subscription
			for name := range members {
				s := subscription{member: name, topics: topics, owned: last[name], generation: 1}
				if seed%3 == 0 && r.IntN(3) == 0 && len(topics) > 1 {
					s.topics = topics[:len(topics)/2] // members of different versions
				}
				subs = append(subs, s)
			}
			if len(subs) == 0 {
				continue
			}
			got := assign(subs, counts)
			checkShares(t, subs, counts, got)
			require.Equal(t, got, assign(subs, counts), "the same input gives the same result")
			for i := range subs {
				subs[i].owned = got[subs[i].member]
			}
			require.Equal(t, got, assign(subs, counts), "nothing moves when nothing changes")
			last = got
		}
	}
}

func TestOfTwoWhoClaimAPartitionTheNewerIsBelieved(t *testing.T) {
	counts := map[string]int{"t": 4}
	owned := []TopicPartition{{"t", 0}, {"t", 1}}
	got := assign([]subscription{
		{member: "a", topics: []string{"t"}, owned: owned, generation: 3},
		{member: "b", topics: []string{"t"}, owned: owned, generation: 7},
	}, counts)
	require.ElementsMatch(t, owned, got["b"])
}

func TestMembershipMessagesComeBack(t *testing.T) {
	tps := []TopicPartition{{"a", 0}, {"a", 3}, {"b", 1}}
	s, err := decodeSubscription("m", encodeSubscription([]string{"a", "b"}, tps, 9, 2))
	require.NoError(t, err)
	require.Equal(t, subscription{member: "m", topics: []string{"a", "b"}, owned: tps, generation: 9}, s)
	got, counts, err := decodeAssignment(encodeAssignment(tps, map[string]int{"a": 4, "b": 2}))
	require.NoError(t, err)
	require.Equal(t, tps, got)
	require.Equal(t, map[string]int{"a": 4, "b": 2}, counts)
}
