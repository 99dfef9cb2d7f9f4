package ingest

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"

	"github.com/tapecast/tapecast/internal/broker"
)

// Codes of answers that are no success: a closed list.
const (
	codeInvalid      = "invalid"                // 400: what is wrong is named; nothing was written
	codeForbidden    = "forbidden_origin"       // 403: a page of another origin
	codeUnknownTopic = "unknown_topic"          // 404
	codeTimeout      = "timeout"                // 408: the body did not come
	codeTooLarge     = "too_large"              // 413
	codeMediaType    = "unsupported_media_type" // 415
	codeNoSchema     = "no_schema"              // 422: the topic's subject has no schema
	codeRejected     = "rejected"               // 422: Kafka refused for good
	codeUnavailable  = "unavailable"            // 503: Kafka or the registry is away; nothing was written
	codeBusy         = "busy"                   // 503: the buffer is full; nothing was written
	codePartial      = "partial"                // 503: a part was written, the answer names it
	codeUnknown      = "unknown_outcome"        // 503: nobody knows whether it was written
)

var codes = []string{
	codeInvalid, codeForbidden, codeUnknownTopic, codeTimeout, codeTooLarge, codeMediaType,
	codeNoSchema, codeRejected, codeUnavailable, codeBusy, codePartial, codeUnknown,
}

// maxErrors bounds how many mistakes one answer names.
const maxErrors = 16

// retryAfter is what answers with 503 advise, in seconds.
const retryAfter = "1"

// fieldError is one mistake in one event.
type fieldError struct {
	Index   int    `json:"index"` // of the event in the request, from 0
	Field   string `json:"field"` // path, e.g. "value.bid_size"; "" = the event as a whole
	Message string `json:"message"`
}

// problem is an answer that is no success.
type problem struct {
	Status  int          `json:"-"`
	Code    string       `json:"code"`
	Message string       `json:"message"`
	Errors  []fieldError `json:"errors,omitempty"`

	// restCode is the error_code of the REST Proxy door; 0 = by Code.
	restCode int
}

func invalid(message string) *problem {
	return &problem{Status: http.StatusBadRequest, Code: codeInvalid, Message: message}
}

func invalidEvents(errs []fieldError) *problem {
	p := invalid("")
	p.Errors = errs
	first := errs[0]
	p.Message = "event " + strconv.Itoa(first.Index) + ": " + first.describe()
	return p
}

// describe is the mistake in words, without the event's index.
func (e fieldError) describe() string {
	if e.Field == "" {
		return e.Message
	}
	return e.Field + " " + e.Message
}

func tooLarge(message string) *problem {
	return &problem{Status: http.StatusRequestEntityTooLarge, Code: codeTooLarge, Message: message}
}

func unknownTopic() *problem {
	return &problem{Status: http.StatusNotFound, Code: codeUnknownTopic, Message: "there is no such topic"}
}

func unavailable(message string) *problem {
	return &problem{Status: http.StatusServiceUnavailable, Code: codeUnavailable, Message: message}
}

func busy() *problem {
	return &problem{Status: http.StatusServiceUnavailable, Code: codeBusy, Message: "too much waits for Kafka"}
}

// nothing says that a request was without effect, where that matters most.
func (p *problem) nothing() *problem {
	if p.Status == http.StatusServiceUnavailable || p.Code == codeRejected {
		p.Message += "; nothing was written"
	}
	return p
}

// writeProblem answers with p; body is p or something that holds it.
func (s *Service) writeProblem(w http.ResponseWriter, p *problem, contentType string, body any) {
	s.metrics.errors[p.Code].Inc()
	if p.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", retryAfter)
	}
	writeJSON(w, p.Status, contentType, body)
}

func writeJSON(w http.ResponseWriter, status int, contentType string, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		http.Error(w, "cannot encode the answer", http.StatusInternalServerError)
		return
	}
	writeBytes(w, status, contentType, append(b, '\n'))
}

func writeBytes(w http.ResponseWriter, status int, contentType string, b []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b) // a client that is gone needs no answer
}

// position says where one event went.
type position struct {
	Partition int32  `json:"partition"`       // -1 = not known to be written
	Offset    int64  `json:"offset"`          // -1 = not known to be written
	Error     string `json:"error,omitempty"` // unknown_outcome, rejected or not_written
}

const errNotWritten = "not_written"

// mayBeWritten tells whether any event may be in Kafka.
func mayBeWritten(where []position) bool {
	return slices.ContainsFunc(where, func(p position) bool { return p.Error == "" || p.Error == codeUnknown })
}

// positions of all events, in order.
func positions(produced []broker.Produced) []position {
	out := make([]position, len(produced))
	for i, r := range produced {
		if v := verdictOf(r.Err); v == written {
			out[i] = position{Partition: r.Partition, Offset: r.Offset}
		} else {
			out[i] = position{Partition: -1, Offset: -1, Error: v.word()}
		}
	}
	return out
}

// appendOffsets appends {"offsets":[...]} for records that were all written:
// the common answer, without reflection.
func appendOffsets(dst []byte, produced []broker.Produced) []byte {
	dst = append(dst, `{"offsets":[`...)
	for i, r := range produced {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"partition":`...)
		dst = strconv.AppendInt(dst, int64(r.Partition), 10)
		dst = append(dst, `,"offset":`...)
		dst = strconv.AppendInt(dst, r.Offset, 10)
		dst = append(dst, '}')
	}
	return append(dst, "]}\n"...)
}
