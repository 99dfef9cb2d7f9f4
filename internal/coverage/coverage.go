// Package coverage is the coverage protocol: why nothing is lost, doubled or
// reordered between a feed topic and a gateway's tape. It is pure: messages
// in, actions out; no I/O, no clock of its own, no goroutine, no lock. Each
// value is owned by one loop.
//
// [Chains] is the fan-out's half, [View] the gateway's. The rules and what
// each guards against: docs/ARCHITECTURE.md, "The coverage protocol".
package coverage

import (
	"time"

	"github.com/tapecast/tapecast/internal/stream"
)

// ---- fan-out half ----

// Out is a section to queue for one node.
type Out struct {
	Incarnation string
	Section     stream.Section
}

// Chains is the fan-out's book of one owned partition: for every incarnation
// that wants something of the topic, how far its sections reach and by which
// interests the next one begins. Each From is the To of the section made
// before; after a drop of the queue it is not moved back.
type Chains struct{}

// NewChains starts the book of a partition at offset start, by the interests at at.
func NewChains(topic stream.TopicID, partition, generation int32, start int64) *Chains {
	panic("not built")
}

// SetGeneration notes a new group generation for the sections to come.
func (c *Chains) SetGeneration(g int32) { panic("not built") }

// Next is the next offset to read.
func (c *Chains) Next() int64 { panic("not built") }

// Interests says that the node's interests in this topic were changed by what
// was applied up to at: [prev, s) with the old position, [s, s) with the new.
// Call it before any record is routed by the new interests. wants=false: the
// node wants nothing of this topic any more (or ended): it is forgotten.
func (c *Chains) Interests(incarnation string, at stream.InterestPos, wants bool) []Out {
	panic("not built")
}

// Routed says that [Next(), to) was read and routed by the interests at at;
// routed holds each node's deliveries. now is the time of the successful fetch.
// Nodes in routed get a section up to to; the others' chains just grow.
func (c *Chains) Routed(to, end int64, at stream.InterestPos, routed map[string][]stream.Record, now time.Time) []Out {
	panic("not built")
}

// Cover gives a covering section to each node that got none for a second,
// idle or busy, but only if a fetch succeeded within that second.
func (c *Chains) Cover(now time.Time, at stream.InterestPos) []Out { panic("not built") }

// ---- gateway half ----

// InterestID names one interest of this gateway.
type InterestID string

// View is the gateway's book of one followed partition: next, the topic id, and
// for every interest e and X ("complete from X on").
type View struct{}

// NewView begins a view of one partition of one incarnation of a topic.
func NewView(topic stream.TopicID, partition int32, opt Options) *View { panic("not built") }

// Options bounds a view.
type Options struct {
	WaitBytes int           // sections that wait while a gap is read; beyond it they are dropped. Default 1 MiB
	Silence   time.Duration // unconfirmed for that long: bypass, and X without a section. Default 2 s
	Jitter    time.Duration // added to Silence for the bypass, drawn by the owner in [0, 2 s)
}

// Add requests an interest at now. key nil = the whole topic.
func (v *View) Add(id InterestID, key []byte, now time.Time) []Action { panic("not built") }

// Acked gives the interest's e: the position of its acked record.
func (v *View) Acked(id InterestID, e stream.InterestPos) { panic("not built") }

// Remove forgets an interest, with its X: call it when its tombstone is sent.
func (v *View) Remove(id InterestID) { panic("not built") }

// X is where the interest is complete from; ok = it has one.
func (v *View) X(id InterestID) (x int64, ok bool) { panic("not built") }

// Next is the view's next offset; ok = the partition is followed.
func (v *View) Next() (next int64, ok bool) { panic("not built") }

// Section takes one section from the delivery topic.
func (v *View) Section(s stream.Section, now time.Time) []Action { panic("not built") }

// ReadResult is the answer to a Read action: what the feed topic proves about
// [From, To), filtered by all interests when taken (the caller hands Records
// unfiltered or filtered by a superset; the view takes what any interest wants).
type ReadResult struct {
	From, To int64
	End      int64 // last stable offset
	Records  []stream.Record
	// OutOfRange: From is below the first retained offset Start.
	OutOfRange bool
	Start      int64
	// Changed: the topic id is not the view's any more.
	Changed bool
	Err     error // transient: nothing is proved; ask again
}

// Read takes the result of the one read that is under way.
func (v *View) Read(r ReadResult, now time.Time) []Action { panic("not built") }

// End answers an AskEnd action, asked after the command.
func (v *View) End(end int64, now time.Time) []Action { panic("not built") }

// Tick lets time act: bypass, and rule 8. Call it every 100 ms or so.
func (v *View) Tick(now time.Time) []Action { panic("not built") }

// Action is what the owner of a View must do, in the order given.
type Action interface{ action() }

// The actions.
type (
	// Restart: the tape is empty now and begins at At (rule 2, or first follow).
	Restart struct{ At int64 }
	// Take: append Records to the tape and move its head to To.
	Take struct {
		To      int64
		Records []stream.Record
	}
	// TapeGap: append a gap entry; the head moves to To.
	TapeGap struct{ From, To int64 }
	// Read: read the feed from From. Up to To for a gap; To < 0 for a bypass (one
	// read at a time; after each result the view says whether it wants more).
	Read struct {
		From, To int64
		Bypass   bool
	}
	// AskEnd: ask the log's end afresh and hand it to End.
	AskEnd struct{}
	// AskTopic: a section of another topic id came: ask metadata.
	AskTopic struct{ ID stream.TopicID }
	// Complete: these interests have their X now.
	Complete struct{ IDs []InterestID }
	// Count: something to count, by name (metrics and the simulation).
	Count struct{ What string }
)

func (Restart) action()  {}
func (Take) action()     {}
func (TapeGap) action()  {}
func (Read) action()     {}
func (AskEnd) action()   {}
func (AskTopic) action() {}
func (Complete) action() {}
func (Count) action()    {}
