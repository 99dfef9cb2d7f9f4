package ingest

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	typeJSON   = "application/json"
	typeNDJSON = "application/x-ndjson"

	// bodyTime is how long a body that is not streamed may take.
	bodyTime = 30 * time.Second
	// readStep is how much of a body is read before more memory is asked for.
	readStep = 64 << 10

	// discardTime and discardBytes bound what is read of a body after its
	// request has failed.
	discardTime  = 5 * time.Second
	discardBytes = 256 << 20
)

// Register mounts POST /v1/topics/{topic}/events and POST /topics/{topic}, and
// OPTIONS of both, for pages of the configured origins.
func (s *Service) Register(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/topics/{topic}/events", s.eventsDoor)
	mux.HandleFunc("POST /topics/{topic}", s.restDoor)
	mux.HandleFunc("OPTIONS /v1/topics/{topic}/events", s.preflight)
	mux.HandleFunc("OPTIONS /topics/{topic}", s.preflight)
}

// preflight tells a browser whether a page of another origin may post.
func (s *Service) preflight(w http.ResponseWriter, r *http.Request) {
	w.Header().Add("Vary", "Origin")
	if !s.allowOrigin(w, r) {
		p := foreignOrigin()
		s.writeProblem(w, p, typeJSON, p)
		return
	}
	w.Header().Set("Access-Control-Allow-Methods", http.MethodPost)
	w.Header().Set("Access-Control-Allow-Headers", "Content-Type")
	w.Header().Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
}

// allowOrigin lets a page of a configured origin read the answer.
func (s *Service) allowOrigin(w http.ResponseWriter, r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if !s.trusted[origin] {
		return false
	}
	w.Header().Set("Access-Control-Allow-Origin", origin)
	w.Header().Set("Access-Control-Expose-Headers", "Retry-After")
	return true
}

func foreignOrigin() *problem {
	return &problem{Status: http.StatusForbidden, Code: codeForbidden, Message: "pages of another origin may not post here"}
}

// admit does what all doors have in common before the body is looked at. With
// a nil problem the caller must leave the gate.
func (s *Service) admit(w http.ResponseWriter, r *http.Request) *problem {
	if err := s.origins.Check(r); err != nil {
		return foreignOrigin()
	}
	if s.allowOrigin(w, r) {
		w.Header().Add("Vary", "Origin")
	}
	if enc := r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return mediaType("a compressed body is not taken")
	}
	if !s.gate.enter() {
		return unavailable("the process is not running or about to end")
	}
	return nil
}

// discard reads on after an answer that did not wait for the whole body. Many
// clients send all before they read, and would never see why they failed: the
// connection would be reset under them. It costs time and bytes only.
func (s *Service) discard(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 || r.Header.Get("Expect") != "" || s.gate.ending.Err() != nil {
		return // such clients look for an early answer; or there is no time
	}
	rc := http.NewResponseController(w)
	_ = rc.Flush()
	_ = rc.SetReadDeadline(time.Now().Add(discardTime))
	_, _ = io.CopyN(io.Discard, r.Body, discardBytes)
	_ = rc.SetReadDeadline(time.Time{})
}

func mediaType(message string) *problem {
	return &problem{Status: http.StatusUnsupportedMediaType, Code: codeMediaType, Message: message}
}

// eventsDoor serves POST /v1/topics/{topic}/events.
func (s *Service) eventsDoor(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).EnableFullDuplex() // discard needs it; where it cannot be, clients may miss an answer
	defer s.discard(w, r)
	p := s.admit(w, r)
	if p != nil {
		s.writeProblem(w, p.nothing(), typeJSON, p)
		return
	}
	defer s.gate.leave()
	stream, p := streamed(r)
	if p == nil && stream {
		s.streamDoor(w, r)
		return
	}
	if p != nil {
		s.writeProblem(w, p, typeJSON, p)
		return
	}
	s.postEvents(w, r)
}

// streamed tells whether the body is NDJSON. A body of no named type and no
// known length is: that is how curl -T - sends standard input.
func streamed(r *http.Request) (bool, *problem) {
	header := r.Header.Get("Content-Type")
	if header == "" {
		return r.ContentLength < 0, nil
	}
	kind, p := contentType(header)
	if p != nil {
		return false, p
	}
	switch kind {
	case typeJSON:
		return false, nil
	case typeNDJSON, "application/ndjson", "application/jsonl", "application/x-jsonlines":
		return true, nil
	}
	return false, mediaType("want Content-Type: application/json, or application/x-ndjson for a stream")
}

func contentType(header string) (string, *problem) {
	kind, params, err := mime.ParseMediaType(header)
	if err != nil {
		return "", mediaType("the Content-Type cannot be read")
	}
	if c, ok := params["charset"]; ok && !strings.EqualFold(c, "utf-8") {
		return "", mediaType("the charset must be utf-8")
	}
	return kind, nil
}

// postEvents takes one event or an array, all or nothing.
func (s *Service) postEvents(w http.ResponseWriter, r *http.Request) {
	fail := func(p *problem, where []position) {
		if !mayBeWritten(where) {
			p, where = p.nothing(), nil
		}
		s.writeProblem(w, p, typeJSON, struct {
			*problem
			Offsets []position `json:"offsets,omitempty"`
		}{p, where})
	}
	feed, p := s.feed(r.Context(), r.PathValue("topic"))
	if p != nil {
		fail(p, nil)
		return
	}
	l := s.budget.lease()
	defer l.release()
	body, p := s.readBody(w, r, l)
	if p != nil {
		fail(p, nil)
		return
	}
	d := &draft{feed: feed, accepted: time.Now(), limit: s.limits.of(r.Context(), feed)}
	if d.events, p = parseBody(body); p != nil {
		fail(p, nil)
		return
	}
	if p = l.grow(r.Context(), int64(len(d.events))*eventCost); p != nil {
		fail(p, nil)
		return
	}
	recs, _, p := s.records(r.Context(), d, l)
	if p != nil {
		fail(p, nil)
		return
	}
	produced, p := s.write(r.Context(), feed, recs)
	if p != nil {
		fail(p, positions(produced))
		return
	}
	s.metrics.events[doorEvents].Add(float64(len(recs)))
	writeBytes(w, http.StatusOK, typeJSON, appendOffsets(nil, produced))
}

// readBody reads a whole body of at most MaxBody bytes. It takes memory as the
// bytes come, so a slow sender holds no more than it sent.
func (s *Service) readBody(w http.ResponseWriter, r *http.Request, l *lease) ([]byte, *problem) {
	large := tooLarge("the body is too large; send less at once, or stream NDJSON")
	if r.ContentLength > s.o.MaxBody {
		return nil, large
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTime)) // not all servers can; then theirs holds
	defer func() { _ = rc.SetReadDeadline(time.Time{}) }()
	var body []byte
	for {
		if len(body) == cap(body) {
			// Doubled, so that the copies cost no more than the body.
			step := max(readStep, len(body))
			if n := int(r.ContentLength); n > len(body) {
				step = min(step, n+1-len(body))
			}
			if p := l.grow(r.Context(), int64(step)); p != nil {
				return nil, p
			}
			grown := make([]byte, len(body), len(body)+step)
			copy(grown, body)
			body = grown
		}
		n, err := r.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if int64(len(body)) > s.o.MaxBody {
			return nil, large
		}
		if errors.Is(err, io.EOF) {
			return body, nil
		}
		if err != nil {
			return nil, readProblem(err)
		}
	}
}

// readProblem is the answer when a body ends too early. Mostly nobody reads it.
func readProblem(err error) *problem {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return &problem{Status: http.StatusRequestTimeout, Code: codeTimeout, Message: "the body did not come in time"}
	}
	return invalid("the body ended too early")
}
