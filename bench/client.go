package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

type counter struct{ atomic.Int64 }

func (c *counter) set(n int64) { c.Store(n) }
func (c *counter) get() int64  { return c.Load() }

type flagged struct{ atomic.Bool }

func (f *flagged) set(on bool) { f.Store(on) }
func (f *flagged) get() bool   { return f.Load() }

func sessionOf(r *http.Request) int {
	n, _ := strconv.Atoi(r.URL.Query().Get("session"))
	return n
}

// crowd is many clients on bare descriptors in one epoll set: they count marks
// and sample latencies, and are so light that the server is what is measured.
type crowd struct {
	epoll int
	mu    sync.Mutex
	kept  []net.Conn // TLS connections: they only stay open
	count []int64    // by session
	hist  map[int]int64
	total int64
}

var _ = command("client", clientMain)

// clientMain is a client process: sessions [from, to).
func clientMain(args []string) error {
	fs := flag.NewFlagSet("client", flag.ExitOnError)
	kind := fs.String("kind", "tapecast", "")
	name := fs.String("work", "S1", "")
	addr := fs.String("addr", "", "")
	from := fs.Int("from", 0, "")
	to := fs.Int("to", 0, "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	w, err := workNamed(*name)
	if err != nil {
		return err
	}
	ep, err := syscall.EpollCreate1(0)
	if err != nil {
		return err
	}
	c := &crowd{epoll: ep, count: make([]int64, w.Subs), hist: map[int]int64{}}
	if err := c.connect(*kind, *addr, w, *from, *to); err != nil {
		return err
	}
	go c.read()
	if err := json.NewEncoder(os.Stdout).Encode(usage{}); err != nil {
		return err
	}
	return obey(func(line string, u *usage) error {
		c.tellInto(u, *from, *to, w.Stalled)
		if line == "start" {
			c.forget()
		}
		return nil
	})
}

// tellInto fills in what sessions [from, to) have counted; the stalled ones count for nothing.
func (c *crowd) tellInto(u *usage, from, to, stalled int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u.Count, u.Hist, u.Min = c.total, maps.Clone(c.hist), 1<<62
	for i := from; i < to; i++ {
		if i >= stalled {
			u.Min, u.Max = min(u.Min, c.count[i]), max(u.Max, c.count[i])
		}
	}
}

// forget begins the latencies anew.
func (c *crowd) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hist = map[int]int64{}
}

// connect opens the sessions, a few at a time.
func (c *crowd) connect(kind, addr string, w work, from, to int) error {
	const atOnce = 32
	jobs, errs := make(chan int), make(chan error, atOnce)
	for range atOnce {
		go func() {
			for i := range jobs {
				if w.TLS {
					if err := c.keep(kind, addr, w, i); err != nil {
						errs <- fmt.Errorf("session %d: %w", i, err)
						return
					}
					continue
				}
				fd, err := dial(kind, addr, w, i)
				if err == nil && i >= w.Stalled {
					ev := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd), Pad: int32(i)}
					err = syscall.EpollCtl(c.epoll, syscall.EPOLL_CTL_ADD, fd, &ev)
				}
				if err != nil {
					errs <- fmt.Errorf("session %d: %w", i, err)
					return
				}
			}
			errs <- nil
		}()
	}
	go func() {
		for i := from; i < to; i++ {
			jobs <- i
		}
		close(jobs)
	}()
	for range atOnce {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

// keep opens one session over TLS.
func (c *crowd) keep(kind, addr string, w work, session int) error {
	conn, err := dialTLS(addr)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.kept = append(c.kept, conn)
	c.mu.Unlock()
	return talk(conn, kind, addr, w, session)
}

// dial opens one session; a server that refuses at first, because it is not
// ready, is asked again for a while.
func dial(kind, addr string, w work, session int) (fd int, err error) {
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if fd, err = dialOnce(kind, addr, w, session); err == nil || time.Since(began) > 15*time.Second {
			return fd, err
		}
	}
}

// dialOnce opens one session: handshake, commands, and what they are answered.
func dialOnce(kind, addr string, w work, session int) (int, error) {
	var port int
	if _, err := fmt.Sscanf(addr, "127.0.0.1:%d", &port); err != nil {
		return 0, fmt.Errorf("address %q: %w", addr, err)
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if err := enter(fd, kind, addr, port, w, session); err != nil {
		_ = syscall.Close(fd)
		return 0, err
	}
	return fd, syscall.SetNonblock(fd, true)
}

// enter connects a descriptor and talks.
func enter(fd int, kind, addr string, port int, w work, session int) error {
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	tv := syscall.Timeval{Sec: 120}
	_ = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &tv)
	return talk(descriptor(fd), kind, addr, w, session)
}

// descriptor is a socket as it is.
type descriptor int

// Read implements io.Reader.
func (d descriptor) Read(p []byte) (n int, err error) {
	for {
		switch n, err = syscall.Read(int(d), p); {
		case err == syscall.EINTR:
		case err == nil && n <= 0:
			return 0, io.EOF
		default:
			return n, err
		}
	}
}

// Write implements io.Writer.
func (d descriptor) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = syscall.Write(int(d), p[n:])
		n += max(m, 0)
	}
	return n, err
}

// talk shakes hands and says the commands.
func talk(conn io.ReadWriter, kind, addr string, w work, session int) error {
	path := map[string]string{"tapecast": "/ws", "resume": "/ws"}[kind]
	if path == "" {
		path = "/connection/websocket"
	}
	out := fmt.Appendf(nil, "GET %s?session=%d HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", path, session, addr)
	got, err := expect(conn, out, "\r\n\r\n")
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(got, []byte("HTTP/1.1 101 ")) {
		return fmt.Errorf("refused: %.100q", got)
	}
	if texts, until := commands(kind, w, session); texts != nil {
		out = out[:0]
		for _, t := range texts {
			out = clientFrame(out, t)
		}
		if _, err := expect(conn, out, until); err != nil {
			return err
		}
	}
	return nil
}

// expect sends and reads until a text has come; it returns all that came.
func expect(conn io.ReadWriter, send []byte, until string) ([]byte, error) {
	if _, err := conn.Write(send); err != nil {
		return nil, err
	}
	var got []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(got, []byte(until)) {
		n, err := conn.Read(buf)
		if n <= 0 || err != nil {
			return nil, fmt.Errorf("waits for %q, has %.300q: %w", until, got, err)
		}
		got = append(got, buf[:n]...)
	}
	return got, nil
}

func clientFrame(dst []byte, text string) []byte {
	dst = append(dst, 0x81)
	if len(text) < 126 {
		dst = append(dst, 0x80|byte(len(text)))
	} else {
		dst = binary.BigEndian.AppendUint16(append(dst, 0x80|126), uint16(len(text)))
	}
	return append(append(dst, 0, 0, 0, 0), text...) // the mask is 0
}

// nap is between two passes: a client that reads each segment by itself would
// cost the machine more than the server does.
const nap = time.Millisecond

func (c *crowd) read() {
	events := make([]syscall.EpollEvent, 1024)
	buf := make([]byte, 1<<20)
	for {
		n, err := syscall.EpollWait(c.epoll, events, 100)
		if err != nil && err != syscall.EINTR {
			return
		}
		for i := range max(n, 0) {
			c.readOne(int(events[i].Fd), int(events[i].Pad), buf)
		}
		time.Sleep(nap)
	}
}

func (c *crowd) readOne(fd, session int, buf []byte) {
	n, err := syscall.Read(fd, buf)
	if n <= 0 {
		if !errors.Is(err, syscall.EAGAIN) {
			_ = syscall.EpollCtl(c.epoll, syscall.EPOLL_CTL_DEL, fd, nil)
		}
		return
	}
	p := buf[:n]
	marks := int64(bytes.Count(p, []byte{mark}))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count[session] += marks
	c.total += marks
	// One sample a read, from anywhere in it.
	at := int(c.total*2654435761) % n
	if at < 0 {
		at += n
	}
	i := bytes.IndexByte(p[at:], mark)
	if i < 0 || at+i+17 > n {
		return
	}
	us, err := strconv.ParseInt(string(p[at+i+1:at+i+17]), 10, 64)
	if err == nil {
		c.hist[bucket(time.Now().UnixMicro()-us)] += max(marks, 1)
	}
}

// bucket of a latency: ms up to 100, then tens.
func bucket(us int64) int {
	ms := int(us / 1000)
	if ms < 100 {
		return max(ms, 0)
	}
	return ms / 10 * 10
}
