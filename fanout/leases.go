package fanout

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/interest"
)

const (
	sweepEvery = 500 * time.Millisecond
	// currentWithin is how fresh the view of the interest log must be for
	// anybody to be judged by it.
	currentWithin = 2 * time.Second
	// tombstoneBatch is how many records one append of tombstones holds.
	tombstoneBatch = 1000
)

// graces are how long the janitor leaves things alone, by the lease clock.
type graces struct {
	// orphan: an incarnation without a lease record until it is ended, a
	// delivery topic without an incarnation until it is removed.
	orphan time.Duration
	// purge: from an incarnation's end until its delivery topic and interests
	// are removed; spread keeps several fan-outs from doing it at once.
	purge, spread time.Duration
	// end: how long the end record outlives everything else, so that a late
	// write of the dead brings nothing back.
	end time.Duration
}

var defaultGraces = graces{orphan: time.Minute, purge: 15 * time.Second, spread: 3 * time.Second, end: time.Hour}

// janitor ends incarnations whose lease ran out and removes what the ended
// ones leave behind. Several fan-outs do the same; that is harmless.
type janitor struct {
	// static after construction
	client  *broker.Client
	tracker *tracker
	graces  graces
	metrics *metrics
	log     *slog.Logger

	// owned by run
	resets int
	dead   map[string]*remains
	seen   map[string]time.Time // delivery topics without an incarnation, by the lease clock
}

// remains is what is known of an ended incarnation that is not cleaned up.
type remains struct {
	purgeAt time.Time // all times by the lease clock
	endAt   time.Time
	topic   bool // the delivery topic is removed
	lease   bool // the lease record has a tombstone
	done    bool // so has the end record
}

func newJanitor(c *broker.Client, t *tracker, g graces, m *metrics, log *slog.Logger) *janitor {
	return &janitor{client: c, tracker: t, graces: g, metrics: m, log: log, dead: map[string]*remains{}, seen: map[string]time.Time{}}
}

// run sweeps until ctx ends. What fails is tried again at the next sweep.
func (j *janitor) run(ctx context.Context) error {
	sweep, orphans := time.NewTicker(sweepEvery), time.NewTicker(j.graces.orphan/4)
	defer sweep.Stop()
	defer orphans.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-sweep.C:
			err = j.sweep(ctx)
		case <-orphans.C:
			err = j.sweepTopics(ctx)
		}
		if err != nil && ctx.Err() == nil {
			j.metrics.cleanErrors.Inc()
			j.log.Debug("cleaning up after ended nodes failed, trying again", "error", err)
		}
	}
}

// chores is what one look at the tracker found to do.
type chores struct {
	now     time.Time // by the lease clock
	expired []string
	purges  []purge
	ends    []string // end records that may go
}

type purge struct {
	incarnation string
	delivery    string // "" = nothing to remove
	ids         []string
	lease       bool
}

func (j *janitor) sweep(ctx context.Context) error {
	c, ok := j.look(time.Now())
	if !ok {
		return nil
	}
	errs := []error{j.end(ctx, c.expired)}
	for _, p := range c.purges {
		if err := j.purge(ctx, p); err != nil {
			errs = append(errs, err)
			j.dead[p.incarnation].purgeAt = c.now.Add(j.graces.purge) // not at every sweep
		}
	}
	for _, inc := range c.ends {
		err := j.write(ctx, []interest.Record{{Kind: interest.KindGone, ID: interest.GoneEnd, Incarnation: inc}})
		if err == nil {
			j.dead[inc].done = true
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// look finds what is due. ok=false: the log is not followed closely enough to
// judge anybody.
func (j *janitor) look(now time.Time) (c chores, ok bool) {
	t := j.tracker
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.resets != j.resets {
		j.resets = t.resets
		clear(j.dead)
		clear(j.seen)
	}
	if t.caught.IsZero() || now.Sub(t.caught) > currentWithin {
		return c, false
	}
	c.now = t.clock
	c.expired = t.state.Expired(t.clock, j.graces.orphan)
	live := liveTopics(&t.state)
	for name := range j.dead {
		if t.state.Get(name) == nil {
			delete(j.dead, name)
		}
	}
	for inc := range t.state.All {
		if !inc.Ended {
			continue
		}
		r := j.dead[inc.Name]
		if r == nil {
			r = &remains{purgeAt: t.clock.Add(j.graces.purge + rand.N(j.graces.spread+1)), endAt: t.clock.Add(j.graces.end)}
			j.dead[inc.Name] = r
		}
		if r.done || t.clock.Before(r.purgeAt) {
			continue
		}
		if p := purgeOf(inc, r, live); p.delivery != "" || len(p.ids) > 0 || p.lease {
			c.purges = append(c.purges, p)
		} else if !t.clock.Before(r.endAt) {
			c.ends = append(c.ends, inc.Name)
		}
	}
	return c, true
}

// liveTopics are the delivery topics that nobody may remove.
func liveTopics(s *interest.State) map[string]bool {
	live := map[string]bool{}
	for inc := range s.All {
		if !inc.Ended && inc.Delivery != "" {
			live[inc.Delivery] = true
		}
	}
	return live
}

func purgeOf(inc *interest.Incarnation, r *remains, live map[string]bool) purge {
	p := purge{incarnation: inc.Name, lease: !r.lease && inc.Delivery != ""}
	if !r.topic && strings.HasPrefix(inc.Delivery, deliveryPrefix) && !live[inc.Delivery] {
		p.delivery = inc.Delivery
	}
	for id := range inc.IDs {
		p.ids = append(p.ids, id)
	}
	return p
}

// end writes end records. Each is applied when it is read back, like anybody's:
// until then sections for the incarnation go on, and stay true.
func (j *janitor) end(ctx context.Context, expired []string) error {
	recs := make([]interest.Record, 0, len(expired))
	for _, inc := range expired {
		recs = append(recs, interest.Record{Kind: interest.KindEnd, Incarnation: inc})
	}
	if err := j.write(ctx, recs); err != nil {
		return err
	}
	for _, inc := range expired {
		j.log.Warn("lease ran out, node is ended", "incarnation", inc)
	}
	j.metrics.leasesEnded.Add(float64(len(expired)))
	return nil
}

func (j *janitor) purge(ctx context.Context, p purge) error {
	r := j.dead[p.incarnation]
	if p.delivery != "" {
		if err := j.client.DeleteTopic(ctx, p.delivery); err != nil {
			return fmt.Errorf("remove delivery topic %s: %w", p.delivery, err)
		}
		j.metrics.topicsRemoved.Inc()
		j.log.Info("delivery topic of an ended node is removed", "topic", p.delivery, "incarnation", p.incarnation)
	}
	r.topic = true
	recs := make([]interest.Record, 0, len(p.ids)+1)
	for _, id := range p.ids {
		recs = append(recs, interest.Record{Kind: interest.KindEnd1, Incarnation: p.incarnation, ID: id})
	}
	if p.lease {
		recs = append(recs, interest.Record{Kind: interest.KindGone, ID: interest.GoneLease, Incarnation: p.incarnation})
	}
	if err := j.write(ctx, recs); err != nil {
		return err
	}
	r.lease = true
	return nil
}

// write appends records to the interest log.
func (j *janitor) write(ctx context.Context, recs []interest.Record) error {
	for len(recs) > 0 {
		n := min(len(recs), tombstoneBatch)
		batch := make([]broker.AppendRecord, 0, n)
		for _, r := range recs[:n] {
			key, value, err := r.Encode()
			if err != nil {
				return fmt.Errorf("interest record of %s: %w", r.Incarnation, err)
			}
			batch = append(batch, broker.AppendRecord{Key: key, Value: value})
		}
		if _, err := j.client.Append(ctx, interest.Topic, 0, batch); err != nil {
			return fmt.Errorf("write %d records to the interest log: %w", n, err)
		}
		recs = recs[n:]
	}
	return nil
}

// sweepTopics removes delivery topics that no incarnation of the log calls its
// own, once they were seen so for a while: a new gateway makes its topic first.
func (j *janitor) sweepTopics(ctx context.Context) error {
	names, err := j.client.Topics(ctx)
	if err != nil {
		return fmt.Errorf("list topics: %w", err)
	}
	var found []string
	for i := range names {
		if strings.HasPrefix(names[i].Name, deliveryPrefix) {
			found = append(found, names[i].Name)
		}
	}
	var errs []error
	for _, name := range j.orphans(found, time.Now()) {
		if err := j.client.DeleteTopic(ctx, name); err != nil {
			errs = append(errs, fmt.Errorf("remove delivery topic %s: %w", name, err))
			continue
		}
		delete(j.seen, name)
		j.metrics.topicsRemoved.Inc()
		j.log.Info("delivery topic of nobody is removed", "topic", name)
	}
	return errors.Join(errs...)
}

// orphans returns the delivery topics that may go.
func (j *janitor) orphans(found []string, now time.Time) (due []string) {
	t := j.tracker
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.caught.IsZero() || now.Sub(t.caught) > currentWithin {
		return nil
	}
	live := liveTopics(&t.state)
	was := j.seen
	j.seen = map[string]time.Time{}
	for _, name := range found {
		if live[name] {
			continue
		}
		since, ok := was[name]
		if !ok {
			since = t.clock
		}
		j.seen[name] = since
		if t.clock.Sub(since) >= j.graces.orphan {
			due = append(due, name)
		}
	}
	return due
}
