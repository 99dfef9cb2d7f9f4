package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tapecast/tapecast/gateway/feed"
	"github.com/tapecast/tapecast/internal/protocol"
	"github.com/tapecast/tapecast/internal/stream"
)

// rules of a conversation: what all sessions have in common. Static.
type rules struct {
	feed      feedSource
	metrics   *metrics
	snapshots *snapshotLimits
	heartbeat time.Duration
	maxSubs   int
	maxParts  int // cursors of one session
	maxLag    time.Duration
	hold      time.Duration // where no other is named; 0 = none
	holds     []TopicHold
}

// Bounds of one turn, so that no subscription and no partition starves another.
const (
	quantumEvents = 128
	quantumBytes  = 16 << 10
	maxReads      = 512      // in one turn: what does not match, or is poison, fills no block
	maxTasks      = 4        // lookups of one session at once
	maxReplies    = 64 << 10 // bytes of replies that wait; no command is taken beyond that
)

// conversation is one session's commands in and frames out. It owns the
// subscriptions and their cursors, and is owned by the session's loop: nothing
// here waits, locks or starts a goroutine by itself.
type conversation struct {
	// static after construction
	*rules
	wire   wire
	notify func()                                     // wakes the loop; from any goroutine
	task   func(run func(ctx context.Context) func()) // runs beside the loop; what it returns runs in the loop
	result func(fn func())                            // has fn run in the loop, unless the session ends before; from any goroutine

	subs    []*subscription
	gathers []time.Duration // the holds of all subs there ever were, each once
	waiting []*subscription // for a task
	replies []reply
	turn    int
	parts   int   // cursors of all subs
	keys    int   // keys of all subs
	reads   int32 // in this turn
	tasks   int32 // running
	asking  int32 // commands that wait for the cluster's topics

	replySize int
	beatAt    moment // next heartbeat; 0 = none due
	beatNow   bool   // a heartbeat is due before the next event
	over      bool   // no task is started any more
	slow      bool   // a subscription is further behind than allowed
	last      *protocol.Error
	sink      func(*protocol.Error) bool // takes errors that cannot be told as frames; may be nil
}

// reply is a control frame that waits for the next write.
type reply struct {
	sub  *subscription
	name string
	text []byte
	raw  []byte // instead: a whole WebSocket control frame
}

func (c *conversation) reply(s *subscription, name string, frame any) {
	c.replyText(s, name, protocol.Encode(frame))
}

func (c *conversation) replyText(s *subscription, name string, text []byte) {
	c.replies = append(c.replies, reply{sub: s, name: name, text: text})
	c.replySize += len(text)
}

func (c *conversation) replyRaw(frame []byte) {
	c.replies = append(c.replies, reply{raw: frame})
	c.replySize += len(frame)
}

// open tells whether commands are taken: replies do not pile up.
func (c *conversation) open() bool { return c.replySize < maxReplies }

// fail answers with an error.
func (c *conversation) fail(err *protocol.Error) {
	c.last = err
	c.metrics.commandErrors.of(string(err.Code)).Inc()
	if c.sink != nil && c.sink(err) {
		return
	}
	c.replyText(nil, "error", err.Frame())
}

// command does one command.
func (c *conversation) command(cmd *protocol.Command, now time.Time) {
	c.metrics.commands.of(verbName(cmd.Verb)).Inc()
	switch cmd.Verb {
	case protocol.VerbSub:
		c.sub(cmd, now, 0)
	case protocol.VerbUnsub:
		c.unsubscribe(cmd)
	case protocol.VerbPing:
		if cmd.Topic == protocol.Ping {
			c.replyText(nil, "pong", []byte(protocol.Pong))
			return
		}
		c.reply(nil, "pong", protocol.PongFrame{Event: "pong", ID: idOf(cmd.ID), TS: now.UnixMilli()})
	case protocol.VerbList:
		c.list(cmd.ID)
	}
}

func idOf(id protocol.ID) *protocol.ID {
	if id.IsZero() {
		return nil
	}
	return &id
}

// subscribe opens a subscription, or says why not. asked: how often the
// cluster was asked for new topics since the command came.
func (c *conversation) subscribe(cmd *protocol.Command, now time.Time, asked int) *protocol.Error {
	repeated, err := c.conflict(cmd)
	if repeated != nil {
		if repeated.state == positioned && repeated.level1() {
			c.ack(repeated, placement{resume: protocol.ResumeExact})
		}
		return nil
	}
	if err != nil {
		return err
	}
	if len(c.subs) >= c.maxSubs {
		return &protocol.Error{Code: protocol.CodeTooManySubs, Message: fmt.Sprintf("a connection has at most %d", c.maxSubs)}
	}
	if c.keys+len(cmd.Sub.Keys) > protocol.MaxKeys {
		return &protocol.Error{Code: protocol.CodeTooManySubs, Message: fmt.Sprintf("a connection names at most %d keys; subscribe to all", protocol.MaxKeys)}
	}
	s := &subscription{id: cmd.ID, topic: cmd.Topic, sum: protocol.CursorTopic(cmd.Topic), wish: shared(&cmd.Sub)}
	h, oerr := c.feed.Open(cmd.Topic, cmd.Sub.Keys, func() {
		if !s.due.Swap(true) {
			c.notify()
		}
	})
	if oerr != nil {
		if asked < looks && errors.Is(oerr, stream.ErrUnknownTopic) && c.ask(cmd, asked) {
			return nil
		}
		return openError(oerr)
	}
	if c.parts+len(h.Partitions()) > c.maxParts {
		h.Close()
		return &protocol.Error{Code: protocol.CodeTooManySubs, Message: fmt.Sprintf("a connection follows at most %d partitions", c.maxParts)}
	}
	s.hold, s.gather = h, c.rules.gather(s.topic)
	if !slices.Contains(c.gathers, s.gather) {
		c.gathers = append(c.gathers, s.gather)
	}
	s.due.Store(true)
	c.subs = append(c.subs, s)
	c.keys += len(s.wish.Keys)
	c.follow(s, len(h.Partitions()))
	c.metrics.subscriptions.Inc()
	if needsLookup(s.wish) {
		s.busy = true
		if !c.placeHeld(s) {
			c.enqueue(s)
		}
	}
	if s.level1() && c.beatAt == 0 {
		c.beatAt = momentOf(now).add(c.heartbeat)
	}
	return nil
}

func openError(err error) *protocol.Error {
	if errors.Is(err, stream.ErrUnknownTopic) {
		return &protocol.Error{Code: protocol.CodeUnknownTopic, Message: "no such topic, or it may not be read"}
	}
	return &protocol.Error{Code: protocol.CodeUnavailable, Message: "the topic cannot be followed now"}
}

// conflict finds the subscription that is repeated, or why this one may not be.
func (c *conversation) conflict(cmd *protocol.Command) (repeated *subscription, err *protocol.Error) {
	for _, s := range c.subs {
		switch {
		case !cmd.ID.IsZero() && s.id.Label() == cmd.ID.Label():
			return nil, &protocol.Error{Code: protocol.CodeDuplicateID, Message: "the id is in use; unsubscribe it first"}
		case s.topic != cmd.Topic || !overlaps(s.wish.Keys, cmd.Sub.Keys):
		case cmd.ID.IsZero() && s.id.IsZero() && s.wish.Level == cmd.Sub.Level && same(s.wish, &cmd.Sub):
			return s, nil
		default:
			return nil, &protocol.Error{Code: protocol.CodeOverlap, Message: "another subscription of this connection has some of these keys; unsubscribe it first"}
		}
	}
	return nil, nil
}

// unsubscribe ends subscriptions by id, or by topic.
func (c *conversation) unsubscribe(cmd *protocol.Command) {
	found := false
	for _, s := range slices.Clone(c.subs) {
		if !cmd.ID.IsZero() && s.id.Label() != cmd.ID.Label() || cmd.Topic != "" && s.topic != cmd.Topic {
			continue
		}
		found = true
		if s.level1() {
			end := protocol.End{Event: "unsubscribed", Label: s.name()}
			if s.told() {
				end.At, end.Cursor = s.positions(), s.cursor().String()
			}
			c.reply(nil, "unsubscribed", end)
		}
		c.drop(s)
	}
	if !found {
		c.fail(&protocol.Error{Code: protocol.CodeNotSubscribed, ID: cmd.ID, Message: "there is no such subscription on this connection"})
	}
}

// drop closes a subscription. A hold that belongs to a task is closed when the
// task is done; an answer that was asked for without one is not waited for.
func (c *conversation) drop(s *subscription) {
	if s.state == closed {
		return
	}
	if s.state == positioned && !s.live {
		c.metrics.replaying.Dec()
	}
	s.state = closed
	if s.snapshot != nil {
		s.snapshot.free()
		s.snapshot = nil
	}
	c.follow(s, 0)
	c.keys -= len(s.wish.Keys)
	c.lagging(s, false)
	c.metrics.subscriptions.Dec()
	if i := slices.Index(c.subs, s); i >= 0 {
		c.subs = slices.Delete(c.subs, i, i+1)
	}
	if i := slices.Index(c.waiting, s); i >= 0 {
		c.waiting = slices.Delete(c.waiting, i, i+1)
		s.busy = false
	}
	switch {
	case s.asked:
		s.asked, s.busy = false, false
		s.hold.Close()
		c.tasks--
		c.startTasks()
	case !s.busy:
		s.hold.Close()
	case s.cancel != nil:
		s.cancel()
	}
}

// follow counts the cursors of a subscription.
func (c *conversation) follow(s *subscription, n int) {
	c.parts += n - s.parts
	s.parts = n
}

// closeAll closes every subscription. Tasks must have ended.
func (c *conversation) closeAll() {
	for len(c.subs) > 0 {
		s := c.subs[len(c.subs)-1]
		s.busy = false
		c.drop(s)
	}
}

func (c *conversation) list(id protocol.ID) {
	out := protocol.List{Event: "list", ID: idOf(id), Subscriptions: []protocol.Subscription{}}
	for _, s := range c.subs {
		state := "requested"
		switch {
		case s.state == positioned && s.live:
			state = "live"
		case s.state == positioned:
			state = "replaying"
		}
		out.Subscriptions = append(out.Subscriptions, protocol.Subscription{
			Label: s.name(), State: state, Mode: s.wish.Mode.String(), Keys: len(s.wish.Keys),
		})
	}
	c.reply(nil, "list", out)
}

func (s *subscription) name() protocol.Label { return protocol.NewLabel(s.id, s.topic) }

// label is how heartbeats name it.
func (s *subscription) label() string {
	if label := s.id.Label(); label != "" {
		return label
	}
	return s.topic
}

// tellReset tells a level 1 client that its subscription begins anew.
func (c *conversation) tellReset(b *block, s *subscription, cause string) {
	c.metrics.resets.of(cause).Inc()
	c.put(b, s, "reset", protocol.Reset{
		Event: "reset", Label: s.name(), Epoch: protocol.EpochText(s.epoch), From: s.positions(), Cause: cause, Cursor: s.cursor().String(),
	})
}

// put writes a control frame of a level 1 subscription into b, or, without b,
// has it wait for the next write.
func (c *conversation) put(b *block, s *subscription, name string, frame any) {
	if b != nil {
		b.settled++ // even if it is not told: the subscription is another now
	}
	switch {
	case !s.level1():
	case b == nil || b.tail != nil: // nothing overtakes a tail
		c.reply(s, name, frame)
	default:
		b.grab()
		b.frames++
		c.wire.control(b, s, name, protocol.Encode(frame))
	}
}

// report tells of a gap.
func (c *conversation) report(b *block, s *subscription, g gap) {
	c.metrics.gaps.of(string(g.cause)).Inc()
	c.put(b, s, "gap", protocol.Gap{
		Event: "gap", Label: s.name(), Partition: g.partition, From: g.from, To: g.to, Cause: g.cause,
	})
}

// bye says goodbye: the last frame before a close.
func (c *conversation) bye(code string, retry bool, wait time.Duration) {
	f := protocol.Bye{Event: "bye", Code: code, Retry: retry, Cursor: map[string]string{}}
	if wait > 0 {
		f.WaitMS = &[2]int64{0, wait.Milliseconds()}
	}
	for label, low := range c.lowest() {
		f.Cursor[label] = low.cursor().String()
	}
	c.reply(nil, "bye", f)
}

// lowest names one subscription per label: where several without id share a
// topic, one that stands in for all with the lowest positions.
func (c *conversation) lowest() map[string]*subscription {
	out := map[string]*subscription{}
	for _, s := range c.subs {
		if !s.told() || !s.level1() {
			continue
		}
		other, shared := out[s.label()]
		if !shared {
			out[s.label()] = s
			continue
		}
		low := &subscription{topic: s.topic, sum: s.sum, epoch: s.epoch, skipped: s.skipped + other.skipped, cursors: slices.Clone(s.cursors)}
		for i := range low.cursors {
			if o := other.find(low.cursors[i].partition); o != nil {
				low.cursors[i].next = min(low.cursors[i].next, o.next)
				low.cursors[i].time = min(low.cursors[i].time, o.time)
			}
		}
		out[s.label()] = low
	}
	return out
}

func verbName(v protocol.Verb) string {
	switch v {
	case protocol.VerbSub:
		return "sub"
	case protocol.VerbUnsub:
		return "unsub"
	case protocol.VerbPing:
		return "ping"
	case protocol.VerbList:
		return "list"
	}
	return "other"
}

// form of the events that this conversation needs.
func (c *conversation) frame(s *subscription, e *feed.Event) ([]byte, error) {
	return s.hold.Frame(e, c.wire.form())
}
