//go:build unix

package rawio_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/rawio"
)

// Everything here holds for package net's connections, and for those of rawio.
var kinds = map[string]func(net.Conn) net.Conn{
	"net":   func(c net.Conn) net.Conn { return c },
	"rawio": rawio.Conn,
}

func each(t *testing.T, f func(t *testing.T, c net.Conn, peer *net.TCPConn)) {
	for name, wrap := range kinds {
		t.Run(name, func(t *testing.T) {
			plain, peer := pair(t)
			c := wrap(plain)
			require.Equal(t, name == "rawio", c != net.Conn(plain))
			f(t, c, peer)
		})
	}
}

// pair returns both ends of a TCP connection.
func pair(t *testing.T) (a, b *net.TCPConn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = ln.Close() }()
	type accepted struct {
		c   net.Conn
		err error
	}
	got := make(chan accepted, 1)
	go func() {
		c, err := ln.Accept()
		got <- accepted{c, err}
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	other := <-got
	require.NoError(t, other.err)
	t.Cleanup(func() {
		_ = c.Close()
		_ = other.c.Close()
	})
	return c.(*net.TCPConn), other.c.(*net.TCPConn) //nolint:forcetypeassert // both are
}

func random(n int) []byte {
	b := make([]byte, n)
	chacha := rand.NewChaCha8([32]byte{1})
	_, _ = chacha.Read(b)
	return b
}

// A write is taken whole, however little the socket takes at a time, and is
// read in pieces of any size.
func TestBytesArriveAsTheyWereSent(t *testing.T) {
	each(t, func(t *testing.T, c net.Conn, peer *net.TCPConn) {
		sent := random(9 << 20) // more than the sockets hold
		echoed := make(chan error, 1)
		go func() {
			_, err := io.Copy(peer, peer)
			echoed <- errors.Join(err, peer.CloseWrite())
		}()
		written := make(chan error, 1)
		go func() {
			n, err := c.Write(sent)
			if n != len(sent) {
				err = errors.Join(err, io.ErrShortWrite)
			}
			written <- errors.Join(err, c.(interface{ CloseWrite() error }).CloseWrite()) //nolint:forcetypeassert // both can
		}()
		var back bytes.Buffer
		for size := 1; ; size = min(3*size+1, 200<<10) { // from a byte to more than one call moves
			p := make([]byte, size)
			n, err := c.Read(p)
			if errors.Is(err, io.EOF) {
				require.Zero(t, n)
				break
			}
			require.NoError(t, err)
			require.Positive(t, n)
			back.Write(p[:n])
		}
		require.NoError(t, <-written)
		require.NoError(t, <-echoed)
		assert.True(t, bytes.Equal(sent, back.Bytes()))
	})
}

func TestAnEmptyReadAndAnEmptyWriteDoNothing(t *testing.T) {
	each(t, func(t *testing.T, c net.Conn, _ *net.TCPConn) {
		n, err := c.Read(nil)
		require.NoError(t, err)
		assert.Zero(t, n)
		n, err = c.Write(nil)
		require.NoError(t, err)
		assert.Zero(t, n)
	})
}

func TestADeadlineEndsAReadAndAWrite(t *testing.T) {
	each(t, func(t *testing.T, c net.Conn, _ *net.TCPConn) {
		require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Millisecond)))
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		n, err := c.Write(random(16 << 20)) // nobody reads
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		assert.Less(t, n, 16<<20)
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		assert.True(t, timeout.Timeout())
	})
}

func TestWhoWaitsOnAClosedConnectionIsTold(t *testing.T) {
	each(t, func(t *testing.T, c net.Conn, _ *net.TCPConn) {
		read := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			read <- err
		}()
		require.NoError(t, c.Close())
		require.ErrorIs(t, <-read, net.ErrClosed)
		_, err := c.Write([]byte("x"))
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

func TestAResetIsAnErrorOfPackageNet(t *testing.T) {
	each(t, func(t *testing.T, c net.Conn, peer *net.TCPConn) {
		require.NoError(t, peer.SetLinger(0))
		require.NoError(t, peer.Close())
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		assert.Equal(t, "read", op.Op)
		assert.Contains(t, err.Error(), c.RemoteAddr().String())
		_, err = c.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.EPIPE)
	})
}

func TestWhatIsNoTCPConnectionStaysAsItIs(t *testing.T) {
	a, b := net.Pipe()
	defer func() { _, _ = a.Close(), b.Close() }()
	assert.Equal(t, a, rawio.Conn(a))
}

func TestAListenersConnectionsAreItsOwn(t *testing.T) {
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ln := rawio.Listener(plain)
	client, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer func() { _ = client.Close() }()
	c, err := ln.Accept()
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	_, plainly := c.(*net.TCPConn)
	require.False(t, plainly)
	for _, one := range []net.Conn{c, client} {
		tcp, ok := rawio.TCP(one)
		require.True(t, ok)
		assert.Equal(t, one.LocalAddr(), tcp.LocalAddr())
	}
	a, b := net.Pipe()
	defer func() { _, _ = a.Close(), b.Close() }()
	_, ok := rawio.TCP(a)
	require.False(t, ok)
	require.NoError(t, ln.Close())
	_, err = ln.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
}

// The calls themselves do as package syscall's do.
func TestCallsDoAsPackageSyscallsDo(t *testing.T) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	for _, fd := range fds {
		require.NoError(t, syscall.SetNonblock(fd, true))
	}
	a, b := uintptr(fds[0]), uintptr(fds[1])
	buf := make([]byte, 8)
	n, err := rawio.Read(b, buf)
	require.ErrorIs(t, err, syscall.EAGAIN)
	assert.Zero(t, n)
	n, err = rawio.Write(a, []byte("hello"))
	require.NoError(t, err)
	assert.Equal(t, 5, n)
	n, err = rawio.Read(b, buf)
	require.NoError(t, err)
	assert.Equal(t, "hello", string(buf[:n]))
	total := 0
	for err == nil { // until it is full: short, then not at all
		n, err = rawio.Write(a, make([]byte, 100<<10))
		total += n
	}
	require.ErrorIs(t, err, syscall.EAGAIN)
	assert.Positive(t, total)
	require.NoError(t, syscall.Close(fds[0]))
	for total > 0 {
		n, err = rawio.Read(b, make([]byte, 50<<10))
		require.NoError(t, err)
		total -= n
	}
	n, err = rawio.Read(b, buf)
	require.NoError(t, err)
	assert.Zero(t, n, "the end")
	require.NoError(t, syscall.Close(fds[1]))
	_, err = rawio.Read(b, buf)
	require.ErrorIs(t, err, syscall.EBADF)
}
