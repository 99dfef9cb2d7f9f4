package sim

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// event is one committed record of a feed topic.
type event struct {
	offset int64
	key    string
	value  string
}

// tlog is what one incarnation of a topic ever held, as franz-go read it.
type tlog struct {
	name      string
	compacted bool
	parts     map[int32]map[int64]event
	start     map[int32]int64              // first retained offset, the highest seen
	end       map[int32]int64              // last stable offset, the highest seen
	kept      map[int32]map[int64]struct{} // what the newest dump still held
	past      bool                         // the topic was deleted
}

// truth is the plain model: all incarnations of all topics, by epoch.
type truth struct {
	logs  map[string]*tlog
	acked map[string][]ack
}

type ack struct {
	part   int32
	offset int64
	value  string
}

func newTruth() *truth { return &truth{logs: map[string]*tlog{}, acked: map[string][]ack{}} }

// dump adds all that a topic holds now. Brokers that are down are waited for.
func (w *world) dump(topic *topic) (err error) {
	for range 60 {
		if err = w.dumpOnce(topic); err == nil {
			return nil
		}
		time.Sleep(time.Second)
	}
	return err
}

func (w *world) dumpOnce(topic *topic) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.addrs...), kgo.DisableClientMetrics(), kgo.Dialer(w.clean.dial), kgo.RequestRetries(1000))
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	ends, err := adm.ListCommittedOffsets(ctx, topic.name)
	if err != nil {
		return fmt.Errorf("oracle: %w", err)
	}
	starts, err := adm.ListStartOffsets(ctx, topic.name)
	if err != nil {
		return fmt.Errorf("oracle: %w", err)
	}
	w.mu.Lock()
	l := w.truth.logs[topic.epoch]
	if l == nil {
		l = &tlog{name: topic.name, compacted: topic.compacted, parts: map[int32]map[int64]event{}, start: map[int32]int64{}, end: map[int32]int64{}}
		w.truth.logs[topic.epoch] = l
	}
	w.mu.Unlock()
	assign := map[int32]kgo.Offset{}
	left := map[int32]int64{}
	kept := map[int32]map[int64]struct{}{}
	for p, e := range ends[topic.name] {
		s := starts[topic.name][p].Offset
		if e.Err != nil {
			return fmt.Errorf("oracle: %w", e.Err)
		}
		if l.parts[p] == nil {
			l.parts[p] = map[int64]event{}
		}
		kept[p] = map[int64]struct{}{}
		l.start[p], l.end[p] = max(l.start[p], s), max(l.end[p], e.Offset)
		if e.Offset > s {
			assign[p] = kgo.NewOffset().At(s)
			left[p] = e.Offset
		}
	}
	r, err := kgo.NewClient(kgo.SeedBrokers(w.addrs...), kgo.DisableClientMetrics(), kgo.Dialer(w.clean.dial), kgo.KeepControlRecords(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(200*time.Millisecond),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic.name: assign}))
	if err != nil {
		return err
	}
	defer r.Close()
	for len(left) > 0 {
		pctx, done := context.WithTimeout(ctx, 3*time.Second)
		fs := r.PollFetches(pctx)
		quiet := pctx.Err() != nil
		done()
		if ctx.Err() != nil {
			return fmt.Errorf("oracle: %v is left: %w", left, ctx.Err())
		}
		fs.EachRecord(func(rec *kgo.Record) {
			if rec.Offset+1 >= left[rec.Partition] {
				delete(left, rec.Partition)
			}
			if rec.Attrs.IsControl() {
				return
			}
			kept[rec.Partition][rec.Offset] = struct{}{}
			l.parts[rec.Partition][rec.Offset] = event{rec.Offset, string(rec.Key), string(rec.Value)}
		})
		if quiet {
			break // a compacted or aborted tail has no record at its end
		}
	}
	l.kept = kept
	return nil
}

// sorted returns a partition's events, ascending.
func (l *tlog) sorted(p int32) []event {
	evs := make([]event, 0, len(l.parts[p]))
	for _, e := range l.parts[p] {
		evs = append(evs, e)
	}
	slices.SortFunc(evs, func(a, b event) int { return int(a.offset - b.offset) })
	return evs
}

// writes holds what producers were told against the truth.
func (t *truth) writes() (bad []string) {
	for epoch, acks := range t.acked {
		l := t.logs[epoch]
		if l == nil {
			bad = append(bad, fmt.Sprintf("epoch %s was never dumped", epoch))
			continue
		}
		for _, a := range acks {
			e, ok := l.parts[a.part][a.offset]
			switch {
			case ok && e.value != a.value:
				bad = append(bad, fmt.Sprintf("inconsistent: %s/%d@%d acked as %q holds %q", l.name, a.part, a.offset, a.value, e.value))
			case a.offset >= l.end[a.part]: // behind a transaction that hangs (kfake forgets some when coordinators move): nobody may see it
			case !ok && !l.compacted:
				bad = append(bad, fmt.Sprintf("lost write: %s/%d@%d %q", l.name, a.part, a.offset, a.value))
			}
		}
	}
	for _, l := range t.logs {
		where := map[string]int64{}
		for p, evs := range l.parts {
			for o, e := range evs {
				if was, twice := where[e.value]; twice {
					bad = append(bad, fmt.Sprintf("duplicate in the topic: %s/%d %q at %d and %d", l.name, p, e.value, was, o))
				}
				where[e.value] = o
			}
		}
	}
	return bad
}

// stretch is what a client saw of one partition in one incarnation.
type stretch struct {
	start, end int64
	got        []event
	gaps       [][2]int64
}

// life is one subscription, over all its connections.
type life struct {
	who   string
	topic string
	keys  []string // nil = all
	parts map[string]map[int32]*stretch

	earliest string // the epoch in which it began at the log's start; "" = it did not
}

func (f *life) stretch(epoch string, p int32, start int64) *stretch {
	ps := f.parts[epoch]
	if ps == nil {
		ps = map[int32]*stretch{}
		f.parts[epoch] = ps
	}
	s := ps[p]
	if s == nil {
		s = &stretch{start: start, end: start}
		ps[p] = s
	}
	return s
}

func (f *life) wants(key string) bool { return f.keys == nil || slices.Contains(f.keys, key) }

// judge holds a life against the truth. It returns the deliveries that were right.
func (t *truth) judge(f *life) (right int, bad []string) {
	for epoch, ps := range f.parts {
		l := t.logs[epoch]
		if l == nil {
			bad = append(bad, fmt.Sprintf("%s: epoch %s was never seen by the oracle", f.who, epoch))
			continue
		}
		for p, s := range ps {
			n, b := s.judge(f, l, p)
			if epoch == f.earliest && s.start > l.start[p] { // logs' starts only grow
				b = append(b, fmt.Sprintf("late start: earliest is %d", l.start[p]))
			}
			right += n
			for _, m := range b {
				bad = append(bad, fmt.Sprintf("%s %s/%d %v [%d,%d): %s", f.who, f.topic, p, f.keys, s.start, s.end, m))
			}
		}
	}
	return right, bad
}

func (s *stretch) judge(f *life, l *tlog, p int32) (right int, bad []string) {
	got := map[int64]event{}
	last := int64(-1)
	for _, e := range s.got {
		_, twice := got[e.offset]
		want, ok := l.parts[p][e.offset]
		switch {
		case twice:
			bad = append(bad, fmt.Sprintf("duplicate %d", e.offset))
		case e.offset <= last:
			bad = append(bad, fmt.Sprintf("backwards %d after %d", e.offset, last))
		case !ok:
			bad = append(bad, fmt.Sprintf("phantom %d %q", e.offset, e.value))
		case want.value != e.value || want.key != e.key:
			bad = append(bad, fmt.Sprintf("inconsistent %d: %v, truth %v", e.offset, e, want))
		case !f.wants(e.key):
			bad = append(bad, fmt.Sprintf("foreign %d key %q", e.offset, e.key))
		default:
			right++
		}
		got[e.offset], last = e, max(last, e.offset)
	}
	for _, g := range s.gaps {
		if g[1] > l.start[p] {
			bad = append(bad, fmt.Sprintf("gap [%d,%d) beyond what retention deleted (%d)", g[0], g[1], l.start[p]))
		}
	}
	evs := l.sorted(p)
	first := true
	for i := sort.Search(len(evs), func(i int) bool { return evs[i].offset >= s.start }); i < len(evs) && evs[i].offset < s.end; i++ {
		e := evs[i]
		if !f.wants(e.key) {
			continue
		}
		_, here := got[e.offset]
		_, kept := l.kept[p][e.offset]
		switch {
		case here:
			first = false
		case s.inGap(e.offset), l.compacted && !kept:
		case first:
			bad = append(bad, fmt.Sprintf("late start: %d", e.offset))
		default:
			bad = append(bad, fmt.Sprintf("skip: %d", e.offset))
		}
	}
	return right, bad
}

func (s *stretch) inGap(o int64) bool {
	return slices.ContainsFunc(s.gaps, func(g [2]int64) bool { return o >= g[0] && o < g[1] })
}
