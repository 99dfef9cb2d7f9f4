package gateway

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/gateway/feed"
	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/internal/inspect"
)

// Inspector tells what Kafka knows of topics and events (see inspect.Inspector).
type Inspector interface {
	Topic(ctx context.Context, topic broker.Topic, bounds map[int32]broker.Bounds) (inspect.Topic, error)
	Trace(ctx context.Context, topic broker.Topic, partition int32, offset int64) (inspect.Event, []inspect.Delivery, int, error)
}

const (
	topicsAge   = 2 * time.Second // for that long an answer about all topics is given again
	shownTopics = 500
	topicsAsked = 8 // at a time
)

// topicView is one topic as operators see it.
type topicView struct {
	Name        string   `json:"name"`
	Format      string   `json:"format"`
	Partitions  int      `json:"partitions"`
	Start       int64    `json:"start"`               // sums over the partitions
	End         int64    `json:"end"`                 //
	Rate        *float64 `json:"rate,omitempty"`      // events per second since the answer before; none = there was none
	Oldest      int64    `json:"oldest,omitempty"`    // ms: time of the first event that is kept
	Newest      int64    `json:"newest,omitempty"`    // ms: time of the last one
	Lag         *int64   `json:"lag,omitempty"`       // events that the fan-out has not committed; none = not known
	Subscribers int      `json:"subscribers"`         // sessions of this node
	Followed    int      `json:"followed_partitions"` // that this node has a tape of
	OnTape      int      `json:"tape_events"`         // on those
	Keys        int      `json:"tape_keys"`           // of those, per partition
	Error       string   `json:"error,omitempty"`     // what could not be asked
}

// topicsAnswer is GET /v1/admin/topics.
type topicsAnswer struct {
	Node    string      `json:"node"`
	TakenAt int64       `json:"taken_at"` // ms
	Total   int         `json:"topic_count"`
	Topics  []topicView `json:"topics"` // at most shownTopics
}

// topicsSurvey is the last answer, and what the next one's rates count from.
type topicsSurvey struct {
	mu     sync.Mutex
	at     time.Time    // guarded by mu
	answer topicsAnswer // guarded by mu
}

// teller is a feedSource that knows how its tapes stand.
type teller interface {
	Stat(topic string) feed.Stat
}

func (s *Service) serveAdminTopics(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, s.topicViews(r.Context()))
}

// topicViews asks about all topics, at most every topicsAge for everybody.
func (s *Service) topicViews(ctx context.Context) topicsAnswer {
	t := &s.topics
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if now.Sub(t.at) < topicsAge {
		return t.answer
	}
	ctx = context.WithoutCancel(ctx) // others will read the answer
	subscribers := map[string]int{}
	for _, v := range s.sessionViews(ctx).sessions {
		for _, topic := range v.topics {
			subscribers[topic]++
		}
	}
	before := make(map[string]int64, len(t.answer.Topics))
	for _, v := range t.answer.Topics {
		before[v.Name] = v.End
	}
	feeds := s.o.source.Topics()
	out := topicsAnswer{Node: s.node(), TakenAt: now.UnixMilli(), Total: len(feeds)}
	out.Topics = make([]topicView, min(len(feeds), shownTopics))
	var g errgroup.Group
	g.SetLimit(topicsAsked)
	for i := range out.Topics {
		g.Go(func() error {
			out.Topics[i] = s.topicView(ctx, feeds[i])
			return nil
		})
	}
	_ = g.Wait() // what could not be asked is in the views
	for i := range out.Topics {
		v := &out.Topics[i]
		v.Subscribers = subscribers[v.Name]
		if end, ok := before[v.Name]; ok && v.Error == "" && v.End >= end {
			perSecond := float64(v.End-end) / now.Sub(t.at).Seconds()
			v.Rate = &perSecond
		}
	}
	t.at, t.answer = now, out
	return out
}

func (s *Service) topicView(ctx context.Context, f catalog.Feed) topicView {
	v := topicView{Name: f.Name, Format: f.Format, Partitions: len(f.Partitions)}
	if t, ok := s.o.source.(teller); ok {
		st := t.Stat(f.Name)
		v.Followed, v.OnTape, v.Keys = st.Partitions, st.Events, st.Keys
	}
	bounds, err := s.bounds.of(ctx, f.Name)
	if err != nil {
		v.Error = err.Error()
		return v
	}
	for _, b := range bounds {
		v.Start += b.Start
		v.End += b.End
	}
	if s.o.Inspector == nil {
		return v
	}
	k, err := s.o.Inspector.Topic(ctx, f.Topic, bounds)
	if err != nil {
		v.Error = err.Error()
	}
	v.Oldest, v.Newest = k.Oldest, k.Newest
	if k.Lag >= 0 {
		v.Lag = &k.Lag
	}
	return v
}

// traceNode is a gateway that the fan-out sent an event to.
type traceNode struct {
	Node        string `json:"node"`
	Incarnation string `json:"incarnation"`
	Writer      string `json:"fanout"`
	Read        int64  `json:"read,omitempty"` // us, as the hops
	Written     int64  `json:"batched"`
}

// traceNodes asks Kafka for what this node does not know: the event itself,
// and who else got it.
func (s *Service) traceNodes(ctx context.Context, out *traceAnswer, f catalog.Feed) {
	if s.o.Inspector == nil {
		return
	}
	e, found, searched, err := s.o.Inspector.Trace(ctx, f.Topic, out.Partition, out.Offset)
	if err != nil {
		out.Notes = append(out.Notes, fmt.Sprintf("Kafka could not be asked for everything: %v", err))
	}
	if !e.Found {
		if err == nil {
			out.Notes = append(out.Notes, "Kafka does not have it: not written yet, removed by retention, or no event (a transaction's marker).")
		}
		return
	}
	out.TS = e.Time
	if e.Accepted > 0 {
		out.Hops["accepted"] = e.Accepted
	}
	if e.Key != nil {
		key := string(e.Key)
		out.Key = &key
	}
	for _, d := range found {
		n := traceNode{d.Node, d.Incarnation, d.Writer, 0, d.Written}
		if d.ReadFirst > 0 {
			n.Read = readAt(d.ReadFirst, d.ReadLast, e.Accepted)
		}
		out.Nodes = append(out.Nodes, n)
	}
	slices.SortFunc(out.Nodes, func(a, b traceNode) int {
		return cmp.Or(cmp.Compare(a.Written, b.Written), cmp.Compare(a.Incarnation, b.Incarnation))
	})
	if err == nil && len(found) == 0 {
		out.Notes = append(out.Notes, fmt.Sprintf(
			"None of %d delivery topics has it: no gateway wanted it from the fan-out, or it is older than those topics keep (10 minutes).", searched))
	}
}
