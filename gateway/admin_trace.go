package gateway

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/tapecast/tapecast/gateway/feed"
	"github.com/tapecast/tapecast/internal/protocol"
)

// tracer is a feedSource that knows the hops of recent events.
type tracer interface {
	Trace(topic string, partition int32, offset int64) feed.Trace
}

// traceAnswer is GET /v1/admin/trace/{topic}/{partition}/{offset}: what this
// node knows of an event, and nothing that it only supposes.
type traceAnswer struct {
	Node      string           `json:"node"`
	Topic     string           `json:"topic"`
	Partition int32            `json:"partition"`
	Offset    int64            `json:"offset"`
	Key       *string          `json:"key,omitempty"`
	TS        int64            `json:"ts,omitempty"`  // ms, of the event
	Via       string           `json:"via,omitempty"` // fanout, kafka
	Writer    string           `json:"fanout,omitempty"`
	Hops      map[string]int64 `json:"hops"`              // us since 1970, by the clock of whoever did it; those that are known
	Late      *int64           `json:"late_us,omitempty"` // from accepted until its first session here
	Sessions  *traceSessions   `json:"sessions,omitempty"`
	Nodes     []traceNode      `json:"nodes,omitempty"` // that the fan-out sent it to, as the delivery topics tell
	Notes     []string         `json:"notes"`
}

// traceSessions counts this node's open sessions with a subscription that the
// event is in. It is derived from their cursors as they stand now: sessions
// that have ended since are not in it.
type traceSessions struct {
	Matching int `json:"matching"`
	Passed   int `json:"passed"`  // their cursor is beyond it
	Waiting  int `json:"waiting"` // their cursor is not
	Unknown  int `json:"unknown"` // did not answer: in a write
}

func (s *Service) serveTrace(w http.ResponseWriter, r *http.Request) {
	topic := r.PathValue("topic")
	partition, err := strconv.ParseInt(r.PathValue("partition"), 10, 32)
	if err != nil || partition < 0 {
		refuseAdmin(w, "partition", "an integer from 0 on")
		return
	}
	offset, err := strconv.ParseInt(r.PathValue("offset"), 10, 64)
	if err != nil || offset < 0 {
		refuseAdmin(w, "offset", "an integer from 0 on")
		return
	}
	f, ok := s.find(topic)
	if !ok {
		writeError(w, &protocol.Error{Code: protocol.CodeUnknownTopic, Message: "no such topic"}, http.StatusNotFound)
		return
	}
	if partition >= int64(len(f.Partitions)) {
		refuseAdmin(w, "partition", fmt.Sprintf("%s has %d, from 0 on", topic, len(f.Partitions)))
		return
	}
	out := traceAnswer{
		Node: s.node(), Topic: topic, Partition: int32(partition), Offset: offset, Hops: map[string]int64{}, Notes: []string{},
	}
	if t, ok := s.o.source.(tracer); ok {
		out.tell(t.Trace(topic, out.Partition, offset), offset)
	}
	s.traceNodes(r.Context(), &out, f)
	if at, ok := out.Hops["accepted"]; ok && out.Hops["encoded"] > 0 {
		late := out.Hops["encoded"] - at
		out.Late = &late
	}
	var key []byte
	if out.Key != nil {
		key = []byte(*out.Key)
	}
	out.Sessions = s.traceSessions(r, topic, out.Partition, offset, key)
	writeJSON(w, out)
}

// tell takes what the feed knows, and says what it does not.
func (a *traceAnswer) tell(t feed.Trace, offset int64) {
	for name, at := range map[string]int64{
		"accepted": t.Accepted, "batched": t.Batched, "arrived": t.Arrived, "taped": t.Taken, "encoded": t.Encoded,
	} {
		if at > 0 {
			a.Hops[name] = at
		}
	}
	if t.ReadFirst > 0 {
		a.Hops["read"] = readAt(t.ReadFirst, t.ReadLast, t.Accepted)
	}
	a.TS, a.Writer = t.Time, t.Writer
	switch {
	case t.Taken > 0 && t.Direct:
		a.Via = "kafka"
	case t.Taken > 0:
		a.Via = "fanout"
	}
	if t.Key != nil {
		key := string(t.Key)
		a.Key = &key
	}
	a.note(t, offset)
}

func (a *traceAnswer) note(t feed.Trace, offset int64) {
	say := func(format string, args ...any) { a.Notes = append(a.Notes, fmt.Sprintf(format, args...)) }
	switch {
	case !t.Followed:
		say("Nobody on this node follows the partition: it holds no tape of it, and no hops.")
		return
	case !t.OnTape && offset >= t.Head:
		say("This node's tape has not come to it yet: it ends at %d.", t.Head)
	case !t.OnTape && offset < t.Start:
		say("It is not on this node's tape, which begins at %d: sessions got it from Kafka, or not at all.", t.Start)
	case !t.OnTape:
		say("The tape spans it, but nobody here wanted its key, or the log has no record there.")
	}
	if t.ReadLast > t.ReadFirst {
		say("The fan-out read it by %s: what waited for its batch was merged.", time.UnixMicro(t.ReadLast).UTC().Format(clockForm))
	}
	if t.OnTape && t.Accepted == 0 {
		say("Its producer did not say when it was accepted.")
	}
	if t.OnTape && t.Encoded == 0 {
		say("No session has come to it yet.")
	}
	if t.OnTape && t.Taken == 0 {
		say("Its hops are older than what is remembered.")
	}
	say("Times are of the clocks of those who took them. Other nodes know their own part.")
}

const clockForm = "15:04:05.000000"

// readAt is the earliest that an event of a stretch can have been read.
func readAt(first, last, accepted int64) int64 {
	if first == last {
		return first
	}
	return min(max(first, accepted), last)
}

// traceSessions asks the sessions' cursors.
func (s *Service) traceSessions(r *http.Request, topic string, partition int32, offset int64, key []byte) *traceSessions {
	open := s.open()
	got := survey(r.Context(), open, func(sess *session) traceSessions {
		var t traceSessions
		for _, sub := range sess.conv.subs {
			c := sub.find(partition)
			switch {
			case sub.topic != topic || c == nil || c.from > offset || c.until <= offset || !sub.wants(key):
			case c.next > offset:
				return traceSessions{Matching: 1, Passed: 1}
			default:
				t = traceSessions{Matching: 1, Waiting: 1}
			}
		}
		return t
	})
	out := &traceSessions{Unknown: len(open) - len(got)}
	for _, t := range got {
		out.Matching += t.Matching
		out.Passed += t.Passed
		out.Waiting += t.Waiting
	}
	return out
}

// wants tells whether the subscription has the key. A key that is not known
// counts for those that want all only.
func (s *subscription) wants(key []byte) bool {
	return s.wish.Keys == nil || key != nil && slices.ContainsFunc(s.wish.Keys, func(k []byte) bool { return string(k) == string(key) })
}
