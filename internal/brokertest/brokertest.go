// Package brokertest gives tests a Kafka: kfake in the process for one test,
// or Apache Kafka as separate Java processes, so that the same test holds the
// fake to the truth. For tests only.
package brokertest

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/embedded"
)

// Env is a Kafka for one test.
type Env struct {
	// Name is "kfake" or "kafka".
	Name string
	// Addrs are the bootstrap addresses.
	Addrs []string
	// Client is connected to it and closed when the test ends.
	Client *broker.Client
	// Kfake is the cluster, for fault injection; nil on Apache Kafka.
	Kfake *kfake.Cluster
}

// Start gives a fresh kfake of one broker, in memory.
func Start(t testing.TB) *Env {
	t.Helper()
	return StartWith(t, embedded.Options{})
}

// StartWith gives a fresh kfake with these options; it listens on a free port
// unless they name one.
func StartWith(t testing.TB, o embedded.Options) *Env {
	t.Helper()
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	b, err := embedded.Start(o)
	if err != nil {
		t.Fatalf("start kfake: %v", err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close kfake: %v", err)
		}
	})
	return &Env{Name: "kfake", Addrs: b.Addrs(), Client: Dial(t, b.Addrs()...), Kfake: b.Cluster()}
}

// Dial makes a client that is closed when the test ends.
func Dial(t testing.TB, addrs ...string) *broker.Client {
	t.Helper()
	c, err := broker.New(broker.Options{Addrs: addrs, ClientID: "brokertest"})
	if err != nil {
		t.Fatalf("client: %v", err)
	}
	t.Cleanup(c.Close)
	return c
}

// All runs f on kfake and on Apache Kafka. The second is skipped, visibly,
// where Java or Maven is missing; TAPECAST_TEST_REQUIRE_KAFKA=1 makes that a
// failure.
func All(t *testing.T, f func(t *testing.T, env *Env)) {
	t.Helper()
	t.Run("kfake", func(t *testing.T) {
		Report(t, "kfake")
		f(t, Start(t))
	})
	t.Run("kafka", func(t *testing.T) {
		env := Kafka(t)
		Report(t, "Apache Kafka "+kafkaVersion())
		f(t, env)
	})
}

var topicCount atomic.Int64

// Name returns a name that nobody else in this or another run uses.
func Name(t testing.TB, what string) string {
	h := fnv.New32a()
	_, _ = fmt.Fprint(h, t.Name(), time.Now().UnixNano())
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, what)
	return fmt.Sprintf("%s-%08x-%d", clean, h.Sum32(), topicCount.Add(1))
}

// Topic makes a topic with a name that nobody else uses and returns the name.
// config holds pairs of key and value.
func (e *Env) Topic(t testing.TB, partitions int, config ...string) string {
	t.Helper()
	name := Name(t, "topic")
	e.Create(t, name, partitions, config...)
	return name
}

// Create makes a topic of this name, and waits until it can be read. config
// holds pairs of key and value.
func (e *Env) Create(t testing.TB, name string, partitions int, config ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	spec := broker.TopicSpec{Name: name, Partitions: partitions, Config: map[string]string{}}
	for i := 0; i+1 < len(config); i += 2 {
		spec.Config[config[i]] = config[i+1]
	}
	if _, created, err := e.Client.CreateTopic(ctx, spec); err != nil || !created {
		t.Fatalf("create topic %s: created %v, %v", name, created, err)
	}
	if e.Kfake != nil {
		return
	}
	if err := led(ctx, e.Addrs, name, partitions); err != nil {
		t.Fatalf("create topic %s: %v", name, err)
	}
}

// led waits until the leader of every partition answers for it. Apache Kafka
// answers that a topic is made before its brokers have heard of that.
func led(ctx context.Context, addrs []string, topic string, partitions int) error {
	c, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		ends, err := kadm.NewClient(c).ListEndOffsets(ctx, topic)
		if err == nil {
			err = ends.Error()
		}
		if err == nil && len(ends[topic]) == partitions {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d partitions are led: %w", len(ends[topic]), partitions, errors.Join(err, ctx.Err()))
		case <-time.After(10 * time.Millisecond):
		}
	}
}
