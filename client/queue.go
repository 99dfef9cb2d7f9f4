package client

// queue holds frames for a reader, bounded in bytes by its owner. kept goes
// out first: gaps that stand for dropped events, and the control frames among them.
type queue struct {
	kept  []Frame
	ring  []Frame
	head  int
	bytes int
}

func (q *queue) len() int { return len(q.kept) + len(q.ring) - q.head }

// madeGap is what a gap of our own counts; its text is written when it leaves.
const madeGap = 128

func size(f *Frame) int {
	if f.Raw == nil {
		return madeGap
	}
	return len(f.Raw)
}

func (q *queue) push(f *Frame) {
	q.ring = append(q.ring, *f)
	q.bytes += size(f)
}

// last is the newest frame, nil if there is none.
func (q *queue) last() *Frame {
	if q.head == len(q.ring) {
		return nil
	}
	return &q.ring[len(q.ring)-1]
}

func (q *queue) pop() (f Frame) {
	if len(q.kept) > 0 {
		f, q.kept[0] = q.kept[0], Frame{}
		q.kept = q.kept[1:]
	} else {
		f = q.shift()
	}
	q.bytes -= size(&f)
	if f.Raw == nil {
		f.Raw = gapJSON(&f)
	}
	return f
}

// shift takes the oldest frame of the ring.
func (q *queue) shift() (f Frame) {
	f, q.ring[q.head] = q.ring[q.head], Frame{}
	q.head++
	switch {
	case q.head == len(q.ring):
		q.ring, q.head = q.ring[:0], 0
	case q.head >= 1024 && q.head*2 >= len(q.ring):
		n := copy(q.ring, q.ring[q.head:])
		clear(q.ring[n:])
		q.ring, q.head = q.ring[:n], 0
	}
	return f
}

// drop gives up the oldest frames until limit is kept. Events become gaps;
// coverage is forgotten; other control frames are kept in their order.
// It returns false if what must be kept does not fit.
func (q *queue) drop(limit int) bool {
	for q.bytes > limit && q.head < len(q.ring) {
		f := q.shift()
		q.bytes -= size(&f)
		switch f.Kind {
		case KindHeartbeat:
		case KindData:
			if !f.Latest { // those lie in a gap that was reported
				q.missing(f.Topic, f.Partition, f.Offset, f.Offset+1)
			}
		case KindGap:
			if f.Cause == "epoch" {
				q.keep(f)
			} else {
				q.missing(f.Topic, f.Partition, f.GapFrom, f.GapTo)
			}
		default:
			q.keep(f)
		}
	}
	return q.bytes <= limit
}

func (q *queue) keep(f Frame) {
	q.kept = append(q.kept, f)
	q.bytes += size(&f)
}

// missing extends the partition's gap, or begins one. It does not reach over a
// control frame: that may change what offsets mean.
func (q *queue) missing(topic string, p int32, from, to int64) {
	for i := len(q.kept) - 1; i >= 0 && q.kept[i].Kind == KindGap; i-- {
		if g := &q.kept[i]; g.Partition == p && g.Cause == CauseBuffer {
			g.GapFrom, g.GapTo = min(g.GapFrom, from), max(g.GapTo, to)
			return
		}
	}
	q.keep(Frame{Kind: KindGap, Topic: topic, Partition: p, GapFrom: from, GapTo: to, Cause: CauseBuffer})
}

func gapJSON(g *Frame) []byte {
	return mustJSON(map[string]any{
		"event": "gap", "topic": g.Topic, "partition": g.Partition, "from": g.GapFrom, "to": g.GapTo, "cause": g.Cause,
	})
}
