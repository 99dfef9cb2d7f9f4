package coverage

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tapecast/tapecast/internal/stream"
)

// Options bounds a view.
type Options struct {
	WaitBytes int           // sections that wait while a gap is read; beyond it they are dropped. Default 1 MiB
	Silence   time.Duration // unconfirmed for that long: bypass, and X without a section. Default 2 s
	Jitter    time.Duration // added to Silence for the bypass, drawn by the owner in [0, 2 s)
}

// View is the gateway's book of one followed partition: next, the topic id, and
// for every interest e and X ("complete from X on"). The partition is followed
// while some interest has an X; otherwise there is no next, and no tape.
type View struct {
	topic     stream.TopicID
	partition int32
	opt       Options

	next int64 // of no meaning unless followed

	// Interests. Rule 3 asks for every section whether E covers the e of each
	// interest with an X; high, unacked and foreign answer without a walk.
	ints    map[InterestID]*entry
	withX   int
	unacked int                // with an X and no e
	high    stream.InterestPos // at least the highest e among those with an X, once hasHigh
	hasHigh bool
	foreign bool           // those with an X have e's of more than one log: walk
	waiters []*entry       // without an X, in order of Add
	low     int64          // at most the lowest e among waiters that are acked
	whole   int            // interests in all keys
	keys    map[string]int // interests in one key

	// What sections told.
	generation int32
	seen       seen
	confirmed  time.Time // when a section last reached next
	end        int64     // a known last stable offset
	below      time.Time // since when next stands below end; zero = it does not

	// Gaps, bypass, and the one read that may be under way.
	gapTo    int64 // reading up to here; a gap is open while next < gapTo
	bypass   bool
	reading  bool
	void     bool // the read under way is of another topic id
	retryAt  time.Time
	backoff  time.Duration
	gaps     []time.Time // when the latest maxGaps gaps began
	gapAt    int         // the oldest of them
	wait     waiting
	askedEnd time.Time
	askedID  time.Time

	mut     mutation              // test only
	serving func(InterestID) bool // test only, with mutS8
}

// entry is one interest.
type entry struct {
	id     InterestID
	key    string
	all    bool
	e      stream.InterestPos
	acked  bool
	x      int64
	hasX   bool
	wanted time.Time
}

// seen is what the latest section of the topic told, whether or not it was taken.
type seen struct {
	at time.Time
	e  stream.InterestPos
	to int64
}

const (
	maxGaps     = 10 // a second; beyond: bypass
	minBackoff  = 100 * time.Millisecond
	maxBackoff  = 2 * time.Second
	defaultWait = 1 << 20
)

// NewView begins a view of one partition of one incarnation of a topic.
func NewView(topic stream.TopicID, partition int32, opt Options) *View {
	if opt.WaitBytes <= 0 {
		opt.WaitBytes = defaultWait
	}
	if opt.Silence <= 0 {
		opt.Silence = 2 * time.Second
	}
	return &View{
		topic: topic, partition: partition, opt: opt,
		ints: map[InterestID]*entry{}, keys: map[string]int{}, low: math.MaxInt64, generation: math.MinInt32,
		gaps: make([]time.Time, maxGaps),
	}
}

// Add requests an interest at now. key nil = the whole topic. An id that is
// there already is left as it is.
func (v *View) Add(id InterestID, key []byte, now time.Time) []Action {
	if v.ints[id] != nil {
		return nil
	}
	e := &entry{id: id, key: string(key), all: key == nil, wanted: now}
	v.ints[id] = e
	v.waiters = append(v.waiters, e)
	if e.all {
		v.whole++
	} else {
		v.keys[e.key]++
	}
	return nil
}

// Acked gives the interest's e: the position of its acked record. A section
// that was faster than the ack counts at the next Tick.
func (v *View) Acked(id InterestID, e stream.InterestPos) {
	i := v.ints[id]
	if i == nil {
		return
	}
	if i.hasX {
		if !i.acked {
			v.unacked--
		}
		i.e, i.acked = e, true
		v.raise(e)
		return
	}
	i.e, i.acked = e, true
	v.low = min(v.low, e.Offset)
}

// Renew says that the interest is written anew, for a new incarnation: its e
// is unknown (infinite) until acked. Its X stays. newID may equal id.
func (v *View) Renew(id, newID InterestID) {
	i := v.ints[id]
	if i == nil {
		return
	}
	if i.hasX && i.acked {
		v.unacked++
	}
	i.e, i.acked = stream.InterestPos{}, false
	delete(v.ints, id)
	i.id = newID
	v.ints[newID] = i
	if v.unacked == v.withX {
		v.hasHigh, v.foreign = false, false
	}
}

// Remove forgets an interest, with its X: call it when its tombstone is sent.
// When none with an X is left, next and the tape are of no use any more.
func (v *View) Remove(id InterestID) {
	i := v.ints[id]
	if i == nil {
		return
	}
	delete(v.ints, id)
	if i.all {
		v.whole--
	} else if v.keys[i.key]--; v.keys[i.key] == 0 {
		delete(v.keys, i.key)
	}
	if !i.hasX {
		v.waiters = slices.DeleteFunc(v.waiters, func(w *entry) bool { return w == i })
		return
	}
	v.withX--
	if !i.acked {
		v.unacked--
	}
	if v.withX == 0 {
		v.forget()
	}
}

// Changed says that metadata shows another id for the topic: next, the tape and
// every X are forgotten, and the interests wait for an X of the new topic. The
// answer to a read that is under way must still be handed in; it is not used.
func (v *View) Changed(id stream.TopicID, now time.Time) []Action {
	if id == v.topic {
		return nil
	}
	v.topic = id
	v.forget()
	v.waiters = v.waiters[:0]
	for _, i := range v.ints {
		i.hasX, i.wanted = false, now
		v.waiters = append(v.waiters, i)
		if i.acked {
			v.low = min(v.low, i.e.Offset)
		}
	}
	slices.SortFunc(v.waiters, func(a, b *entry) int { return strings.Compare(string(a.id), string(b.id)) })
	v.void = v.reading
	v.retryAt, v.backoff = time.Time{}, 0
	v.generation, v.seen, v.end = math.MinInt32, seen{}, 0
	return []Action{Restart{At: 0}}
}

// forget drops everything that hangs on next.
func (v *View) forget() {
	v.withX, v.unacked, v.hasHigh, v.foreign = 0, 0, false, false
	v.next, v.gapTo, v.bypass = 0, 0, false
	v.confirmed, v.below, v.askedEnd = time.Time{}, time.Time{}, time.Time{}
	v.wait.clear()
}

// X is where the interest is complete from; ok = it has one.
func (v *View) X(id InterestID) (x int64, ok bool) {
	if i := v.ints[id]; i != nil && i.hasX {
		return i.x, true
	}
	return 0, false
}

// Next is the view's next offset; ok = the partition is followed.
func (v *View) Next() (next int64, ok bool) { return v.next, v.followed() }

// Topic is the topic id of the view.
func (v *View) Topic() stream.TopicID { return v.topic }

// Bypassing tells whether the feed is read because sections do not reach next.
func (v *View) Bypassing() bool { return v.bypass }

func (v *View) followed() bool { return v.withX > 0 }

// covers is rule 3: does E cover the e of each interest that has an X?
func (v *View) covers(e stream.InterestPos) bool {
	if v.mut&(mutS7|mutS8|mutUnacked) != 0 {
		return v.coversMutated(e)
	}
	if v.unacked > 0 {
		return false
	}
	if v.hasHigh && !v.foreign && e.Covers(v.high) {
		return true
	}
	// high may be of an interest that was removed: look at each, and if it was,
	// never again.
	for _, i := range v.ints {
		if i.hasX && !e.Covers(i.e) {
			return false
		}
	}
	v.high, v.hasHigh, v.foreign = e, true, false
	return true
}

// raise notes the e of an interest with an X.
func (v *View) raise(e stream.InterestPos) {
	switch {
	case !v.hasHigh:
		v.high, v.hasHigh = e, true
	case v.high.Log != e.Log:
		v.foreign = true
	case e.Offset > v.high.Offset:
		v.high = e
	}
}

// give sets an interest's X.
func (v *View) give(i *entry, x int64) {
	i.x, i.hasX = x, true
	v.withX++
	if !i.acked {
		v.unacked++
		return
	}
	v.raise(i.e)
}

// complete is rule 5: each waiter that ok takes gets X = x.
func (v *View) complete(x int64, ok func(*entry) bool) []Action {
	var ids []InterestID
	low := int64(math.MaxInt64)
	v.waiters = slices.DeleteFunc(v.waiters, func(i *entry) bool {
		if ok(i) {
			v.give(i, x)
			ids = append(ids, i.id)
			return true
		}
		if i.acked {
			low = min(low, i.e.Offset)
		}
		return false
	})
	v.low = low
	if ids == nil {
		return nil
	}
	return []Action{Complete{IDs: ids}}
}

// completeBy is rule 5 for a section by the interests at e.
func (v *View) completeBy(x int64, e stream.InterestPos) []Action {
	if e.Offset < v.low { // nobody who waits is that old
		return nil
	}
	return v.complete(x, func(i *entry) bool { return i.acked && v.ackedBy(i, e) })
}

func (v *View) ackedBy(i *entry, e stream.InterestPos) bool {
	if v.mut&mutS7 != 0 {
		return e.Offset >= i.e.Offset
	}
	return e.Covers(i.e)
}

// wants is the filter of what a read brings: any interest, with an X or not.
func (v *View) wants(key []byte) bool { return v.whole > 0 || v.keys[string(key)] > 0 }

// coversMutated is covers with the hole that mut names. FOR TESTS ONLY.
func (v *View) coversMutated(e stream.InterestPos) bool {
	for _, i := range v.ints {
		counts := i.hasX
		if v.mut&mutS8 != 0 {
			counts = counts && v.serving(i.id)
		}
		if v.mut&mutUnacked != 0 {
			counts = counts && i.acked
		}
		if counts && (!i.acked || !v.ackedBy(i, e)) {
			return false
		}
	}
	return true
}
