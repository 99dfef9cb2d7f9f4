package gateway

import (
	"context"
	"errors"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/protocol"
	"github.com/tapecast/tapecast/internal/stream"
)

// enqueue has a subscription looked up, now or when a task is over.
func (c *conversation) enqueue(s *subscription) {
	c.waiting = append(c.waiting, s)
	c.startTasks()
}

// placeHeld places a subscription at once, without a task, where all that it
// wishes lies on the tapes.
func (c *conversation) placeHeld(s *subscription) bool {
	epoch := s.hold.Epoch()
	b := heldBounds(s.hold, s.wish, epoch)
	if b == nil {
		return false
	}
	c.tasks++ // lookedUp ends one
	c.lookedUp(s, facts{epoch: epoch, bounds: b}, nil)
	return true
}

func (c *conversation) startTasks() {
	for c.tasks < maxTasks && len(c.waiting) > 0 && !c.over {
		s, wish := c.waiting[0], c.waiting[0].wish
		c.waiting = c.waiting[1:]
		if s.state == positioned {
			wish = &protocol.Subscribe{From: protocol.From{Kind: protocol.FromEarliest}} // the bounds only
		}
		c.tasks++
		if boundsDo(wish) {
			c.askBounds(s, wish)
		} else {
			c.startLookup(s, wish, time.Now().Add(lookupTime))
		}
	}
}

// startLookup looks a subscription up in a task. At the end it is tried once more at most.
func (c *conversation) startLookup(s *subscription, wish *protocol.Subscribe, end time.Time) {
	own, cancel := context.WithCancel(context.Background()) // ends with the subscription, or with the session
	s.cancel = cancel
	c.task(func(ctx context.Context) func() {
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		f, err := lookup(own, s.hold, wish, c.snapshots, end)
		return func() { c.lookedUp(s, f, err) }
	})
}

// askBounds looks a subscription up that wants the bounds only, without a
// goroutine: ten thousand who come back at once would all stand in the runtime's
// queue with one each, in front of those who are live. What it does not find out
// at once is left to a task. An answer for who is gone is nobody's: the session
// may have ended by then.
func (c *conversation) askBounds(s *subscription, wish *protocol.Subscribe) {
	f, end := facts{epoch: s.hold.Epoch()}, time.Now().Add(lookupTime)
	s.asked = true
	s.hold.AskBounds(func(b map[int32]broker.Bounds, err error) {
		f.bounds = b
		c.result(func() {
			if !s.asked {
				return
			}
			s.asked = false
			more := err == nil && !f.enough(s, wish) || err != nil && time.Now().Before(end)
			if more && !c.over {
				c.startLookup(s, wish, end)
				return
			}
			c.lookedUp(s, f, err)
		})
	})
}

// lookedUp takes a task's result: the hold is the loop's again.
func (c *conversation) lookedUp(s *subscription, f facts, err error) {
	c.tasks--
	s.busy = false
	s.due.Store(true)
	defer c.startTasks()
	if s.state == closed {
		if f.shot != nil {
			f.shot.free()
		}
		s.hold.Close()
		return
	}
	if s.state == positioned && errors.Is(err, stream.ErrTopicChanged) {
		return // the next read says so
	}
	if err != nil {
		c.refuse(s, lookupError(err))
		return
	}
	if s.state == positioned {
		c.moveBack(s, &f)
		return
	}
	p, perr := place(s.topic, s.wish, &f)
	if perr != nil {
		if f.shot != nil {
			f.shot.free()
		}
		c.refuse(s, perr)
		return
	}
	s.position(p)
	c.follow(s, len(s.cursors))
	c.metrics.replaying.Inc()
	s.snapshot, s.announce = f.shot, s.level1()
	c.ack(s, p)
	for _, g := range p.gaps {
		c.report(nil, s, g)
	}
}

// refuse answers that a subscription cannot be, and closes it.
func (c *conversation) refuse(s *subscription, err *protocol.Error) {
	e := *err
	e.ID, e.Topic = s.id, s.topic
	c.fail(&e)
	c.drop(s)
}

func lookupError(err error) *protocol.Error {
	var p *protocol.Error
	if errors.As(err, &p) {
		return p
	}
	// Also a topic that some broker does not know: whether it is there is said by the list of all.
	return &protocol.Error{Code: protocol.CodeUnavailable, Message: "the position cannot be looked up now; try again"}
}

// ack tells a level 1 client where its subscription begins (or, repeated, stands).
func (c *conversation) ack(s *subscription, p placement) {
	if !s.level1() {
		return
	}
	f := protocol.Subscribed{
		Event: "subscribed", Label: s.name(), Epoch: protocol.EpochText(s.epoch), From: s.positions(),
		Live: protocol.Positions(p.live), Until: protocol.Positions(p.until), Resume: p.resume, Last: p.found,
		Cursor: s.cursor().String(),
	}
	if f.Live == nil {
		f.Live = protocol.Positions{}
		for i := range s.cursors {
			f.Live[s.cursors[i].partition] = max(s.cursors[i].live, s.cursors[i].next)
		}
	}
	if s.wish.Mode != protocol.ModeAll {
		f.Mode = s.wish.Mode.String()
	}
	c.reply(s, "subscribed", f)
}

// placeLive positions a subscription at the live edge as soon as it is known.
func (c *conversation) placeLive(s *subscription) {
	at, ok := s.hold.Live()
	if !ok {
		return
	}
	from := map[int32]int64{}
	for _, p := range s.hold.Partitions() {
		from[p] = at[p]
	}
	s.position(placement{epoch: s.hold.Epoch(), from: from, live: from})
	c.follow(s, len(s.cursors))
	s.live = true
	c.ack(s, placement{live: from, resume: protocol.ResumeExact})
}

// moveBack puts what stands beyond the log's end, which was asked afresh, at the end.
func (c *conversation) moveBack(s *subscription, f *facts) {
	moved := false
	for i := range s.cursors {
		cur := &s.cursors[i]
		if b, ok := f.bounds[cur.partition]; ok && cur.next > b.End {
			cur.next, cur.fresh = b.End, nil
			moved = true
		}
		cur.ready = true
	}
	if moved {
		c.tellReset(nil, s, "beyond")
	}
}
