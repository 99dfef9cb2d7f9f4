package ingest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/schemas"
)

// draft is a request on its way from events to records.
type draft struct {
	feed     catalog.Feed
	limit    topicLimit
	accepted time.Time
	events   []event
}

// records encodes all events of a request, and tells in which form, or what is
// wrong with which. If a value does not fit, the newest schema is asked for,
// and if there is another by now, all are encoded again.
func (s *Service) records(ctx context.Context, d *draft, l *lease) ([]broker.ProduceRecord, form, *problem) {
	f, p := s.forms.get(ctx, d.feed)
	if p != nil {
		return nil, f, p
	}
	keep := l.n
	recs, p := encode(ctx, d, f, l)
	if p == nil || p.Code != codeInvalid {
		return recs, f, p
	}
	newer, ok := s.forms.newer(ctx, d.feed, f)
	if !ok {
		return nil, f, p
	}
	l.shrink(keep)
	recs, p = encode(ctx, d, newer, l)
	return recs, newer, p
}

// encode makes the records of d with one form. The values lie in one buffer,
// which is never used again: the producer may still hold it after a timeout.
func encode(ctx context.Context, d *draft, f form, l *lease) ([]broker.ProduceRecord, *problem) {
	var (
		m     mistakes
		arena = make([]byte, 0, d.roughly())
		ends  = make([]int, len(d.events))
		large = -1
	)
	for i := range d.events {
		e := &d.events[i]
		d.check(e, i, &m)
		before := len(arena)
		if !e.tombstone() {
			var err error
			if arena, err = f.append(arena, e.value); err != nil {
				arena = arena[:before]
				addValueError(&m, i, err)
			}
		}
		size := len(arena) - before
		if size+len(e.key) > d.limit.maxEvent && large < 0 {
			large = i
		}
		if p := l.grow(ctx, int64(size)); p != nil {
			return nil, p
		}
		ends[i] = len(arena)
		if len(m.list) == maxErrors {
			break
		}
	}
	if len(m.list) > 0 {
		return nil, invalidEvents(m.list)
	}
	if large >= 0 {
		p := tooLarge(fmt.Sprintf("event %d: key and encoded value are more than %d bytes", large, d.limit.maxEvent))
		p.Errors = []fieldError{{Index: large, Field: "value", Message: fmt.Sprintf("is more than %d bytes with its key", d.limit.maxEvent)}}
		return nil, p
	}
	return d.assemble(arena, ends), nil
}

// roughly is what the values take as JSON: most formats need less.
func (d *draft) roughly() (n int) {
	for i := range d.events {
		n += len(d.events[i].value)
	}
	return n
}

func (d *draft) assemble(arena []byte, ends []int) []broker.ProduceRecord {
	recs := make([]broker.ProduceRecord, len(d.events))
	begin := 0
	for i := range d.events {
		e := &d.events[i]
		r := &recs[i]
		*r = broker.ProduceRecord{Key: e.key, Time: d.accepted, Partition: e.partition, Accepted: d.accepted.UnixMicro()}
		if e.ts >= 0 {
			r.Time = time.UnixMilli(e.ts)
		}
		if !e.tombstone() {
			// Never nil, even if empty: that would be a tombstone.
			r.Value = arena[begin:ends[i]:ends[i]]
			if r.Value == nil {
				r.Value = []byte{}
			}
		}
		begin = ends[i]
	}
	return recs
}

// check holds an event to what its topic takes, as far as Kafka would refuse a
// whole batch for it, with other requests' events.
func (d *draft) check(e *event, index int, m *mistakes) {
	if e.partition >= 0 && !slices.ContainsFunc(d.feed.Partitions, func(p broker.Partition) bool { return p.ID == e.partition }) {
		m.add(index, "partition", fmt.Sprintf("is not there; the topic has %d", len(d.feed.Partitions)))
	}
	if e.key == nil && d.limit.compacted {
		m.add(index, "key", "is missing; the topic is compacted and needs one")
	}
	if e.ts < 0 {
		return
	}
	age := d.accepted.Sub(time.UnixMilli(e.ts))
	if -age > d.limit.maxAhead {
		m.add(index, "ts", fmt.Sprintf("is more than %s in the future", d.limit.maxAhead))
	}
	if d.limit.maxBehind > 0 && age > d.limit.maxBehind {
		m.add(index, "ts", fmt.Sprintf("is more than %s in the past", d.limit.maxBehind))
	}
}

// addValueError names the field that an encoding error is about.
func addValueError(m *mistakes, index int, err error) {
	var v *schemas.ValueError
	if !errors.As(err, &v) {
		m.add(index, "value", err.Error())
		return
	}
	field := "value"
	switch {
	case v.Path == "":
	case v.Path[0] == '[':
		field += v.Path
	default:
		field += "." + v.Path
	}
	m.add(index, field, v.Reason)
}
