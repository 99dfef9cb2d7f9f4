package interest

import (
	"time"

	"github.com/tapecast/tapecast/internal/stream"
)

// maxRemembered bounds how many ended incarnations a State remembers after
// their end records were removed from the log.
const maxRemembered = 1 << 16

// Want is what one interest asks for.
type Want struct {
	Feed string
	Key  string
	All  bool // all keys; Key is empty then
}

// Incarnation is one gateway process as the log tells of it.
type Incarnation struct {
	Name     string
	Node     string
	Delivery string        // delivery topic; empty = no lease was seen: nothing can be written for it
	Lease    time.Duration // how long without renewal until anyone may end it
	Renewed  time.Time     // when the last lease record (or the first record of any kind) was applied here
	Ended    bool

	ids     map[string]Want // by interest id; also of an ended one, for whoever cleans up
	refs    map[Want]int    // how many ids ask for it; none once ended
	removed bool            // the end record is gone from the log
}

// Alive tells whether sections may be written for it: it has a lease record
// and has not ended. Whether the lease ran out is [State.Expired]'s question.
func (i *Incarnation) Alive() bool { return i.Delivery != "" && !i.Ended }

// Wants calls yield with each different want, in no order, until it returns false.
func (i *Incarnation) Wants(yield func(Want) bool) {
	for w := range i.refs {
		if !yield(w) {
			return
		}
	}
}

// Count is the number of different wants.
func (i *Incarnation) Count() int { return len(i.refs) }

// IDs calls yield with each interest id that has no tombstone yet, and its
// want, in no order, until it returns false. An ended incarnation keeps its
// ids, so that they can be removed from the log.
func (i *Incarnation) IDs(yield func(id string, w Want) bool) {
	for id, w := range i.ids {
		if !yield(id, w) {
			return
		}
	}
}

// Change is what one record changed in a State.
type Change struct {
	Incarnation *Incarnation // nil = nothing changed
	Kind        Kind
	// Want of KindAdd and KindEnd1, and whether the set of wants changed by it:
	// a second id for the same want, or the end of one of two, does not change it.
	Want  Want
	Edge  bool
	Born  bool // KindLease: the first one; its earlier interests count from now on
	Ended bool // KindEnd, KindGone: it was alive until now
}

// State folds the log's records, in order, into the incarnations and what they
// want. It belongs to one goroutine. The zero State is empty and ready.
type State struct {
	pos   stream.InterestPos
	incs  map[string]*Incarnation
	gone  []string // ended incarnations without an end record, oldest first
	wants int
}

// Reset forgets everything: another log, or the same from its start.
func (s *State) Reset(log stream.TopicID) {
	*s = State{pos: stream.InterestPos{Log: log, Offset: -1}}
}

// Pos is what was applied.
func (s *State) Pos() stream.InterestPos { return s.pos }

// Wants is the number of interest ids of all incarnations that are not ended.
func (s *State) Wants() int { return s.wants }

// Get returns one incarnation, nil if the log never told of it.
func (s *State) Get(incarnation string) *Incarnation { return s.incs[incarnation] }

// All calls yield with each incarnation, also ended ones, in no order, until it returns false.
func (s *State) All(yield func(*Incarnation) bool) {
	for _, i := range s.incs {
		if !yield(i) {
			return
		}
	}
}

// Apply takes the record at pos; ok=false: it could not be read, only the
// position moves. An ended incarnation stays so, whatever comes after.
func (s *State) Apply(pos stream.InterestPos, r Record, ok bool, now time.Time) Change {
	s.pos = pos
	if !ok {
		return Change{}
	}
	inc := s.incs[r.Incarnation]
	if inc == nil {
		if r.Kind == KindEnd1 || r.Kind == KindGone {
			return Change{}
		}
		inc = &Incarnation{Name: r.Incarnation, Renewed: now}
		if s.incs == nil {
			s.incs = map[string]*Incarnation{}
		}
		s.incs[r.Incarnation] = inc
	}
	if inc.Ended {
		s.applyEnded(inc, r)
		return Change{}
	}
	c := Change{Incarnation: inc, Kind: r.Kind}
	switch r.Kind {
	case KindAdd:
		s.add(inc, r, &c)
	case KindEnd1:
		s.drop(inc, r.ID, &c)
	case KindLease:
		c.Born = inc.Delivery == ""
		inc.Node, inc.Delivery = r.Node, r.Delivery
		inc.Lease, inc.Renewed = leaseOf(r.LeaseMs), now
	case KindEnd, KindGone:
		c.Ended = inc.Alive()
		s.wants -= len(inc.ids)
		inc.Ended, inc.refs = true, nil
		if r.Kind == KindGone {
			s.remember(inc)
		}
	}
	return c
}

// applyEnded keeps the book of what the log still holds of an ended incarnation.
func (s *State) applyEnded(inc *Incarnation, r Record) {
	switch r.Kind {
	case KindAdd:
		if inc.ids == nil {
			inc.ids = map[string]Want{}
		}
		inc.ids[r.ID] = wantOf(r)
	case KindEnd1:
		delete(inc.ids, r.ID)
	case KindGone:
		if r.ID == GoneEnd {
			s.remember(inc)
		}
	case KindLease, KindEnd:
	}
}

func wantOf(r Record) Want { return Want{Feed: r.Feed, Key: string(r.Key), All: r.Key == nil} }

func (s *State) add(inc *Incarnation, r Record, c *Change) {
	w := wantOf(r)
	if _, ok := inc.ids[r.ID]; ok {
		return // an id is written once; a doubled append says nothing new
	}
	if inc.ids == nil {
		inc.ids, inc.refs = map[string]Want{}, map[Want]int{}
	}
	inc.ids[r.ID] = w
	inc.refs[w]++
	s.wants++
	c.Want, c.Edge = w, inc.refs[w] == 1
}

func (s *State) drop(inc *Incarnation, id string, c *Change) {
	w, ok := inc.ids[id]
	if !ok {
		return
	}
	delete(inc.ids, id)
	s.wants--
	if inc.refs[w]--; inc.refs[w] == 0 {
		delete(inc.refs, w)
		c.Edge = true
	}
	c.Want = w
}

// remember keeps an ended incarnation of which the log holds nothing any more:
// a write of it that was still under way must not bring it back.
func (s *State) remember(inc *Incarnation) {
	if inc.removed {
		return
	}
	inc.removed = true
	s.gone = append(s.gone, inc.Name)
	if len(s.gone) > maxRemembered {
		delete(s.incs, s.gone[0])
		s.gone = s.gone[1:]
	}
}

// Expired lists the incarnations that are not ended and were not renewed for
// their lease, or never had one for orphan: anyone may write their end record.
func (s *State) Expired(now time.Time, orphan time.Duration) []string {
	var out []string
	for name, i := range s.incs {
		lease := i.Lease
		if i.Delivery == "" {
			lease = orphan
		}
		if !i.Ended && now.Sub(i.Renewed) > lease {
			out = append(out, name)
		}
	}
	return out
}

// leaseOf bounds a lease: a record cannot keep an incarnation for more than an hour.
func leaseOf(ms int64) time.Duration {
	return min(time.Duration(min(ms, int64(time.Hour/time.Millisecond)))*time.Millisecond, time.Hour)
}
