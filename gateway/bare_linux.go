package gateway

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// bare is a TCP socket without package net and the runtime's poller, which take
// 0.9 kB for each: most sockets are parked in our own epoll set, and are read
// and written without waiting. The first time that somebody has to wait for it
// the runtime polls it again, for good.
type bare struct {
	peer netip.AddrPort // static

	mu   sync.Mutex
	fd   int      // guarded by mu; -1 = closed
	file *os.File // guarded by mu: owns fd; nil = nobody has waited yet
}

// takeOver makes a connection a bare one: its socket goes on, it itself is
// closed. With an error nothing has changed.
func takeOver(tcp *net.TCPConn) (conn net.Conn, raw syscall.RawConn, err error) {
	b := &bare{}
	if a, ok := tcp.RemoteAddr().(*net.TCPAddr); ok {
		b.peer = a.AddrPort()
	}
	under, err := tcp.SyscallConn()
	if err != nil {
		return nil, nil, fmt.Errorf("take over a socket: %w", err)
	}
	cerr := under.Control(func(fd uintptr) { b.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if cerr != nil {
		err = cerr
	}
	if err != nil {
		return nil, nil, fmt.Errorf("take over a socket: %w", err)
	}
	_ = tcp.Close() // the socket is b's, too
	return b, (*bareRaw)(b), nil
}

// waits returns the socket as one that can be waited for.
func (b *bare) waits() (*os.File, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.fd < 0:
		return nil, net.ErrClosed
	case b.file == nil:
		b.file = os.NewFile(uintptr(b.fd), "socket") //nolint:gosec // a descriptor
	}
	return b.file, nil
}

// Read implements net.Conn.
func (b *bare) Read(p []byte) (int, error) {
	f, err := b.waits()
	if err != nil {
		return 0, err
	}
	return f.Read(p)
}

// Write implements net.Conn.
func (b *bare) Write(p []byte) (int, error) {
	f, err := b.waits()
	if err != nil {
		return 0, err
	}
	return f.Write(p)
}

// Close implements net.Conn. Who waits gets an error.
func (b *bare) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	fd := b.fd
	b.fd = -1
	switch {
	case fd < 0:
		return net.ErrClosed
	case b.file != nil:
		return b.file.Close()
	}
	return unix.Close(fd)
}

// SetDeadline implements net.Conn.
func (b *bare) SetDeadline(t time.Time) error { return b.deadline(t, (*os.File).SetDeadline) }

// SetReadDeadline implements net.Conn.
func (b *bare) SetReadDeadline(t time.Time) error { return b.deadline(t, (*os.File).SetReadDeadline) }

// SetWriteDeadline implements net.Conn.
func (b *bare) SetWriteDeadline(t time.Time) error { return b.deadline(t, (*os.File).SetWriteDeadline) }

// deadline sets one. Where nobody has waited yet there is none to take away.
func (b *bare) deadline(t time.Time, set func(*os.File, time.Time) error) error {
	if t.IsZero() && !b.waited() {
		return nil
	}
	f, err := b.waits()
	if err != nil {
		return err
	}
	return set(f, t)
}

func (b *bare) waited() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.file != nil
}

// CloseWrite tells the client that nothing follows.
func (b *bare) CloseWrite() error {
	return b.call(func(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) })
}

// SetLinger is net.TCPConn's.
func (b *bare) SetLinger(sec int) error {
	return b.call(func(fd int) error {
		return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: int32(sec)}) //nolint:gosec // a small number
	})
}

// call makes a system call that does not wait.
func (b *bare) call(f func(fd int) error) (err error) {
	closed := (*bareRaw)(b).Control(func(fd uintptr) { err = f(int(fd)) }) //nolint:gosec // a descriptor
	return cmp.Or(closed, err)
}

// LocalAddr implements net.Conn. Nobody asks for it.
func (b *bare) LocalAddr() net.Addr { return nil }

// RemoteAddr implements net.Conn.
func (b *bare) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(b.peer) }

// SyscallConn implements syscall.Conn.
func (b *bare) SyscallConn() (syscall.RawConn, error) { return (*bareRaw)(b), nil }

// bareRaw is a bare socket's descriptor, as long as a function runs. No function
// may wait: Read and Write call theirs once, whatever it returns.
type bareRaw bare

// Control implements syscall.RawConn.
func (r *bareRaw) Control(f func(fd uintptr)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fd < 0 {
		return net.ErrClosed
	}
	f(uintptr(r.fd)) //nolint:gosec // a descriptor
	return nil
}

// Read implements syscall.RawConn.
func (r *bareRaw) Read(f func(fd uintptr) bool) error { return r.Write(f) }

// Write implements syscall.RawConn.
func (r *bareRaw) Write(f func(fd uintptr) bool) error {
	return r.Control(func(fd uintptr) { f(fd) })
}
