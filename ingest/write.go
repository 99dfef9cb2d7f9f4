package ingest

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/internal/stream"
)

// verdict is what is known of one record after the attempt to write it.
type verdict int

const (
	written   verdict = iota // acked: it has an offset
	unwritten                // for certain not in the log, and may be tried again
	rejected                 // for certain not in the log, and never will be
	unknown                  // nobody knows
)

func (v verdict) word() string {
	switch v {
	case unwritten:
		return errNotWritten
	case rejected:
		return codeRejected
	case unknown:
		return codeUnknown
	}
	return ""
}

func verdictOf(err error) verdict {
	switch {
	case err == nil:
		return written
	case errors.Is(err, broker.ErrUnknownOutcome):
		return unknown
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), broker.Retryable(err):
		return unwritten
	}
	return rejected
}

// write hands records to Kafka and waits for all verdicts. The produced are in
// order of recs, also beside a problem; nil beside a problem = nothing was written.
func (s *Service) write(ctx context.Context, f catalog.Feed, recs []broker.ProduceRecord) ([]broker.Produced, *problem) {
	if len(recs) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	start := time.Now()
	produced, err := s.producer.Produce(ctx, f.Topic.Name, recs)
	s.metrics.produce.Observe(time.Since(start).Seconds())
	if len(produced) != len(recs) {
		produced = sameForAll(len(recs), err)
	}
	p := s.judge(f, produced)
	var bytes int
	for i := range produced {
		if produced[i].Err == nil {
			bytes += len(recs[i].Key) + len(recs[i].Value)
		}
	}
	s.metrics.bytes.Add(float64(bytes))
	return produced, p
}

// sameForAll is the outcome when the producer tells only one error: then
// nothing was written. No error either would be a mistake of the producer's,
// and is no success.
func sameForAll(n int, err error) []broker.Produced {
	if err == nil {
		err = broker.ErrUnknownOutcome
	}
	out := make([]broker.Produced, n)
	for i := range out {
		out[i] = broker.Produced{Partition: -1, Offset: -1, Err: err}
	}
	return out
}

// judge sums the verdicts up. Only if every record was acked there is no problem.
func (s *Service) judge(f catalog.Feed, produced []broker.Produced) *problem {
	var count [unknown + 1]int
	var refusal error
	for _, r := range produced {
		v := verdictOf(r.Err)
		count[v]++
		if v == rejected {
			refusal = r.Err
		}
	}
	if refusal != nil {
		s.log.Warn("Kafka refused records", "room", "ingest", "topic", f.Topic.Name, "err", refusal)
	}
	p := &problem{Status: http.StatusServiceUnavailable}
	switch {
	case count[written] == len(produced):
		return nil
	case count[unknown] > 0:
		p.Code = codeUnknown
		p.Message = "Kafka took the events and did not answer in time; they may or may not be written, and sending them again may double them"
	case count[written] > 0:
		p.Code = codePartial
		p.Message = "a part of the events was written; offsets says which"
	case errors.Is(refusal, stream.ErrUnknownTopic):
		return unknownTopic() // deleted a moment ago
	case count[rejected] > 0:
		p.Status, p.Code = http.StatusUnprocessableEntity, codeRejected
		p.Message = "Kafka refused the events"
	default:
		return unavailable("Kafka is away")
	}
	return p
}
