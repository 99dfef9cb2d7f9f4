package fanout

import (
	"time"

	"github.com/tapecast/tapecast/internal/broker"
)

// corruptTries is how often a batch that cannot be read is asked for before it
// is passed over: another replica may become the leader meanwhile.
const corruptTries = 3

// spoilt counts how often a batch was met that cannot be read.
type spoilt struct {
	to  int64 // where it ends
	met int
}

// passOver leaves a batch out that cannot be read, once it was asked for a few
// times. Nothing is said about it: gateways see a hole in what is covered, read
// there themselves, and name it to clients as a gap of poison.
func (p *partition) passOver(c *broker.CorruptError) bool {
	if c.To <= c.From {
		return false // it is not committed yet
	}
	if p.spoilt.to != c.To {
		p.spoilt = spoilt{to: c.To}
	}
	if p.spoilt.met++; p.spoilt.met < corruptTries {
		return false
	}
	defer p.round.flush()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.emitLocked(p.book.chains.Skip(c.To))
	p.end, p.progress = max(p.end, c.To), time.Now()
	p.metrics.corrupt.Inc()
	p.log.Error("a batch cannot be read: it is passed over", "topic", p.tp.Topic, "partition", p.tp.Partition,
		"from", c.From, "to", c.To, "error", c)
	return true
}
