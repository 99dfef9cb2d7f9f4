package coverage

import (
	"time"

	"github.com/tapecast/tapecast/internal/stream"
)

// coverEvery is how long a node is left without a section, and how old the
// last successful fetch may be that a covering section speaks of.
const coverEvery = time.Second

// Chains is the fan-out's book of one owned partition: for every incarnation
// that wants something of the topic, how far its sections reach and by which
// interests the next one begins. Each From is the To of the section made
// before; after a drop of the queue it is not moved back.
//
// The order of the sections that a call returns matters for one node, not
// between nodes.
type Chains struct {
	topic      stream.TopicID
	partition  int32
	generation int32
	next       int64 // next offset to read
	end        int64 // last stable offset at the last fetch
	fetched    time.Time
	now        time.Time // the latest time that was given
	nodes      map[string]*chain
	mut        mutation // test only
}

// chain is one node's open section: it begins at from, by the interests at at.
// at is a lower bound of what was applied when from was (or will be) routed. It
// moves with this node's changes, not with others': sections of one E can be
// merged, and a higher E always announces something.
type chain struct {
	from int64
	at   stream.InterestPos
	said time.Time // when it last got a section
}

// NewChains starts the book of a partition at offset start. It knows no node
// yet: call Interests for each that wants something of the topic, with what was
// applied so far.
func NewChains(topic stream.TopicID, partition, generation int32, start int64) *Chains {
	return &Chains{
		topic: topic, partition: partition, generation: generation,
		next: start, end: start, nodes: map[string]*chain{},
	}
}

// SetGeneration notes a new group generation for the sections to come.
func (c *Chains) SetGeneration(g int32) { c.generation = g }

// Topic is the id of the topic that the book is about.
func (c *Chains) Topic() stream.TopicID { return c.topic }

// Next is the next offset to read.
func (c *Chains) Next() int64 { return c.next }

// Interests says that the node's interests in this topic were changed by what
// was applied up to at: [prev, s) with the old position, [s, s) with the new.
// Everything routed after the call must be routed by the interests at at or
// later; records routed by them before the call do no harm, for E is a lower
// bound. So new interests may wait: one call, at most every 20 ms for a node,
// answers all changes up to at.
//
// wants=false: the node wants nothing of this topic any more, or ended: it is
// forgotten. An end must not wait: call it before anything is routed without
// that node, for a chain that goes on would say that the node wants nothing of
// what follows, and the gateway may not know yet that it ended. The same holds
// for whatever else takes interests from the map that their node did not end
// itself, such as loading it anew.
func (c *Chains) Interests(incarnation string, at stream.InterestPos, wants bool) []Out {
	if !wants {
		delete(c.nodes, incarnation)
		return nil
	}
	n := c.nodes[incarnation]
	if n == nil {
		n = &chain{from: c.next}
		c.nodes[incarnation] = n
	}
	var out []Out
	if c.mut&mutS2Announce != 0 {
		n.at = at
	} else if n.from < c.next {
		out = c.say(out, incarnation, n, nil)
	}
	n.at = at
	return c.say(out, incarnation, n, nil)
}

// Routed says that [Next(), to) was read and routed by the interests at at, or
// by later ones; routed holds each node's deliveries, ascending. end is the last
// stable offset of the answer, now the time of the successful fetch. Nodes in
// routed get a section up to to; the others' chains just grow. Also call it
// with to = Next() after a fetch that brought nothing: it notes end and now.
// The sections keep the slices in routed. A node that Interests did not name,
// or named as one that wants nothing, gets none.
func (c *Chains) Routed(to, end int64, at stream.InterestPos, routed map[string][]stream.Record, now time.Time) []Out {
	var out []Out
	for inc, n := range c.nodes {
		if at.Covers(n.at) {
			continue
		}
		// The map was loaded anew, or is of another log: what was routed
		// until here is true by the old position, and not beyond.
		if n.from < c.next {
			out = c.say(out, inc, n, nil)
		}
		n.at = at
	}
	before := c.next
	c.end, c.fetched, c.now = max(end, to), now, now
	c.next = max(c.next, to)
	for inc, deliveries := range routed {
		n := c.nodes[inc]
		if n == nil {
			if c.mut&mutUnknown == 0 {
				continue // it ended while this was routed: only part of it may be here
			}
			n = &chain{from: before, at: at}
			c.nodes[inc] = n
		}
		if c.mut&mutS2Stamp != 0 {
			n.at = at
		}
		out = c.say(out, inc, n, deliveries)
	}
	return out
}

// Skip says that [Next(), to) is not in the log any more (retention went past).
// Nothing is said about it: gateways see a gap, and what became of it.
func (c *Chains) Skip(to int64) []Out {
	if to <= c.next {
		return nil
	}
	var out []Out
	for inc, n := range c.nodes {
		if n.from < c.next {
			out = c.say(out, inc, n, nil)
		}
		n.from = to
	}
	c.next, c.end = to, max(c.end, to)
	return out
}

// Cover gives a covering section to each node that got none for a second,
// idle or busy, but only if a fetch succeeded within that second. at is what
// was applied: whatever is routed from Next() on is routed by it or by more.
func (c *Chains) Cover(now time.Time, at stream.InterestPos) []Out {
	c.now = now
	if c.fetched.IsZero() || now.Sub(c.fetched) > coverEvery {
		return nil
	}
	var out []Out
	for inc, n := range c.nodes {
		if now.Sub(n.said) < coverEvery {
			continue
		}
		if n.from == c.next {
			n.at = at // an empty section begins where the next one will
		}
		out = c.say(out, inc, n, nil)
		n.at = at
	}
	return out
}

// say closes the node's open section at next, and opens one there.
func (c *Chains) say(out []Out, incarnation string, n *chain, deliveries []stream.Record) []Out {
	out = append(out, Out{Incarnation: incarnation, Section: stream.Section{
		Topic: c.topic, Partition: c.partition, Interests: n.at, Generation: c.generation,
		From: n.from, To: c.next, End: max(c.end, c.next), Deliveries: deliveries,
	}})
	n.from, n.said = c.next, c.now
	return out
}
