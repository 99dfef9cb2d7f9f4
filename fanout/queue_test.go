package fanout

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/delivery"
	"github.com/tapecast/tapecast/internal/stream"
)

func section(from, to, e int64, offsets ...int64) stream.Section {
	s := stream.Section{From: from, To: to, End: to, Interests: stream.InterestPos{Offset: e}}
	for _, o := range offsets {
		s.Deliveries = append(s.Deliveries, stream.Record{Offset: o, Value: []byte("value")})
	}
	return s
}

func TestNeighboursThatWaitBecomeOneSection(t *testing.T) {
	var q queue
	b := &book{}
	q.push(b, section(0, 5, 1, 0, 4))
	q.push(b, section(5, 9, 1))
	q.push(b, section(9, 12, 1, 9, 10))
	got := q.take(nil, 1<<20)
	require.Len(t, got, 1)
	require.EqualValues(t, 0, got[0].From)
	require.EqualValues(t, 12, got[0].To)
	require.Equal(t, []int64{0, 4, 9, 10}, offsets(got[0].Deliveries))
	require.EqualValues(t, 12, got[0].End)
}

func TestMergingLeavesSharedDeliveriesAlone(t *testing.T) {
	var q1, q2 queue
	b := &book{}
	shared := section(0, 2, 1, 0, 1)
	q1.push(b, shared)
	q2.push(b, shared)
	q1.push(b, section(2, 4, 1, 2, 3))
	q2.push(b, section(2, 6, 1, 5))
	require.Equal(t, []int64{0, 1, 2, 3}, offsets(q1.take(nil, 1<<20)[0].Deliveries))
	require.Equal(t, []int64{0, 1, 5}, offsets(q2.take(nil, 1<<20)[0].Deliveries))
	require.Equal(t, []int64{0, 1}, offsets(shared.Deliveries))
}

func TestTheAnswerToANewInterestStaysASectionOfItsOwn(t *testing.T) {
	var q queue
	b := &book{}
	q.push(b, section(0, 5, 1, 0))
	q.push(b, section(5, 5, 2))
	q.push(b, section(5, 8, 2, 6))
	got := q.take(nil, 1<<20)
	require.Len(t, got, 2)
	require.EqualValues(t, 1, got[0].Interests.Offset)
	require.EqualValues(t, 2, got[1].Interests.Offset)
	require.EqualValues(t, 5, got[1].From)
	require.EqualValues(t, 8, got[1].To)
}

func TestWhatIsInFlightIsNotMergedInto(t *testing.T) {
	var q queue
	b := &book{}
	q.push(b, section(0, 5, 1))
	require.Len(t, q.take(nil, 1<<20), 1)
	q.push(b, section(5, 9, 1))
	require.Equal(t, 2, q.len())
	from, ok := q.unacked(b)
	require.True(t, ok)
	require.EqualValues(t, 0, from)
	q.ack()
	from, ok = q.unacked(b)
	require.True(t, ok)
	require.EqualValues(t, 5, from)
	require.Len(t, q.take(nil, 1<<20), 1)
	q.ack()
	_, ok = q.unacked(b)
	require.False(t, ok)
	require.Zero(t, q.bytes)
}

func TestWhatWasDroppedInFlightIsNotAcknowledgedLater(t *testing.T) {
	var q queue
	b := &book{}
	q.push(b, section(0, 5, 1, 1))
	q.take(nil, 1<<20)
	require.Equal(t, 1, q.drop())
	q.push(b, section(9, 12, 1, 9))
	q.ack()
	from, ok := q.unacked(b)
	require.True(t, ok)
	require.EqualValues(t, 9, from)
}

// Random pushes, takes, acks and retakes: order and bytes are kept, each book's
// first unacknowledged offset is right, and nothing is lost.
func TestQueueKeepsItsBooks(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var q queue
	books := []*book{{}, {}, {}}
	next := make([]int64, len(books))
	acked := make([]int64, len(books))
	e := int64(1)
	var flight []stream.Section
	for range 20000 {
		switch rng.IntN(6) {
		case 0, 1, 2:
			i := rng.IntN(len(books))
			if rng.IntN(5) == 0 {
				e++
			}
			to := next[i] + rng.Int64N(4)
			var os []int64
			for o := next[i]; o < to && rng.IntN(2) == 0; o++ {
				os = append(os, o)
			}
			s := section(next[i], to, e, os...)
			s.Partition = int32(i)
			q.push(books[i], s)
			next[i] = to
		case 3:
			if q.flight == 0 {
				flight = q.take(nil, rng.IntN(2000))
			}
		case 4:
			for _, s := range flight {
				require.Equal(t, acked[s.Partition], s.From)
				acked[s.Partition] = s.To
			}
			flight = nil
			q.ack()
		case 5:
			flight = nil
			q.retake()
		}
		bytes := 0
		for _, en := range q.entries[q.head:] {
			bytes += en.size
			require.GreaterOrEqual(t, en.size, delivery.Size(&en.sec)-len(en.sec.Deliveries)*4)
		}
		require.Equal(t, bytes, q.bytes)
		for i, b := range books {
			if from, ok := q.unacked(b); ok {
				require.Equal(t, acked[i], from)
			} else {
				require.Equal(t, next[i], acked[i])
			}
		}
	}
}

func TestWatermarkWaitsForEveryNodeThatIsNotCut(t *testing.T) {
	for name, tc := range map[string]struct {
		nodes []progress
		want  int64
	}{
		"no node":             {nil, 100},
		"all acknowledged":    {[]progress{{holds: true, to: 100}, {holds: true, to: 100}}, 100},
		"one has not acked":   {[]progress{{holds: true, to: 100}, {holds: true, pending: true, unacked: 40, to: 100}}, 40},
		"one is cut":          {[]progress{{holds: true, to: 90}, {pending: true, unacked: 40, to: 100}}, 90},
		"quiet node is young": {[]progress{{holds: true, to: 70}}, 70},
		"all are cut":         {[]progress{{unacked: 1, pending: true}, {}}, 100},
	} {
		require.Equal(t, tc.want, watermark(100, tc.nodes), name)
	}
}

func TestWhereAPartitionStarts(t *testing.T) {
	id, other := stream.TopicID{1}, stream.TopicID{2}
	for name, tc := range map[string]struct {
		c        broker.Committed
		followed bool
		from     int64
		end      bool
	}{
		"never followed":                    {broker.Committed{Offset: -1}, false, 0, true},
		"new partition of a followed topic": {broker.Committed{Offset: -1}, true, 0, false},
		"committed":                         {broker.Committed{Offset: 7, Metadata: id.String()}, true, 7, false},
		"committed at zero":                 {broker.Committed{Offset: 0, Metadata: id.String()}, true, 0, false},
		"commit of an earlier incarnation":  {broker.Committed{Offset: 7, Metadata: other.String()}, true, 0, false},
		"reset by an operator's tool":       {broker.Committed{Offset: 7}, true, 7, false},
	} {
		from, end := startAt(tc.c, id, tc.followed)
		require.Equal(t, tc.from, from, name)
		require.Equal(t, tc.end, end, name)
	}
}

func TestATopicThatWasMadeAgainHasAHistory(t *testing.T) {
	h := newHistory()
	a, b := stream.TopicID{1}, stream.TopicID{2}
	require.False(t, h.another("t", a))
	h.note("t", a)
	h.note("t", a)
	require.False(t, h.another("t", a))
	require.True(t, h.another("t", b), "not noted yet")
	h.note("t", b)
	h.note("t", stream.TopicID{})
	require.True(t, h.another("t", b))
	require.False(t, h.another("u", b))
}
