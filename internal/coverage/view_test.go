package coverage

import (
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/stream"
)

var (
	topicA = stream.TopicID{1}
	topicB = stream.TopicID{2}
	logA   = stream.TopicID{0xa}
	logB   = stream.TopicID{0xb}
)

func at(offset int64) stream.InterestPos { return stream.InterestPos{Log: logA, Offset: offset} }

// sec is a section [from, to) by the interests at e, with records of key k.
func sec(from, to, e int64, offsets ...int64) stream.Section {
	s := stream.Section{Topic: topicA, Interests: at(e), From: from, To: to, End: to}
	s.Deliveries = recs(offsets...)
	return s
}

func recs(offsets ...int64) []stream.Record {
	var out []stream.Record
	for _, o := range offsets {
		out = append(out, stream.Record{Offset: o, Key: []byte("k"), Value: []byte("v")})
	}
	return out
}

// consistent compares a view's shortcuts with what they stand for. It returns
// what is wrong.
func (v *View) consistent() string {
	withX, unacked, waiters := 0, 0, 0
	keys := map[string]int{}
	for _, i := range v.ints {
		if !i.all {
			keys[i.key]++
		}
		switch {
		case i.hasX && !i.acked:
			withX, unacked = withX+1, unacked+1
		case i.hasX:
			withX++
			if !v.hasHigh || !v.foreign && !v.high.Covers(i.e) {
				return "high"
			}
		default:
			waiters++
			if i.acked && i.e.Offset < v.low {
				return "low"
			}
		}
		if i.hasX && i.x > v.next {
			return "an X beyond next"
		}
	}
	bytes := 0
	for i := range v.wait.sections {
		bytes += weigh(&v.wait.sections[i])
		if i > 0 && v.wait.sections[i].From < v.wait.sections[i-1].From {
			return "order of the waiting"
		}
	}
	switch {
	case withX != v.withX || unacked != v.unacked || waiters != len(v.waiters):
		return "counts"
	case !maps.Equal(keys, v.keys):
		return "keys"
	case bytes != v.wait.bytes || bytes > v.opt.WaitBytes:
		return "bytes of the waiting"
	case v.wait.len() > 0 && (!v.gapOpen() || v.wait.first() <= v.next):
		return "something waits for nothing"
	case withX == 0 && (v.gapOpen() || v.wait.len() > 0):
		return "not followed, but busy"
	case !v.below.IsZero() != (v.followed() && v.next < v.end):
		return "below"
	}
	return ""
}

// harness drives a View with a clock and keeps what the owner would.
type harness struct {
	t    *testing.T
	v    *View
	now  time.Time
	tape []int64
	gaps [][2]int64
	head int64
	read *Read
	n    map[string]int
	all  []Action // of the last call
	ends int
	ids  int
}

func newHarness(t *testing.T) *harness {
	return &harness{t: t, v: NewView(topicA, 0, Options{}), now: time.Unix(1000, 0), n: map[string]int{}}
}

func (h *harness) do(actions []Action) {
	h.all = actions
	for _, a := range actions {
		switch a := a.(type) {
		case Restart:
			h.tape, h.gaps, h.head = nil, nil, a.At
		case Take:
			require.GreaterOrEqual(h.t, a.To, h.head)
			for _, r := range a.Records {
				require.GreaterOrEqual(h.t, r.Offset, h.head)
				require.Less(h.t, r.Offset, a.To)
				h.tape = append(h.tape, r.Offset)
			}
			h.head = a.To
		case TapeGap:
			require.Equal(h.t, h.head, a.From)
			h.gaps, h.head = append(h.gaps, [2]int64{a.From, a.To}), a.To
		case Read:
			require.Nil(h.t, h.read, "one read at a time")
			h.read = &a
		case AskEnd:
			h.ends++
		case AskTopic:
			h.ids++
		case Count:
			h.n[a.What]++
		case Complete:
		}
	}
	if next, ok := h.v.Next(); ok {
		require.Equal(h.t, h.head, next)
	}
	require.Empty(h.t, h.v.consistent())
}

func (h *harness) add(id InterestID, e int64) {
	h.do(h.v.Add(id, []byte("k"), h.now))
	if e >= 0 {
		h.v.Acked(id, at(e))
	}
}

func (h *harness) section(s stream.Section) { h.t.Helper(); h.do(h.v.Section(s, h.now)) }

func (h *harness) answer(r ReadResult) {
	h.t.Helper()
	require.NotNil(h.t, h.read)
	h.read = nil
	h.do(h.v.Read(r, h.now))
}

func (h *harness) tick(d time.Duration) { h.t.Helper(); h.now = h.now.Add(d); h.do(h.v.Tick(h.now)) }

func (h *harness) x(id InterestID) int64 {
	h.t.Helper()
	x, ok := h.v.X(id)
	require.True(h.t, ok, "no X")
	return x
}

func (h *harness) noX(id InterestID) {
	h.t.Helper()
	_, ok := h.v.X(id)
	require.False(h.t, ok, "an X")
}

func TestTheFirstCoveringSectionBeginsTheTape(t *testing.T) {
	h := newHarness(t)
	h.add("a", 5)
	h.section(sec(10, 20, 4, 11))
	h.noX("a")
	require.Equal(t, 1, h.n[CountUnneeded])
	h.section(sec(20, 30, 5, 22, 25))
	require.EqualValues(t, 20, h.x("a"))
	require.Equal(t, []int64{22, 25}, h.tape)
	h.section(sec(25, 40, 5, 25, 31))
	require.Equal(t, []int64{22, 25, 31}, h.tape, "what is below next is skipped")
	h.section(sec(25, 40, 5, 25, 31))
	require.Equal(t, []int64{22, 25, 31}, h.tape)
	require.EqualValues(t, 40, h.head)
}

func TestAnInterestWithoutXGetsItFromTheSectionThatCoversIt(t *testing.T) {
	h := newHarness(t)
	h.add("a", 5)
	h.section(sec(10, 20, 5))
	h.add("b", 9)
	h.section(sec(15, 30, 8))
	h.noX("b")
	h.section(sec(25, 40, 9))
	require.EqualValues(t, 30, h.x("b"), "max(from, next before)")
	h.add("c", 10)
	h.section(sec(40, 40, 10))
	require.EqualValues(t, 40, h.x("c"))
	h.add("d", 11)
	h.section(sec(30, 35, 11))
	require.EqualValues(t, 40, h.x("d"), "an old section cannot give more than next")
}

func TestASectionBelowAnEWithXIsAGap(t *testing.T) {
	h := newHarness(t)
	h.add("a", 5)
	h.section(sec(10, 20, 5))
	h.add("b", 9)
	h.section(sec(20, 30, 9))
	h.section(sec(30, 40, 8, 33)) // a fan-out that does not know b
	require.Equal(t, &Read{From: 30, To: 40}, h.read)
	require.Empty(t, h.tape)
	h.section(sec(40, 50, 9, 44)) // waits
	h.answer(ReadResult{From: 30, To: 42, End: 50, Records: recs(31, 33, 41)})
	require.Equal(t, []int64{31, 33, 41, 44}, h.tape)
	require.EqualValues(t, 50, h.head)
	require.Nil(t, h.read)
}

func TestAnotherInterestLogCoversNothing(t *testing.T) {
	h := newHarness(t)
	h.add("a", 5)
	s := sec(10, 20, 1_000_000)
	s.Interests.Log = logB
	h.section(s)
	h.noX("a")
	h.section(sec(20, 30, 5))
	s.From, s.To = 30, 40
	h.section(s)
	require.Equal(t, &Read{From: 30, To: 40}, h.read)
}

func TestAGapIsReadAndTakenBeforeAnythingAfterIt(t *testing.T) {
	h := newHarness(t)
	h.add("a", 5)
	h.section(sec(10, 20, 5))
	h.section(sec(30, 40, 5, 35))
	require.Equal(t, &Read{From: 20, To: 30}, h.read)
	h.section(sec(50, 60, 5, 55))
	h.section(sec(40, 50, 5, 45)) // reordered: the second gap closes by itself
	require.Empty(t, h.tape)
	h.answer(ReadResult{From: 20, To: 25, End: 60, Records: recs(21)})
	require.Equal(t, &Read{From: 25, To: 30}, h.read)
	h.answer(ReadResult{From: 25, To: 30, End: 60, Records: recs(29)})
	require.Equal(t, []int64{21, 29, 35, 45, 55}, h.tape)
	require.Equal(t, 1, h.n[CountGap])
}

func TestALateSectionMayFillTheGapItself(t *testing.T) {
	h := newHarness(t)
	h.add("a", 5)
	h.section(sec(10, 20, 5))
	h.section(sec(30, 40, 5, 35))
	h.section(sec(20, 30, 5, 25))
	require.Equal(t, []int64{25, 35}, h.tape)
	h.answer(ReadResult{From: 20, To: 30, End: 40, Records: recs(25)})
	require.Equal(t, []int64{25, 35}, h.tape, "the read comes too late")
	require.Equal(t, 1, h.n[CountReadStale])
}

func TestWhatFindsNoRoomToWaitBecomesAGap(t *testing.T) {
	h := newHarness(t)
	h.v = NewView(topicA, 0, Options{WaitBytes: 300})
	h.add("a", 5)
	h.section(sec(10, 20, 5))
	h.section(sec(30, 40, 5, 35))
	h.section(sec(40, 50, 5, 45)) // dropped
	require.Equal(t, 1, h.n[CountDropped])
	h.answer(ReadResult{From: 20, To: 30, End: 50})
	require.EqualValues(t, 40, h.head)
	h.section(sec(50, 60, 5))
	require.Equal(t, &Read{From: 40, To: 50}, h.read)
	h.answer(ReadResult{From: 40, To: 50, End: 60, Records: recs(45)})
	require.Equal(t, []int64{35, 45}, h.tape)
	require.EqualValues(t, 60, h.head)
}

func TestAWaitingSectionDoesNotAliasItsBatch(t *testing.T) {
	h := newHarness(t)
	h.add("a", 5)
	h.section(sec(10, 20, 5))
	s := sec(30, 40, 5, 35)
	h.section(s)
	clear(s.Deliveries[0].Value)
	s.Deliveries[0] = stream.Record{}
	h.do(h.v.Read(ReadResult{From: 20, To: 30, End: 40}, h.now))
	require.Equal(t, []int64{35}, h.tape)
	for _, a := range h.all {
		if a, ok := a.(Take); ok && len(a.Records) > 0 {
			require.Equal(t, "v", string(a.Records[0].Value))
		}
	}
}

func TestAReadIsFilteredByAllInterestsWhenItIsTaken(t *testing.T) {
	h := newHarness(t)
	h.add("a", 5)
	h.section(sec(10, 20, 5))
	h.section(sec(30, 30, 5))
	require.NotNil(t, h.read)
	h.do(h.v.Add("b", []byte("other"), h.now)) // while the read is under way
	h.answer(ReadResult{From: 20, To: 30, End: 30, Records: []stream.Record{
		{Offset: 21, Key: []byte("k")}, {Offset: 22, Key: []byte("other")}, {Offset: 23, Key: []byte("third")}, {Offset: 24},
	}})
	require.Equal(t, []int64{21, 22}, h.tape)
	h.do(h.v.Add("all", nil, h.now))
	h.section(sec(40, 40, 5))
	h.answer(ReadResult{From: 30, To: 40, End: 40, Records: []stream.Record{{Offset: 33, Key: []byte("third")}, {Offset: 34}}})
	require.Equal(t, []int64{21, 22, 33, 34}, h.tape)
}

func TestRetentionPutsAGapEntryOnTheTape(t *testing.T) {
	h := newHarness(t)
	h.add("a", 5)
	h.section(sec(10, 20, 5))
	h.section(sec(40, 50, 5, 45))
	h.answer(ReadResult{From: 20, OutOfRange: true, Start: 30, End: 60})
	require.Equal(t, [][2]int64{{20, 30}}, h.gaps)
	require.Equal(t, &Read{From: 30, To: 40}, h.read)
	h.answer(ReadResult{From: 30, OutOfRange: true, Start: 55, End: 60})
	require.Equal(t, [][2]int64{{20, 30}, {30, 40}}, h.gaps, "what a waiting section tells is not lost")
	require.Equal(t, []int64{45}, h.tape)
}

func TestAFailedReadIsAskedAgainWithBackoff(t *testing.T) {
	h := newHarness(t)
	h.add("a", 5)
	h.section(sec(10, 20, 5))
	h.section(sec(30, 30, 5))
	boom := ReadResult{Err: errors.New("boom")}
	waits := 0
	for range 8 {
		h.answer(boom)
		require.Nil(t, h.read)
		for ; h.read == nil; waits++ {
			h.section(sec(30, 30, 5))
			h.tick(100 * time.Millisecond)
		}
	}
	require.Equal(t, 1+2+4+8+16+20+20+20, waits)
	h.answer(ReadResult{From: 20, To: 30, End: 30, Records: recs(20)})
	require.Equal(t, []int64{20}, h.tape)
}

func TestAPositionBeyondTheLogsEndProvesNothing(t *testing.T) {
	h := newHarness(t)
	h.add("a", 5)
	h.section(sec(10, 20, 5))
	h.section(sec(30, 30, 5))
	h.answer(ReadResult{From: 20, OutOfRange: true, Start: 0, End: 15})
	require.Equal(t, 1, h.n[CountReadFailed])
	require.EqualValues(t, 20, h.head)
}

// What the tape holds beyond the cut is of a lost history: without a new
// beginning the events that take those offsets would never be sent.
func TestALogThatWasCutIsBegunAnewAtItsEnd(t *testing.T) {
	h := newHarness(t)
	h.add("a", 5)
	h.section(sec(10, 20, 5, 15))
	h.section(sec(30, 30, 5))
	h.answer(ReadResult{From: 20, Shrunk: true, End: 12})
	require.Equal(t, 1, h.n[CountShrunk])
	require.EqualValues(t, 12, h.head)
	x, ok := h.v.X("a")
	require.True(t, ok)
	require.EqualValues(t, 12, x, "complete from the new end on")
	h.section(sec(12, 14, 5, 13))
	require.EqualValues(t, 14, h.head)
	require.Contains(t, h.tape, int64(13))
	h.section(sec(20, 22, 5, 21)) // what came between is read from the feed
	require.NotNil(t, h.read)
	require.EqualValues(t, 14, h.read.From)
	h.answer(ReadResult{From: 14, To: 20, End: 22, Records: recs(16)})
	require.EqualValues(t, 22, h.head)
	h.section(sec(22, 30, 5))
	h.section(sec(50, 50, 5))
	h.answer(ReadResult{From: 29, Shrunk: true, End: 12}) // of a position that is not next any more
	require.Equal(t, 1, h.n[CountShrunk])
}

func TestSilenceIsABypassUntilASectionReachesNext(t *testing.T) {
	h := newHarness(t)
	h.v = NewView(topicA, 0, Options{Jitter: time.Second})
	h.add("a", 5)
	h.section(sec(10, 20, 5))
	h.tick(2900 * time.Millisecond)
	require.Nil(t, h.read)
	h.tick(100 * time.Millisecond)
	require.Equal(t, &Read{From: 20, To: -1, Bypass: true}, h.read)
	h.answer(ReadResult{From: 20, To: 30, End: 35, Records: recs(25)})
	require.Equal(t, &Read{From: 30, To: -1, Bypass: true}, h.read, "there is more")
	h.section(sec(20, 28, 5, 25)) // the tier comes back, behind
	require.True(t, h.v.Bypassing())
	h.answer(ReadResult{From: 30, To: 35, End: 35, Records: recs(34)})
	h.answer(ReadResult{From: 35, To: 35, End: 35})
	require.Nil(t, h.read, "nothing new: not at once again")
	h.tick(100 * time.Millisecond)
	require.NotNil(t, h.read)
	h.section(sec(40, 50, 5, 45)) // beyond: waits for the reads
	h.section(sec(28, 40, 5, 34, 38))
	require.False(t, h.v.Bypassing())
	require.Equal(t, []int64{25, 34, 38, 45}, h.tape)
	h.answer(ReadResult{From: 35, To: 41, End: 50, Records: recs(38)})
	require.Equal(t, []int64{25, 34, 38, 45}, h.tape)
	require.Nil(t, h.read)
}

func TestStandingBelowAKnownEndIsABypass(t *testing.T) {
	h := newHarness(t)
	h.add("a", 5)
	s := sec(10, 20, 5)
	s.End = 25
	h.section(s)
	idle := sec(20, 20, 5)
	idle.End = 25
	for range 19 {
		h.tick(100 * time.Millisecond)
		h.section(idle)
	}
	require.Nil(t, h.read)
	h.tick(100 * time.Millisecond)
	require.Equal(t, &Read{From: 20, To: -1, Bypass: true}, h.read)
}

func TestAFanOutThatLagsButMovesIsNoReasonForABypass(t *testing.T) {
	h := newHarness(t)
	h.add("a", 5)
	for i := range int64(100) {
		s := sec(10*i, 10*i+10, 5)
		s.End = 1_000_000
		h.section(s)
		h.tick(time.Second)
		require.Nil(t, h.read)
	}
}

func TestMoreThanTenGapsASecondAreABypass(t *testing.T) {
	h := newHarness(t)
	h.add("a", 5)
	h.section(sec(0, 10, 5))
	for i := int64(1); i <= 10; i++ {
		h.section(sec(20*i, 20*i+10, 5))
		require.False(t, h.read.Bypass)
		h.answer(ReadResult{From: h.head, To: 20 * i, End: 20 * i})
	}
	h.section(sec(500, 510, 5))
	require.True(t, h.read.Bypass)
	require.Equal(t, 1, h.n[CountBypassGaps])
	h.answer(ReadResult{From: h.head, To: 505, End: 505})
	require.False(t, h.v.Bypassing(), "the section that waited reaches next")
	require.EqualValues(t, 510, h.head)
	h.now = h.now.Add(time.Second)
	h.section(sec(600, 610, 5))
	require.Equal(t, &Read{From: 510, To: 600}, h.read)
}

func TestXWithoutASection(t *testing.T) {
	h := newHarness(t)
	h.add("a", -1)
	h.tick(1900 * time.Millisecond)
	require.Zero(t, h.ends)
	h.tick(100 * time.Millisecond)
	h.tick(100 * time.Millisecond)
	require.Equal(t, 1, h.ends, "not followed: the log's end, asked once")
	h.do(h.v.End(77, h.now))
	require.EqualValues(t, 77, h.x("a"))
	require.EqualValues(t, 77, h.head)
	require.Equal(t, &Read{From: 77, To: -1, Bypass: true}, mustTick(h))
	h.answer(ReadResult{From: 77, To: 80, End: 80, Records: recs(78)})
	require.Equal(t, []int64{78}, h.tape)

	// Not acked: no section covers it, however high its E.
	h.section(sec(80, 90, 1_000, 85))
	require.EqualValues(t, 80, h.head)
	h.v.Acked("a", at(9))
	h.section(sec(80, 90, 9, 85))
	require.EqualValues(t, 90, h.head)

	h.add("b", -1)
	for range 20 {
		h.section(sec(90, 90, 9))
		h.tick(100 * time.Millisecond)
	}
	require.EqualValues(t, 90, h.x("b"), "followed: next")
}

func mustTick(h *harness) *Read {
	for range 5 {
		if h.read != nil {
			return h.read
		}
		h.tick(100 * time.Millisecond)
	}
	return h.read
}

func TestASectionThatIsFasterThanTheAckCounts(t *testing.T) {
	h := newHarness(t)
	h.add("a", -1)
	h.section(sec(10, 20, 5, 15))
	h.noX("a")
	h.v.Acked("a", at(5))
	h.tick(100 * time.Millisecond)
	require.EqualValues(t, 20, h.x("a"))
	h.add("b", -1)
	h.section(sec(20, 30, 6, 25))
	h.v.Acked("b", at(6))
	h.tick(100 * time.Millisecond)
	require.EqualValues(t, 30, h.x("b"))
	require.Equal(t, []int64{25}, h.tape)
	h.add("c", -1)
	h.v.Acked("c", at(7))
	h.tick(100 * time.Millisecond)
	h.noX("c")
}

func TestWithoutAnInterestThatHasAnXNextIsForgotten(t *testing.T) {
	h := newHarness(t)
	h.add("a", 5)
	h.section(sec(10, 20, 5))
	h.section(sec(30, 40, 5))
	require.NotNil(t, h.read)
	h.do(h.v.Add("b", []byte("k"), h.now))
	h.v.Remove("a")
	_, ok := h.v.Next()
	require.False(t, ok)
	h.answer(ReadResult{From: 20, To: 30, End: 40, Records: recs(21)})
	require.Empty(t, h.tape)
	h.tick(10 * time.Minute)
	require.Equal(t, 1, h.ends, "a stale next is no X")
	h.v.Acked("b", at(6))
	h.section(sec(9000, 9010, 6))
	require.EqualValues(t, 9000, h.x("b"))
	h.do(h.v.End(8000, h.now))
	require.EqualValues(t, 9010, h.head, "an answer that comes too late")
	h.v.Remove("b")
	h.v.Remove("never")
	require.Empty(t, h.v.keys)
	require.Empty(t, h.v.waiters)
}

func TestAnotherTopicIDIsNotTaken(t *testing.T) {
	h := newHarness(t)
	h.add("a", 5)
	h.section(sec(10, 20, 5))
	s := sec(0, 5, 5, 3)
	s.Topic = topicB
	h.section(s)
	h.section(s)
	require.Equal(t, 1, h.ids, "at most one a second")
	require.Contains(t, h.all, Count{CountTopic})
	require.Empty(t, h.tape)
	h.section(sec(30, 40, 5))
	require.NotNil(t, h.read)
	h.do(h.v.Changed(topicB, h.now))
	h.noX("a")
	h.answer(ReadResult{From: 0, To: 30, Records: recs(21)})
	require.Empty(t, h.tape, "a read of the old topic")
	h.section(s)
	require.EqualValues(t, 0, h.x("a"))
	require.Equal(t, []int64{3}, h.tape)
	require.Empty(t, h.v.Changed(topicB, h.now))
	h.section(sec(40, 50, 5))
	require.EqualValues(t, 5, h.head, "the old topic's")
}

func TestAReadThatFindsAnotherTopicAsks(t *testing.T) {
	h := newHarness(t)
	h.add("a", 5)
	h.section(sec(10, 20, 5))
	h.section(sec(30, 40, 5))
	h.answer(ReadResult{Changed: true})
	require.Equal(t, 1, h.ids)
	require.Nil(t, h.read)
	h.tick(100 * time.Millisecond)
	require.NotNil(t, h.read, "metadata may lag; the read is tried again")
}

func TestANewIncarnationKeepsXAndAsksForNewAcks(t *testing.T) {
	h := newHarness(t)
	h.add("a", 5)
	h.add("b", 6)
	h.section(sec(10, 20, 6))
	h.v.Renew("a", "a2")
	h.v.Renew("b", "b2")
	require.EqualValues(t, 10, h.x("a2"))
	h.section(sec(20, 30, 100))
	require.NotNil(t, h.read, "no e: covers nothing")
	h.answer(ReadResult{From: 20, To: 30, End: 30})
	e := stream.InterestPos{Log: logB, Offset: 1}
	h.v.Acked("a2", e)
	h.v.Acked("b2", stream.InterestPos{Log: logB, Offset: 2})
	s := sec(30, 40, 2, 33)
	s.Interests.Log = logB
	h.section(s)
	require.EqualValues(t, 40, h.head)
	h.section(sec(40, 50, 100))
	require.EqualValues(t, 40, h.head, "the old log")
}

// Interests come and go; the shortcut in covers must not forget the exact rule.
func TestARemovedInterestsEIsForgotten(t *testing.T) {
	h := newHarness(t)
	h.add("a", 5)
	h.add("b", 50)
	h.section(sec(10, 20, 50))
	h.section(sec(20, 30, 49))
	require.Equal(t, 1, h.n[CountUncovered])
	h.answer(ReadResult{From: 20, To: 30, End: 30})
	h.v.Remove("b")
	h.section(sec(30, 40, 49))
	h.section(sec(40, 50, 5))
	require.EqualValues(t, 50, h.head)
	h.section(sec(50, 60, 4))
	require.EqualValues(t, 50, h.head)
}

func TestZombiesAreCountedAndJudgedLikeAnyOther(t *testing.T) {
	h := newHarness(t)
	h.add("a", 5)
	s := sec(10, 20, 5)
	s.Generation = 7
	h.section(s)
	s = sec(20, 30, 5, 21)
	s.Generation = 6
	h.section(s)
	require.Equal(t, 1, h.n[CountZombie])
	require.Equal(t, []int64{21}, h.tape)
}
