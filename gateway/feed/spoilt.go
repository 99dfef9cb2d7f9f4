package feed

import (
	"errors"
	"log/slog"
	"sync"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/coverage"
)

// keptSpoilt bounds the stretches that are remembered per partition.
const keptSpoilt = 64

// spoilt remembers which stretches of a partition's tape are gaps because
// nobody can read what Kafka has there.
type spoilt struct {
	// owned by the one gap or bypass read under way
	bad int64 // where the corrupt batch ends that was met last
	met int   // how often

	mu    sync.Mutex
	spans []span // guarded by mu; the latest ones
}

func (s *spoilt) note(from, to int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.spans) == keptSpoilt {
		s.spans = append(s.spans[:0], s.spans[1:]...)
	}
	s.spans = append(s.spans, span{from, to})
}

// cause says why the tape has a gap at an offset, and up to where for that reason.
func (s *spoilt) cause(offset, to int64) (string, int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.spans {
		switch {
		case g.from <= offset && offset < g.to:
			return CausePoison, min(to, g.to)
		case g.from > offset:
			to = min(to, g.from)
		}
	}
	return CauseRetention, to
}

// spoiled makes a gap of a batch that cannot be read, once it was asked for a
// few times, where the partition's loop would ask for it for ever.
func (p *partition) spoiled(res *coverage.ReadResult, end int64) {
	corrupt, ok := errors.AsType[*broker.CorruptError](res.Err)
	if !ok || corrupt.To <= res.From {
		return
	}
	s := &p.spoilt
	if s.bad != corrupt.To {
		s.bad, s.met = corrupt.To, 0
	}
	if s.met++; s.met < maxCorrupt {
		return
	}
	s.note(res.From, corrupt.To)
	p.env.metrics.replay.corrupt.Inc()
	p.env.cache.log.Error("a batch cannot be read: it is passed over as a gap", slog.String("topic", p.inst.topic.name),
		slog.Int("partition", int(p.id)), slog.Int64("from", res.From), slog.Int64("to", corrupt.To), slog.Any("error", corrupt))
	*res = coverage.ReadResult{From: res.From, OutOfRange: true, Start: corrupt.To, End: end}
}
