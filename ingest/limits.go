package ingest

import (
	"context"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/internal/stream"
)

const (
	// limitsAge is how long a topic's configuration is believed.
	limitsAge = 30 * time.Second
	// limitsRetry is how long a failed question for it is not repeated.
	limitsRetry = 5 * time.Second
	// maxLimits bounds the cache; beyond it the cache starts anew.
	maxLimits = 4096
	// batchOverhead is what a batch of one record needs beside key and value.
	batchOverhead = 512
)

// topicLimit is what a topic's configuration makes Kafka refuse.
type topicLimit struct {
	maxEvent  int // bytes of key and value
	compacted bool
	maxAhead  time.Duration // of a timestamp
	maxBehind time.Duration // of a timestamp; 0 = any
}

// configFunc returns a topic's effective configuration.
type configFunc func(ctx context.Context, topic string) (map[string]string, error)

// limits caches topicLimits. Kafka refuses a batch as a whole, so one event
// that breaks them would take other requests' events with it.
type limits struct {
	config   configFunc
	maxEvent int

	mu    sync.Mutex
	known map[string]knownLimit // guarded by mu; by Kafka topic
}

type knownLimit struct {
	topicLimit
	id    stream.TopicID
	until time.Time
}

func newLimits(config configFunc, maxEvent int) *limits {
	return &limits{config: config, maxEvent: maxEvent, known: make(map[string]knownLimit)}
}

// of returns a feed's limits. Where the cluster does not tell them, the last
// known or Kafka's defaults are taken: then Kafka refuses, later and coarser.
func (l *limits) of(ctx context.Context, f catalog.Feed) topicLimit {
	now := time.Now()
	l.mu.Lock()
	k, ok := l.known[f.Topic.Name]
	ok = ok && k.id == f.ID
	if ok && now.Before(k.until) {
		l.mu.Unlock()
		return k.topicLimit
	}
	if !ok {
		k = knownLimit{topicLimit: parseLimit(nil, l.maxEvent), id: f.ID}
	}
	// Others go on with what is known while this one asks.
	k.until = now.Add(limitsRetry)
	l.store(f.Topic.Name, k)
	l.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	config, err := l.config(ctx, f.Topic.Name)
	if err != nil {
		return k.topicLimit
	}
	k = knownLimit{topicLimit: parseLimit(config, l.maxEvent), id: f.ID, until: time.Now().Add(limitsAge)}
	l.mu.Lock()
	l.store(f.Topic.Name, k)
	l.mu.Unlock()
	return k.topicLimit
}

// store needs mu.
func (l *limits) store(topic string, k knownLimit) {
	if len(l.known) >= maxLimits {
		clear(l.known)
	}
	l.known[topic] = k
}

func parseLimit(config map[string]string, maxEvent int) topicLimit {
	t := topicLimit{maxEvent: maxEvent, maxAhead: maxAhead}
	t.compacted = strings.Contains(config["cleanup.policy"], "compact")
	if n, err := strconv.Atoi(config["max.message.bytes"]); err == nil && n > batchOverhead {
		t.maxEvent = min(maxEvent, n-batchOverhead)
	}
	if d, ok := millis(config["message.timestamp.after.max.ms"]); ok {
		t.maxAhead = d - d/12 // Kafka's default hour gives maxAhead
	}
	if d, ok := millis(config["message.timestamp.before.max.ms"]); ok {
		t.maxBehind = d
	}
	return t
}

// millis reads a number of milliseconds that a Duration can hold; Kafka's "for
// ever" is none.
func millis(s string) (time.Duration, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n <= 0 || n > int64(math.MaxInt64/time.Millisecond) {
		return 0, false
	}
	return time.Duration(n) * time.Millisecond, true
}
