package gateway

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/tapecast/tapecast/internal/rawio"
)

// poller is an epoll set of sockets of which each is told once when it has
// something to read, and then not before it is armed again. The set itself is a
// file of the runtime's own poller: who waits for it holds no thread.
type poller struct {
	// static after construction
	file *os.File
	raw  syscall.RawConn
	fd   int // file's; close comes after all other calls

	events [128]syscall.EpollEvent // owned by who waits
}

const epollOnce = 1 << 30 // EPOLLONESHOT; package syscall has no name for it

func newPoller() (*poller, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll set: %w", err)
	}
	p := &poller{fd: fd}
	if err = syscall.SetNonblock(fd, true); err != nil { // os.NewFile asks for it
		_ = syscall.Close(fd)
		return nil, fmt.Errorf("make an epoll set: %w", err)
	}
	p.file = os.NewFile(uintptr(fd), "epoll") //nolint:gosec // a descriptor
	if p.raw, err = p.file.SyscallConn(); err == nil {
		err = p.file.SetReadDeadline(time.Time{}) // not supported where the runtime does not poll it
	}
	if err != nil {
		_ = p.file.Close()
		return nil, fmt.Errorf("watch an epoll set: %w", err)
	}
	return p, nil
}

// add puts a socket into the set, not armed. token comes back with its events.
// Linux tells of errors and hang-ups whatever was asked, and would again and again
// until somebody reads: so they too are told once. Nobody has to note that: arm
// looks afresh, and tells what there is by then.
func (p *poller) add(raw syscall.RawConn, token uint64) error {
	return p.control(raw, syscall.EPOLL_CTL_ADD, epollOnce, token)
}

// arm has a socket told once, at once if there is something already.
func (p *poller) arm(raw syscall.RawConn, token uint64) error {
	return p.control(raw, syscall.EPOLL_CTL_MOD, syscall.EPOLLIN|syscall.EPOLLRDHUP|epollOnce, token)
}

// remove takes a socket out. It comes before the socket is closed.
func (p *poller) remove(raw syscall.RawConn) {
	_ = p.control(raw, syscall.EPOLL_CTL_DEL, 0, 0) // a closed one is out already
}

func (p *poller) control(raw syscall.RawConn, op int, events uint32, token uint64) error {
	e := syscall.EpollEvent{Events: events, Fd: int32(token), Pad: int32(token >> 32)} //nolint:gosec // two halves
	var cerr error
	if err := raw.Control(func(fd uintptr) { cerr = syscall.EpollCtl(p.fd, op, int(fd), &e) }); err != nil { //nolint:gosec // a descriptor
		return err
	}
	return cerr
}

// wait waits for sockets that have something to read, and appends their tokens.
func (p *poller) wait(tokens []uint64) ([]uint64, error) {
	n := 0
	var werr error
	err := p.raw.Read(func(fd uintptr) bool {
		n, werr = syscall.EpollWait(int(fd), p.events[:], 0) //nolint:gosec // a descriptor
		if werr == syscall.EINTR {
			n, werr = 0, nil
		}
		return n != 0 || werr != nil
	})
	if err == nil {
		err = werr
	}
	for i := range max(n, 0) {
		e := &p.events[i]
		tokens = append(tokens, uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32) //nolint:gosec // two halves
	}
	return tokens, err
}

// stop has wait return with an error.
func (p *poller) stop() { _ = p.file.SetReadDeadline(time.Unix(1, 0)) }

func (p *poller) close() { _ = p.file.Close() }

// glance is a read that does not wait. It is used again and again, by one
// goroutine at a time.
type glance struct {
	p   []byte
	n   int
	err error
	fn  func(fd uintptr) bool
}

func (g *glance) init() {
	g.fn = func(fd uintptr) bool {
		g.n, g.err = rawio.Read(fd, g.p)
		return true
	}
}

// read reads what there is now; errNotNow = nothing.
func (g *glance) read(raw syscall.RawConn, p []byte) (int, error) {
	g.p, g.n, g.err = p, 0, nil
	err := raw.Read(g.fn)
	g.p = nil
	switch {
	case err != nil:
		return 0, err
	case errors.Is(g.err, syscall.EAGAIN):
		return 0, errNotNow
	case g.err != nil:
		return 0, g.err
	case g.n == 0:
		return 0, io.EOF
	}
	return g.n, nil
}
