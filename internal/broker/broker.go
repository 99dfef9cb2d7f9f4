// Package broker is all that tapecast knows of Kafka: the only importer of
// kafka-go. It keeps kafka-go behind a few narrow types (admin, raw reader,
// idempotent producer, appender, group membership), so that a later swap is a
// package, not a rewrite.
//
// Every call takes a context, does not retry for ever by itself unless it says
// so, and returns errors that [Retryable] classifies.
package broker

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/tapecast/tapecast/internal/stream"
)

// Options of a Client.
type Options struct {
	Addrs    []string // host:port of bootstrap brokers
	ClientID string
	Logger   *slog.Logger
	// Dial replaces net.Dialer.DialContext (tests: toxiproxy, in-memory pipes).
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Client is one process's door to a Kafka cluster: one shared transport. Safe
// for concurrent use.
type Client struct{}

// New makes a client; it dials nothing yet.
func New(o Options) (*Client, error) { panic("not built") }

// Close closes idle connections.
func (c *Client) Close() { panic("not built") }

// Ping asks any bootstrap broker for metadata.
func (c *Client) Ping(ctx context.Context) error { panic("not built") }

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

// Topics returns the topics of these names that exist, or all with no names.
func (c *Client) Topics(ctx context.Context, names ...string) ([]Topic, error) { panic("not built") }

// TopicSpec describes a topic to create. Replicas 0 = the broker's default.
type TopicSpec struct {
	Name       string
	Partitions int
	Replicas   int
	Config     map[string]string
}

// CreateTopic creates it and waits until metadata shows it with leaders. created=false: it was there.
func (c *Client) CreateTopic(ctx context.Context, s TopicSpec) (created bool, err error) {
	panic("not built")
}

// DeleteTopic deletes a topic; a topic that is not there is no error.
func (c *Client) DeleteTopic(ctx context.Context, name string) error { panic("not built") }

// AddPartitions raises the partition count.
func (c *Client) AddPartitions(ctx context.Context, name string, total int) error {
	panic("not built")
}

// TopicConfig returns the topic's effective configuration.
func (c *Client) TopicConfig(ctx context.Context, name string) (map[string]string, error) {
	panic("not built")
}

// Bounds of a partition's log, asked afresh.
type Bounds struct {
	Start int64 // first retained offset
	End   int64 // last stable offset: the first offset that is not yet committed
}

// Bounds asks for the bounds of these partitions.
func (c *Client) Bounds(ctx context.Context, topic string, partitions []int32) (map[int32]Bounds, error) {
	panic("not built")
}

// OffsetsAt returns for each partition the first offset whose record time is
// at or after t; -1 = there is none.
func (c *Client) OffsetsAt(ctx context.Context, topic string, partitions []int32, t time.Time) (map[int32]int64, error) {
	panic("not built")
}

// Reader reads one partition of one incarnation of a topic, committed records
// only, through raw batches. Not safe for concurrent use; cheap to make.
type Reader struct{}

// NewReader reads by topic id; with a zero id, by name (and ID tells which it met).
func (c *Client) NewReader(topic string, id stream.TopicID, partition int32) *Reader {
	panic("not built")
}

// Span is what one fetch answer proves: the committed records of [From, To).
type Span struct {
	From, To int64
	Start    int64           // first retained offset, -1 = not told
	End      int64           // last stable offset
	Records  []stream.Record // ascending; alias the reader's buffer until the next call
	Bytes    int             // read from the wire
}

// Read reads from offset from, at most about maxBytes, and waits up to maxWait
// when there is nothing. To = From when nothing is proved. Errors:
// *stream.OutOfRangeError, stream.ErrTopicChanged, and others (see Retryable).
func (r *Reader) Read(ctx context.Context, from int64, maxBytes int, maxWait time.Duration) (Span, error) {
	panic("not built")
}

// Close releases the reader's buffer.
func (r *Reader) Close() { panic("not built") }

// AppendRecord is one record to append as it is.
type AppendRecord struct {
	Key, Value []byte
	Time       time.Time // zero = now
}

// Append writes records as one batch to one partition, acks=all, one try, no
// Kafka-level compression. It returns the first record's offset. An error does
// not mean "not written". For delivery topics and the interest log, where a
// double does no harm.
func (c *Client) Append(ctx context.Context, topic string, partition int32, recs []AppendRecord) (base int64, err error) {
	panic("not built")
}

// ProducerOptions of an idempotent Producer.
type ProducerOptions struct {
	MaxBuffered int           // bytes queued and in flight; Produce waits beyond it. Default 64 MiB
	MaxBatch    int           // bytes of one batch before compression. Default 512 KiB (broker limit 1 MiB)
	Linger      time.Duration // default 0: natural batching
	Compression string        // "snappy" (default), "none", "gzip", "zstd"
}

// Producer is an idempotent producer: one batch in flight per partition, the
// same bytes again until Kafka's verdict is known, acks=all.
type Producer struct{}

// NewProducer makes a producer. Run it.
func (c *Client) NewProducer(o ProducerOptions) *Producer { panic("not built") }

// Run runs the producer until ctx ends; what was queued then is failed with ctx's error.
func (p *Producer) Run(ctx context.Context) error { panic("not built") }

// ProduceRecord is one record for a feed topic.
type ProduceRecord struct {
	Key       []byte // nil = none: partitions in turn
	Value     []byte // nil = tombstone
	Time      time.Time
	Partition int32 // -1 = by key (murmur2, as Java's default partitioner)
	Accepted  int64 // microseconds; 0 = no header
}

// Produced tells where a record went.
type Produced struct {
	Partition int32
	Offset    int64
	Err       error // this record was not written, or (ErrUnknownOutcome) nobody knows
}

// Produce queues records and waits for all their verdicts, in order of recs.
// Records of one partition keep their order. When ctx ends first the records
// without verdict have ErrUnknownOutcome (in flight) or ctx's error (never sent).
func (p *Producer) Produce(ctx context.Context, topic string, recs []ProduceRecord) ([]Produced, error) {
	panic("not built")
}

// GroupOptions of a group member.
type GroupOptions struct {
	Group     string
	Instance  string                                      // static membership: the same name rejoins without a rebalance
	Topics    func(ctx context.Context) ([]string, error) // asked at every join
	Changed   <-chan struct{}                             // topics or partitions changed: rejoin
	Session   time.Duration                               // default 6 s
	Heartbeat time.Duration                               // default 500 ms
	Rebalance time.Duration                               // default 6 s
	Logger    *slog.Logger
}

// TopicPartition names a partition of a topic.
type TopicPartition struct {
	Topic     string
	Partition int32
}

// Committed is a group's committed position. Metadata holds what the committer said of it.
type Committed struct {
	Offset   int64 // next to read; -1 = none
	Metadata string
}

// Generation is one membership: what this member owns until the next call.
type Generation struct {
	ID       int32
	Member   string
	Assigned map[TopicPartition]Committed
}

// Commit commits next offsets under this generation. Safe for concurrent use.
func (g *Generation) Commit(ctx context.Context, offsets map[TopicPartition]Committed) error {
	panic("not built")
}

// JoinGroup keeps a member in the group until ctx ends, then leaves it. For
// each generation it calls assigned, which must return soon: it diffs the
// assignment, stops what was revoked, starts what is new, and leaves what is
// kept running. Assignment is sticky. It returns only with ctx's end.
func (c *Client) JoinGroup(ctx context.Context, o GroupOptions, assigned func(*Generation)) error {
	panic("not built")
}

// Lag and membership, for people.

// GroupOffsets returns what the group has committed for the topic's partitions.
func (c *Client) GroupOffsets(ctx context.Context, group, topic string, partitions []int32) (map[int32]Committed, error) {
	panic("not built")
}

// Retryable tells whether the same call may succeed later.
func Retryable(err error) bool { panic("not built") }
