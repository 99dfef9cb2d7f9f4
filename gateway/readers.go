package gateway

import (
	"container/list"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/internal/sabotage"
)

// readers read for plain sockets, on Linux, without a goroutine for each: a
// socket that has nothing to read is parked in an epoll set. When bytes come a
// worker takes it, reads the messages that are there with a parser, and parks
// it again. There is about one worker per core.
//
// A worker that has got half a message waits for the rest of it, and another
// one takes its place. At most maxLent wait so: then the one that has waited
// longest is closed.
//
// Who reads a socket is said by its holder: nobody (parked), or a worker or the
// queue (held). The one who sees the end of both session and reading ends it.
type readers struct {
	// static after construction
	group   *errgroup.Group // workers; waited for by stop
	poll    *poller
	terms   *terms
	width   int    // workers that do not wait
	cores   *cores // they share with the shards
	parsers sync.Pool
	sockets sync.WaitGroup // between join and forget

	work sync.Cond // of mu: there is something ready, or it is over

	mu      sync.Mutex
	ready   []*socket  // guarded by mu: to be read
	next    int        // guarded by mu: of ready
	workers int        // guarded by mu: those that do not wait for half a message
	lent    *list.List // guarded by mu: parsers that do, the longest first
	watched bool       // guarded by mu: watch runs, since the first socket joined
	slots   []slot     // guarded by mu: by the token's lower half
	free    []uint32   // guarded by mu: of slots
	failed  error      // guarded by mu: nobody watches any more
	over    bool       // guarded by mu
}

// slot is a socket's place in the set. Its descriptor's number says nothing:
// it may be another connection's by the time an event is looked at.
type slot struct {
	t     *socket
	turns uint32 // how many sockets had it: the token's upper half
}

const (
	parserBuffer = 4 << 10
	readQuantum  = 32 // messages of one socket before it goes behind the others
)

// Who has a socket's reading side.
const (
	held   int32 = iota // a worker, or the queue
	parked              // nobody: the poller may give it to the queue
	silent              // nobody: nothing is read any more
	ended               // the session has ended: who had it ends it
)

// newReaders starts workers, or tells why sockets cannot be parked here.
func newReaders(t *terms, all *cores) (*readers, error) {
	poll, err := newPoller()
	if err != nil {
		return nil, err
	}
	r := &readers{group: &errgroup.Group{}, poll: poll, terms: t, cores: all, width: runtime.GOMAXPROCS(0), lent: list.New()}
	r.work.L = &r.mu
	r.workers = r.width
	for range r.width {
		r.group.Go(r.run)
	}
	return r, nil
}

// stop ends the workers, when the last socket is out. No socket joins any more.
func (r *readers) stop() {
	r.sockets.Wait()
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
	r.work.Broadcast()
	r.poll.stop()
	_ = r.group.Wait() // workers return no errors
	r.poll.close()
}

// unwatch tells who comes to read in a goroutine of its own: watch has ended, by
// stop or because the poller failed.
func (r *readers) unwatch(err error) {
	r.mu.Lock()
	r.failed = err
	r.mu.Unlock()
}

// watch gives the sockets that have something to read to the workers.
func (r *readers) watch() error {
	var tokens []uint64
	for {
		var err error
		if tokens, err = r.poll.wait(tokens[:0]); err != nil {
			r.unwatch(err)
			return nil
		}
		r.mu.Lock()
		n := len(r.ready)
		for _, token := range tokens {
			s := &r.slots[uint32(token)]
			if s.t != nil && s.turns == uint32(token>>32) && s.t.holder.CompareAndSwap(parked, held) {
				r.ready = append(r.ready, s.t)
			}
		}
		n = len(r.ready) - n
		r.mu.Unlock()
		for range min(n, r.width) {
			r.work.Signal()
		}
	}
}

// push has a socket read that its caller holds. It never waits.
func (r *readers) push(t *socket) {
	r.mu.Lock()
	r.ready = append(r.ready, t)
	r.mu.Unlock()
	r.work.Signal()
}

// pull waits for a socket to read. nil: no more, or there are workers enough.
func (r *readers) pull(w *worker) *socket {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.next == len(r.ready) && !r.over && r.workers <= r.width {
		w.rest()
		r.work.Wait()
	}
	if r.over || r.workers > r.width {
		r.workers--
		return nil
	}
	t := r.ready[r.next]
	r.ready[r.next] = nil
	if r.next++; r.next == len(r.ready) {
		r.ready, r.next = r.ready[:0], 0
	}
	return t
}

// worker is one that reads. It is owned by its goroutine.
type worker struct {
	cores *cores
	has   bool      // one of them
	since time.Time // when it got it
}

// begin waits for a core, and gives one back that it has had for a moment: what
// thousands say at once is not to be in the way of those who are live.
func (w *worker) begin() {
	if w.has && time.Since(w.since) > lookEach {
		w.rest()
		runtime.Gosched()
	}
	if !w.has {
		w.cores.most <- struct{}{}
		w.has, w.since = true, time.Now()
	}
}

// rest gives the core back.
func (w *worker) rest() {
	if w.has {
		<-w.cores.most
		w.has = false
	}
}

// run is a worker. It has the form that an errgroup starts.
func (r *readers) run() error {
	w := &worker{cores: r.cores}
	defer w.rest()
	for t := r.pull(w); t != nil; t = r.pull(w) {
		w.begin()
		p := t.parser
		if t.parser = nil; p == nil {
			p = r.parser(t)
		}
		p.worker = w
		if !t.sess.contain(func() { r.serve(t, p) }) {
			r.leave(t, p, panicEnding)
		}
	}
	return nil
}

// serve reads the messages that are there.
func (r *readers) serve(t *socket, p *parser) {
	for range readQuantum {
		if t.holder.Load() == ended {
			r.leave(t, p, nil)
			return
		}
		err := p.any()
		if err == errNotNow { //nolint:errorlint // it comes as it is
			r.park(t, p)
			return
		}
		if err != nil {
			r.leave(t, p, readEnding(err))
			return
		}
		in, some := t.read(p)
		r.unlend(p)
		if in.end != nil {
			r.leave(t, p, in.end)
			return
		}
		if some && t.sess.put(in) && r.suspend(t, p) {
			return
		}
	}
	t.parser = p
	r.push(t)
}

// parser takes a parser for a socket.
func (r *readers) parser(t *socket) *parser {
	p, _ := r.parsers.Get().(*parser)
	if p == nil {
		p = newParser(parserBuffer, r.terms.limit)
	}
	p.t = t
	return p
}

// park has nobody read until bytes come.
func (r *readers) park(t *socket, p *parser) {
	p.t = nil
	r.parsers.Put(p)
	if !t.holder.CompareAndSwap(held, parked) {
		r.leave(t, nil, nil)
		return
	}
	if err := r.poll.arm(t.raw, t.token); err != nil && t.holder.CompareAndSwap(parked, held) {
		r.leave(t, nil, goneEnding)
	}
}

// suspend has nobody read until the session's loop has taken what it has.
// false: it has already.
func (r *readers) suspend(t *socket, p *parser) bool {
	if !sabotage.Is(sabotage.ReaderDrop) {
		t.parser = p
	}
	if t.sess.whenRoom(func() { r.push(t) }) {
		return true // it is somebody else's from here on
	}
	t.parser = nil
	return false
}

// leave ends the reading of a socket that its caller holds: for a reason, or
// because the session has ended.
func (r *readers) leave(t *socket, p *parser, e *ending) {
	if p != nil {
		r.unlend(p)
	}
	t.goodbye = e.byClient()
	if t.holder.CompareAndSwap(held, silent) {
		if e != nil {
			t.sess.put(input{end: e})
		}
		return
	}
	r.group.Go(func() error {
		t.finish()
		return nil
	})
}

// quit tells that the session has ended, and does what is left to do, unless a
// worker does it.
func (r *readers) quit(t *socket) {
	if t.holder.Swap(ended) != held {
		t.finish()
	}
}

// join gives a socket its place in the set. It is held by the caller.
func (r *readers) join(t *socket) error {
	r.mu.Lock()
	if r.failed != nil {
		defer r.mu.Unlock()
		return r.failed
	}
	r.sockets.Add(1)
	if !r.watched { // where there is no plain socket nobody waits for the kernel
		r.watched = true
		r.group.Go(r.watch)
	}
	if len(r.free) == 0 {
		r.free = append(r.free, uint32(len(r.slots))) //nolint:gosec // as many as there are sockets
		r.slots = append(r.slots, slot{})
	}
	i := r.free[len(r.free)-1]
	r.free = r.free[:len(r.free)-1]
	s := &r.slots[i]
	s.t = t
	s.turns++
	t.token = uint64(i) | uint64(s.turns)<<32
	r.mu.Unlock()
	t.heard()
	t.readers = r
	err := r.poll.add(t.raw, t.token)
	if err != nil {
		r.forget(t)
		t.readers = nil
	}
	return err
}

// forget takes a socket out. It comes before the socket is closed.
func (r *readers) forget(t *socket) {
	defer r.sockets.Done()
	r.poll.remove(t.raw)
	i := uint32(t.token) //nolint:gosec // its lower half
	r.mu.Lock()
	defer r.mu.Unlock()
	r.slots[i].t = nil
	r.free = append(r.free, i)
}

// lend lets the caller wait for the rest of a message: another worker takes
// its place. If too many wait, the one that has waited longest is given up.
func (r *readers) lend(p *parser) {
	if p.lent != nil {
		return
	}
	p.worker.rest() // it is going to wait
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lent.Len() >= r.terms.lent {
		first := r.lent.Front()
		longest := r.lent.Remove(first).(*parser) //nolint:forcetypeassert // only parsers are in
		longest.cut.Store(true)
		_ = longest.t.conn.SetReadDeadline(time.Unix(1, 0))
	}
	p.lent = r.lent.PushBack(p)
	if r.workers--; r.workers < r.width && !r.over {
		r.workers++
		r.group.Go(r.run)
	}
}

// unlend takes the caller back among the workers.
func (r *readers) unlend(p *parser) {
	if p.lent == nil {
		return
	}
	r.mu.Lock()
	r.lent.Remove(p.lent) // nothing, if it was cut
	r.workers++
	r.mu.Unlock()
	p.lent = nil
	p.cut.Store(false)
	_ = p.t.conn.SetReadDeadline(time.Time{})
}

// silentAt is when a session counts as gone whose socket is parked; zero = never,
// or somebody else looks.
func (s *session) silentAt() time.Time {
	if s.socket == nil || s.socket.readers == nil || s.socket.holder.Load() != parked {
		return time.Time{}
	}
	at := s.socket.silentAt()
	if at == 0 {
		return time.Time{}
	}
	return s.socket.terms.start.Add(at)
}
