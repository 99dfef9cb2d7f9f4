package broker

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// The group requests. kafka-go has them too, but sends heartbeats to any
// broker instead of the coordinator, and swaps two fields of their answer.

// findCoordinator asks which broker coordinates a group.
func (c *Client) findCoordinator(ctx context.Context, group string) (int32, error) {
	a, err := c.ask(ctx, request{
		key: keyFindCoordinator, version: 2, to: anyBroker, again: true, slack: lookupTimeout,
		body: func(f *frame) {
			f.string(group)
			f.int8(0) // a group
		},
	})
	if err != nil {
		return 0, err
	}
	a.int32() // throttle
	err = code(a.int16())
	a.string()
	node := a.int32()
	if err == nil {
		err = a.done("find coordinator")
	}
	return node, err
}

// joined is the answer to JoinGroup.
type joined struct {
	generation int32
	leader     string
	member     string
	members    []joinedMember // for the leader only
}

type joinedMember struct {
	id       string
	metadata []byte
}

func (c *Client) joinGroup(ctx context.Context, to int32, o *GroupOptions, member string, metadata []byte) (joined, error) {
	a, err := c.ask(ctx, request{
		key: keyJoinGroup, version: 5, to: to, wait: o.Rebalance + o.Session,
		body: func(f *frame) {
			f.string(o.Group)
			f.int32(int32(o.Session.Milliseconds()))
			f.int32(int32(o.Rebalance.Milliseconds()))
			f.string(member)
			f.nullString(o.Instance)
			f.string("consumer")
			f.array(1)
			f.string(groupProtocol)
			f.bytes32(metadata)
		},
	})
	if err != nil {
		return joined{}, err
	}
	a.int32() // throttle
	err = code(a.int16())
	j := joined{generation: a.int32()}
	a.string() // protocol
	j.leader, j.member = a.string(), a.string()
	for n := a.array(8); n > 0; n-- {
		m := joinedMember{id: a.string()}
		a.string()
		m.metadata = a.bytes32()
		j.members = append(j.members, m)
	}
	if a.err != nil {
		return joined{}, a.done("join group")
	}
	return j, err
}

func (c *Client) syncGroup(ctx context.Context, to int32, o *GroupOptions, j joined, assignments map[string][]byte) ([]byte, error) {
	a, err := c.ask(ctx, request{
		key: keySyncGroup, version: 3, to: to, wait: o.Rebalance,
		body: func(f *frame) {
			f.string(o.Group)
			f.int32(j.generation)
			f.string(j.member)
			f.nullString(o.Instance)
			f.array(len(assignments))
			for m, b := range assignments {
				f.string(m)
				f.bytes32(b)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	a.int32() // throttle
	err = code(a.int16())
	b := a.bytes32()
	if a.err != nil {
		return nil, a.done("sync group")
	}
	return b, err
}

func (c *Client) heartbeat(ctx context.Context, to int32, o *GroupOptions, generation int32, member string) error {
	a, err := c.ask(ctx, request{
		key: keyHeartbeat, version: 3, to: to, again: true,
		body: func(f *frame) {
			f.string(o.Group)
			f.int32(generation)
			f.string(member)
			f.nullString(o.Instance)
		},
	})
	if err != nil {
		return err
	}
	a.int32() // throttle
	err = code(a.int16())
	if a.err != nil {
		return a.done("heartbeat")
	}
	return err
}

func (c *Client) leaveGroup(ctx context.Context, to int32, o *GroupOptions, member string) error {
	a, err := c.ask(ctx, request{
		key: keyLeaveGroup, version: 3, to: to, again: true,
		body: func(f *frame) {
			f.string(o.Group)
			f.array(1)
			f.string(member)
			f.nullString(o.Instance)
		},
	})
	if err != nil {
		return err
	}
	a.int32() // throttle
	return code(a.int16())
}

// byTopic groups partitions as requests want them, in a stable order.
func byTopic[V any](m map[TopicPartition]V) (topics []string, parts map[string][]int32) {
	parts = make(map[string][]int32)
	for tp := range m {
		if _, ok := parts[tp.Topic]; !ok {
			topics = append(topics, tp.Topic)
		}
		parts[tp.Topic] = append(parts[tp.Topic], tp.Partition)
	}
	slices.Sort(topics)
	for _, p := range parts {
		slices.SortFunc(p, cmp.Compare[int32])
	}
	return topics, parts
}

// commitResult is one partition's answer to a commit.
type commitResult struct {
	TopicPartition
	err error
}

func (c *Client) offsetCommit(ctx context.Context, to int32, group, instance, member string, generation int32, offsets map[TopicPartition]Committed) ([]commitResult, error) {
	topics, parts := byTopic(offsets)
	a, err := c.ask(ctx, request{
		key: keyOffsetCommit, version: 7, to: to, again: true,
		body: func(f *frame) {
			f.string(group)
			f.int32(generation)
			f.string(member)
			f.nullString(instance)
			f.array(len(topics))
			for _, t := range topics {
				f.string(t)
				f.array(len(parts[t]))
				for _, p := range parts[t] {
					o := offsets[TopicPartition{t, p}]
					f.int32(p)
					f.int64(o.Offset)
					f.int32(-1)
					f.string(o.Metadata)
				}
			}
		},
	})
	if err != nil {
		return nil, err
	}
	var out []commitResult
	a.int32() // throttle
	for n := a.array(6); n > 0; n-- {
		t := a.string()
		for m := a.array(6); m > 0; m-- {
			out = append(out, commitResult{TopicPartition{t, a.int32()}, code(a.int16())})
		}
	}
	return out, a.done("commit offsets")
}

func (c *Client) offsetFetch(ctx context.Context, to int32, group string, want map[TopicPartition]Committed) (map[TopicPartition]Committed, error) {
	topics, parts := byTopic(want)
	a, err := c.ask(ctx, request{
		key: keyOffsetFetch, version: 5, to: to, again: true,
		body: func(f *frame) {
			f.string(group)
			f.array(len(topics))
			for _, t := range topics {
				f.string(t)
				f.array(len(parts[t]))
				for _, p := range parts[t] {
					f.int32(p)
				}
			}
		},
	})
	if err != nil {
		return nil, err
	}
	out := make(map[TopicPartition]Committed, len(want))
	for tp := range want {
		out[tp] = Committed{Offset: -1}
	}
	var failed error
	a.int32() // throttle
	for n := a.array(6); n > 0; n-- {
		t := a.string()
		for m := a.array(20); m > 0; m-- {
			tp := TopicPartition{t, a.int32()}
			o := Committed{Offset: a.int64()}
			a.int32()
			o.Metadata = a.string()
			if err := code(a.int16()); err != nil {
				failed = fmt.Errorf("topic %s partition %d: %w", tp.Topic, tp.Partition, err)
			}
			if _, asked := out[tp]; asked && o.Offset >= 0 {
				out[tp] = o
			}
		}
	}
	if err := code(a.int16()); err != nil {
		failed = err
	}
	if a.err != nil {
		return nil, a.done("fetch offsets")
	}
	return out, failed
}

// GroupOffsets returns what the group has committed for the topic's partitions.
func (c *Client) GroupOffsets(ctx context.Context, group, topic string, partitions []int32) (map[int32]Committed, error) {
	want := make(map[TopicPartition]Committed, len(partitions))
	for _, p := range partitions {
		want[TopicPartition{topic, p}] = Committed{}
	}
	out := make(map[int32]Committed, len(partitions))
	if len(want) == 0 {
		return out, nil
	}
	err := retry(ctx, 5*time.Second, func() error {
		to, err := c.findCoordinator(ctx, group)
		if err != nil {
			return err
		}
		got, err := c.offsetFetch(ctx, to, group, want)
		for tp, o := range got {
			out[tp.Partition] = o
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("offsets of group %s for topic %s: %w", group, topic, err)
	}
	return out, nil
}
