package fanout

import (
	"bytes"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/coverage"
	"github.com/tapecast/tapecast/internal/stream"
)

func TestABatchThatCannotBeReadIsLeftOut(t *testing.T) {
	aBatchThatCannotBeReadIsLeftOut(t, newRig(t))
}

// Its bytes change on the way to the fan-out, so their checksum is wrong.
func aBatchThatCannotBeReadIsLeftOut(t *testing.T, r *rig) {
	t.Helper()
	r.spoil = bytes.Repeat([]byte{0xa7}, 16)
	topic := r.topic(2)
	f := r.start("f1")
	f.owns(2)
	g := r.gate("n1", time.Hour)
	e := g.want(topic, "")
	for part := range int32(2) {
		g.answered(topic, part, e)
		r.write(topic, part, 10)
	}
	bad := broker.AppendRecord{Key: []byte("k"), Value: bytes.Repeat([]byte{0xa7}, 1000)}
	base, err := r.env.Client.Append(t.Context(), topic, 0, []broker.AppendRecord{bad, bad, bad})
	require.NoError(t, err)
	require.EqualValues(t, 10, base)
	r.write(topic, 1, 10)
	g.covered(topic, 0, e, 0, 10)
	// Nothing follows it: gateways hear that coverage went on all the same.
	id := r.topicID(topic)
	g.await("coverage went on behind it", func(ss []stream.Section) bool {
		for _, s := range ss {
			if s.Topic == id && s.Partition == 0 && s.From >= 13 {
				return true
			}
		}
		return false
	})
	r.write(topic, 0, 10)
	g.covered(topic, 0, e, 13, 23)
	g.covered(topic, 1, e, 0, 20)
	g.check()
	for _, s := range g.all() {
		require.False(t, s.Topic == id && s.Partition == 0 && s.From < 13 && s.To > 10, "nothing is claimed about what nobody read")
	}
	require.EqualValues(t, 1, testutil.ToFloat64(f.metrics.corrupt))
	r.committed(topic, 0, func(c broker.Committed) bool { return c.Offset == 23 })
}

func TestABatchIsAskedForAFewTimesBeforeItIsPassedOver(t *testing.T) {
	m, err := newMetrics(nil)
	require.NoError(t, err)
	p := &partition{parts: parts{metrics: m, round: &round{}, log: testLog("p")}}
	p.book = &book{chains: coverage.NewChains(stream.TopicID{1}, 0, 1, 100)}
	at := func(from, to int64) *broker.CorruptError {
		return &broker.CorruptError{From: from, To: to, Err: broker.ErrCorrupt}
	}
	for range 2 * corruptTries {
		require.False(t, p.passOver(at(100, 100)), "it is not committed: what comes may be another one")
	}
	for _, to := range []int64{110, 120} {
		for range corruptTries - 1 {
			require.False(t, p.passOver(at(100, to)))
		}
	}
	require.True(t, p.passOver(at(100, 120)))
	require.EqualValues(t, 120, p.book.chains.Next())
	require.False(t, p.passOver(at(120, 130)), "each one is counted by itself")
	require.EqualValues(t, 1, testutil.ToFloat64(m.corrupt))
}
