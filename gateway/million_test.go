//go:build unix

package gateway

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// memoryConn is a connection without a descriptor of its own: what is written
// goes to /dev/null by a real call, and is counted.
type memoryConn struct {
	net.Conn
	writes *atomic.Int64
	null   uintptr
}

func (c *memoryConn) RemoteAddr() net.Addr             { return pipeAddr{} }
func (c *memoryConn) Close() error                     { return nil }
func (c *memoryConn) SetReadDeadline(time.Time) error  { return nil }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }
func (c *memoryConn) Read([]byte) (int, error)         { return 0, net.ErrClosed }
func (c *memoryConn) Write(p []byte) (int, error)      { return len(p), nil }
func (c *memoryConn) Control(f func(uintptr)) error    { f(c.null); return nil }
func (c *memoryConn) RawRead(func(uintptr) bool) error { return net.ErrClosed }

// memoryRaw is its syscall.RawConn.
type memoryRaw struct{ *memoryConn }

func (r memoryRaw) Read(f func(uintptr) bool) error { return r.RawRead(f) }
func (r memoryRaw) Write(f func(uintptr) bool) error {
	r.writes.Add(1)
	f(r.null)
	return nil
}

var _ syscall.RawConn = memoryRaw{}

// BenchmarkSessionsInMemory opens SESSIONS (100,000) sessions on one gateway,
// each subscribed to one topic, and sends messages to all of them:
//
//	SESSIONS=1000000 go test -run '^$' -bench SessionsInMemory -benchtime 5x ./gateway
//
// It tells the memory of a session, the time that it takes to subscribe all,
// and the processor's time for one message to all. The connections are in
// memory and the feed is the tests': kernel, net package and tapes are not in it.
func BenchmarkSessionsInMemory(b *testing.B) {
	n := 100_000
	if v, err := strconv.Atoi(os.Getenv("SESSIONS")); err == nil {
		n = v
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	require.NoError(b, err)
	defer null.Close()
	r := newRig(b, false, func(o *Options) { o.MaxSessions, o.Heartbeat, o.Ping, o.portable = n, time.Hour, time.Hour, true })
	r.feed.add("price", 1)
	var writes atomic.Int64
	conn := &memoryConn{writes: &writes, null: null.Fd()}
	before, beforeRSS := resident()
	began := time.Now()
	for range n {
		own := *conn
		t := &socket{conn: &own, raw: memoryRaw{&own}, terms: r.service.terms}
		sess := newSession(r.service.rules, textWire{}, t, r.service.o.Logger)
		t.sess, sess.socket = sess, t
		require.True(b, r.service.start(sess, "ws", func() {}))
		sess.put(input{text: []byte(`{"cmd":"sub","id":1,"topic":"price"}`)})
	}
	for writes.Load() < int64(n) { // acks
		time.Sleep(time.Millisecond)
	}
	subscribed := time.Since(began)
	after, afterRSS := resident()
	var cpu time.Duration
	writes.Store(0)
	for i := range b.N {
		from := processorTime()
		r.feed.produce("price", 0, "", strconv.Itoa(i))
		for writes.Load() < int64(n)*int64(i+1) {
			time.Sleep(time.Millisecond)
		}
		cpu += processorTime() - from
	}
	b.ReportMetric(float64(after-before)/float64(n), "B/session")
	b.ReportMetric(float64(afterRSS-beforeRSS)/float64(n), "RSS-B/session")
	b.ReportMetric(subscribed.Seconds(), "s-to-subscribe-all")
	b.ReportMetric(cpu.Seconds()/float64(b.N), "CPU-s/message")
	b.ReportMetric(float64(n), "sessions")
	for _, sess := range r.service.open() {
		sess.cut()
	}
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	for r.feed.holds() > 0 && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
}

// resident is what the heap and the stacks take after a collection, and what
// the process does as the system sees it (0 where /proc does not say).
func resident() (used, rss int64) {
	for range 3 {
		debug.FreeOSMemory()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		var size, pages int64
		if _, err = fmt.Sscan(string(b), &size, &pages); err == nil {
			rss = pages * int64(os.Getpagesize())
		}
	}
	return int64(m.HeapInuse + m.StackInuse), rss //nolint:gosec // far below
}

func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
