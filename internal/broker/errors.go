package broker

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"

	"github.com/segmentio/kafka-go"
)

// Errors of this package. Test with errors.Is.
var (
	// ErrUnknownOutcome says that a record may or may not have been written.
	ErrUnknownOutcome = errors.New("the outcome of the write is not known")
	// ErrRecordTooLarge says that a record is larger than a batch may be.
	// The same record will never be accepted.
	ErrRecordTooLarge = errors.New("the record is too large")
	// ErrNoPartition says that the topic has no such partition.
	ErrNoPartition = errors.New("the topic has no such partition")
	// ErrStaleGeneration says that a commit came from a membership that has
	// ended: somebody else may own the partitions by now.
	ErrStaleGeneration = errors.New("the group's generation has moved on")
	// ErrCorrupt says that what Kafka sent cannot be read as record batches.
	ErrCorrupt = errors.New("corrupt record batch")
	// ErrLegacyFormat says that a partition holds message sets of formats 0
	// or 1, which Kafka wrote before 0.11.
	ErrLegacyFormat = errors.New("the partition holds messages of a format older than Kafka 0.11; copy the topic to read it")
)

// CorruptError is an ErrCorrupt that says where: what stands in [From, To) of
// the partition cannot be read. To = From if that is not committed yet.
type CorruptError struct {
	From, To int64
	Err      error
}

// Error implements error.
func (e *CorruptError) Error() string { return e.Err.Error() }

// Unwrap gives an ErrCorrupt.
func (e *CorruptError) Unwrap() error { return e.Err }

// code turns a protocol error code into an error; 0 is none.
func code(c int16) error {
	if c == 0 {
		return nil
	}
	return kafka.Error(c)
}

// Retryable tells whether the same call may succeed later without anybody
// changing anything: the network, a moved leader, a broker that starts. The
// end of the caller's own context is not retryable.
func Retryable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	var e kafka.Error
	if errors.As(err, &e) {
		return retryableCode(e)
	}
	return unreached(err)
}

func retryableCode(e kafka.Error) bool {
	switch e {
	case kafka.UnknownTopicOrPartition, kafka.LeaderNotAvailable, kafka.NotLeaderForPartition,
		kafka.RequestTimedOut, kafka.BrokerNotAvailable, kafka.ReplicaNotAvailable,
		kafka.NetworkException, kafka.GroupLoadInProgress, kafka.GroupCoordinatorNotAvailable,
		kafka.NotCoordinatorForGroup, kafka.NotEnoughReplicas, kafka.NotEnoughReplicasAfterAppend,
		kafka.NotController, kafka.KafkaStorageError, kafka.FencedLeaderEpoch,
		kafka.UnknownLeaderEpoch, kafka.OffsetNotAvailable, kafka.ListenerNotFound,
		kafka.PreferredLeaderNotAvailable, kafka.EligibleLeadersNotAvailable,
		kafka.UnstableOffsetCommit, kafka.ThrottlingQuotaExceeded,
		kafka.RebalanceInProgress, kafka.UnknownTopicID, kafka.InconsistentTopicID:
		return true
	}
	return false
}

// disconnected tells whether a connection broke under a request. A pooled
// connection does so once after its broker restarted.
func disconnected(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
}

// unreached tells whether a broker was not reached, or did not answer: another
// one may lead by now, or the same at another address.
func unreached(err error) bool {
	return disconnected(err) || isNet(err) || errors.Is(err, context.DeadlineExceeded)
}

func isNet(err error) bool {
	var n net.Error
	return errors.As(err, &n) || errors.Is(err, syscall.ECONNREFUSED)
}

func isCode(err error, codes ...kafka.Error) bool {
	var e kafka.Error
	if !errors.As(err, &e) {
		return false
	}
	for _, c := range codes {
		if e == c {
			return true
		}
	}
	return false
}
