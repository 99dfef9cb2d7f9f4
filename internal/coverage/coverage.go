// Package coverage is the coverage protocol: why nothing is lost, doubled or
// reordered between a feed topic and a gateway's tape. It is pure: messages
// in, actions out; no I/O, no clock of its own, no goroutine, no lock. Each
// value is owned by one loop.
//
// [Chains] is the fan-out's half, [View] the gateway's. The rules and what
// each guards against: docs/ARCHITECTURE.md, "The coverage protocol".
//
// Everything rests on one sentence, the section: "everything in [From, To) of
// this partition that the node wants, by the interests at E, is listed here".
// It is about an immutable stretch of log, so it stays true whoever said it and
// however late it comes. Three things follow, and the code leans on them:
//
//   - a section may be ignored, doubled, cut or taken late, always;
//   - a read of the feed is a section by all interests there are;
//   - an interest may be called complete from the view's next offset on at any
//     time (X = next), because from then on no section below its e is taken.
//
// The rules were searched for holes by random histories; see the model in the
// tests, which must turn red when a rule is taken back.
package coverage

import "github.com/tapecast/tapecast/internal/stream"

// Out is a section to queue for one node.
type Out struct {
	Incarnation string
	Section     stream.Section
}

// InterestID names one interest of this gateway.
type InterestID string

// Action is what the owner of a View must do, in the order given.
type Action interface{ action() }

// The actions.
type (
	// Restart: the tape is empty now and begins at At (rule 2, or first follow).
	Restart struct{ At int64 }
	// Take: append Records to the tape and move its head to To. Records alias
	// the section or read result that they came in.
	Take struct {
		To      int64
		Records []stream.Record
	}
	// TapeGap: append a gap entry; the head moves to To.
	TapeGap struct{ From, To int64 }
	// Read: read the feed from From. Up to To for a gap; To < 0 for a bypass (one
	// read at a time; after each result the view says whether it wants more).
	// Answer each with one call of View.Read, also when it failed or was given
	// up. A result may end before To or go beyond it. A bypass read should wait
	// for news for some 200 ms at most: a gap may be next.
	Read struct {
		From, To int64
		Bypass   bool
	}
	// AskEnd: ask the log's end afresh and hand it to End. It is asked again
	// when no answer comes.
	AskEnd struct{}
	// AskTopic: ask metadata; call View.Changed if the topic has another id
	// than the view's. A section of the id ID came, or a read found the topic
	// changed (ID is zero then). At most one a second.
	AskTopic struct{ ID stream.TopicID }
	// Complete: these interests have their X now.
	Complete struct{ IDs []InterestID }
	// Count: something to count, by name (metrics and the simulation): one of Counts.
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

// What a Count names.
const (
	CountTaken      = "taken"       // a section moved next on
	CountStale      = "stale"       // a section brought nothing: next is beyond it
	CountUnneeded   = "unneeded"    // a section for no interest
	CountUncovered  = "uncovered"   // rule 3: E lower than an e
	CountTopic      = "topic"       // rule 1: a section of another topic id
	CountZombie     = "zombie"      // a section of a lower group generation than one before
	CountGap        = "gap"         // a gap began
	CountDropped    = "dropped"     // a section found no room to wait
	CountBypass     = "bypass"      // a bypass began: silence, or standing below a known end
	CountBypassGaps = "bypass_gaps" // a bypass began: too many gaps a second
	CountBypassEnd  = "bypass_end"  // a section reached next: the bypass ended
	CountRetention  = "retention"   // rule 6: a gap entry
	CountFallback   = "fallback"    // rule 8: X without a section
	CountReadStale  = "read_stale"  // a read's result was of no use any more
	CountReadFailed = "read_failed" // a read proved nothing
	CountShrunk     = "shrunk"      // the log was cut: begun anew at its end
)

// Counts are all names that a Count can have.
var Counts = []string{
	CountTaken, CountStale, CountUnneeded, CountUncovered, CountTopic, CountZombie, CountGap, CountDropped,
	CountBypass, CountBypassGaps, CountBypassEnd, CountRetention, CountFallback, CountReadStale, CountReadFailed, CountShrunk,
}

// mutation puts back a hole that a rule closes. FOR TESTS ONLY: the model's
// negative controls set it; it is zero everywhere else.
type mutation uint16

const (
	mutS2Announce mutation = 1 << iota // a new interest is announced by one section, [prev, s) with the new E
	mutS2Stamp                         // E is stamped at a section's end
	mutS6                              // the topic id is not looked at
	mutS7                              // the interest log's id is not looked at
	mutS8                              // rule 3 looks only at interests that are served live
	mutS12                             // retention moves next without a gap entry
	mutUnknown                         // a node that the chains do not know gets a section
	mutUnacked                         // rule 3 does not count an interest that is not acked
	mutFallback                        // no rule 8
)
