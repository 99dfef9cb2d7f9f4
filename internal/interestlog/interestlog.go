// Package interestlog follows the interest log in Kafka: it makes the topic,
// refuses one that could lose interests, and hands every record, in order, to
// whoever folds it. Its one goroutine is Run's.
package interestlog

import (
	"context"
	"log/slog"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/stream"
)

// Ensure creates the interest topic (one partition, compacted, delete.retention.ms
// and segment.ms 5 min, dirty ratio 0.1) or checks the one that is there: any other cleanup
// policy than exactly "compact", or more than one partition, is an error that says what to do. Returns its id.
func Ensure(ctx context.Context, c *broker.Client, replicas int) (stream.TopicID, error) {
	panic("not built")
}

// Handler receives the log. Calls come from Run's goroutine, one at a time.
type Handler interface {
	// Reset: the log begins anew (at the start, or the topic was made again).
	Reset(log stream.TopicID)
	// Apply: everything up to and including pos is applied after this call.
	// ok=false: the record could not be read (counted), only pos moves.
	Apply(pos stream.InterestPos, r interest.Record, ok bool)
	// Caught: everything that was in the log when this pass began is applied;
	// called after each read that reached the end, also when nothing came.
	Caught(pos stream.InterestPos)
}

// Follower follows the log.
type Follower struct{}

// NewFollower makes a follower; it reads nothing yet.
func NewFollower(c *broker.Client, h Handler, log *slog.Logger) *Follower { panic("not built") }

// Run reads from the log's first offset and goes on until ctx ends. Errors of
// the cluster are retried with backoff, for ever.
func (f *Follower) Run(ctx context.Context) error { panic("not built") }

// Sync waits until everything that is in the log at the time of the call is applied.
func (f *Follower) Sync(ctx context.Context) error { panic("not built") }
