package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/internal/protocol"
)

// transport takes what a session writes. write may wait for the client, but
// not for ever; an error ends the session.
type transport interface {
	write(b *block) error
	// hurry bounds what the last writes may take.
	hurry()
	// abort makes a write that waits fail; from any goroutine.
	abort()
	// close ends the stream after the last write. code 0 = without a word.
	close(code protocol.CloseCode)
}

// ending is why a session ends.
type ending struct {
	reason string // a closeReason
	code   protocol.CloseCode
	bye    string // code of the bye frame; "" = none
	retry  bool
	wait   time.Duration // clients come back spread over it
	dead   bool          // nothing can be written any more
}

// session runs one conversation over one transport. Its loop, which is a
// shard's or its own, owns the conversation and all writing; everything else
// reaches it by its mailbox.
type session struct {
	// static after construction
	conv    *conversation
	out     transport
	log     *slog.Logger
	ping    time.Duration // 0 = none
	service *Service      // set by its start; nil in tests of a session alone
	leave   func()        // the door
	card    card

	mailbox
	shardState
	woken  chan struct{} // to the loop; holds one; never closed; nil in a shard
	closed chan struct{} // closed when the transport was told to close; nil = nobody waits for it

	// owned by loop
	tasks  *tasks // nil before the first
	timer  *time.Timer
	wrote  time.Time // the last events, if no more were due then: what comes rests for its hold
	at     time.Time // when to turn without a wake, holds aside; zero = only with one
	pingAt moment
	once   bool     // static: ends with its last subscription (the HTTP twin)
	taken  bool     // a command came
	left   bool     // commands wait until their answers have room
	leaves *leaving // set by a drain; nil = there is none
}

// tasks are what a session runs beside its loop.
type tasks struct {
	group errgroup.Group  // waited for by finish
	ctx   context.Context // ends with the session
	end   context.CancelFunc
}

// leaving is when a session leaves a node that goes down.
type leaving struct {
	at   time.Time
	wait time.Duration // clients come back spread over it
}

// newSession makes a session that is to run in a loop of its own, or, if its
// shard is set before it starts, in that.
func newSession(r *rules, w wire, out transport, log *slog.Logger) *session {
	both := &struct { // one piece of memory: there may be very many
		session
		conversation
	}{session: session{out: out, log: log}}
	s := &both.session
	s.mailbox.init(func() {
		if s.shard != nil {
			s.shard.wake(s)
			return
		}
		select {
		case s.woken <- struct{}{}:
		default:
		}
	})
	s.conv = &both.conversation
	s.conv.rules, s.conv.wire, s.conv.notify, s.conv.task, s.conv.result = r, w, s.wake, s.task, s.mailbox.result
	return s
}

// task runs beside the loop; what it returns runs in the loop.
func (s *session) task(run func(ctx context.Context) func()) {
	if s.tasks == nil {
		s.tasks = &tasks{}
		s.tasks.ctx, s.tasks.end = context.WithCancel(context.Background()) // a session outlives the request it came with
	}
	ctx := s.tasks.ctx
	s.tasks.group.Go(func() error {
		defer func() {
			if p := recover(); p != nil {
				s.result(func() { panic(p) }) // ends the session, and only that
			}
		}()
		s.result(run(ctx))
		return nil
	})
}

// run runs the session until it ends; then its tasks have ended and its
// subscriptions are closed. It has the form that an errgroup starts.
func (s *session) run() error {
	s.timer = time.NewTimer(time.Hour)
	defer s.timer.Stop()
	s.finish(s.loop())
	return nil
}

// loop turns whenever something has come or is due. What it waits in has a
// small stack: an idle session keeps that.
func (s *session) loop() *ending {
	for {
		e, again := s.turn()
		switch {
		case e != nil:
			return e
		case again:
			continue
		}
		s.arm()
		select {
		case <-s.woken:
		case <-s.timer.C:
		}
	}
}

// finish ends what belongs to the session.
func (s *session) finish(e *ending) {
	s.card.ending = e
	s.mailbox.close()
	s.endTasks()
	if !e.dead {
		s.out.hurry()
		s.contain(func() { s.goodbye(e) })
	}
	s.out.close(e.code)
	if s.closed != nil {
		close(s.closed)
	}
	s.contain(s.conv.closeAll)
	s.conv.metrics.closes.of(e.reason).Inc()
}

// endTasks waits for the tasks and takes their results, which hold room.
func (s *session) endTasks() {
	s.conv.over = true
	if s.tasks != nil {
		s.tasks.end()
		_ = s.tasks.group.Wait() // tasks return no errors
	}
	got, _ := s.take(false)
	for _, fn := range got.results {
		s.contain(fn)
	}
}

// contain runs fn, and tells whether it came through. A panic ends this
// session only.
func (s *session) contain(fn func()) (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			s.panicked(p)
		}
	}()
	fn()
	return true
}

func (s *session) panicked(p any) {
	s.conv.metrics.panics.Inc()
	s.log.Error("session panicked", slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
}

var panicEnding = &ending{reason: "panic", code: protocol.CloseInternalErr, bye: string(protocol.CodeInternal), retry: true}

// goodbye writes what was answered but not sent yet, and the bye frame.
func (s *session) goodbye(e *ending) {
	if e.bye != "" {
		s.conv.bye(e.bye, e.retry, e.wait)
	}
	for more := true; more; {
		b := newBlock()
		more = s.conv.composeReplies(b)
		s.conv.wire.finish(b)
		err := s.send(b)
		b.done()
		if err != nil {
			return
		}
	}
}

// turn takes what has come, and writes what is due, once. again: more is due.
func (s *session) turn() (e *ending, again bool) {
	if !s.contain(func() {
		now := time.Now()
		if e = s.takeMail(now); e != nil {
			return
		}
		if s.leaves != nil && !now.Before(s.leaves.at) {
			e = &ending{reason: "drain", code: protocol.CloseRestart, bye: string(protocol.CodeDraining), retry: true, wait: s.leaves.wait}
			return
		}
		if silentAt := s.silentAt(); !silentAt.IsZero() && !now.Before(silentAt) {
			e = silentEnding
			return
		}
		var err error
		again, err = s.flush(now)
		switch {
		case err != nil:
			e = writeEnding(err)
		case s.conv.slow:
			e = slowEnding
		case s.once && s.taken && len(s.conv.subs) == 0 && s.conv.asking == 0:
			e = &ending{reason: "end"}
		default:
			again = again || s.left && s.conv.open()
			s.at = s.next()
		}
	}) {
		e = panicEnding
	}
	return e, again
}

// takeMail takes what has come for the loop. Commands of a client that does
// not take its answers stay where they are.
func (s *session) takeMail(now time.Time) *ending {
	if s.left && s.conv.open() {
		s.posted.Store(true)
	}
	got, left := s.take(s.conv.open())
	s.left = left || s.left && len(got.inputs) == 0
	if got.cut {
		return goneEnding
	}
	if got.drain != nil {
		wait := *got.drain
		s.leaves = &leaving{at: now.Add(rand.N(wait + 1)), wait: wait} //nolint:gosec // a spread, not a secret
	}
	for _, fn := range got.results {
		fn()
	}
	for _, in := range got.inputs {
		switch {
		case in.end != nil:
			return in.end
		case in.raw != nil:
			s.conv.replyRaw(in.raw)
		case in.cmd != nil:
			s.taken = true
			s.conv.command(in.cmd, now)
		default:
			s.parse(in, now)
		}
	}
	return nil
}

// parse does the command that a text is.
func (s *session) parse(in input, now time.Time) {
	cmd, err := protocol.Parse(in.text, now)
	switch {
	case in.refused != nil:
		if in.refused.ID = cmd.ID; err != nil {
			in.refused.ID = err.ID
		}
		s.conv.fail(in.refused)
	case err != nil:
		s.conv.fail(err)
	default:
		s.conv.command(&cmd, now)
	}
}

var (
	slowEnding = &ending{reason: "slow", code: protocol.CloseSlow, bye: "slow", retry: true}
	goneEnding = &ending{reason: "gone", dead: true}
)

// errSlow ends a session whose socket takes less than its limit asks for.
var errSlow = errors.New("the client reads too slowly")

func writeEnding(err error) *ending {
	if errors.Is(err, errSlow) {
		return &ending{reason: "slow", dead: true}
	}
	return &ending{reason: "write", dead: true}
}

// flush writes once, if something is due. Events wait until a write's hold is
// over, so that under load many leave in one write; replies do not wait.
func (s *session) flush(now time.Time) (more bool, err error) {
	if at := momentOf(now); s.ping > 0 && at >= s.pingAt {
		if s.pingAt != 0 {
			s.conv.replyRaw(appendFrame(nil, opPing, nil))
		}
		s.pingAt = at.add(s.ping)
	}
	b := newBlock()
	defer b.done()
	if s.rests(now) {
		more = s.conv.composeReplies(b)
		s.conv.wire.finish(b)
	} else {
		s.wrote = time.Time{}
		more = s.conv.compose(b, now)
	}
	if err := s.send(b); err != nil {
		return false, err
	}
	if b.events > 0 && !more {
		s.wrote = now
	}
	return more, nil
}

// rests tells whether what is due waits for more, to leave with it.
func (s *session) rests(now time.Time) bool {
	return !s.wrote.IsZero() && now.Before(s.wrote.Add(s.conv.gather()))
}

// send writes a block and counts it.
func (s *session) send(b *block) error {
	if b.empty() {
		return nil
	}
	m := s.conv.metrics
	if err := s.out.write(b); err != nil {
		return err
	}
	m.events.Add(float64(b.events))
	m.frames.Add(float64(b.frames))
	m.bytes.Add(float64(b.size()))
	m.writes.Inc()
	if b.newest > 0 {
		m.latency.Observe(float64(time.Now().UnixMicro()-b.newest) / 1e6)
	}
	return nil
}

// next tells when something is due without a wake.
func (s *session) next() time.Time {
	at := s.conv.deadline()
	if s.leaves != nil && (at.IsZero() || s.leaves.at.Before(at)) {
		at = s.leaves.at
	}
	for _, t := range [...]time.Time{s.pingAt.time(), s.silentAt()} {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	return at
}

// arm sets the timer to that, or to the end of the hold.
func (s *session) arm() {
	at := s.at
	if !s.wrote.IsZero() {
		at = s.wrote.Add(s.conv.gather())
	}
	if at.IsZero() {
		s.timer.Stop()
		return
	}
	s.timer.Reset(max(time.Until(at), 0))
}
