package schemas

import (
	"sync"
	"sync/atomic"
)

// Bounds of the cache of compiled schemas.
const (
	maxCached      = 10_000
	maxCachedBytes = 64 << 20 // of schema text; a codec takes a small multiple of it
)

// codecCache holds compiled schemas by id. Over its bounds it drops one that
// was not asked for since it was last looked at.
type codecCache struct {
	mu      sync.RWMutex
	entries map[uint32]*cached // guarded by mu
	order   []uint32           // a ring of the ids; guarded by mu
	hand    int                // guarded by mu
	bytes   int                // guarded by mu
}

type cached struct {
	codec *Codec
	used  atomic.Bool
}

func (c *codecCache) get(id uint32) (*Codec, bool) {
	c.mu.RLock()
	e := c.entries[id]
	c.mu.RUnlock()
	if e == nil {
		return nil, false
	}
	if !e.used.Load() {
		e.used.Store(true)
	}
	return e.codec, true
}

func (c *codecCache) put(id uint32, codec *Codec) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = make(map[uint32]*cached)
	}
	if c.entries[id] != nil { // an id never changes its schema
		return
	}
	c.entries[id] = &cached{codec: codec}
	c.bytes += len(codec.text)
	c.order = append(c.order, id)
	for len(c.order) > maxCached || c.bytes > maxCachedBytes && len(c.order) > 1 {
		c.dropOne(id)
	}
}

// dropOne gives every entry that was used a second chance, except keep, which stays.
func (c *codecCache) dropOne(keep uint32) {
	for {
		if c.hand >= len(c.order) {
			c.hand = 0
		}
		id := c.order[c.hand]
		e := c.entries[id]
		if id == keep || e.used.Swap(false) {
			c.hand++
			continue
		}
		c.bytes -= len(e.codec.text)
		delete(c.entries, id)
		c.order[c.hand] = c.order[len(c.order)-1]
		c.order = c.order[:len(c.order)-1]
		return
	}
}

func (c *codecCache) size() (entries, bytes int) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.order), c.bytes
}
