package gateway

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAResetIsToldOnce has a client go before anybody has read from its socket:
// the poller says so once, and again when the socket is armed.
func TestAResetIsToldOnce(t *testing.T) {
	p, err := newPoller()
	require.NoError(t, err)
	t.Cleanup(p.close)
	join := func(token uint64) (far, near *net.TCPConn) {
		c, s := tcpPair(t)
		far, near = c.(*net.TCPConn), s.(*net.TCPConn)
		t.Cleanup(func() { _ = near.Close() })
		raw, err := near.SyscallConn()
		require.NoError(t, err)
		require.NoError(t, p.add(raw, token))
		return far, near
	}
	told := func() []uint64 {
		tokens, err := p.wait(nil)
		require.NoError(t, err)
		return tokens
	}
	gone, left := join(1)
	require.NoError(t, gone.SetLinger(0))
	require.NoError(t, gone.Close())
	require.Equal(t, []uint64{1}, told())

	says, hears := join(2)
	raw, err := hears.SyscallConn()
	require.NoError(t, err)
	others := func() {
		for range 100 {
			_, err := says.Write([]byte("x"))
			require.NoError(t, err)
			require.NoError(t, p.arm(raw, 2))
			require.Equal(t, []uint64{2}, told(), "the other was told already")
			_, err = hears.Read(make([]byte, 1))
			require.NoError(t, err)
		}
	}
	others()

	lost, err := left.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, p.arm(lost, 1))
	require.Equal(t, []uint64{1}, told(), "what came before is not lost")
	others()
}
