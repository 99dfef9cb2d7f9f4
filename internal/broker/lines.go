package broker

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"

	"github.com/tapecast/tapecast/internal/rawio"
)

// lines are this client's own connections to brokers: what carries records goes
// through them. A request is written and its answer read by who asks, so that the
// network wakes that goroutine and no other; kafka-go's connections, which have a
// goroutine each, carry everything else.
//
// A line carries one request at a time, and lies idle in between. Guards: each
// request has a deadline, its answer a limit in bytes; a line is closed at the first
// thing that is not as it should be, and the idle ones to the same address with it,
// because a broker that has gone has left all of them. Nothing is sent a second time.
type lines struct {
	// static
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	tls    *tls.Config
	sasl   sasl.Mechanism
	client string // the client id

	mu    sync.Mutex
	addrs map[int32]string   // guarded by mu; brokers, as last told by any of them
	idle  map[string][]*line // guarded by mu; by address, the one that was used last at the end
	age   int                // guarded by mu; counts closeIdle
}

const (
	// dialWithin bounds connecting, TLS and the login together.
	dialWithin = 5 * time.Second
	// lineIdle is how long a line may lie idle.
	lineIdle = 60 * time.Second
	// lineBuffer is what is read at once: most answers are smaller.
	lineBuffer = 16 << 10
)

// line is one connection. Not safe for concurrent use.
type line struct {
	net.Conn
	in   *bufio.Reader
	addr string
	age  int
	used time.Time // when it was last given back
	ends time.Time // when the broker's trust in the login ends; zero = never
}

// Read implements io.Reader.
func (l *line) Read(b []byte) (int, error) { return l.in.Read(b) }

// know learns the brokers' addresses. Whoever is not among them is no broker, and
// its idle lines are closed, as are those that have been idle for long.
func (s *lines) know(brokers map[int32]string) {
	if len(brokers) == 0 {
		return
	}
	for _, old := range s.learn(brokers, time.Now()) {
		_ = old.Close()
	}
}

// some returns n brokers at random, each as often as any other; those that are
// known again and again where they are fewer, and anyBroker where none is.
func (s *lines) some(n int) []int32 {
	s.mu.Lock()
	ids := slices.Collect(maps.Keys(s.addrs))
	s.mu.Unlock()
	if len(ids) == 0 {
		ids = []int32{anyBroker}
	}
	rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	return slices.Repeat(ids, (n+len(ids)-1)/len(ids))[:n]
}

// learn returns what is to be closed.
func (s *lines) learn(brokers map[int32]string, now time.Time) (old []*line) {
	here := make(map[string]bool, len(brokers))
	for _, addr := range brokers {
		here[addr] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addrs = brokers
	for addr, have := range s.idle {
		n := len(have)
		if here[addr] {
			n = aged(have, now)
		}
		old = append(old, have[:n]...)
		if have = slices.Delete(have, 0, n); len(have) == 0 {
			delete(s.idle, addr)
		} else {
			s.idle[addr] = have
		}
	}
	return old
}

// aged tells how many idle lines, from the one that was used longest ago on, are not good any more.
func aged(have []*line, now time.Time) (n int) {
	for n < len(have) && !have[n].good(now) {
		n++
	}
	return n
}

// roundTrip sends a request to a broker and reads its answer, which has to be
// there within wait. On success x.buf holds it.
func (s *lines) roundTrip(ctx context.Context, to int32, x *exchange, wait time.Duration) error {
	l, err := s.take(ctx, to)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(wait)
	hasty, ok := ctx.Deadline()
	if ok = ok && hasty.Before(deadline); ok {
		deadline = hasty
	}
	if err := l.exchange(ctx, x, deadline); err != nil {
		_ = l.Close()
		if late := errors.Is(err, context.DeadlineExceeded); ctx.Err() == nil && (!ok || !late) { // else it was the caller, not the broker
			s.drop(l.addr)
		}
		return fmt.Errorf("ask broker %d at %s: %w", to, l.addr, err)
	}
	s.give(ctx, l)
	return nil
}

// exchange is one request on a line. After an error the line is to be closed.
func (l *line) exchange(ctx context.Context, x *exchange, deadline time.Time) error {
	if err := l.SetDeadline(deadline); err != nil {
		return err
	}
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() { _ = l.Close() })
		defer stop()
	}
	_, err := x.RawExchange(l)
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
	case err != nil:
		return err
	case l.in.Buffered() > 0:
		return fmt.Errorf("%d bytes behind kafka's answer", l.in.Buffered())
	}
	return nil
}

// take returns an idle line to a broker, or a new one.
func (s *lines) take(ctx context.Context, to int32) (*line, error) {
	for {
		l, addr, age := s.pop(to)
		switch {
		case addr == "":
			return nil, fmt.Errorf("broker %d has no address: %w", to, kafka.BrokerNotAvailable)
		case l == nil:
			return s.connect(ctx, addr, age)
		case l.good(time.Now()):
			return l, nil
		}
		_ = l.Close()
	}
}

func (s *lines) pop(to int32) (l *line, addr string, age int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	addr = s.addrs[to]
	if n := len(s.idle[addr]); n > 0 {
		l = s.idle[addr][n-1]
		s.idle[addr][n-1] = nil
		s.idle[addr] = s.idle[addr][:n-1]
	}
	return l, addr, s.age
}

// good tells whether an idle line may still be used.
func (l *line) good(now time.Time) bool {
	return now.Sub(l.used) < lineIdle && (l.ends.IsZero() || now.Before(l.ends))
}

// give puts a line back, and closes those that have been idle for long. The
// context that has ended has closed it, or is about to.
func (s *lines) give(ctx context.Context, l *line) {
	l.used = time.Now()
	for _, old := range s.push(l, ctx.Err() == nil) {
		_ = old.Close()
	}
}

// push returns what is to be closed.
func (s *lines) push(l *line, open bool) (old []*line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !open || l.age != s.age {
		return []*line{l}
	}
	s.idle[l.addr] = append(s.idle[l.addr], l)
	have := s.idle[l.addr]
	n := aged(have, l.used)
	old = slices.Clone(have[:n])
	s.idle[l.addr] = slices.Delete(have, 0, n)
	return old
}

// drop closes the idle lines to an address.
func (s *lines) drop(addr string) {
	s.mu.Lock()
	old := s.idle[addr]
	delete(s.idle, addr)
	s.mu.Unlock()
	for _, l := range old {
		_ = l.Close()
	}
}

// closeIdle closes the idle lines, and those in use when they are given back.
func (s *lines) closeIdle() {
	s.mu.Lock()
	old := s.idle
	s.idle = map[string][]*line{}
	s.age++
	s.mu.Unlock()
	for _, ls := range old {
		for _, l := range ls {
			_ = l.Close()
		}
	}
}

// connect makes a line: dialled, encrypted and logged in as the settings say.
func (s *lines) connect(ctx context.Context, addr string, age int) (*line, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	conn, err := s.dial(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("dial kafka at %s: %w", addr, err)
	}
	conn = rawio.Conn(conn)
	if s.tls != nil {
		conn = tls.Client(conn, s.tlsFor(addr))
	}
	l := &line{Conn: conn, in: bufio.NewReaderSize(conn, lineBuffer), addr: addr, age: age}
	if err := s.greet(ctx, l); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("log in to kafka at %s: %w", addr, err)
	}
	return l, nil
}

// tlsFor checks a broker by the name it was dialled by.
func (s *lines) tlsFor(addr string) *tls.Config {
	if s.tls.ServerName != "" {
		return s.tls
	}
	c := s.tls.Clone()
	c.ServerName, _, _ = net.SplitHostPort(addr) // it was made by JoinHostPort
	return c
}
