package embedded

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// pairs are connections in memory, and sockets: what holds for one holds for the other.
var pairs = map[string]func(t *testing.T) (a, b net.Conn){
	"memory": func(*testing.T) (a, b net.Conn) { return nearPair() },
	"socket": func(t *testing.T) (a, b net.Conn) {
		ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback
		require.NoError(t, err)
		defer ln.Close()
		a, err = net.Dial("tcp", ln.Addr().String()) //nolint:noctx // loopback
		require.NoError(t, err)
		b, err = ln.Accept()
		require.NoError(t, err)
		return a, b
	},
}

func onPairs(t *testing.T, f func(t *testing.T, a, b net.Conn)) {
	t.Helper()
	for name, pair := range pairs {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			defer a.Close()
			defer b.Close()
			f(t, a, b)
		})
	}
}

func TestBothWaysCarryMoreThanTheyHold(t *testing.T) {
	onPairs(t, func(t *testing.T, a, b net.Conn) {
		sent := bytes.Repeat([]byte("0123456789abcdef+"), 4*nearLimit/17)
		done := make(chan error, 2)
		for _, c := range []net.Conn{a, b} {
			go func() {
				n, err := c.Write(sent)
				if err == nil && n != len(sent) {
					err = io.ErrShortWrite
				}
				done <- err
			}()
		}
		for _, c := range []net.Conn{b, a} {
			got := make([]byte, len(sent))
			_, err := io.ReadFull(c, got)
			require.NoError(t, err)
			require.True(t, bytes.Equal(sent, got))
		}
		require.NoError(t, <-done)
		require.NoError(t, <-done)
	})
}

func TestWhatWasWrittenBeforeTheEndIsRead(t *testing.T) {
	onPairs(t, func(t *testing.T, a, b net.Conn) {
		_, err := a.Write([]byte("last words"))
		require.NoError(t, err)
		require.NoError(t, a.Close())
		got, err := io.ReadAll(b)
		require.NoError(t, err)
		require.Equal(t, "last words", string(got))
		_, err = a.Read(make([]byte, 1))
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = a.Write([]byte("x"))
		require.ErrorIs(t, err, net.ErrClosed)
		for err = nil; err == nil; { // a socket takes the first ones
			_, err = b.Write([]byte("to nobody"))
		}
	})
}

func TestTheEndRousesWhoWaits(t *testing.T) {
	onPairs(t, func(t *testing.T, a, b net.Conn) {
		ends := make(chan error, 2)
		for _, c := range []net.Conn{a, b} {
			go func() {
				_, err := c.Read(make([]byte, 1))
				ends <- err
			}()
		}
		require.NoError(t, a.Close())
		require.Error(t, <-ends)
		require.Error(t, <-ends)
	})
}

func TestDeadlines(t *testing.T) {
	onPairs(t, func(t *testing.T, a, b net.Conn) {
		one := make([]byte, 1)
		require.NoError(t, a.SetDeadline(time.Now().Add(-time.Second)))
		_, err := a.Read(one)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		_, err = a.Write(one)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)

		require.NoError(t, a.SetReadDeadline(time.Now().Add(time.Millisecond)))
		_, err = a.Read(one)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)

		require.NoError(t, a.SetDeadline(time.Time{}))
		waits := make(chan error)
		go func() {
			_, err := a.Read(one)
			waits <- err
		}()
		require.NoError(t, a.SetReadDeadline(time.Now())) // while it waits, or before
		require.ErrorIs(t, <-waits, os.ErrDeadlineExceeded)

		require.NoError(t, a.SetWriteDeadline(time.Now().Add(time.Millisecond)))
		for err = nil; err == nil; { // nobody reads
			_, err = a.Write(make([]byte, 64<<10))
		}
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)

		require.NoError(t, a.SetDeadline(time.Time{})) // none: it goes on
		_, err = b.Write(one)
		require.NoError(t, err)
		_, err = a.Read(one)
		require.NoError(t, err)
	})
}

func TestTheProcessReachesItsBrokerThroughMemory(t *testing.T) {
	b, err := Start(Options{Listen: "127.0.0.1:0"})
	require.NoError(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback
	require.NoError(t, err)
	defer ln.Close()

	own, err := b.Dial(t.Context(), "tcp", b.Addr())
	require.NoError(t, err)
	require.IsType(t, &nearConn{}, own)
	other, err := b.Dial(t.Context(), "tcp", ln.Addr().String())
	require.NoError(t, err)
	require.IsType(t, &net.TCPConn{}, other)
	require.NoError(t, other.Close())

	// ApiVersions, version 0, correlation 7, no client id: it answers.
	_, err = own.Write([]byte{0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 255, 255})
	require.NoError(t, err)
	head := make([]byte, 8)
	_, err = io.ReadFull(own, head)
	require.NoError(t, err)
	require.Equal(t, []byte{0, 0, 0, 7}, head[4:])

	require.NoError(t, b.Close())
	_, err = io.Copy(io.Discard, own)
	require.NoError(t, err, "it has ended, with what was written before")
	_, err = b.Dial(t.Context(), "tcp", b.Addr())
	require.ErrorIs(t, err, net.ErrClosed)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = b.Dial(ctx, "tcp", ln.Addr().String())
	require.Error(t, err)
}
