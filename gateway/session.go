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

// input is what a session's reader hands to its loop: one of these.
type input struct {
	cmd *protocol.Command
	err *protocol.Error
	raw []byte // a WebSocket control frame to send
	end *ending
}

// inboxSize is how many inputs wait for the loop; a reader that is ahead waits.
const inboxSize = 4

// session runs one conversation over one transport. Its loop owns the
// conversation and all writing; everything else reaches it by channels.
type session struct {
	// static after construction
	conv   *conversation
	out    transport
	log    *slog.Logger
	hold   time.Duration        // between two writes of events
	ping   time.Duration        // 0 = none
	wait   time.Duration        // a drain's: clients come back spread over it
	spread func() time.Duration // a drain's: sessions are closed over it
	once   bool                 // ends with its last subscription (the HTTP twin)

	inbox   chan input    // reader to loop; never closed
	results chan func()   // tasks to loop; room for all that run; never closed
	woken   chan struct{} // feed to loop; holds one; never closed
	over    chan struct{} // closed when the loop has ended
	closed  chan struct{} // closed when the transport was told to close

	tasks errgroup.Group // waited for by run

	// owned by loop
	ctx      context.Context // ends with the session; tasks run under it
	block    block           // what leaves in the next write; empty between writes
	holdTill time.Time
	taken    bool // a command came
	pingAt   time.Time
	closeAt  time.Time // set by a drain
}

func newSession(r *rules, w wire, out transport, log *slog.Logger) *session {
	s := &session{
		out: out, log: log, inbox: make(chan input, inboxSize), results: make(chan func(), maxTasks),
		woken: make(chan struct{}, 1), over: make(chan struct{}), closed: make(chan struct{}),
	}
	s.conv = &conversation{rules: r, wire: w, notify: s.wake, task: s.task}
	return s
}

// wake makes the loop look at its subscriptions. It never waits.
func (s *session) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// task runs beside the loop; what it returns runs in the loop.
func (s *session) task(run func(ctx context.Context) func()) {
	ctx := s.ctx
	s.tasks.Go(func() error {
		defer func() {
			if p := recover(); p != nil {
				s.results <- func() { panic(p) } // ends the session, and only that
			}
		}()
		s.results <- run(ctx)
		return nil
	})
}

// run runs the session until it ends; then its tasks have ended and its
// subscriptions are closed. A panic ends this session only.
func (s *session) run(ctx context.Context, drain <-chan struct{}) (e ending) {
	ctx, cancel := context.WithCancel(ctx)
	s.ctx = ctx
	e = s.guard(func() ending { return s.loop(ctx, drain) })
	close(s.over)
	cancel()
	s.endTasks()
	if !e.dead {
		s.out.hurry()
		s.guard(func() ending { s.goodbye(e); return ending{} })
	}
	s.out.close(e.code)
	close(s.closed)
	s.guard(func() ending { s.conv.closeAll(); return ending{} })
	s.conv.metrics.closes.of(e.reason).Inc()
	return e
}

// endTasks waits for the tasks and takes their results, which hold room.
func (s *session) endTasks() {
	s.conv.over = true
	_ = s.tasks.Wait() // tasks return no errors
	for {
		select {
		case fn := <-s.results:
			s.guard(func() ending { fn(); return ending{} })
		default:
			return
		}
	}
}

func (s *session) guard(fn func() ending) (e ending) {
	defer func() {
		if p := recover(); p != nil {
			s.conv.metrics.panics.Inc()
			s.log.Error("session panicked", slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
			e = panicEnding
		}
	}()
	return fn()
}

var panicEnding = ending{reason: "panic", code: protocol.CloseInternalErr, bye: string(protocol.CodeInternal), retry: true}

// goodbye writes what was answered but not sent yet, and the bye frame.
func (s *session) goodbye(e ending) {
	if e.bye != "" {
		s.conv.bye(e.bye, e.retry, e.wait)
	}
	for more := true; more; {
		b := &s.block
		b.release() // a panic may have left something
		more = s.conv.composeReplies(b)
		s.conv.wire.finish(b)
		err := s.send(b)
		b.release()
		if err != nil {
			return
		}
	}
}

// always is ready in a select: the loop has more to write.
var always = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// loop is the session's one loop: it takes what comes in, and writes what is due.
func (s *session) loop(ctx context.Context, drain <-chan struct{}) ending {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	if s.ping > 0 {
		s.pingAt = time.Now().Add(s.ping)
	}
	for {
		now := time.Now()
		if s.timeUp(now) {
			return ending{reason: "drain", code: protocol.CloseRestart, bye: string(protocol.CodeDraining), retry: true, wait: s.wait} // clients spread their return over the whole drain
		}
		more, err := s.flush(now)
		switch {
		case err != nil:
			return writeEnding(err)
		case s.conv.slow:
			return slowEnding
		case s.once && s.taken && len(s.conv.subs) == 0:
			return ending{reason: "end"}
		}
		s.arm(timer, now)
		var again <-chan struct{}
		if more {
			again = always
		}
		inbox := s.inbox
		if !s.conv.open() {
			inbox = nil // the client does not take its answers
		}
		select {
		case in := <-inbox:
			if in.end != nil {
				return *in.end
			}
			s.take(in)
		case fn := <-s.results:
			fn()
		case <-s.woken:
		case <-timer.C:
		case <-again:
		case <-drain:
			drain = nil
			s.closeAt = time.Now().Add(rand.N(s.spread() + 1)) //nolint:gosec // a spread, not a secret
		case <-ctx.Done():
			return ending{reason: "gone", dead: true}
		}
	}
}

var slowEnding = ending{reason: "slow", code: protocol.CloseSlow, bye: "slow", retry: true}

// errSlow ends a session whose socket takes less than its limit asks for.
var errSlow = errors.New("the client reads too slowly")

func writeEnding(err error) ending {
	if errors.Is(err, errSlow) {
		return ending{reason: "slow", dead: true}
	}
	return ending{reason: "write", dead: true}
}

func (s *session) take(in input) {
	s.taken = true
	switch {
	case in.err != nil:
		s.conv.fail(in.err)
	case in.raw != nil:
		s.conv.replyRaw(in.raw)
	default:
		s.conv.command(*in.cmd, time.Now())
	}
}

// timeUp tells whether a drain's moment for this session has come.
func (s *session) timeUp(now time.Time) bool { return !s.closeAt.IsZero() && !now.Before(s.closeAt) }

// flush writes once, if something is due. Events wait until a write's hold is
// over, so that under load many leave in one write; replies do not wait.
func (s *session) flush(now time.Time) (more bool, err error) {
	if s.ping > 0 && !now.Before(s.pingAt) {
		s.pingAt = now.Add(s.ping)
		s.conv.replyRaw(appendFrame(nil, opPing, nil))
	}
	b := &s.block
	defer b.release()
	if now.Before(s.holdTill) {
		more = s.conv.composeReplies(b)
		s.conv.wire.finish(b)
	} else {
		s.holdTill = time.Time{}
		more = s.conv.compose(b, now)
	}
	if err := s.send(b); err != nil {
		return false, err
	}
	if b.events > 0 && !more {
		s.holdTill = now.Add(s.hold)
	}
	return more, nil
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

// arm sets the timer to the next thing that is due without a wake.
func (s *session) arm(timer *time.Timer, now time.Time) {
	at := s.conv.deadline()
	for _, t := range []time.Time{s.closeAt, s.pingAt, s.holdTill} {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	if !at.IsZero() && at.Before(s.holdTill) {
		at = s.holdTill
	}
	if at.IsZero() {
		timer.Stop()
		return
	}
	timer.Reset(max(at.Sub(now), 0))
}
