package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tapecast/tapecast/gateway/feed"
	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/protocol"
	"github.com/tapecast/tapecast/internal/stream"
)

// Limits of what a lookup asks of Kafka.
const (
	lookupTime  = 10 * time.Second // positions, each try
	scanTime    = time.Minute      // last N, snapshot
	lastScan    = 1_000_000        // offsets that from {"last":N} goes back at most, over all partitions
	lastWindow  = 1_000            // the first window of it, at least
	snapshotTry = 200              // rounds after which a snapshot that never reaches the end is given up
)

// retryDelay between two tries of a lookup.
const retryDelay = 250 * time.Millisecond

// needsLookup tells whether Kafka has to be asked where a subscription begins.
func needsLookup(w *protocol.Subscribe) bool {
	return w.From.Kind != protocol.FromLive || w.Until.Kind != protocol.UntilNone || w.Mode == protocol.ModeSnapshot
}

// lookup asks what place needs. It tries again until end while Kafka is away.
func lookup(ctx context.Context, h hold, w *protocol.Subscribe, lim *snapshotLimits, end time.Time) (f facts, err error) {
	for {
		epoch := h.Epoch()
		if f, err = lookupOnce(ctx, h, w, lim); err == nil || final(err) || errors.Is(err, stream.ErrTopicChanged) && h.Epoch() == epoch || ctx.Err() != nil || time.Now().After(end) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return f, ctx.Err()
		case <-time.After(retryDelay):
		}
	}
}

// final tells whether trying again is no use.
func final(err error) bool {
	var p *protocol.Error
	return errors.Is(err, stream.ErrUnknownTopic) || errors.As(err, &p)
}

func lookupOnce(ctx context.Context, h hold, w *protocol.Subscribe, lim *snapshotLimits) (f facts, err error) {
	f.epoch = h.Epoch()
	if f.bounds = heldBounds(h, w, f.epoch); f.bounds != nil {
		return f, nil
	}
	short, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	if f.bounds, err = h.Bounds(short); err != nil {
		return f, fmt.Errorf("ask for the bounds: %w", err)
	}
	if part, ok := newer(w.From, f); ok {
		return f, fmt.Errorf("partition %d is not known here yet", part)
	}
	if err = askTimes(short, h, w, &f); err != nil {
		return f, err
	}
	long, cancel := context.WithTimeout(ctx, scanTime)
	defer cancel()
	switch {
	case w.Mode == protocol.ModeSnapshot:
		f.shot, err = takeSnapshot(long, h, f.bounds, lim)
	case w.From.Kind == protocol.FromLast:
		f.last, f.found, err = findLast(long, h, w.From.Last, f.bounds, lim)
	}
	if err == nil && h.Epoch() != f.epoch {
		if f.shot != nil {
			f.shot.free()
		}
		return f, stream.ErrTopicChanged
	}
	return f, err
}

// heldBounds answers from the tapes alone where all that is wished lies on
// them: who was away for a moment is not to wait for Kafka, nor Kafka for
// everybody who was. nil = Kafka has to be asked.
func heldBounds(h hold, w *protocol.Subscribe, epoch stream.TopicID) map[int32]broker.Bounds {
	if w.Mode == protocol.ModeSnapshot || w.Until.Kind == protocol.UntilLive || w.Until.Kind == protocol.UntilTime {
		return nil
	}
	parts := h.Partitions()
	var at func(part int32) (int64, bool)
	wished := w.From.Epoch
	switch from := &w.From; {
	case from.Kind == protocol.FromOffset && len(parts) == 1:
		at = func(int32) (int64, bool) { return from.Offset, true }
	case from.Kind == protocol.FromOffsets && len(from.Offsets) == len(parts):
		at = func(part int32) (int64, bool) { o, ok := from.Offsets[part]; return o, ok }
	case from.Kind == protocol.FromCursor && len(from.Cursor.Next) == len(parts):
		wished = from.Cursor.Epoch
		at = func(part int32) (int64, bool) { return from.Cursor.Next[part], true }
	default:
		return nil
	}
	if !wished.IsZero() && wished != epoch {
		return nil
	}
	out := make(map[int32]broker.Bounds, len(parts))
	for _, part := range parts {
		offset, ok := at(part)
		if !ok {
			return nil
		}
		if out[part], ok = h.Held(part, offset); !ok {
			return nil
		}
	}
	return out
}

// boundsDo tells whether the bounds say all that has to be known of Kafka, but
// for a cursor that is not on this log.
func boundsDo(w *protocol.Subscribe) bool {
	return w.Mode != protocol.ModeSnapshot && w.From.Kind != protocol.FromLast && w.From.Time.IsZero() && w.Until.Kind != protocol.UntilTime
}

// enough tells whether a subscription can be placed by the bounds that were found.
func (f *facts) enough(s *subscription, w *protocol.Subscribe) bool {
	_, unknown := newer(w.From, *f)
	return !unknown && !byTime(w.From, f) && s.hold.Epoch() == f.epoch
}

// newer finds a partition that a position of this very incarnation of the
// topic names and that this node does not know: it was added a moment ago, and
// the client comes from a node that was quicker to see it.
func newer(from protocol.From, f facts) (int32, bool) {
	switch from.Kind {
	case protocol.FromOffsets:
		if from.Epoch == f.epoch {
			for part := range from.Offsets {
				if _, ok := f.bounds[part]; !ok {
					return part, true
				}
			}
		}
	case protocol.FromCursor:
		if n := len(f.bounds); from.Cursor.Epoch == f.epoch && len(from.Cursor.Next) > n {
			return int32(n), true //nolint:gosec // at most MaxPositions
		}
	}
	return 0, false
}

func askTimes(ctx context.Context, h hold, w *protocol.Subscribe, f *facts) (err error) {
	from := w.From.Time
	if byTime(w.From, f) {
		from = time.UnixMilli(w.From.Cursor.Time)
	}
	if !from.IsZero() {
		if f.at, err = h.OffsetsAt(ctx, from); err != nil {
			return fmt.Errorf("look up from: %w", err)
		}
	}
	if w.Until.Kind == protocol.UntilTime {
		if f.until, err = h.OffsetsAt(ctx, w.Until.Time); err != nil {
			return fmt.Errorf("look up until: %w", err)
		}
	}
	return nil
}

// byTime tells whether a cursor's time says where to go on: its offsets are not
// those of this log.
func byTime(from protocol.From, f *facts) bool {
	c := from.Cursor
	return from.Kind == protocol.FromCursor && c.Time > 0 && c.Epoch == f.epoch && beyond(c, f.bounds)
}

// beyond tells whether a cursor lies beyond the end of a log.
func beyond(c protocol.Cursor, bounds map[int32]broker.Bounds) bool {
	for i, next := range c.Next {
		if b, ok := bounds[int32(i)]; ok && next > b.End {
			return true
		}
	}
	return false
}

// seen is an event as findLast remembers it.
type seen struct {
	partition int32
	offset    int64
	time      int64
}

// seenBytes is what one remembered event takes, and lastHeld how many times N
// of them a lookup of the last N holds at most: what was picked so far, what
// comes of one partition, and both merged.
const (
	seenBytes = 24
	lastHeld  = 5
)

// findLast counts n matching events backwards from fixed ends, in windows that
// grow, over all partitions by record time. It holds no more than a few times n
// of them, however many partitions there are.
func findLast(ctx context.Context, h hold, n int, bounds map[int32]broker.Bounds, lim *snapshotLimits) (map[int32]int64, int, error) {
	room := int64(n) * seenBytes * lastHeld
	defer lim.used.Add(-room)
	if lim.used.Add(room) > lim.total {
		return nil, 0, &protocol.Error{Code: protocol.CodeBusy, Message: "other lookups take all the room; try again"}
	}
	var picked []seen
	budget := int64(lastScan)
	at := map[int32]int64{}
	for _, part := range sortedPartitions(bounds) {
		found, err := lastOf(ctx, h, part, n, bounds[part], &budget)
		if err != nil {
			return nil, 0, err
		}
		at[part] = bounds[part].End
		picked = pick(picked, found, n)
	}
	for _, e := range picked {
		at[e.partition] = min(at[e.partition], e.offset)
	}
	return at, len(picked), nil
}

// pick chooses n events of those that were picked before, in that order, and
// of one more partition's (ascending offsets, and a higher partition than
// theirs): always the last of a partition first, the newest by time among the
// partitions' last ones. Choosing partition by partition comes to the same as
// choosing among all: one more to choose from changes no order among the rest.
func pick(picked, found []seen, n int) []seen {
	if len(found) == 0 {
		return picked
	}
	out := make([]seen, 0, min(n, len(picked)+len(found)))
	for len(out) < n && len(picked)+len(found) > 0 {
		if last := len(found) - 1; last >= 0 && (len(picked) == 0 || found[last].time > picked[0].time) {
			out, found = append(out, found[last]), found[:last]
			continue
		}
		out, picked = append(out, picked[0]), picked[1:]
	}
	return out
}

// lastOf finds the last n matching events of one partition.
func lastOf(ctx context.Context, h hold, part int32, n int, b broker.Bounds, budget *int64) ([]seen, error) {
	var found []seen // ascending
	window := max(int64(2*n), lastWindow)
	for to := b.End; to > b.Start && len(found) < n && *budget > 0; window *= 4 {
		from := max(b.Start, to-min(window, *budget))
		*budget -= to - from
		var part1 []seen
		_, err := h.Scan(ctx, part, from, to, func(c feed.Chunk) bool {
			for _, e := range c.Events {
				if e.Offset < to {
					part1 = append(part1, seen{part, e.Offset, e.Time})
				}
			}
			if drop := len(part1) - n; drop > n {
				part1 = append(part1[:0], part1[drop:]...)
			}
			return true
		})
		if err != nil {
			return nil, fmt.Errorf("scan [%d, %d) of partition %d: %w", from, to, part, err)
		}
		found = append(part1, found...)
		to = from
	}
	return found[max(0, len(found)-n):], nil
}

func sortedPartitions(bounds map[int32]broker.Bounds) []int32 {
	out := make([]int32, 0, len(bounds))
	for p := range bounds {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

// snapshotLimits bound what the snapshots of a node hold together.
type snapshotLimits struct {
	keys  int          // of one snapshot
	bytes int64        // of one snapshot
	total int64        // of all
	used  atomic.Int64 // of all, now
}

// snapshot is the newest event per key as of one offset per partition.
type snapshot struct {
	at     map[int32]int64
	events []*feed.Event
	parts  []int32 // of events
	bytes  int64
	limits *snapshotLimits
}

// free gives the snapshot's room back. It may be called twice.
func (s *snapshot) free() {
	s.limits.used.Add(-s.bytes)
	s.bytes, s.events = 0, nil
}

func (s *snapshot) charge(n int64) error {
	if s.bytes+n > s.limits.bytes {
		return &protocol.Error{Code: protocol.CodeTooLarge, Message: fmt.Sprintf(
			"the snapshot takes more than %d bytes; name keys", s.limits.bytes)}
	}
	s.bytes += n
	if s.limits.used.Add(n) > s.limits.total && n > 0 {
		return &protocol.Error{Code: protocol.CodeBusy, Message: "other snapshots take all the room; try again"}
	}
	return nil
}

// takeSnapshot scans each partition up to S: the first answer whose end is the
// scan's own position. Compaction may have taken nothing away then that a
// value in [scan, S) did not replace.
func takeSnapshot(ctx context.Context, h hold, bounds map[int32]broker.Bounds, lim *snapshotLimits) (*snapshot, error) {
	s := &snapshot{at: map[int32]int64{}, limits: lim}
	count := 0
	for _, part := range sortedPartitions(bounds) {
		byKey := map[string]*feed.Event{}
		at, err := s.scan(ctx, h, part, bounds[part], func(events []*feed.Event) error {
			return s.putAll(byKey, events, count)
		})
		if err != nil {
			s.free()
			return nil, err
		}
		s.at[part] = at
		for _, e := range ascending(byKey) {
			s.events = append(s.events, e)
			s.parts = append(s.parts, part)
		}
		count += len(byKey)
	}
	return s, nil
}

// putAll takes a chunk of what was replayed.
func (s *snapshot) putAll(byKey map[string]*feed.Event, events []*feed.Event, count int) error {
	for _, e := range events {
		if err := s.put(byKey, e, count); err != nil {
			return err
		}
	}
	own(byKey, events)
	return nil
}

func (s *snapshot) put(byKey map[string]*feed.Event, e *feed.Event, count int) error {
	key := string(e.Key)
	if old, ok := byKey[key]; ok {
		delete(byKey, key)
		if err := s.charge(-int64(eventSize(old))); err != nil {
			return err
		}
	}
	if e.Value == nil {
		return nil
	}
	if count+len(byKey) >= s.limits.keys {
		return &protocol.Error{Code: protocol.CodeTooLarge, Message: fmt.Sprintf("the topic has more than %d keys; name keys", s.limits.keys)}
	}
	byKey[key] = e
	return s.charge(int64(eventSize(e)))
}

func (s *snapshot) scan(ctx context.Context, h hold, part int32, b broker.Bounds, put func([]*feed.Event) error) (int64, error) {
	pos, to := b.Start, b.End
	for range snapshotTry {
		var failed error
		end, err := h.Scan(ctx, part, pos, to, func(c feed.Chunk) bool {
			failed = put(c.Events)
			pos = max(pos, c.To)
			return failed == nil
		})
		switch {
		case failed != nil:
			return 0, failed
		case err != nil:
			return 0, fmt.Errorf("scan [%d, %d) of partition %d: %w", pos, to, part, err)
		case end <= pos:
			return pos, nil
		}
		to = end
	}
	return 0, &protocol.Error{Code: protocol.CodeBusy, Message: "the topic grows faster than it can be read; try again"}
}
