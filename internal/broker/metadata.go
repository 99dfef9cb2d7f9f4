package broker

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/tapecast/tapecast/internal/stream"
)

// Topic is what metadata says, asked afresh (never from a cache).
type Topic struct {
	Name       string
	ID         stream.TopicID
	Internal   bool
	Partitions []Partition // ascending ids
}

// Partition of a Topic.
type Partition struct {
	ID       int32
	Leader   int32 // -1 = none now
	Replicas int
	ISR      int
}

// Topics returns the topics of these names that exist, or all that one broker
// knows of with no names.
func (c *Client) Topics(ctx context.Context, names ...string) ([]Topic, error) {
	var out []Topic
	err := retry(ctx, 5*time.Second, func() error {
		answers, err := c.lookUp(ctx, names)
		if err != nil {
			return err
		}
		out = make([]Topic, 0, len(answers))
		for _, t := range answers {
			switch {
			case t.err == nil, isCode(t.err, kafka.LeaderNotAvailable) && len(t.Partitions) > 0:
				out = append(out, t.Topic)
			case isCode(t.err, kafka.UnknownTopicOrPartition, kafka.InvalidTopic):
			default:
				return fmt.Errorf("topic %s: %w", t.Name, t.err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ask for topics: %w", err)
	}
	return out, nil
}

// topicAnswer is one topic of a metadata answer.
type topicAnswer struct {
	Topic
	err error
}

// opinions is how many answers it takes to believe that there is no such topic:
// brokers learn of topics one after the other, and one that has just started
// knows none. opinionTimeout bounds each of those that are asked of others.
const (
	opinions       = 4
	opinionTimeout = time.Second
	opinionPause   = 40 * time.Millisecond
)

// lookUp asks for topics by their names, or for all. What one broker does not know
// by name is asked of others, as kafka-go asks the same one again and again.
func (c *Client) lookUp(ctx context.Context, names []string) ([]topicAnswer, error) {
	answers, err := c.metadata(ctx, names)
	for _, other := range c.lines.some(opinions - 1) {
		unknown := unknownNames(answers)
		if err != nil || len(unknown) == 0 {
			break
		}
		if !sleep(ctx, opinionPause) {
			return nil, ctx.Err()
		}
		var more []topicAnswer
		if more, err = c.metadataOf(ctx, other, opinionTimeout, unknown); err != nil {
			more, err = c.metadata(ctx, unknown) // that one is away
		}
		answers = slices.DeleteFunc(answers, topicAnswer.unknown)
		answers = append(answers, more...)
	}
	return answers, err
}

func (t topicAnswer) unknown() bool { return isCode(t.err, kafka.UnknownTopicOrPartition) }

func unknownNames(answers []topicAnswer) (names []string) {
	for _, t := range answers {
		if t.unknown() {
			names = append(names, t.Name)
		}
	}
	return names
}

// metadata asks any broker. Nil names mean all topics, empty ones none.
func (c *Client) metadata(ctx context.Context, names []string) ([]topicAnswer, error) {
	return c.metadataOf(ctx, anyBroker, lookupTimeout, names)
}

// metadataOf asks one broker. It may not know yet, or show a topic that was
// deleted before.
func (c *Client) metadataOf(ctx context.Context, to int32, slack time.Duration, names []string) ([]topicAnswer, error) {
	a, err := c.ask(ctx, request{
		key: keyMetadata, version: 10, flexible: true, to: to, again: true, slack: slack,
		body: func(f *frame) {
			if names == nil {
				f.uvarint(0)
			} else {
				f.compactArray(len(names))
			}
			for _, n := range names {
				f.raw(make([]byte, 16)) // by name, not by id
				f.compactString(n)
				f.tags()
			}
			f.bool(false) // do not create
			f.bool(false)
			f.bool(false)
			f.tags()
		},
	})
	if err != nil {
		return nil, err
	}
	topics, brokers, err := readMetadata(a)
	if err != nil {
		return nil, err
	}
	c.lines.know(brokers)
	return topics, nil
}

// readMetadata returns the topics, ascending names, and the brokers' addresses.
func readMetadata(a *answer) (topics []topicAnswer, brokers map[int32]string, err error) {
	a.int32() // throttle
	brokers = make(map[int32]string)
	for n := a.compactArray(8); n > 0; n-- {
		id, host, port := a.int32(), a.compactString(), a.int32()
		a.compactString() // rack
		a.tags()
		brokers[id] = net.JoinHostPort(host, strconv.Itoa(int(port)))
	}
	a.compactString() // cluster id
	a.int32()         // controller
	n := a.compactArray(20)
	topics = make([]topicAnswer, 0, n)
	for ; n > 0; n-- {
		topics = append(topics, readTopic(a))
	}
	if err := a.done("metadata"); err != nil {
		return nil, nil, err
	}
	slices.SortFunc(topics, func(a, b topicAnswer) int { return cmp.Compare(a.Name, b.Name) })
	return topics, brokers, nil
}

func readTopic(a *answer) topicAnswer {
	var t topicAnswer
	t.err = code(a.int16())
	t.Name = a.compactString()
	copy(t.ID[:], a.take(16))
	t.Internal = a.bool()
	for n := a.compactArray(16); n > 0; n-- {
		a.int16() // a missing leader shows as -1
		p := Partition{ID: a.int32(), Leader: a.int32()}
		a.int32() // leader epoch
		p.Replicas = skipInt32s(a)
		p.ISR = skipInt32s(a)
		skipInt32s(a)
		a.tags()
		t.Partitions = append(t.Partitions, p)
	}
	a.int32() // authorized operations
	a.tags()
	slices.SortFunc(t.Partitions, func(a, b Partition) int { return cmp.Compare(a.ID, b.ID) })
	return t
}

func skipInt32s(a *answer) int {
	n := a.compactArray(4)
	a.take(4 * n)
	return n
}

// topicEntry caches who leads a topic's partitions. It is asked again when
// somebody finds it wrong.
type topicEntry struct {
	turn chan struct{} // holds one token: its holder asks, and others wait no longer than their contexts

	mu    sync.Mutex // never held while Kafka is asked
	topic Topic      // guarded by mu
	at    time.Time  // guarded by mu; when the question was sent; zero = never, or found wrong
}

func newTopicEntry() *topicEntry {
	e := &topicEntry{turn: make(chan struct{}, 1)}
	e.turn <- struct{}{}
	return e
}

// get returns what is known, and whether it was asked for after since.
func (e *topicEntry) get(since time.Time) (t Topic, fresh, known bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	known = !e.at.IsZero()
	return e.topic, known && e.at.After(since), known
}

func (e *topicEntry) set(t Topic, asked time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.topic, e.at = t, asked
}

// topic returns a topic's identity and leaders, not older than maxAge, and
// stream.ErrUnknownTopic when it does not exist.
func (c *Client) topic(ctx context.Context, name string, maxAge time.Duration) (Topic, error) {
	since := time.Time{}
	if maxAge != forever {
		since = time.Now().Add(-maxAge)
	}
	return c.topicSince(ctx, name, since)
}

// topicSince is topic as of an answer to a question that was sent after since.
func (c *Client) topicSince(ctx context.Context, name string, since time.Time) (Topic, error) {
	c.mu.Lock()
	e := c.topics[name]
	if e == nil {
		e = newTopicEntry()
		c.topics[name] = e
	}
	c.mu.Unlock()

	if t, fresh, _ := e.get(since); fresh {
		return t, nil
	}
	select {
	case <-ctx.Done():
		return Topic{}, fmt.Errorf("ask for topic %s: %w", name, ctx.Err())
	case <-e.turn:
	}
	defer func() { e.turn <- struct{}{} }()
	if t, fresh, _ := e.get(since); fresh { // somebody else has asked meanwhile
		return t, nil
	}
	asked := time.Now()
	t, err := c.askTopic(ctx, name)
	if err != nil {
		if _, _, known := e.get(since); !known {
			c.mu.Lock()
			if c.topics[name] == e {
				delete(c.topics, name) // names that do not exist must not pile up
			}
			c.mu.Unlock()
		}
		return Topic{}, err
	}
	e.set(t, asked)
	return t, nil
}

// askTopic asks for one topic.
func (c *Client) askTopic(ctx context.Context, name string) (Topic, error) {
	answers, err := c.lookUp(ctx, []string{name})
	if err == nil && len(answers) != 1 {
		err = errShort
	}
	if err != nil {
		return Topic{}, fmt.Errorf("ask for topic %s: %w", name, err)
	}
	t := answers[0]
	switch {
	case t.err == nil, isCode(t.err, kafka.LeaderNotAvailable) && len(t.Partitions) > 0:
		return t.Topic, nil
	case t.unknown(), isCode(t.err, kafka.InvalidTopic):
		return Topic{}, fmt.Errorf("topic %q: %w", name, stream.ErrUnknownTopic)
	}
	return Topic{}, fmt.Errorf("ask for topic %s: %w", name, t.err)
}

// forget marks what is cached of a topic as wrong.
func (c *Client) forget(name string) {
	c.mu.Lock()
	e := c.topics[name]
	c.mu.Unlock()
	if e == nil {
		return
	}
	e.mu.Lock()
	// Many partitions find a moved leader at once; one question is enough.
	if time.Since(e.at) > 20*time.Millisecond {
		e.at = time.Time{}
	}
	e.mu.Unlock()
}

// forever is the age up to which leaders are believed until they are found wrong.
const forever = time.Duration(1<<63 - 1)

// leader returns who leads a partition, and the topic's id.
func (c *Client) leader(ctx context.Context, topic string, partition int32) (int32, stream.TopicID, error) {
	t, err := c.topic(ctx, topic, forever)
	if err != nil {
		return 0, stream.TopicID{}, err
	}
	if p, ok := t.partition(partition); ok {
		if p.Leader < 0 {
			c.forget(topic)
			return 0, t.ID, fmt.Errorf("topic %s partition %d: %w", topic, partition, kafka.LeaderNotAvailable)
		}
		return p.Leader, t.ID, nil
	}
	// It may have been added since.
	if t, err = c.topic(ctx, topic, 100*time.Millisecond); err != nil {
		return 0, stream.TopicID{}, err
	}
	if p, ok := t.partition(partition); ok && p.Leader >= 0 {
		return p.Leader, t.ID, nil
	}
	return 0, t.ID, fmt.Errorf("topic %s partition %d: %w", topic, partition, ErrNoPartition)
}

// knownLeader is leader without a question to Kafka.
func (c *Client) knownLeader(topic string, partition int32) (leader int32, ok bool) {
	c.mu.Lock()
	e := c.topics[topic]
	c.mu.Unlock()
	if e == nil {
		return 0, false
	}
	t, fresh, _ := e.get(time.Time{})
	p, ok := t.partition(partition)
	return p.Leader, ok && fresh && p.Leader >= 0
}

func (t Topic) partition(id int32) (Partition, bool) {
	i, ok := slices.BinarySearchFunc(t.Partitions, id, func(p Partition, id int32) int { return cmp.Compare(p.ID, id) })
	if !ok {
		return Partition{}, false
	}
	return t.Partitions[i], true
}
