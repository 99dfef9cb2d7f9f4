package feed

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/coverage"
	"github.com/tapecast/tapecast/internal/stream"
)

func TestAPositionBeyondTheLogsEndIsACutNotAFailure(t *testing.T) {
	err := fmt.Errorf("read: %w", &stream.OutOfRangeError{Offset: 10, Start: 0, End: 7})
	require.Equal(t, coverage.ReadResult{From: 10, Shrunk: true, End: 7}, readResult(10, broker.Span{}, err))
	err = &stream.OutOfRangeError{Offset: 10, Start: 12, End: 20}
	require.Equal(t, coverage.ReadResult{From: 10, OutOfRange: true, Start: 12, End: 20}, readResult(10, broker.Span{}, err))
	// The bounds were asked after the read: the log has grown back meanwhile.
	err = &stream.OutOfRangeError{Offset: 10, Start: 0, End: 15}
	require.Error(t, readResult(10, broker.Span{}, err).Err)
}

func TestBlocksBeyondTheCutAreDropped(t *testing.T) {
	l := newFakeLog(10_000, 500)
	r := newReplayBench(t, l, 64<<20)
	all := newFilter(nil)
	_, _ = r.read(0, 10_000, all)
	require.NotNil(t, r.sh.at(9_000))
	r.cache.truncate(r.sh, "t", 0, 5_000)
	require.Nil(t, r.sh.at(9_000))
	require.Nil(t, r.sh.at(5_000))
	require.NotNil(t, r.sh.at(100))
}
