package gateway

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tapecast/tapecast/internal/protocol"
)

// maxQuery bounds what a stream's query may take.
const maxQuery = 32 << 10

// serveStream is the HTTP twin of a subscription: Server-Sent Events or NDJSON.
func (s *Service) serveStream(w http.ResponseWriter, r *http.Request) {
	resume := r.Header.Get("Last-Event-ID")
	if resume == endID {
		w.WriteHeader(http.StatusNoContent) // tells a browser to stay away
		return
	}
	leave, ok := s.door.admit(w, r)
	if !ok {
		return
	}
	cmd, lines, err := parseStream(r, resume, time.Now())
	if err != nil {
		leave()
		s.metrics.commandErrors.of(string(err.Code)).Inc()
		writeError(w, err, err.Code.Status())
		return
	}
	out := &httpStream{w: w, control: http.NewResponseController(w), remote: r.RemoteAddr, lines: lines, timeout: s.o.WriteTimeout}
	sess := s.streamSession(cmd, out)
	transport := "sse"
	if lines {
		transport = "ndjson"
	}
	done := make(chan struct{})
	run := func() error {
		defer close(done)
		defer sess.ended()
		return sess.run()
	}
	if !s.start(sess, transport, leave, run) {
		leave()
		writeError(w, &protocol.Error{Code: protocol.CodeDraining, Message: "this node takes no sessions now; try another"}, http.StatusServiceUnavailable)
		return
	}
	stop := context.AfterFunc(r.Context(), sess.cut)
	defer stop()
	<-done
	if refused := sess.conv.last; !out.begun && refused != nil {
		writeError(w, refused, refused.Code.Status())
	}
}

// streamSession makes the session of one subscription.
func (s *Service) streamSession(cmd protocol.Command, out *httpStream) *session {
	var form wire = sseWire{}
	if out.lines {
		form = lineWire{}
	}
	sess := newSession(s.rules, form, out, s.o.Logger)
	sess.once = true
	sess.conv.sink = func(*protocol.Error) bool { return !out.begun }
	sess.hand(input{cmd: &cmd})
	return sess
}

// httpStream is an HTTP response as a transport.
type httpStream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	remote  string
	lines   bool
	timeout time.Duration
	begun   bool // owned by the session's loop until it has ended
}

func (t *httpStream) write(b *block) error {
	if !t.begun {
		t.begin()
	}
	// A server without deadlines (tests) still works.
	_ = t.control.SetWriteDeadline(time.Now().Add(t.timeout))
	for _, p := range [][]byte{b.buf[b.head:], b.tail} {
		if len(p) == 0 {
			continue
		}
		if _, err := t.w.Write(p); err != nil {
			return err
		}
	}
	return t.control.Flush()
}

func (t *httpStream) begin() {
	t.begun = true
	h := t.w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	if t.lines {
		h.Set("Content-Type", "application/x-ndjson; charset=utf-8")
	}
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold frames back
	h.Set("X-Content-Type-Options", "nosniff")
	t.w.WriteHeader(http.StatusOK)
}

// hurry implements transport.
func (t *httpStream) hurry() { t.timeout = goodbyeTime }

// abort implements transport.
func (t *httpStream) abort() { _ = t.control.SetWriteDeadline(time.Unix(1, 0)) }

// close has nothing to send: the handler's return ends the response.
func (t *httpStream) close(protocol.CloseCode) {}

// parseStream makes a request a sub command.
func parseStream(r *http.Request, resume string, now time.Time) (cmd protocol.Command, lines bool, err *protocol.Error) {
	bad := func(field, message string) (protocol.Command, bool, *protocol.Error) {
		return cmd, false, &protocol.Error{Code: protocol.CodeInvalid, Field: field, Message: message}
	}
	if len(r.URL.RawQuery) > maxQuery {
		return bad("query", fmt.Sprintf("has at most %d bytes", maxQuery))
	}
	q, qerr := url.ParseQuery(r.URL.RawQuery)
	if qerr != nil {
		return bad("query", "is not well-formed")
	}
	switch q.Get("format") {
	case "":
		lines = strings.Contains(r.Header.Get("Accept"), "application/x-ndjson")
	case "ndjson":
		lines = true
	case "sse":
	default:
		return bad("format", `must be "sse" or "ndjson"`)
	}
	cmd = protocol.Command{Verb: protocol.VerbSub, Topic: r.PathValue("topic")}
	if cmd.Topic == "" || len(cmd.Topic) > protocol.MaxTopic {
		return bad("topic", fmt.Sprintf("must be a string of 1 to %d bytes", protocol.MaxTopic))
	}
	cmd.Sub, err = parseWish(q, resume, now)
	return cmd, lines, err
}

func parseWish(q url.Values, resume string, now time.Time) (w protocol.Subscribe, err *protocol.Error) {
	w = protocol.Subscribe{Level: 1, Interval: protocol.DefaultInterval, OnSlow: q.Get("on_slow") == "latest"}
	keys := q["key"]
	for _, list := range q["keys"] {
		keys = append(keys, strings.Split(list, ",")...)
	}
	if len(keys) > 0 {
		if w.Keys, err = protocol.NormalKeys(keys); err != nil {
			return w, err
		}
	}
	if name := q.Get("mode"); name != "" {
		m, ok := protocol.ParseMode(name)
		if !ok {
			return w, &protocol.Error{Code: protocol.CodeInvalid, Field: "mode", Message: `must be "all", "latest" or "snapshot"`}
		}
		w.Mode = m
	}
	if text := q.Get("interval_ms"); text != "" {
		ms, cerr := strconv.ParseInt(text, 10, 32)
		w.Interval = time.Duration(ms) * time.Millisecond
		if cerr != nil {
			w.Interval = 0
		}
	}
	if w.Until, err = protocol.ParseUntilText(q.Get("until"), now); err != nil {
		return w, err
	}
	if resume != "" { // it has had its snapshot
		c, cerr := protocol.ParseCursor(resume)
		if cerr != nil {
			return w, &protocol.Error{Code: protocol.CodeInvalid, Field: "Last-Event-ID", Message: "is not a cursor of this server, or was cut"}
		}
		w.From = protocol.From{Kind: protocol.FromCursor, Cursor: c}
		if w.Mode == protocol.ModeSnapshot {
			w.Mode = protocol.ModeAll
		}
	} else if w.From, err = protocol.ParseFromText(q.Get("from"), now); err != nil {
		return w, err
	}
	return w, protocol.CheckSubscribe(&w)
}
