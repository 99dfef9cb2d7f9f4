package fanout

import (
	"cmp"
	"slices"
	"time"

	"github.com/tapecast/tapecast/internal/stream"
)

// Stats is what the room knows of itself at one moment.
type Stats struct {
	Ready       error // nil, or what is missing
	Instance    string
	Generation  int32 // of the group; 0 = none yet
	CommitAge   time.Duration
	Publishing  bool // false: stopped for want of a successful commit
	Interests   stream.InterestPos
	InterestAge time.Duration // since the interest log was last seen to its end
	Routes      int           // interests of all nodes
	Partitions  []PartitionStats
	Nodes       []NodeStats
}

// PartitionStats is one owned partition.
type PartitionStats struct {
	Topic     string
	Partition int32
	ID        stream.TopicID // zero: not started
	Next      int64          // next offset to read
	End       int64          // last stable offset, as last told
	Lag       int64          // the offsets between
	Commit    int64          // what may be committed now
	Nodes     int            // that want something of the topic
}

// NodeStats is one live gateway node.
type NodeStats struct {
	Node        string
	Incarnation string
	QueueBytes  int // queued and in flight
	Cut         bool
	Interests   int
}

// Stats describes the room, partitions by topic and number, nodes by name.
func (s *Service) Stats() Stats {
	now := time.Now()
	st := Stats{Ready: s.Ready(), Instance: s.opt.Instance, Publishing: s.fence.open(now)}
	st.CommitAge = s.fence.age(now)
	if st.CommitAge > 365*24*time.Hour {
		st.CommitAge = -1 // never
	}
	s.tracker.describe(&st, now)
	if m := s.member.Load(); m != nil {
		gen, owned := m.current()
		if gen != nil {
			st.Generation = gen.ID
		}
		for _, p := range owned {
			st.Partitions = append(st.Partitions, p.describe())
		}
	}
	slices.SortFunc(st.Partitions, func(a, b PartitionStats) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	slices.SortFunc(st.Nodes, func(a, b NodeStats) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Incarnation, b.Incarnation))
	})
	return st
}

func (t *tracker) describe(st *Stats, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	st.Interests, st.Routes = t.pos, t.state.Wants()
	if !t.caught.IsZero() {
		st.InterestAge = now.Sub(t.caught)
	}
	for name, target := range t.targets {
		bytes, h := target.pub.load()
		n := NodeStats{Node: target.pub.node, Incarnation: name, QueueBytes: bytes, Cut: h != healthy}
		if inc := t.state.Get(name); inc != nil {
			n.Interests = inc.Count()
		}
		st.Nodes = append(st.Nodes, n)
	}
}

func (p *partition) describe() PartitionStats {
	c, _, ok := p.commitment(nil)
	p.mu.Lock()
	defer p.mu.Unlock()
	st := PartitionStats{Topic: p.tp.Topic, Partition: p.tp.Partition}
	if ok && p.book != nil {
		st.ID, st.Next, st.End, st.Commit = p.book.id, p.book.chains.Next(), p.end, c.Offset
		st.Lag, st.Nodes = max(st.End-st.Next, 0), len(p.book.nodes)
	}
	return st
}
