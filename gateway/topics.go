package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/internal/protocol"
	"github.com/tapecast/tapecast/internal/stream"
)

// topicInfo is one topic as GET /v1/topics tells it.
type topicInfo struct {
	Name       string `json:"name"`
	Epoch      string `json:"epoch"`
	Format     string `json:"format,omitempty"`
	Partitions int    `json:"partitions"`
}

// topicBounds is one topic as GET /v1/topics/{topic} tells it.
type topicBounds struct {
	Name       string            `json:"name"`
	Epoch      string            `json:"epoch"`
	Format     string            `json:"format,omitempty"`
	Partitions []partitionBounds `json:"partitions"`
}

type partitionBounds struct {
	Partition int32 `json:"partition"`
	Start     int64 `json:"start"` // first retained offset
	End       int64 `json:"end"`   // next offset to be written
}

func (s *Service) serveTopics(w http.ResponseWriter, r *http.Request) {
	if !s.door.admitOrigin(w, r) {
		return
	}
	list := []topicInfo{}
	for _, f := range s.o.source.Topics() {
		list = append(list, topicInfo{f.Name, protocol.EpochText(f.ID), f.Format, len(f.Partitions)})
	}
	writeJSON(w, map[string]any{"topics": list})
}

func (s *Service) serveTopic(w http.ResponseWriter, r *http.Request) {
	if !s.door.admitOrigin(w, r) {
		return
	}
	f, ok := s.find(r.PathValue("topic"))
	if !ok {
		writeError(w, &protocol.Error{Code: protocol.CodeUnknownTopic, Message: "no such topic, or it may not be read"}, http.StatusNotFound)
		return
	}
	bounds, err := s.bounds.of(r.Context(), f.Name)
	if err != nil {
		e := lookupError(err)
		writeError(w, e, e.Code.Status())
		return
	}
	out := topicBounds{Name: f.Name, Epoch: protocol.EpochText(f.ID), Format: f.Format, Partitions: []partitionBounds{}}
	for _, p := range sortedPartitions(bounds) {
		out.Partitions = append(out.Partitions, partitionBounds{p, bounds[p].Start, bounds[p].End})
	}
	writeJSON(w, out)
}

func (s *Service) find(name string) (catalog.Feed, bool) {
	for _, f := range s.o.source.Topics() {
		if f.Name == name {
			return f, true
		}
	}
	return catalog.Feed{}, false
}

func writeJSON(w http.ResponseWriter, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	_ = json.NewEncoder(w).Encode(v)
}

// boundsAge is for how long an answer about a topic's bounds is given again.
const boundsAge = time.Second

// boundsCache asks Kafka for a topic's bounds once for all who ask at a time.
type boundsCache struct {
	source feedSource
	flight singleflight.Group

	mu   sync.Mutex
	kept map[string]keptBounds // guarded by mu; by the name of a topic that exists
}

type keptBounds struct {
	at     time.Time
	bounds map[int32]broker.Bounds
}

func newBoundsCache(source feedSource) *boundsCache {
	return &boundsCache{source: source, kept: map[string]keptBounds{}}
}

func (c *boundsCache) of(ctx context.Context, topic string) (map[int32]broker.Bounds, error) {
	c.mu.Lock()
	k, ok := c.kept[topic]
	c.mu.Unlock()
	if ok && time.Since(k.at) < boundsAge {
		return k.bounds, nil
	}
	v, err, _ := c.flight.Do(topic, func() (any, error) { return c.ask(context.WithoutCancel(ctx), topic) })
	if err != nil {
		return nil, err
	}
	return v.(map[int32]broker.Bounds), nil //nolint:forcetypeassert // ask returns nothing else
}

func (c *boundsCache) ask(ctx context.Context, topic string) (map[int32]broker.Bounds, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	// No key: nobody has to follow the topic for a question about it.
	h, err := c.source.Open(topic, [][]byte{}, func() {})
	if err != nil {
		return nil, err
	}
	defer h.Close()
	b, err := h.Bounds(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.kept[topic] = keptBounds{time.Now(), b}
	case errors.Is(err, stream.ErrUnknownTopic):
		delete(c.kept, topic)
	}
	return b, err
}
