package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/tapecast/tapecast/internal/stream"
)

// adminTimeout bounds an administrative call, retries included.
const adminTimeout = 30 * time.Second

// TopicSpec describes a topic to create. Replicas 0 = the broker's default,
// Partitions 0 as well.
type TopicSpec struct {
	Name       string
	Partitions int
	Replicas   int
	Config     map[string]string
}

// CreateTopic creates it, waits until metadata shows it with leaders, not one of
// the same name that was deleted before, and returns it. created=false: it was there.
// Brokers that metadata was not asked of may still know nothing of it.
func (c *Client) CreateTopic(ctx context.Context, s TopicSpec) (t Topic, created bool, err error) {
	if s.Partitions == 0 {
		s.Partitions = -1
	}
	if s.Replicas == 0 {
		s.Replicas = -1
	}
	var id stream.TopicID // zero: any
	err = retry(ctx, adminTimeout, func() error {
		made, err := c.createTopic(ctx, s)
		switch {
		case err == nil:
			created, id = true, made
		case isCode(err, kafka.TopicAlreadyExists):
			// Also the second try of one whose answer was lost.
			return nil
		}
		return err
	})
	if err == nil {
		t, err = c.awaitTopic(ctx, s.Name, id)
	}
	if err != nil {
		return Topic{}, created, fmt.Errorf("create topic %s: %w", s.Name, err)
	}
	return t, created, nil
}

func (c *Client) createTopic(ctx context.Context, s TopicSpec) (stream.TopicID, error) {
	a, err := c.ask(ctx, request{
		key: keyCreateTopics, version: 7, flexible: true, to: controller, again: true, wait: 10 * time.Second,
		body: func(f *frame) {
			f.compactArray(1)
			f.compactString(s.Name)
			f.int32(int32(s.Partitions))
			f.int16(int16(s.Replicas))
			f.compactArray(0)
			f.compactArray(len(s.Config))
			for k, v := range s.Config {
				f.compactString(k)
				f.compactString(v)
				f.tags()
			}
			f.tags()
			f.int32(10_000)
			f.bool(false)
			f.tags()
		},
	})
	if err != nil {
		return stream.TopicID{}, err
	}
	return readCreated(a)
}

// readCreated reads the id of the one topic that was created, as far as it is
// wanted: its configuration comes after that.
func readCreated(a *answer) (id stream.TopicID, err error) {
	a.int32() // throttle
	if a.compactArray(20) > 0 {
		a.compactString()
		copy(id[:], a.take(len(id)))
		err = code(a.int16())
		if text := a.compactString(); err != nil && text != "" {
			err = fmt.Errorf("%w (%s)", err, text)
		}
	}
	switch {
	case a.err != nil:
		return stream.TopicID{}, a.err
	case err == nil && id.IsZero():
		return id, fmt.Errorf("no topic id in the answer: %w", errShort)
	}
	return id, err
}

// readResult reads the one entry of an answer that has one entry per topic:
// name, code and, in some, a message.
func readResult(a *answer, message bool) error {
	var failed error
	for n := a.array(4); n > 0; n-- {
		a.string()
		err, text := code(a.int16()), ""
		if message {
			text = a.string()
		}
		if err != nil && text != "" {
			err = fmt.Errorf("%w (%s)", err, text)
		}
		failed = errors.Join(failed, err)
	}
	if a.err != nil {
		return a.err
	}
	return failed
}

// awaitTopic waits until a topic has a leader for each partition; with an id,
// until it is that one: metadata may lag, and show what was deleted before.
func (c *Client) awaitTopic(ctx context.Context, name string, id stream.TopicID) (t Topic, err error) {
	err = retry(ctx, adminTimeout, func() (err error) {
		t, err = c.topic(ctx, name, 0)
		if errors.Is(err, stream.ErrUnknownTopic) {
			return fmt.Errorf("not in metadata yet: %w", kafka.LeaderNotAvailable)
		}
		if err != nil {
			return err
		}
		if !id.IsZero() && t.ID != id {
			return fmt.Errorf("metadata shows id %s, not %s: %w", t.ID, id, kafka.LeaderNotAvailable)
		}
		if len(t.Partitions) == 0 {
			return kafka.LeaderNotAvailable
		}
		for _, p := range t.Partitions {
			if p.Leader < 0 {
				return kafka.LeaderNotAvailable
			}
		}
		return nil
	})
	return t, err
}

// DeleteTopic deletes a topic; a topic that is not there is no error.
func (c *Client) DeleteTopic(ctx context.Context, name string) error {
	err := retry(ctx, adminTimeout, func() error {
		a, err := c.ask(ctx, request{
			key: keyDeleteTopics, version: 3, to: controller, again: true, wait: 10 * time.Second,
			body: func(f *frame) {
				f.array(1)
				f.string(name)
				f.int32(10_000)
			},
		})
		if err != nil {
			return err
		}
		a.int32() // throttle
		if err := readResult(a, false); !isCode(err, kafka.UnknownTopicOrPartition) {
			return err
		}
		return nil
	})
	c.forget(name)
	if err != nil {
		return fmt.Errorf("delete topic %s: %w", name, err)
	}
	return nil
}

// AddPartitions raises the partition count to total, and waits until metadata
// shows it with leaders. A topic that has as many already is no error.
func (c *Client) AddPartitions(ctx context.Context, name string, total int) error {
	err := retry(ctx, adminTimeout, func() error {
		t, err := c.topic(ctx, name, 0)
		if err != nil || len(t.Partitions) == total {
			return err
		}
		a, err := c.ask(ctx, request{
			key: keyCreatePartitions, version: 1, to: controller, wait: 10 * time.Second,
			body: func(f *frame) {
				f.array(1)
				f.string(name)
				f.int32(int32(total))
				f.array(-1)
				f.int32(10_000)
				f.bool(false)
			},
		})
		if err != nil {
			return err
		}
		a.int32() // throttle
		return readResult(a, true)
	})
	if err == nil {
		err = c.awaitPartitions(ctx, name, total)
	}
	if err != nil {
		return fmt.Errorf("add partitions to topic %s: %w", name, err)
	}
	return nil
}

func (c *Client) awaitPartitions(ctx context.Context, name string, total int) error {
	return retry(ctx, adminTimeout, func() error {
		t, err := c.awaitTopic(ctx, name, stream.TopicID{})
		if err == nil && len(t.Partitions) < total {
			return kafka.LeaderNotAvailable
		}
		return err
	})
}

// TopicConfig returns the topic's effective configuration.
func (c *Client) TopicConfig(ctx context.Context, name string) (map[string]string, error) {
	var out map[string]string
	err := retry(ctx, 5*time.Second, func() error {
		if _, err := c.topic(ctx, name, 0); err != nil {
			return err
		}
		a, err := c.ask(ctx, request{
			key: keyDescribeConfigs, version: 1, to: anyBroker, again: true,
			body: func(f *frame) {
				f.array(1)
				f.int8(2) // a topic
				f.string(name)
				f.array(-1)
				f.bool(false)
			},
		})
		if err != nil {
			return err
		}
		out, err = readConfig(a)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("configuration of topic %s: %w", name, err)
	}
	return out, nil
}

func readConfig(a *answer) (map[string]string, error) {
	out := make(map[string]string)
	var failed error
	a.int32() // throttle
	for n := a.array(10); n > 0; n-- {
		failed = errors.Join(failed, code(a.int16()))
		a.string()
		a.int8()
		a.string()
		for m := a.array(8); m > 0; m-- {
			k, v := a.string(), a.string()
			a.bool()
			a.int8()
			a.bool()
			for s := a.array(5); s > 0; s-- {
				a.string()
				a.string()
				a.int8()
			}
			out[k] = v
		}
	}
	if a.err != nil {
		return nil, a.err
	}
	return out, failed
}
