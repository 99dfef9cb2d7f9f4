package ingest

import (
	"net/http"

	"github.com/tapecast/tapecast/internal/broker"
)

// restOffset is the REST Proxy's answer for one record.
type restOffset struct {
	Partition *int32  `json:"partition"`
	Offset    *int64  `json:"offset"`
	ErrorCode *int    `json:"error_code"`
	Error     *string `json:"error"`
}

// restAnswer is the REST Proxy's answer to a request.
type restAnswer struct {
	ErrorCode     int          `json:"error_code,omitempty"`
	Message       string       `json:"message,omitempty"`
	Code          string       `json:"code,omitempty"` // tapecast's word, beside error_code
	Errors        []fieldError `json:"errors,omitempty"`
	Offsets       []restOffset `json:"offsets,omitempty"`
	KeySchemaID   *uint32      `json:"key_schema_id"`
	ValueSchemaID *uint32      `json:"value_schema_id"`
}

// restError is the REST Proxy's answer when nothing was written.
type restError struct {
	ErrorCode int          `json:"error_code"`
	Message   string       `json:"message"`
	Code      string       `json:"code"`
	Errors    []fieldError `json:"errors,omitempty"`
}

func restOffsets(produced []broker.Produced, id *uint32) *restAnswer {
	a := &restAnswer{Offsets: make([]restOffset, len(produced)), ValueSchemaID: id}
	for i := range produced {
		r, o := &produced[i], &a.Offsets[i]
		v := verdictOf(r.Err)
		if v == written {
			o.Partition, o.Offset = &r.Partition, &r.Offset
			continue
		}
		code, word := recordRetriable, v.word()
		if v == rejected {
			code = recordNotRetriable
		}
		o.ErrorCode, o.Error = &code, &word
	}
	return a
}

// failREST answers as the REST Proxy does.
func (s *Service) failREST(w http.ResponseWriter, p *problem, produced []broker.Produced, id *uint32) {
	code := p.restErrorCode()
	if len(produced) == 0 {
		s.writeProblem(w, p, typeREST, &restError{code, p.Message, p.Code, p.Errors})
		return
	}
	a := restOffsets(produced, id)
	a.ErrorCode, a.Message, a.Code, a.Errors = code, p.Message, p.Code, p.Errors
	s.writeProblem(w, p, typeREST, a)
}

func (p *problem) restErrorCode() int {
	switch {
	case p.restCode != 0:
		return p.restCode
	case p.Code == codeUnknownTopic:
		return restTopicNotFound
	case p.Code == codeNoSchema:
		return restNoValueSchema
	case p.Code == codeRejected:
		return restKafka
	case p.Status == http.StatusServiceUnavailable:
		return restKafkaRetriable
	}
	return p.Status
}
