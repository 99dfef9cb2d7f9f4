package broker

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/internal/stream"
)

// Puller lets many readers share their fetches: one request to a leader asks
// for all partitions that are followed there, and comes back when one of them
// has something; what came is handed out right there. What it saves is
// requests, each of which costs more than the records of a millisecond,
// wake-ups, and long polls of partitions in which nothing happens. What it does
// not do is change what a read means: see Reader.Follow.
//
// Requests to one leader follow each other no faster than the pace says, on
// average, so that what comes within that time is read together; after a quiet
// time a burst of them may go at once, so that what comes alone is read at once.
// A request that is too early goes nevertheless and waits at the leader, if it is
// the only one: a pause here would be one more wake-up. Where there are several
// they pause here, and become one by it.
type Puller struct {
	// static after NewPuller
	client *Client
	pace   func() time.Duration // between two requests to one leader, on average
	burst  int
	served func()
	phase  time.Duration // when idle requests end, so that they begin again together
	ended  chan struct{} // closed when Run has ended

	mu      sync.Mutex
	group   *errgroup.Group       // guarded by mu; nil = not running
	runCtx  context.Context       // guarded by mu; Run's, for the loops it owns
	leaders map[int32]*pullLeader // guarded by mu
}

// Limits of a shared request.
const (
	// pullPartitions is how many partitions one request asks for.
	pullPartitions = 256
	// pullBytes is shared by the partitions of a request, of which each may
	// have pullShare at least.
	pullBytes = 16 << 20
	pullShare = 64 << 10
	// pullPatience is the part of its wait after which a read that others
	// share may end with nothing.
	pullPatience = 4
	// pullInline is the size of an answer up to which one goroutine serves all
	// its partitions: waking one for each costs more than that.
	pullInline = 256 << 10
	// pullRegroup is how long partitions in which nothing happened are given
	// to come back and share the next request.
	pullRegroup = 2 * time.Millisecond
	// pullEnough is what a request that waits for the pace's sake waits for at
	// most, bytes: with so much to read a request costs little.
	pullEnough = 64 << 10
)

// errPullerEnded says that Run has ended, or was never called.
var errPullerEnded = errors.New("the puller does not run")

// NewPuller makes a puller: pace is asked before each request, and burst of
// them may go without a pause. served is called when an answer was handed out,
// before the next request leaves: what its partitions gave rise to can be done
// together then. Run it.
func (c *Client) NewPuller(pace func() time.Duration, burst int, served func()) *Puller {
	return &Puller{
		client: c, pace: pace, burst: max(burst, 1), served: served, phase: rand.N(time.Second),
		ended: make(chan struct{}), leaders: map[int32]*pullLeader{},
	}
}

// NewReader is Client.NewReader for a reader whose Follow shares its fetches.
func (p *Puller) NewReader(topic string, id stream.TopicID, partition int32) *Reader {
	r := p.client.NewReader(topic, id, partition)
	r.puller = p
	return r
}

// Run sends the requests until ctx ends; readers that follow then fail. It may be
// called once.
func (p *Puller) Run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	p.mu.Lock()
	if p.runCtx != nil {
		p.mu.Unlock()
		return errors.New("the puller runs already")
	}
	p.group, p.runCtx = g, gctx
	for _, l := range p.leaders {
		p.group.Go(func() error { return l.loop(gctx) })
	}
	p.mu.Unlock()
	<-ctx.Done()
	p.mu.Lock()
	p.group = nil
	p.mu.Unlock()
	close(p.ended)
	return g.Wait()
}

// pull is one partition that is followed: queued, in flight, or being served.
type pull struct {
	ask    fetchAsk // owned by whoever has it: the queue, or the flight
	since  time.Time
	alone  bool // share no request: it was left with nothing although there is something
	reader *Reader
	take   func(Span) bool
	done   chan struct{} // closed at its end
	err    error         // set before done is closed; nil: take has had enough

	mu   sync.Mutex
	left bool // guarded by mu; the caller has gone
	busy bool // guarded by mu; the reader is in use
}

// errPlainly says that what comes is no everyday matter: it is read again the
// plain way, which knows what to do.
var errPlainly = errors.New("read it plainly")

// follow hands take one span after the other until it has had enough (nil), or
// until something comes up that Reader.Read has to settle.
func (p *Puller) follow(ctx context.Context, r *Reader, from int64, maxBytes int, maxWait time.Duration, take func(Span) bool) error {
	q, err := r.question(ctx, from, maxBytes, maxWait)
	if err != nil {
		return err
	}
	if q.version < fetchByID {
		return errPlainly // each answer has to be followed by a look at the topic's id
	}
	l, err := p.leader(q.leader)
	if err != nil {
		return err
	}
	w := &pull{ask: q, since: time.Now(), reader: r, take: take, done: make(chan struct{})}
	l.queue(w)
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		err = ctx.Err()
	case <-p.ended:
		err = errPullerEnded
	}
	l.leave(w)
	return err
}

// leader returns the queue of one broker.
func (p *Puller) leader(id int32) (*pullLeader, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.leaders[id]
	if l != nil {
		return l, nil
	}
	if p.runCtx != nil && p.group == nil {
		return nil, errPullerEnded
	}
	l = &pullLeader{puller: p, wake: make(chan struct{}, 1)}
	p.leaders[id] = l
	if p.group != nil {
		ctx := p.runCtx
		p.group.Go(func() error { return l.loop(ctx) })
	}
	return l, nil
}

// spawn runs f in Run's group.
func (p *Puller) spawn(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.group == nil {
		return false
	}
	p.group.Go(func() error { f(); return nil })
	return true
}

// pullLeader is what waits for one broker.
type pullLeader struct {
	puller *Puller
	wake   chan struct{} // cap 1

	mu      sync.Mutex
	waiting []*pull   // guarded by mu; who was answered last comes last
	due     time.Time // guarded by mu; the pace
	hold    time.Time // guarded by mu; no request leaves before that
	flights int       // guarded by mu; how many fly
}

func (l *pullLeader) queue(w *pull) {
	l.mu.Lock()
	l.waiting = append(l.waiting, w)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// leave takes a partition back, and waits while it is being served.
func (l *pullLeader) leave(w *pull) {
	w.mu.Lock()
	w.left = true
	busy := w.busy
	w.mu.Unlock()
	if busy {
		<-w.done
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.waiting, w); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
}

func (w *pull) gone() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.left
}

// enter takes the reader into use; false: the caller has gone.
func (w *pull) enter() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy = !w.left
	return w.busy
}

// exit is the end of enter; false: the caller has gone.
func (w *pull) exit() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy = false
	return !w.left
}

// end ends a pull that nobody has in use. Whoever waits goes on with err.
func (w *pull) end(err error) {
	w.err = err
	close(w.done)
}

// serve hands out what came for a partition. It returns true if the partition
// is to be asked for again.
func (w *pull) serve(out *fetchedOf) bool {
	if !w.enter() {
		out.give()
		return false
	}
	r, err := w.reader, out.err
	more := false
	if err == nil {
		r.release()
		r.answer, r.pinned = out.mem, true
		var span Span
		var need int
		span, need, err = r.walk(&out.fetched, w.ask.from, w.ask.maxBytes)
		switch {
		case err != nil:
		case need > 0:
			err = errPlainly
		default:
			more = w.take(span)
			w.ask.from, w.since, w.alone = max(w.ask.from, span.To), time.Now(), false
		}
		r.release()
	}
	if more && w.exit() {
		return true
	}
	w.end(err)
	return false
}

// loop sends what waits, at its pace.
func (l *pullLeader) loop(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.wake:
		}
		for ws, early := l.next(ctx, 0); len(ws) > 0; ws = l.take() {
			if !l.puller.spawn(func() { l.fly(ctx, ws, early) }) {
				return nil
			}
		}
	}
}

// fly sends one request after the other for whatever waits: who has served an
// answer asks again, so that nobody has to be woken for it.
func (l *pullLeader) fly(ctx context.Context, ws []*pull, early time.Duration) {
	l.fliers(1)
	defer l.fliers(-1)
	for len(ws) > 0 {
		l.ask(ctx, ws, early)
		ws, early = l.next(ctx, 1)
	}
}

// fliers counts those that fly.
func (l *pullLeader) fliers(more int) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flights += more
	return l.flights
}

// next cuts the next request off what waits, and says how much too early it is.
// own is 1 for who flies. None: nothing waits, or ctx has ended.
func (l *pullLeader) next(ctx context.Context, own int) (ws []*pull, early time.Duration) {
	if !l.any() {
		return nil, 0
	}
	early, hold := l.pace(time.Now())
	if hold > 0 || early > 0 && l.fliers(0) > own {
		if !sleep(ctx, max(early, hold)) {
			return nil, 0
		}
		early = 0
	}
	// Leaders count in ms. What is cut off here is made up for later.
	return l.take(), early.Round(time.Millisecond)
}

func (l *pullLeader) any() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting) > 0
}

// pace is how much too early a request is, by a token bucket, and how long it
// has to be held back here in any case.
func (l *pullLeader) pace(now time.Time) (early, hold time.Duration) {
	every := l.puller.pace()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.due.Before(now) {
		l.due = now
	}
	early = max(l.due.Sub(now)-time.Duration(l.puller.burst-1)*every, 0)
	l.due = l.due.Add(every)
	return early, l.hold.Sub(now)
}

// forgive makes good what a request was answered before its time.
func (l *pullLeader) forgive(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.due = l.due.Add(-d)
}

// take cuts the next request off what waits.
func (l *pullLeader) take() []*pull {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 {
		return nil
	}
	if i := slices.IndexFunc(l.waiting, func(w *pull) bool { return w.alone && !w.gone() }); i >= 0 {
		w := l.waiting[i]
		l.waiting = slices.Delete(l.waiting, i, i+1)
		return []*pull{w}
	}
	var ws []*pull
	rest := l.waiting[:0]
	for _, w := range l.waiting {
		switch {
		case w.gone():
		case len(ws) == 0, len(ws) < pullPartitions && w.ask.version == ws[0].ask.version:
			ws = append(ws, w)
		default: // another version is spoken for a moment, when a broker was replaced
			rest = append(rest, w)
		}
	}
	clear(l.waiting[len(rest):])
	l.waiting = rest
	return ws
}

// ask sends one request and hands its answer out. Partitions that it brings
// nothing go back to the queue, unless they have waited long enough. One that is
// too early is answered when that time is over, with whatever there is then.
func (l *pullLeader) ask(ctx context.Context, ws []*pull, early time.Duration) {
	sent := time.Now()
	wait, enough := early, pullEnough
	if early <= 0 {
		wait, enough = l.puller.untilNext(sent, ws), 1
	}
	outs, err := l.puller.client.fetchMany(ctx, ws, wait, enough)
	paused := early > 0
	if took := time.Since(sent); took < early {
		l.forgive(early - took)
		paused = false
	}
	if err != nil {
		for _, w := range ws {
			if w.enter() {
				w.end(err)
			}
		}
		return
	}
	now := time.Now()
	size, news := 0, false
	var again []*pull
	for i, w := range ws {
		out := &outs[i]
		size += len(out.records)
		switch empty := out.err == nil && len(out.records) == 0; {
		case !empty:
			news = true
			continue
		case len(ws) > 1 && out.stable > w.ask.from:
			w.alone = true
		case len(ws) > 1 && now.Sub(w.since) < w.ask.maxWait/pullPatience:
		default:
			continue
		}
		out.give()
		out.later = true
		again = append(again, w)
	}
	l.mu.Lock()
	if !news && !paused {
		l.hold = now.Add(pullRegroup)
	}
	l.mu.Unlock()
	for i, w := range ws {
		out := &outs[i]
		switch {
		case out.later:
		case size > pullInline && len(ws) > 1:
			if !l.puller.spawn(func() { l.serve(w, out) }) {
				l.serve(w, out)
			}
		case w.serve(out):
			again = append(again, w)
		}
	}
	l.puller.served()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, again...) // no need to wake anybody: see fly
}

// serve is pull.serve, and back into the queue.
func (l *pullLeader) serve(w *pull, out *fetchedOf) {
	again := w.serve(out)
	l.puller.served()
	if again {
		l.queue(w)
	}
}

// untilNext is how long a request waits for news: all that find none end at
// the same moments, and their partitions share a request from then on.
func (p *Puller) untilNext(now time.Time, ws []*pull) time.Duration {
	wait := ws[0].ask.maxWait
	for _, w := range ws {
		wait = min(wait, w.ask.maxWait)
	}
	if wait < 10*pullRegroup {
		return wait
	}
	left := wait - (time.Duration(now.UnixNano())+p.phase)%wait
	if left < wait/8 {
		left += wait
	}
	return left
}
