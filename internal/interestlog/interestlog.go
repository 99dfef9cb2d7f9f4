// Package interestlog follows the interest log in Kafka: it makes the topic,
// refuses one that could lose interests, and hands every record, in order, to
// whoever folds it. Its one goroutine is Run's.
package interestlog

import (
	"context"
	"fmt"
	"strings"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/stream"
)

// topicConfig is what the interest topic is made with. Tombstones and segments
// live for five minutes: each interest that comes and goes leaves one
// tombstone, and one that a reader misses only makes it send too much.
var topicConfig = map[string]string{
	"cleanup.policy":            "compact",
	"delete.retention.ms":       "300000",
	"segment.ms":                "300000",
	"min.cleanable.dirty.ratio": "0.1",
}

// UnfitError says why an existing interest topic cannot be used. It does not
// go away by trying again.
type UnfitError struct {
	Problem string // what is wrong
	Remedy  string // what an operator can do
}

// Error implements error.
func (e *UnfitError) Error() string {
	return fmt.Sprintf("interest topic %s cannot be used: %s; %s", interest.Topic, e.Problem, e.Remedy)
}

// Ensure creates the interest topic (one partition, compacted, delete.retention.ms
// and segment.ms 5 min, dirty ratio 0.1) or checks the one that is there: any other
// cleanup policy than exactly "compact", or more than one partition, is an
// *UnfitError that says what to do. Replicas 0 is the broker's default. It tries
// once; other errors are the cluster's (see broker.Retryable). Returns its id.
func Ensure(ctx context.Context, c *broker.Client, replicas int) (stream.TopicID, error) {
	t, ok, err := lookup(ctx, c)
	if err != nil {
		return stream.TopicID{}, err
	}
	if !ok {
		if t, _, err = c.CreateTopic(ctx, broker.TopicSpec{
			Name: interest.Topic, Partitions: 1, Replicas: replicas, Config: topicConfig,
		}); err != nil {
			return stream.TopicID{}, fmt.Errorf("create interest topic %s: %w", interest.Topic, err)
		}
	}
	// Also what was just made is checked: another process may have been first.
	if err := check(ctx, c, t); err != nil {
		return stream.TopicID{}, err
	}
	return t.ID, nil
}

func lookup(ctx context.Context, c *broker.Client) (broker.Topic, bool, error) {
	ts, err := c.Topics(ctx, interest.Topic)
	if err != nil {
		return broker.Topic{}, false, fmt.Errorf("look up interest topic %s: %w", interest.Topic, err)
	}
	for _, t := range ts {
		if t.Name == interest.Topic {
			return t, true, nil
		}
	}
	return broker.Topic{}, false, nil
}

func check(ctx context.Context, c *broker.Client, t broker.Topic) error {
	if n := len(t.Partitions); n != 1 {
		return &UnfitError{
			Problem: fmt.Sprintf("it has %d partitions, and only one keeps interests in order", n),
			Remedy:  "stop all fan-outs and gateways, delete the topic and start again (it is made anew; clients resume)",
		}
	}
	cfg, err := c.TopicConfig(ctx, interest.Topic)
	if err != nil {
		return fmt.Errorf("read configuration of interest topic %s: %w", interest.Topic, err)
	}
	if p := strings.TrimSpace(cfg["cleanup.policy"]); p != "compact" {
		return &UnfitError{
			Problem: fmt.Sprintf("its cleanup.policy is %q, which loses interests by age or size", p),
			Remedy: fmt.Sprintf("set it: kafka-configs.sh --alter --entity-type topics --entity-name %s --add-config cleanup.policy=compact",
				interest.Topic),
		}
	}
	return nil
}
