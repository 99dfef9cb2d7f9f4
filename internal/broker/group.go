package broker

import (
	"context"
	"log/slog"
	"time"
)

// GroupOptions of a group member.
type GroupOptions struct {
	Group     string
	Instance  string                                      // static membership: the same name rejoins without a rebalance
	Topics    func(ctx context.Context) ([]string, error) // asked at every join
	Changed   <-chan struct{}                             // topics or partitions changed: rejoin
	Session   time.Duration                               // default 6 s
	Heartbeat time.Duration                               // default 500 ms
	Rebalance time.Duration                               // default 6 s
	Logger    *slog.Logger
}

// TopicPartition names a partition of a topic.
type TopicPartition struct {
	Topic     string
	Partition int32
}

// Committed is a group's committed position. Metadata holds what the committer said of it.
type Committed struct {
	Offset   int64 // next to read; -1 = none
	Metadata string
}

// Generation is one membership: what this member owns until the next call.
type Generation struct {
	ID       int32
	Member   string
	Assigned map[TopicPartition]Committed
}

// Commit commits next offsets under this generation. Safe for concurrent use.
func (g *Generation) Commit(ctx context.Context, offsets map[TopicPartition]Committed) error {
	panic("not built")
}

// JoinGroup keeps a member in the group until ctx ends, then leaves it. For
// each generation it calls assigned, which must return soon: it diffs the
// assignment, stops what was revoked, starts what is new, and leaves what is
// kept running. Assignment is sticky. It returns only with ctx's end.
func (c *Client) JoinGroup(ctx context.Context, o GroupOptions, assigned func(*Generation)) error {
	panic("not built")
}

// Lag and membership, for people.

// GroupOffsets returns what the group has committed for the topic's partitions.
func (c *Client) GroupOffsets(ctx context.Context, group, topic string, partitions []int32) (map[int32]Committed, error) {
	panic("not built")
}
