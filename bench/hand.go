package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/delivery"
	"github.com/tapecast/tapecast/internal/embedded"
	"github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/interestlog"
	"github.com/tapecast/tapecast/internal/stream"
)

const feedTopic = "price"

// hand is a fan-out that makes its events up: it writes to the delivery topic
// of the one gateway there is what a fan-out would write.
type hand struct {
	kafka  *embedded.Broker
	client *broker.Client
	id     stream.TopicID

	mu          sync.Mutex
	applied     stream.InterestPos
	incarnation string
	topic       string
}

func newHand(ctx context.Context) (*hand, error) {
	kafka, err := embedded.Start(embedded.Options{Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler), RetentionBytes: 32 << 20})
	if err != nil {
		return nil, err
	}
	cl, err := broker.New(broker.Options{Addrs: kafka.Addrs(), ClientID: "bench"})
	if err != nil {
		return nil, err
	}
	h := &hand{kafka: kafka, client: cl}
	if _, _, err = cl.CreateTopic(ctx, broker.TopicSpec{Name: feedTopic, Partitions: 1}); err != nil {
		return nil, err
	}
	ts, err := cl.Topics(ctx, feedTopic)
	if err != nil || len(ts) != 1 {
		return nil, fmt.Errorf("look up the feed topic: %v %w", ts, err)
	}
	h.id = ts[0].ID
	_, err = interestlog.Ensure(ctx, cl, 0)
	return h, err
}

func (h *hand) close() {
	h.client.Close()
	_ = h.kafka.Close()
}

// Reset implements interestlog.Handler.
func (h *hand) Reset(log stream.TopicID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.applied = stream.InterestPos{Log: log, Offset: -1}
}

// Apply implements interestlog.Handler.
func (h *hand) Apply(pos stream.InterestPos, r interest.Record, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.applied = pos
	if ok && r.Kind == interest.KindLease {
		h.incarnation, h.topic = r.Incarnation, r.Delivery
	}
}

// Caught implements interestlog.Handler.
func (h *hand) Caught(pos stream.InterestPos) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.applied = pos
}

// follow follows the interest log until ctx ends.
func (h *hand) follow(ctx context.Context) error {
	return interestlog.NewFollower(h.client, h, slog.New(slog.DiscardHandler)).Run(ctx)
}

// batchEvery is how often a batch is written, as a fan-out's linger; idleEvery
// how often an empty section says that nothing came.
const (
	batchEvery = 5 * time.Millisecond
	idleEvery  = 50 * time.Millisecond
)

// run publishes until ctx ends. publishing says from when on until when.
func (h *hand) run(ctx context.Context, w work, publishing func() bool, due func(int64)) error {
	var c *clock
	var next int64
	var last time.Time
	var buf []byte
	keys := make([][]byte, w.Keys)
	for i := range keys {
		keys[i] = []byte(keyName(i))
	}
	tick := time.NewTicker(batchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := time.Now()
		var recs []stream.Record
		if publishing() {
			if c == nil {
				c = newClock(w)
			}
			for range min(c.owed(now), 4000) {
				k := c.key()
				at := c.at()
				r := stream.Record{Offset: next, Time: at.UnixMilli(), Accepted: at.UnixMicro(), Value: value(nil, w.Size, at)}
				if k >= 0 {
					r.Key = keys[k]
				}
				recs = append(recs, r)
				next++
			}
			due(c.due)
		}
		if len(recs) == 0 && now.Sub(last) < idleEvery {
			continue
		}
		last = now
		h.mu.Lock()
		applied, inc, topic := h.applied, h.incarnation, h.topic
		h.mu.Unlock()
		if topic == "" {
			continue
		}
		from := next - int64(len(recs))
		var err error
		buf, err = delivery.Append(buf[:0], &delivery.Batch{
			Incarnation: inc, Writer: "bench", WrittenUs: now.UnixMicro(),
			Sections: []stream.Section{{Topic: h.id, Interests: applied, Generation: 1, From: from, To: next, End: next, Deliveries: recs}},
		})
		if err != nil {
			return err
		}
		if _, err = h.client.Append(ctx, topic, 0, []broker.AppendRecord{{Value: buf}}); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "bench: delivery topic:", err)
		}
	}
}
