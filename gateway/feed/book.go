package feed

import (
	"strconv"
	"sync"
	"time"

	"github.com/tapecast/tapecast/internal/coverage"
	ilog "github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/stream"
)

// A node wants at most maxKeys keys of a topic one by one; beyond it, it wants
// the topic. Each is kept per partition, so that there are fewer of a topic
// with many partitions.
const (
	maxKeys    = 50_000
	maxEntries = 2_000_000
)

// interest is what this node wants: a key of a topic, or all of it. Its id in
// the views is its own for its whole life. Under which id it stands in the
// interest log changes with each write: those are fresh, and written once.
type interest struct {
	// static after construction
	id    coverage.InterestID
	topic *topic
	key   []byte // nil = all

	// guarded by the book's mu
	refs   int
	idle   time.Time // since when there are no refs
	dead   bool      // its tombstone is queued: a later subscription makes another
	logID  string    // being written, or acked; empty = to be written
	acked  bool
	e      stream.InterestPos // of the acked record
	listed bool               // in the book's adds
}

func (it *interest) posted() posted { return posted{it.id, it.key, it.acked, it.e} }

// book holds the interests, and what of them is still to be written.
type book struct {
	// static after construction
	linger time.Duration
	signal chan struct{} // to the writer: something is to be written

	mu     sync.Mutex
	topics map[string]*topic // by Kafka name
	count  int               // interests
	lastID uint64
	idle   []idling    // in the order in which they lost their last ref
	adds   []*interest // to be written
	tombs  []string    // ids whose tombstones are to be written
}

// idling is an interest that lost its last ref at a time.
type idling struct {
	it *interest
	at time.Time
}

func newBook(linger time.Duration) *book {
	return &book{linger: linger, signal: make(chan struct{}, 1), topics: map[string]*topic{}}
}

func (b *book) poke() {
	select {
	case b.signal <- struct{}{}:
	default:
	}
}

// acquire takes a reference to the interests that a filter needs, and makes
// those that are missing. The book is locked.
func (b *book) acquire(t *topic, f *filter) []*interest {
	limit := min(maxKeys, maxEntries/max(1, len(*t.inst.Load().parts.Load())))
	if f.all || t.whole != nil || f.long || len(t.byKey)+len(f.keys) > limit {
		return []*interest{b.ref(t, nil)}
	}
	its := make([]*interest, 0, len(f.keys))
	var made []posted
	for _, k := range f.keys {
		known := len(t.byKey)
		it := b.ref(t, []byte(k))
		if len(t.byKey) > known {
			made = append(made, it.posted())
		}
		its = append(its, it)
	}
	b.announce(t, made)
	return its
}

// ref takes a reference to one interest. A new one for all keys is announced here.
func (b *book) ref(t *topic, key []byte) *interest {
	it := t.whole
	if key != nil {
		it = t.byKey[string(key)]
	}
	if it == nil {
		b.lastID++
		it = &interest{id: coverage.InterestID(strconv.FormatUint(b.lastID, 36)), topic: t, key: key}
		b.count++
		b.list(it)
		if key == nil {
			t.whole = it
			b.announce(t, []posted{it.posted()})
		} else {
			t.byKey[string(key)] = it
		}
	}
	it.refs++
	return it
}

// announce tells the loops of new interests.
func (b *book) announce(t *topic, made []posted) {
	if len(made) > 0 {
		t.inst.Load().post(func(p *partition, now time.Time) []coverage.Action { return p.add(made, now) })
	}
	b.poke()
}

// list queues an interest to be written.
func (b *book) list(it *interest) {
	if !it.listed && !it.dead {
		it.listed = true
		b.adds = append(b.adds, it)
	}
}

// release gives references back. An interest without any lingers.
func (b *book) release(its []*interest, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, it := range its {
		if it.refs--; it.refs == 0 {
			it.idle = now
			b.idle = append(b.idle, idling{it, now})
		}
	}
}

// sweep ends the interests that lingered long enough, and returns the topics
// that have none left; those are taken out of the book.
func (b *book) sweep(now time.Time) (left []*topic) {
	b.mu.Lock()
	defer b.mu.Unlock()
	removed := map[*topic][]coverage.InterestID{}
	n := 0
	for ; n < len(b.idle) && now.Sub(b.idle[n].at) >= b.linger; n++ {
		// It may have been taken up again, and even left again later.
		if it := b.idle[n].it; it.refs == 0 && !it.dead && it.idle.Equal(b.idle[n].at) {
			b.kill(it)
			removed[it.topic] = append(removed[it.topic], it.id)
		}
	}
	clear(b.idle[:n])
	b.idle = b.idle[n:]
	for t, ids := range removed {
		t.inst.Load().post(func(p *partition, _ time.Time) []coverage.Action { return p.remove(ids) })
		if t.whole == nil && len(t.byKey) == 0 {
			delete(b.topics, t.name)
			left = append(left, t)
		}
	}
	return left
}

// kill ends an interest: from here on it is gone, with its X.
func (b *book) kill(it *interest) {
	it.dead = true
	b.count--
	if it.key == nil {
		it.topic.whole = nil
	} else {
		delete(it.topic.byKey, string(it.key))
	}
	if it.logID != "" {
		b.tombs = append(b.tombs, it.logID)
		b.poke()
	}
}

// renew makes every interest unwritten: a new incarnation writes them anew,
// and until they are acked no section covers anything.
func (b *book) renew(seq uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tombs = nil // they died with their incarnation
	b.adds = nil
	for _, t := range b.topics {
		t.interests(func(it *interest) {
			it.logID, it.acked, it.e, it.listed = "", false, stream.InterestPos{}, false
			b.list(it)
		})
		t.inst.Load().post(func(p *partition, _ time.Time) []coverage.Action { return p.renew(seq) })
	}
	b.poke()
}

// change is one record that is being written: an interest, or a tombstone.
type change struct {
	it *interest // nil = a tombstone
	id string
}

// take takes at most n changes of about size bytes to write. Interests get fresh ids.
func (b *book) take(n, size int) []change {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []change
	at := 0
	for ; at < len(b.adds) && len(out) < n && size > 0; at++ {
		it := b.adds[at]
		it.listed = false
		if it.dead {
			continue
		}
		size -= len(it.key) + len(it.topic.name) + 64
		b.lastID++
		it.logID = strconv.FormatUint(b.lastID, 36)
		out = append(out, change{it, it.logID})
	}
	clear(b.adds[:at])
	b.adds = b.adds[at:]
	m := min(len(b.tombs), n-len(out))
	for _, id := range b.tombs[:m] {
		out = append(out, change{nil, id})
	}
	b.tombs = b.tombs[m:]
	return out
}

// more tells whether something is still to be written.
func (b *book) more() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.adds)+len(b.tombs) > 0
}

// written says that changes were acked at base and the following offsets.
func (b *book) written(cs []change, log stream.TopicID, base int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	acked := map[*topic][]posted{}
	for i, c := range cs {
		it := c.it
		if it == nil || it.logID != c.id || it.dead {
			continue
		}
		it.acked, it.e = true, stream.InterestPos{Log: log, Offset: base + int64(i)}
		acked[it.topic] = append(acked[it.topic], it.posted())
	}
	for t, its := range acked {
		t.inst.Load().post(func(p *partition, now time.Time) []coverage.Action { return p.acked(its, now) })
	}
}

// failed says that nobody knows whether changes were written: the ids are
// dead, and the interests take others.
func (b *book) failed(cs []change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range cs {
		b.tombs = append(b.tombs, c.id)
		if it := c.it; it != nil && it.logID == c.id {
			it.logID = ""
			b.list(it)
		}
	}
}

// known returns the ids that stand, or may stand, in the log.
func (b *book) known() (ids []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ids = append(ids, b.tombs...)
	for _, t := range b.topics {
		t.interests(func(it *interest) {
			if it.logID != "" {
				ids = append(ids, it.logID)
			}
		})
	}
	return ids
}

// record gives the record of a change in the log.
func (c change) record(incarnation string) ilog.Record {
	if c.it == nil {
		return ilog.Record{Kind: ilog.KindEnd1, Incarnation: incarnation, ID: c.id}
	}
	return ilog.Record{Kind: ilog.KindAdd, Incarnation: incarnation, ID: c.id, Feed: c.it.topic.name, Key: c.it.key}
}

// size is the number of interests.
func (b *book) size() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count
}
