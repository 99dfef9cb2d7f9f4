package feed

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/stream"
)

// env is what partitions share: the node's budgets and its ways to Kafka.
type env struct {
	// static after construction
	open     func(topic string, id stream.TopicID, partition int32) reader
	bounds   func(ctx context.Context, topic string, id stream.TopicID, partitions []int32) (map[int32]broker.Bounds, error)
	asker    *asker
	refresh  func() // asks the catalogue soon
	spawn    func(fn func(ctx context.Context))
	budget   *budget
	cache    *cache
	resolver *resolver
	metrics  *metrics
	silence  time.Duration

	bypassRate *rate
	bypassing  atomic.Int64 // partitions in bypass
	hops       hops
	reads      chan struct{} // one token per gap or bypass read under way
}

// maxReads bounds the gap and bypass reads under way on a node.
const maxReads = 64

// enterRead waits until a read may begin: a bypass within its budget of bytes
// per second. Gaps only spend from it, as what follows a gap waits for it.
func (e *env) enterRead(ctx context.Context, bypass bool) error {
	if bypass {
		if err := e.bypassRate.wait(ctx); err != nil {
			return err
		}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case e.reads <- struct{}{}:
		return nil
	}
}

func (e *env) leaveRead() { <-e.reads }
