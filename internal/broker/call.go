package broker

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/tapecast/tapecast/internal/stream"
)

// call is one Produce in progress.
type call struct {
	recs []ProduceRecord // the caller's; not touched once done is closed
	now  time.Time
	done chan struct{} // closed when every record has its verdict

	mu      sync.Mutex
	out     []Produced // guarded by mu until done is closed
	settled []bool     // guarded by mu
	left    int        // guarded by mu
}

func newCall(recs []ProduceRecord) *call {
	c := &call{recs: recs, now: time.Now(), done: make(chan struct{}), out: make([]Produced, len(recs)), settled: make([]bool, len(recs)), left: len(recs)}
	for i := range c.out {
		c.out[i].Offset = -1
	}
	if c.left == 0 {
		close(c.done)
	}
	return c
}

// settle gives one record its verdict, unless it has one.
func (c *call) settle(i int, err error, offset int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.settled[i] {
		return
	}
	c.settled[i] = true
	c.out[i].Err, c.out[i].Offset = err, offset
	if c.left--; c.left == 0 {
		close(c.done)
	}
}

// finish gives err to every record without a verdict.
func (c *call) finish(err error) {
	for i := range c.out {
		c.settle(i, err, -1)
	}
}

// plain fills r with record i as it is written.
func (c *call) plain(i int, r *plainRecord) {
	rec := &c.recs[i]
	*r = plainRecord{key: rec.Key, value: rec.Value, time: rec.Time.UnixMilli()}
	if rec.Time.IsZero() {
		r.time = c.now.UnixMilli()
	}
	if rec.Accepted != 0 {
		r.headerKey = stream.AcceptedHeader
		binary.BigEndian.PutUint64(r.headerValue[:], uint64(rec.Accepted))
	}
}

// size returns the most bytes that record i takes in a batch.
func (c *call) size(i int) int {
	var r plainRecord
	c.plain(i, &r)
	return recordBound(&r)
}
