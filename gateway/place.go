package gateway

import (
	"fmt"
	"maps"
	"slices"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/protocol"
	"github.com/tapecast/tapecast/internal/sabotage"
	"github.com/tapecast/tapecast/internal/stream"
)

// facts are what was asked of Kafka, afresh, to place a subscription.
type facts struct {
	epoch  stream.TopicID
	bounds map[int32]broker.Bounds
	at     map[int32]int64 // from a time, or the cursor's fallback time
	until  map[int32]int64 // until a time
	last   map[int32]int64 // from the last N
	found  int             // how many of the last N there were
	shot   *snapshot
}

// placement is where a subscription begins, and what it is told of that.
type placement struct {
	epoch  stream.TopicID
	from   map[int32]int64
	live   map[int32]int64
	until  map[int32]int64 // nil = none
	resume protocol.Resume
	gaps   []gap
	found  *int
}

// place decides where a subscription begins. Pure: no I/O, no clock.
func place(topic string, w *protocol.Subscribe, f *facts) (placement, *protocol.Error) {
	p := placement{epoch: f.epoch, resume: protocol.ResumeExact, live: map[int32]int64{}}
	for part, b := range f.bounds {
		p.live[part] = b.End
	}
	var err *protocol.Error
	switch w.From.Kind {
	case protocol.FromLive:
		p.from = maps.Clone(p.live)
	case protocol.FromEarliest:
		p.from = map[int32]int64{}
		for part, b := range f.bounds {
			p.from[part] = b.Start
			if sabotage.Is(sabotage.LateEarliest) {
				p.from[part] = min(b.Start+1, b.End)
			}
		}
	case protocol.FromTime:
		p.from = f.at
	case protocol.FromLast:
		p.from, p.found = f.last, &f.found
	case protocol.FromOffset:
		err = p.resumeOffset(w, f)
	case protocol.FromOffsets:
		err = p.resumeOffsets(w, f)
	case protocol.FromCursor:
		err = p.resumeCursor(topic, w, f)
	}
	if err != nil {
		return p, err
	}
	if f.shot != nil {
		p.from, p.live = f.shot.at, maps.Clone(f.shot.at)
	}
	if missing := uncovered(p.from, f.bounds); missing >= 0 {
		return p, &protocol.Error{Code: protocol.CodeUnavailable, Message: fmt.Sprintf("partition %d has no position now", missing)}
	}
	for part, at := range p.from { // a time may name an offset that was written after the bounds were taken
		p.live[part] = max(p.live[part], min(at, f.bounds[part].End))
	}
	err = p.end(w, f)
	return p, err
}

// uncovered finds a partition without a position; -1 = none.
func uncovered(from map[int32]int64, bounds map[int32]broker.Bounds) int32 {
	for part := range bounds {
		if _, ok := from[part]; !ok {
			return part
		}
	}
	return -1
}

func (p *placement) resumeOffset(w *protocol.Subscribe, f *facts) *protocol.Error {
	if len(f.bounds) != 1 {
		return &protocol.Error{Code: protocol.CodeInvalid, Field: "from.offset", Message: fmt.Sprintf(
			`the topic has %d partitions; name them: {"offsets":{"0":N}}, or resume by cursor`, len(f.bounds))}
	}
	for part := range f.bounds {
		p.resumeAt(map[int32]int64{part: w.From.Offset}, w.From.Epoch, f)
	}
	return nil
}

// resumeOffsets takes partitions that are not named from the live edge on, but
// those above the highest named one from 0 on: whoever kept a position for
// every partition there was would otherwise miss what a newer one began with.
func (p *placement) resumeOffsets(w *protocol.Subscribe, f *facts) *protocol.Error {
	if err := known("from.offsets", w.From.Offsets, f); err != nil && (w.From.Epoch.IsZero() || w.From.Epoch == f.epoch) {
		return err
	}
	at := maps.Clone(w.From.Offsets)
	if w.From.Epoch.IsZero() || w.From.Epoch == f.epoch {
		highest := slices.Max(slices.Collect(maps.Keys(at)))
		for part := range f.bounds {
			if part > highest {
				at[part] = 0
			}
		}
	}
	p.resumeAt(at, w.From.Epoch, f)
	return nil
}

// resumeCursor takes partitions that are newer than the cursor from 0 on.
func (p *placement) resumeCursor(topic string, w *protocol.Subscribe, f *facts) *protocol.Error {
	c := w.From.Cursor
	if c.Topic != protocol.CursorTopic(topic) {
		return &protocol.Error{Code: protocol.CodeInvalid, Field: "from.cursor", Message: "belongs to another topic"}
	}
	at := map[int32]int64{}
	for i, next := range c.Next {
		at[int32(i)] = next //nolint:gosec // at most MaxPositions
	}
	for part := range f.bounds {
		if _, ok := at[part]; !ok && c.Epoch == f.epoch {
			at[part] = 0
		}
	}
	p.resumeAt(at, c.Epoch, f)
	return nil
}

// known refuses partitions that the topic does not have.
func known(field string, offsets map[int32]int64, f *facts) *protocol.Error {
	for part := range offsets {
		if _, ok := f.bounds[part]; !ok {
			return &protocol.Error{Code: protocol.CodeInvalid, Field: field, Message: fmt.Sprintf("the topic has %d partitions, from 0 on", len(f.bounds))}
		}
	}
	return nil
}

// resumeAt meets wished positions: of another incarnation of the topic = reset,
// from 0 on; beyond the end = reset, from the fallback time or the end on;
// below what is retained = clamped (reading on from there reports the gap).
func (p *placement) resumeAt(wished map[int32]int64, epoch stream.TopicID, f *facts) {
	p.from = map[int32]int64{}
	if !epoch.IsZero() && epoch != f.epoch {
		p.resume = protocol.ResumeReset
		for part := range f.bounds {
			p.from[part] = 0
		}
		for _, part := range protocol.Positions(wished).Partitions() {
			p.gaps = append(p.gaps, gap{part, wished[part], 0, protocol.CauseEpoch})
		}
		return
	}
	for part, b := range f.bounds {
		at, named := wished[part]
		switch {
		case !named:
			p.from[part] = b.End
		case at > b.End:
			p.resume = protocol.ResumeReset
			p.from[part] = b.End
			if t, ok := f.at[part]; ok {
				p.from[part] = min(t, b.End)
			}
		default:
			p.from[part] = at
			if at < b.Start && p.resume == protocol.ResumeExact {
				p.resume = protocol.ResumeClamped
			}
		}
	}
}

// end decides where the subscription ends.
func (p *placement) end(w *protocol.Subscribe, f *facts) *protocol.Error {
	switch w.Until.Kind {
	case protocol.UntilNone:
		return nil
	case protocol.UntilLive:
		p.until = maps.Clone(p.live)
	case protocol.UntilTime:
		p.until = f.until
	case protocol.UntilOffset:
		if len(f.bounds) != 1 {
			return &protocol.Error{Code: protocol.CodeInvalid, Field: "until.offset", Message: fmt.Sprintf(
				`the topic has %d partitions; name them: {"offsets":{"0":N}}`, len(f.bounds))}
		}
		p.until = map[int32]int64{}
		for part := range f.bounds {
			p.until[part] = w.Until.Offset
		}
	case protocol.UntilOffsets:
		if err := known("until.offsets", w.Until.Offsets, f); err != nil {
			return err
		}
		p.until = map[int32]int64{}
		for part := range f.bounds {
			p.until[part] = p.live[part]
			if at, ok := w.Until.Offsets[part]; ok {
				p.until[part] = at
			}
		}
	}
	return nil
}
