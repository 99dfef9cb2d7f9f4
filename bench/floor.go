package main

import (
	"bufio"
	"crypto/sha1" //nolint:gosec // the WebSocket handshake is made of it
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/tapecast/tapecast/internal/rawio"
)

// floor writes prebuilt frames to bare descriptors: what no server can go below.
type floor struct {
	w     work
	hold  time.Duration
	write func(fd uintptr, p []byte) (n int, err error)

	mu  sync.Mutex
	fds []int // by session
}

// newFloor writes as the gateway does: package syscall's call wakes the runtime's
// monitor, which no server has to pay for.
func newFloor(w work, hold time.Duration) *floor {
	return &floor{w: w, hold: hold, write: rawio.Write, fds: make([]int, w.Subs)}
}

// newPlain is the floor by package syscall: what a loop of writes takes that does
// not go past the runtime's scheduler.
func newPlain(w work, hold time.Duration) *floor {
	f := newFloor(w, hold)
	f.write = func(fd uintptr, p []byte) (int, error) { return syscall.Write(int(fd), p) } //nolint:gosec // a descriptor
	return f
}

func (f *floor) serve(ln net.Listener) error {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			if err := f.enter(conn.(*net.TCPConn)); err != nil {
				fmt.Println(err)
			}
		}()
	}
}

// enter shakes hands and keeps the bare descriptor.
func (f *floor) enter(conn *net.TCPConn) error {
	defer func() { _ = conn.Close() }() // the descriptor is a copy
	r, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return err
	}
	session, err := strconv.Atoi(r.URL.Query().Get("session"))
	if err != nil {
		return err
	}
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // as above
	if _, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:])); err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var fd int
	if cerr := raw.Control(func(p uintptr) { fd, err = syscall.Dup(int(p)) }); cerr != nil || err != nil {
		return fmt.Errorf("descriptor: %w", errors.Join(cerr, err))
	}
	f.mu.Lock()
	f.fds[session] = fd
	f.mu.Unlock()
	return nil
}

// body is an event as the gateway sends it.
func body(key, offset int, v []byte, now time.Time) []byte {
	body := append([]byte(`{"topic":"`), feedTopic...)
	body = append(body, '"')
	if key >= 0 {
		body = append(append(append(body, `,"key":"`...), keyName(key)...), '"')
	}
	body = append(append(body, `,"data":`...), v...)
	return append(body, fmt.Sprintf(`,"offset":%d,"ts":%d}`, offset, now.UnixMilli())...)
}

func frame(dst []byte, key, offset int, v []byte, now time.Time) []byte {
	body := body(key, offset, v, now)
	if len(body) < 126 {
		return append(append(dst, 0x81, byte(len(body))), body...)
	}
	dst = append(dst, 0x81, 126)
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(body))), body...)
}

// publish writes once a hold to everybody what came meanwhile.
func (f *floor) publish(w work, on func() bool, due func(int64)) {
	subsOf := make([][]int, max(w.Keys, 1))
	for i := range w.Subs {
		for _, k := range w.keysOf(i) {
			subsOf[k] = append(subsOf[k], i)
		}
	}
	var c *clock
	var shared, out []byte
	var frames [][]byte
	mine := make([][]int32, w.Subs)
	pause := max(f.hold, time.Millisecond)
	offset := 0
	for next := time.Now(); ; {
		next = next.Add(pause)
		if c != nil && c.next().After(next) {
			next = c.next() // before it there is nothing to write
		}
		if d := time.Until(next); d > 0 {
			time.Sleep(d)
		} else {
			next = time.Now()
		}
		if !on() {
			c = nil
			continue
		}
		if c == nil {
			c = newClock(w)
		}
		now := time.Now()
		shared, frames = shared[:0], frames[:0]
		for range c.owed(now) {
			k := c.key()
			at := c.at()
			start := len(shared)
			shared = frame(shared, k, offset, value(nil, w.Size, at), at)
			offset++
			if k >= 0 {
				frames = append(frames, shared[start:])
				frames[len(frames)-1] = append([]byte(nil), shared[start:]...)
				for _, s := range subsOf[k] {
					mine[s] = append(mine[s], int32(len(frames)-1))
				}
			}
		}
		due(c.due)
		for s, fd := range f.fds {
			p := shared
			if w.Keys > 0 {
				out = out[:0]
				for _, i := range mine[s] {
					out = append(out, frames[i]...)
				}
				mine[s], p = mine[s][:0], out
			}
			f.writeAll(fd, p)
		}
	}
}

// writeAll waits where it must: the floor's clients read.
func (f *floor) writeAll(fd int, p []byte) {
	for len(p) > 0 && fd > 0 {
		n, err := f.write(uintptr(fd), p)
		switch {
		case n > 0:
			p = p[n:]
		case err == syscall.EAGAIN:
			time.Sleep(50 * time.Microsecond)
		case err != nil:
			return
		}
	}
}
