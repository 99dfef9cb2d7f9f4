package fanout

import (
	"sync"
	"time"
)

const (
	// readSlowest is the pause between two reads of a broker, on average, under
	// load; readPer is the part of it that an event per second makes. A
	// request costs as much as a hundred events: at 1,000 events/s reads follow
	// each other almost at once, from 20,000 on they gather for 2 ms.
	readSlowest = 2 * time.Millisecond
	readPer     = readSlowest / 20_000
	// readBurst is how many reads may follow each other without a pause; see
	// broker.Puller.
	readBurst = 4
	// paceWindow is over what the rate is measured.
	paceWindow = 100 * time.Millisecond
)

// pacer measures how many events come, and says how often to read.
type pacer struct {
	mu    sync.Mutex
	count int       // guarded by mu; since at
	at    time.Time // guarded by mu
	every time.Duration
}

// read counts records.
func (p *pacer) read(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count += n
}

// pause is the pause between two reads.
func (p *pacer) pause() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := time.Since(p.at); d >= paceWindow {
		perSecond := float64(p.count) / d.Seconds()
		p.every = min(time.Duration(perSecond*float64(readPer)), readSlowest)
		p.count, p.at = 0, time.Now()
	}
	return p.every
}
