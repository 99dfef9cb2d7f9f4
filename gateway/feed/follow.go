package feed

import (
	"context"
	"fmt"
	"time"

	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/internal/coverage"
	"github.com/tapecast/tapecast/internal/delivery"
	"github.com/tapecast/tapecast/internal/stream"
)

// Which topics and partitions are followed, and who is told what.

const (
	// goneAfter is how long the catalogue must not name a topic until it is no
	// feed any more: a topic that is made again is away for a moment.
	goneAfter = 3 * time.Second
	// tickEach is how often lingering interests are looked at.
	tickEach = 250 * time.Millisecond
	// lazyEach is how often subs are woken for coverage alone.
	lazyEach = time.Second
)

// follow returns the topic of a feed, and begins to follow it. The book is locked.
func (f *Feed) follow(cf catalog.Feed) (*topic, error) {
	t := f.book.topics[cf.Topic.Name]
	if t == nil {
		dec, err := f.decoder(cf.Format)
		if err != nil {
			return nil, fmt.Errorf("format of feed %q: %w", cf.Name, err)
		}
		t = &topic{name: cf.Topic.Name, client: cf.Name, format: cf.Format, dec: dec, byKey: map[string]*interest{}}
		f.book.topics[t.name] = t
		f.instantiate(t, cf)
		return t, nil
	}
	f.update(t, cf, true)
	return t, nil
}

// instantiate follows one incarnation of a topic, and stops following the one
// before it. The book is locked.
func (f *Feed) instantiate(t *topic, cf catalog.Feed) {
	inst := newInstance(t, cf)
	old := t.inst.Load()
	f.grow(inst, cf)
	t.inst.Store(inst)
	f.byID.Store(inst.id, inst)
	if old != nil {
		old.replaced.Store(true)
		f.drop(old)
		f.metrics.resets.Inc()
	}
}

// grow follows partitions that are new. The book is locked.
func (f *Feed) grow(inst *instance, cf catalog.Feed) (grown bool) {
	ps := *inst.parts.Load()
	n := partitionCount(cf)
	if n <= len(ps) {
		return false
	}
	next := append(make([]*partition, 0, n), ps...)
	var its []posted
	inst.topic.interests(func(it *interest) { its = append(its, it.posted()) })
	seq := f.life.seq()
	for id := len(ps); id < n; id++ {
		p := newPartition(inst, int32(id), f.env) //nolint:gosec // a partition's id
		p.inc = seq                               // its loop has not begun
		p.box.post(func(p *partition, now time.Time) []coverage.Action { return p.add(its, now) })
		next = append(next, p)
		f.spawner.spawn(p.loop)
	}
	inst.parts.Store(&next)
	return true
}

// partitionCount is the number of partitions; Kafka numbers them from 0.
func partitionCount(cf catalog.Feed) int {
	n := 0
	for _, p := range cf.Partitions {
		n = max(n, int(p.ID)+1)
	}
	return n
}

// drop ends the following of an instance.
func (f *Feed) drop(inst *instance) {
	f.byID.CompareAndDelete(inst.id, inst)
	close(inst.done)
}

// update brings a followed topic up to what the catalogue says. The book is
// locked. It returns whether the subs have to be told.
func (f *Feed) update(t *topic, cf catalog.Feed, named bool) (tell bool) {
	if !named {
		if t.missing.IsZero() {
			t.missing = time.Now()
		}
		if time.Since(t.missing) < goneAfter || t.gone.Load() {
			return false
		}
		t.gone.Store(true)
		return true
	}
	t.missing = time.Time{}
	tell = t.gone.Swap(false)
	inst := t.inst.Load()
	if inst.id != cf.ID {
		f.log.Info("topic was made again", "topic", t.name, "epoch", cf.ID.String())
		f.instantiate(t, cf)
		return true
	}
	return f.grow(inst, cf) || tell
}

// refresh makes catalogLoop ask the cluster now.
func (f *Feed) refresh() {
	select {
	case f.stale <- struct{}{}:
	default:
	}
}

// catalogLoop follows the catalogue.
func (f *Feed) catalogLoop(ctx context.Context) error {
	for {
		changed := f.catalog.Changed()
		f.compare()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(goneAfter / 3):
		case <-f.stale:
			// Its error is the catalogue's to tell; there is another chance soon.
			_ = f.catalog.Refresh(ctx)
		}
	}
}

// compare brings all followed topics up to the catalogue.
func (f *Feed) compare() {
	if f.catalog.Synced().IsZero() {
		return
	}
	var told []*topic
	f.book.mu.Lock()
	for _, t := range f.book.topics {
		cf, ok := f.catalog.ByTopic(t.name)
		if ok && cf.Name != t.client {
			ok = false // another topic has its name now
		}
		if f.update(t, cf, ok) {
			told = append(told, t)
		}
	}
	f.book.mu.Unlock()
	var w waker
	for _, t := range told {
		w.force(&t.subs)
	}
}

// tickLoop ends lingering interests and wakes subs where nothing else does.
func (f *Feed) tickLoop(ctx context.Context) error {
	tick := time.NewTicker(tickEach)
	defer tick.Stop()
	var w waker
	var lazy time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := time.Now()
		for _, t := range f.book.sweep(now) {
			f.drop(t.inst.Load())
		}
		if now.Sub(lazy) >= lazyEach {
			lazy = now
			f.wakeLazily(&w)
			f.env.budget.enforce()
			f.env.cache.trim()
		}
	}
}

func (f *Feed) wakeLazily(w *waker) {
	for _, t := range f.followed() {
		w.lazy(&t.subs, t.inst.Load().moved())
		if t.waiting.Swap(false) {
			w.force(&t.subs)
		}
	}
}

// wakeWaiting wakes the subs of topics with frames that wait for a schema.
func (f *Feed) wakeWaiting() {
	var w waker
	for _, t := range f.followed() {
		if t.waiting.Swap(false) {
			w.force(&t.subs)
		}
	}
}

func (f *Feed) followed() []*topic {
	f.book.mu.Lock()
	defer f.book.mu.Unlock()
	out := make([]*topic, 0, len(f.book.topics))
	for _, t := range f.book.topics {
		out = append(out, t)
	}
	return out
}

// deliver hands a delivery record's sections to the partitions' loops.
func (f *Feed) deliver(inc *incarnation, payload []byte) {
	b, err := delivery.Decode(payload)
	if err != nil || b.Incarnation != inc.id {
		f.metrics.undecodable.Inc()
		if err != nil {
			f.log.Debug("delivery record cannot be read", "topic", inc.delivery, "err", err)
		}
		return
	}
	f.metrics.batches.Inc()
	f.metrics.sections.Add(float64(len(b.Sections)))
	for i := range b.Sections {
		s := &b.Sections[i]
		f.metrics.deliveries.Add(float64(len(s.Deliveries)))
		p := f.find(s.Topic, s.Partition)
		switch {
		case p == nil:
			f.metrics.unknown.Inc()
		case !p.box.section(tagged{inc.seq, *s}):
			f.metrics.overflow.Inc()
		default:
			f.env.hops.arrive(p, s, b.Writer, b.WrittenUs)
		}
	}
}

// find returns a followed partition. One that ought to be followed but is not
// known may have been made just now.
func (f *Feed) find(id stream.TopicID, partition int32) *partition {
	if v, ok := f.byID.Load(id); ok {
		if p := v.(*instance).part(partition); p != nil { //nolint:forcetypeassert // nothing else is stored
			return p
		}
		f.refresh()
		return nil
	}
	for _, cf := range f.catalog.Feeds() {
		if cf.ID == id {
			return nil // known, and not followed any more
		}
	}
	f.refresh()
	return nil
}
