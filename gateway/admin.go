package gateway

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/tapecast/tapecast/internal/protocol"
)

// What operators may see of the sessions. A session's state belongs to its
// loop, so it is asked for there; who does not answer waits in a write.

const (
	surveyTime   = 300 * time.Millisecond // for the answers of all sessions
	surveyAge    = time.Second            // for that long an answer about all sessions is given again
	shownSubs    = 16                     // of one session
	shownParts   = 16                     // of one subscription
	shownDefault = 100                    // sessions
	shownMost    = 1000
	keptClosed   = 100 // sessions that ended
)

// card is what is known of a session without asking its loop. Static once the
// session runs, but for asked, rest and ending.
type card struct {
	number    uint64
	transport string
	since     moment

	asked  atomic.Bool  // a question is on its way to the loop
	rest   atomic.Int64 // bytes of a write that its socket has not taken
	ending *ending      // set by its loop, read by ended
}

// RegisterAdmin mounts GET /v1/admin/topics, GET /v1/admin/sessions and GET
// /v1/admin/trace/{topic}/{partition}/{offset}: for a listener that only
// operators reach, as they show every client's address and positions.
func (s *Service) RegisterAdmin(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/admin/topics", s.serveAdminTopics)
	mux.HandleFunc("GET /v1/admin/sessions", s.serveSessions)
	mux.HandleFunc("GET /v1/admin/trace/{topic}/{partition}/{offset}", s.serveTrace)
}

// sessionState is how a session does, the worst of its subscriptions.
type sessionState string

// The states, the worst first.
const (
	stateBlocked   sessionState = "blocked"   // its loop does not answer: it waits in a write
	stateLagging   sessionState = "lagging"   // live, and behind the head for over a second
	stateReplaying sessionState = "replaying" // not at the live edge yet
	stateLive      sessionState = "live"
	stateIdle      sessionState = "idle" // no subscription
)

var sessionStates = []sessionState{stateBlocked, stateLagging, stateReplaying, stateLive, stateIdle}

// sessionView is one session as operators see it.
type sessionView struct {
	ID        uint64       `json:"id"`
	State     sessionState `json:"state"`
	Transport string       `json:"transport"`
	Remote    string       `json:"remote,omitempty"`
	Since     int64        `json:"since"`              // ms
	Subs      []subView    `json:"subscriptions"`      // at most shownSubs
	Total     int          `json:"subscription_count"` // all of them
	Buffered  int64        `json:"buffered_bytes"`     // written, and not taken by the client: here and in the kernel
	behind    int64
	topics    []string // of all subscriptions, each once
}

// subView is one subscription as operators see it.
type subView struct {
	Topic  string           `json:"topic"`
	State  sessionState     `json:"state"`
	Mode   string           `json:"mode"`
	Keys   int              `json:"keys,omitempty"`      // none = all
	Behind *int64           `json:"behind,omitempty"`    // offsets to the head, over all partitions; none = not known
	Since  int64            `json:"behind_ms,omitempty"` // for how long it has not been at the head
	At     map[string]int64 `json:"at"`                  // next offset by partition; at most shownParts
	Parts  int              `json:"partitions"`
}

// closedView is a session that ended.
type closedView struct {
	ID        uint64 `json:"id"`
	Transport string `json:"transport"`
	Remote    string `json:"remote,omitempty"`
	Reason    string `json:"reason"`
	At        int64  `json:"at"` // ms
	Lasted    int64  `json:"lasted_ms"`
}

// surveyed is what all sessions said.
type surveyed struct {
	at       time.Time
	sessions []sessionView // the worst first
}

// survey asks every session, and waits a moment for the answers. One that is
// being asked already is not asked twice; it counts as one that does not answer.
func survey[T any](ctx context.Context, open []*session, view func(*session) T) map[*session]T {
	type answer struct {
		from *session
		view T
	}
	answers := make(chan answer, len(open)) // nobody ever waits to answer
	asked := 0
	for _, sess := range open {
		if !sess.card.asked.CompareAndSwap(false, true) {
			continue
		}
		asked++
		sess.result(func() {
			sess.card.asked.Store(false)
			answers <- answer{sess, view(sess)}
		})
	}
	ctx, cancel := context.WithTimeout(ctx, surveyTime)
	defer cancel()
	got := make(map[*session]T, len(open))
	for range asked {
		select {
		case a := <-answers:
			got[a.from] = a.view
		case <-ctx.Done():
			return got
		}
	}
	return got
}

// sessionViews asks all sessions, at most once a second for everybody.
func (s *Service) sessionViews(ctx context.Context) surveyed {
	s.surveying.Lock()
	defer s.surveying.Unlock()
	if time.Since(s.surveyed.at) < surveyAge {
		return s.surveyed
	}
	now := time.Now()
	open := s.open()
	views := survey(context.WithoutCancel(ctx), open, func(sess *session) sessionView { return sess.view(now) })
	out := surveyed{at: now, sessions: make([]sessionView, 0, len(open))}
	for _, sess := range open {
		v, ok := views[sess]
		if !ok {
			v = sess.face()
			v.State = stateBlocked
		}
		out.sessions = append(out.sessions, v)
	}
	slices.SortStableFunc(out.sessions, worse)
	s.surveyed = out
	return out
}

// worse orders the sessions in trouble first, and of those the furthest behind.
func worse(a, b sessionView) int {
	return cmp.Or(
		cmp.Compare(slices.Index(sessionStates, a.State), slices.Index(sessionStates, b.State)),
		cmp.Compare(b.behind, a.behind),
		cmp.Compare(a.ID, b.ID),
	)
}

// face is what is known of a session without asking its loop.
func (s *session) face() sessionView {
	c := &s.card
	v := sessionView{
		ID: c.number, Transport: c.transport, Remote: s.remote(), Since: c.since.time().UnixMilli(), Subs: []subView{}, Buffered: c.rest.Load(),
	}
	if t, ok := s.out.(*socket); ok {
		v.Buffered += unsent(t.conn)
	}
	return v
}

// remote is the client's address.
func (s *session) remote() string {
	switch out := s.out.(type) {
	case *socket:
		return out.conn.RemoteAddr().String()
	case *httpStream:
		return out.remote
	}
	return ""
}

// view is what the session says of itself. Called by its loop.
func (s *session) view(now time.Time) sessionView {
	v := s.face()
	v.State, v.Total = stateIdle, len(s.conv.subs)
	for _, sub := range s.conv.subs {
		sv, behind := sub.view(now)
		v.behind += behind
		if !slices.Contains(v.topics, sub.topic) {
			v.topics = append(v.topics, sub.topic)
		}
		if slices.Index(sessionStates, sv.State) < slices.Index(sessionStates, v.State) {
			v.State = sv.State
		}
		if len(v.Subs) < shownSubs {
			v.Subs = append(v.Subs, sv)
		}
	}
	return v
}

func (s *subscription) view(now time.Time) (v subView, behind int64) {
	v = subView{
		Topic: s.topic, State: stateReplaying, Mode: s.wish.Mode.String(), Keys: len(s.wish.Keys), At: map[string]int64{}, Parts: len(s.cursors),
	}
	switch {
	case s.lagging:
		v.State = stateLagging
	case s.live:
		v.State = stateLive
	}
	if s.behind != 0 {
		v.Since = momentOf(now).sub(s.behind).Milliseconds()
	}
	known := !s.busy && s.state == positioned
	if s.live && s.behind == 0 { // what it does not want does not wake it: its cursor may stand still
		known = false
		v.Behind = new(int64)
	}
	for i := range s.cursors {
		c := &s.cursors[i]
		if len(v.At) < shownParts {
			v.At[strconv.Itoa(int(c.partition))] = c.next
		}
		if !known {
			continue
		}
		head, ok := s.hold.Head(c.partition)
		known = ok
		behind += max(0, max(head, c.live)-c.next)
	}
	if known && len(s.cursors) > 0 {
		v.Behind = &behind
	}
	return v, behind
}

// sessionsAnswer is GET /v1/admin/sessions.
type sessionsAnswer struct {
	Node     string               `json:"node"`
	TakenAt  int64                `json:"taken_at"` // ms
	Counts   map[sessionState]int `json:"counts"`
	Matching int                  `json:"matching"` // sessions of the state asked for
	Sessions []sessionView        `json:"sessions"` // of those the worst
	Closed   []closedView         `json:"closed"`   // the latest first
}

func (s *Service) serveSessions(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	limit, want := shownDefault, sessionState(q.Get("state"))
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > shownMost {
			refuseAdmin(w, "limit", "an integer from 1 to "+strconv.Itoa(shownMost))
			return
		}
		limit = n
	}
	if want != "" && !slices.Contains(sessionStates, want) {
		refuseAdmin(w, "state", "blocked, lagging, replaying, live or idle")
		return
	}
	all := s.sessionViews(r.Context())
	out := sessionsAnswer{
		Node: s.node(), TakenAt: all.at.UnixMilli(), Counts: map[sessionState]int{"open": len(all.sessions)}, Sessions: []sessionView{},
	}
	for _, state := range sessionStates {
		out.Counts[state] = 0
	}
	for _, v := range all.sessions {
		out.Counts[v.State]++
		if want != "" && v.State != want {
			continue
		}
		if out.Matching++; len(out.Sessions) < limit {
			out.Sessions = append(out.Sessions, v)
		}
	}
	s.mu.Lock()
	out.Closed = append([]closedView{}, s.closed...)
	s.mu.Unlock()
	slices.Reverse(out.Closed)
	writeJSON(w, out)
}

// node is this node's name, "" in tests without a feed.
func (s *Service) node() string {
	if s.o.Feed == nil {
		return ""
	}
	return s.o.Feed.Node()
}

func refuseAdmin(w http.ResponseWriter, field, message string) {
	writeError(w, &protocol.Error{Code: protocol.CodeInvalid, Field: field, Message: message}, http.StatusBadRequest)
}

// remember keeps a session that ended. s.mu is held.
func (s *Service) remember(sess *session) {
	c := &sess.card
	if len(s.closed) == keptClosed {
		s.closed = append(s.closed[:0], s.closed[1:]...)
	}
	now := time.Now()
	s.closed = append(s.closed, closedView{
		ID: c.number, Transport: c.transport, Remote: sess.remote(), Reason: c.ending.reason, At: now.UnixMilli(), Lasted: momentOf(now).sub(c.since).Milliseconds(),
	})
}
