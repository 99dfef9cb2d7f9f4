// Package feed is the gateway's side of Kafka: its interests, its delivery
// topic, the coverage of every followed partition, the tapes, and replay.
// Sessions own cursors and read through it; nothing here waits for a session.
package feed

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/internal/stream"
	"github.com/tapecast/tapecast/schemas"
)

// Options of a Feed.
type Options struct {
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Catalog    *catalog.Catalog
	Client     *broker.Client
	Registry   *schemas.Registry

	Node        string        // node name; default host name
	Lease       time.Duration // default 10 s
	TapeBytes   int           // all tapes together; default 256 MiB
	ReplayBytes int           // the cache of replayed blocks; default 128 MiB
	ReplayRate  int           // bytes/s read from Kafka for replay, per node; default 64 MiB/s
	BypassRate  int           // bytes/s for bypass; default 16 MiB/s
	Linger      time.Duration // an interest without subscription lives on for; default 5 s
}

// Feed is safe for concurrent use.
type Feed struct{}

// New checks the options and starts nothing.
func New(o Options) (*Feed, error) { panic("not built") }

// Run follows the delivery topic and keeps the tapes until ctx ends; then it
// withdraws its interests, ends its incarnation and deletes its delivery topic.
func (f *Feed) Run(ctx context.Context) error { panic("not built") }

// Ready tells what is missing; nil = incarnation and lease stand.
func (f *Feed) Ready() error { panic("not built") }

// Topics lists the feeds.
func (f *Feed) Topics() []catalog.Feed { panic("not built") }

// Event is one event with its shared frames: immutable, encoded once, when the
// first session needs a form. See Frame.
type Event struct {
	Offset   int64
	Time     int64  // ms
	Accepted int64  // us, 0 = not known
	Key      []byte // nil = none
	Value    []byte // as in Kafka; nil = tombstone
	// unexported: topic name, partition, decoder, the encoded forms
}

// Form of an encoded event.
type Form uint8

// The forms.
const (
	FormText   Form = iota // a WebSocket text frame, header included, of one JSON object
	FormBinary             // a WebSocket binary frame, header included (tapecast.avro)
)

// Frame returns the shared bytes of a form. The JSON text alone is
// JSON(frame). Errors: *schemas.PoisonError (report a gap), or a transient one
// (the registry is away: wait; the sub's wake is called when it is worth trying again).
func (e *Event) Frame(f Form) ([]byte, error) { panic("not built") }

// JSON strips the WebSocket header of a FormText frame.
func JSON(frame []byte) []byte { panic("not built") }

// Gap is a stretch that a session must report.
type Gap struct {
	From, To int64
	Cause    string // retention, epoch, slow, poison, revoked
}

// Chunk is what a cursor gets: all matching events of [From, To), or a gap.
type Chunk struct {
	Status   Status
	From, To int64
	Events   []*Event // matching the sub's keys, ascending; do not keep the slice
	Gap      *Gap     // instead of events: [From, To) is missing
	Replayed bool     // came from Kafka, not from the tape
}

// Status of a Chunk.
type Status uint8

// The statuses.
const (
	More    Status = iota // something was read; ask again from To
	AtHead                // nothing beyond From yet; wake follows
	Pending               // being fetched from Kafka; wake follows
	Reset                 // the topic was deleted or made again: Epoch() and Partitions() are new, start at 0
	Gone                  // the topic is no feed any more (deleted, or not allowed)
	Beyond                // From is beyond the log's end (asked afresh)
)

// Sub is one subscription's hold on a topic: it keeps the interests alive and
// reads for cursors. Its methods are called by one goroutine, wake from any.
type Sub struct{}

// Open starts a subscription to all keys (nil) or some. wake is called,
// without waiting, whenever a Read may give more than the last one did. It
// never blocks. stream.ErrUnknownTopic if there is no such feed.
func (f *Feed) Open(topic string, keys [][]byte, wake func()) (*Sub, error) { panic("not built") }

// Close lets go of the interests (they linger).
func (s *Sub) Close() { panic("not built") }

// Epoch is the topic's id, as last seen by this sub.
func (s *Sub) Epoch() stream.TopicID { panic("not built") }

// Partitions of the topic, as last seen; they may grow (wake is called): a new one starts at 0.
func (s *Sub) Partitions() []int32 { panic("not built") }

// Live returns, once known for every partition, max(X, next): where a live
// subscription begins. ok=false: not yet, wake follows (at most about 2 s).
func (s *Sub) Live() (at map[int32]int64, ok bool) { panic("not built") }

// Bounds asks Kafka afresh for first retained and end offsets.
func (s *Sub) Bounds(ctx context.Context) (map[int32]broker.Bounds, error) { panic("not built") }

// OffsetsAt looks a time up; the end is taken first, and stands for "past the newest".
func (s *Sub) OffsetsAt(ctx context.Context, t time.Time) (map[int32]int64, error) {
	panic("not built")
}

// Read reads from a cursor without waiting: from the tape where it is
// complete for this sub, else from Kafka through shared blocks. About maxEvents at most.
func (s *Sub) Read(partition int32, cursor int64, maxEvents int) Chunk { panic("not built") }

// Scan reads [from, to) of a partition in order, all keys or the sub's, from
// Kafka through shared blocks, waiting where it must (last-N, snapshot).
// fn returns false to stop. end is the last stable offset of the last answer.
func (s *Sub) Scan(ctx context.Context, partition int32, from, to int64, fn func(c Chunk) bool) (end int64, err error) {
	panic("not built")
}

// Skip tells the feed that this cursor jumped on (mode latest): nothing is owed before to.
func (s *Sub) Head(partition int32) (int64, bool) { panic("not built") }
