// Package stream is the vocabulary of tapecast: the words that every room uses
// for what lies in Kafka. It holds values only: no I/O, no goroutine, nothing
// beyond the standard library.
package stream

import (
	"encoding/base64"
	"errors"
	"fmt"
)

// TopicID is Kafka's identity of one incarnation of a topic. A topic that was
// deleted and made again under the same name has another id. Clients see it as
// the epoch of a position. The zero id means "not known".
type TopicID [16]byte

// String returns the id as Kafka's tools print it: base64url without padding.
func (id TopicID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// IsZero tells whether the id is not known.
func (id TopicID) IsZero() bool { return id == TopicID{} }

// ParseTopicID is the inverse of TopicID.String.
func ParseTopicID(s string) (TopicID, error) {
	var id TopicID
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("topic id %q is not 16 bytes of base64url", s)
	}
	copy(id[:], b)
	return id, nil
}

// Position says where reading goes on: the next offset to read of one
// partition of one incarnation of a topic.
type Position struct {
	Topic     string
	ID        TopicID
	Partition int32
	Next      int64
}

// Record is one record of a feed topic. Key and Value may alias a read buffer;
// whoever hands a Record on says how long they hold.
type Record struct {
	Offset   int64
	Time     int64  // the record's timestamp, milliseconds since the Unix epoch
	Accepted int64  // when tapecast accepted it, microseconds since the Unix epoch; 0 = not written by tapecast
	Key      []byte // nil = the record has no key
	Value    []byte // nil = tombstone
}

// InterestPos is a position of the interest log: everything up to and
// including Offset of that incarnation of the log was applied. Positions of
// different logs never compare.
type InterestPos struct {
	Log    TopicID
	Offset int64 // -1 = nothing applied
}

// Covers tells whether a reader at p has applied the record at e.
func (p InterestPos) Covers(e InterestPos) bool { return p.Log == e.Log && p.Offset >= e.Offset }

// Section is a true sentence about an immutable stretch of one partition:
// everything in [From, To) that the addressed node wants by the interests at
// or before E is listed in Deliveries; when it was said, the last stable
// offset was End.
type Section struct {
	Topic      TopicID
	Partition  int32
	Interests  InterestPos // E: what was applied when From was routed
	Generation int32       // of the consumer group; counted, never decided on
	From, To   int64
	End        int64
	Deliveries []Record // ascending offsets within [From, To)

	// When the fan-out read the deliveries from the feed topic, microseconds
	// since the Unix epoch: the first of them, and the last. 0 = not known. They
	// differ where sections were merged. For people; nothing is decided on them.
	ReadFirst, ReadLast int64
}

// AcceptedHeader is the Kafka record header in which tapecast's own producers
// note when the event was accepted: 8 bytes, big endian, microseconds since
// the Unix epoch.
const AcceptedHeader = "tapecast-accepted"

// InternalPrefix begins the name of each Kafka topic that tapecast makes for
// itself. No feed topic may have it.
const InternalPrefix = "tapecast."

// Errors that cross rooms. Test with errors.Is.
var (
	// ErrUnknownTopic: the topic does not exist, or is not allowed; the two
	// are told apart nowhere a client can see.
	ErrUnknownTopic = errors.New("unknown topic")
	// ErrTopicChanged: the topic was deleted, or made again with another id.
	ErrTopicChanged = errors.New("topic was deleted or made again")
)

// OutOfRangeError says that an offset is not in the log. It is a result, never
// a jump.
type OutOfRangeError struct {
	Offset     int64 // asked for
	Start, End int64 // first retained offset, last stable offset
}

func (e *OutOfRangeError) Error() string {
	return fmt.Sprintf("offset %d is out of range: the log holds [%d, %d)", e.Offset, e.Start, e.End)
}
