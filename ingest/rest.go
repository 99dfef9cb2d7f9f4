package ingest

import (
	"context"
	"net/http"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
)

// Media types of the Confluent REST Proxy, API v2.
const (
	typeREST       = "application/vnd.kafka.v2+json"
	typeRESTJSON   = "application/vnd.kafka.json.v2+json"
	typeRESTAvro   = "application/vnd.kafka.avro.v2+json"
	typeRESTBinary = "application/vnd.kafka.binary.v2+json"
)

// error_codes of the REST Proxy, API v2.
const (
	restTopicNotFound   = 40401
	restSchemaNotFound  = 40403
	restRegistryFailed  = 40801
	restInvalid         = 422
	restKeySchema       = 42201
	restNoValueSchema   = 42202
	restBadConversion   = 42203
	restInvalidSchema   = 42205
	restKafka           = 50002
	restKafkaRetriable  = 50003
	recordNotRetriable  = 1 // error_code of one record
	recordRetriable     = 2 // error_code of one record
	maxSchemaText       = 1 << 20
	registrationTimeout = 5 * time.Second
)

// restDoor serves POST /topics/{topic}: produce requests of the REST Proxy's
// API v2. It differs from the proxy in two things: keys are written as plain
// text in all formats (they name the instrument, as everywhere in tapecast),
// and a request of which a part was not acknowledged has no status of success.
func (s *Service) restDoor(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).EnableFullDuplex()
	defer s.discard(w, r)
	p := s.admit(w, r)
	if p != nil {
		s.failREST(w, p.nothing(), nil, nil)
		return
	}
	defer s.gate.leave()
	kind, p := contentType(r.Header.Get("Content-Type"))
	if p == nil {
		switch kind {
		case typeRESTJSON, typeRESTAvro, typeRESTBinary:
		default:
			p = mediaType("want Content-Type: " + typeRESTJSON + ", " + typeRESTAvro + " or " + typeRESTBinary)
		}
	}
	if p != nil {
		s.failREST(w, p, nil, nil)
		return
	}
	s.postREST(w, r, kind)
}

func (s *Service) postREST(w http.ResponseWriter, r *http.Request, kind string) {
	feed, p := s.feed(r.Context(), r.PathValue("topic"))
	if p != nil {
		s.failREST(w, p.nothing(), nil, nil)
		return
	}
	l := s.budget.lease()
	defer l.release()
	body, p := s.readBody(w, r, l)
	if p != nil {
		s.failREST(w, p.nothing(), nil, nil)
		return
	}
	req, p := parseREST(body, kind)
	if p == nil {
		p = l.grow(r.Context(), int64(len(req.events))*eventCost)
	}
	if p != nil {
		s.failREST(w, p.nothing(), nil, nil)
		return
	}
	d := &draft{feed: feed, accepted: time.Now(), limit: s.limits.of(r.Context(), feed), events: req.events}
	recs, id, p := s.recordsREST(r.Context(), d, req, l)
	if p != nil {
		s.failREST(w, p.nothing(), nil, nil)
		return
	}
	produced, p := s.write(r.Context(), feed, recs)
	if p != nil {
		s.failREST(w, p, produced, id)
		return
	}
	s.metrics.events[doorREST].Add(float64(len(recs)))
	writeJSON(w, http.StatusOK, typeREST, restOffsets(produced, id))
}

// recordsREST encodes the records as their format asks, and tells the id of
// the schema that was used, nil = none.
func (s *Service) recordsREST(ctx context.Context, d *draft, req *restRequest, l *lease) ([]broker.ProduceRecord, *uint32, *problem) {
	var recs []broker.ProduceRecord
	var f form
	var p *problem
	switch req.kind {
	case typeRESTAvro:
		if f, p = s.forms.named(ctx, d.feed, req); p != nil {
			return nil, nil, p
		}
		recs, p = encode(ctx, d, f, l)
	case typeRESTBinary:
		f = form{format: catalog.FormatBytes}
		if recs, p = encode(ctx, d, f, l); p == nil {
			p = s.forms.verify(ctx, d.feed, recs)
		}
	default:
		recs, f, p = s.records(ctx, d, l)
	}
	if p != nil {
		if p.Code == codeInvalid {
			p.Status, p.restCode = http.StatusUnprocessableEntity, restBadConversion
		}
		return nil, nil, p
	}
	if f.format != catalog.FormatAvro || f.codec == nil {
		return recs, nil, nil
	}
	return recs, &f.id, nil
}
