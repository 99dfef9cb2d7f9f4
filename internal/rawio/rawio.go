//go:build unix

package rawio

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// most is how many bytes one call moves.
const most = 64 << 10

// Conn returns a connection that reads and writes a TCP connection's socket by
// this package; others come back as they are. It waits where the runtime waits,
// and keeps deadlines.
func Conn(c net.Conn) net.Conn {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return c
	}
	return &conn{TCPConn: tcp, raw: raw}
}

// TCP returns the TCP connection under one of Conn, or under none.
func TCP(c net.Conn) (tcp *net.TCPConn, ok bool) {
	if c, ok := c.(*conn); ok {
		return c.TCPConn, true
	}
	tcp, ok = c.(*net.TCPConn)
	return tcp, ok
}

type conn struct {
	*net.TCPConn
	raw syscall.RawConn
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (n int, err error) {
	werr := c.raw.Read(func(fd uintptr) bool {
		n, err = Read(fd, p)
		return !errors.Is(err, syscall.EAGAIN)
	})
	switch {
	case werr != nil: // its deadline, or it is closed
		return 0, werr
	case err != nil:
		return 0, c.failed("read", err)
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (n int, err error) {
	werr := c.raw.Write(func(fd uintptr) bool {
		for err = nil; n < len(p) && err == nil; {
			var m int
			m, err = Write(fd, p[n:min(len(p), n+most)])
			n += m
		}
		return !errors.Is(err, syscall.EAGAIN)
	})
	switch {
	case werr != nil:
		return n, werr
	case err != nil:
		return n, c.failed("write", err)
	}
	return n, nil
}

// failed is an error as package net makes it.
func (c *conn) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError(op, err)}
}

// Read is read(2) on a descriptor that does not block. n=0 without an error is
// the end, unless p is empty.
func Read(fd uintptr, p []byte) (n int, err error) {
	for {
		if n, err = read(fd, p); !errors.Is(err, syscall.EINTR) {
			return max(n, 0), err
		}
	}
}

// Write is write(2) on a descriptor that does not block. It may take less than p.
func Write(fd uintptr, p []byte) (n int, err error) {
	for {
		if n, err = write(fd, p); !errors.Is(err, syscall.EINTR) {
			return max(n, 0), err
		}
	}
}
