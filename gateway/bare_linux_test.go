package gateway

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestAParkedSocketIsBare looks who polls a session's socket: nobody but the
// epoll set, until somebody has to wait for it.
func TestAParkedSocketIsBare(t *testing.T) {
	r := newRig(t, false)
	if r.service.readers == nil {
		t.Skip("NOT TESTED: this system parks no sockets")
	}
	r.feed.add("price", 1)
	c := r.connect()
	c.send(`{"cmd":"sub","id":1,"topic":"price"}`)
	c.event("subscribed")
	r.feed.produce("price", 0, "", "1")
	c.offsets(1)
	session := r.service.open()[0]
	require.Equal(t, c.ws.LocalAddr().String(), session.remote())
	b, ok := session.socket.conn.(*bare)
	require.True(t, ok, "%T", session.socket.conn)
	require.False(t, b.waited(), "nobody waits for whole messages")

	ping := masked(0x81, []byte(`{"cmd":"ping","id":2}`))
	_, err := c.ws.NetConn().Write(ping[:5])
	require.NoError(t, err)
	require.Eventually(t, b.waited, waitLong, tick, "half a message is waited for")
	_, err = c.ws.NetConn().Write(ping[5:])
	require.NoError(t, err)
	c.event("pong")
	c.sync() // it is parked again, and read

	require.NoError(t, c.ws.Close())
	require.Eventually(t, func() bool { return len(r.service.open()) == 0 }, waitLong, tick)
	require.ErrorIs(t, b.Close(), net.ErrClosed, "its session has closed it")
	_, err = b.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorIs(t, b.SetReadDeadline(time.Now()), net.ErrClosed)
	require.ErrorIs(t, (*bareRaw)(b).Control(func(uintptr) { t.Error("a descriptor that is closed") }), net.ErrClosed)
}

// TestAConnectionIsTakenOverWhole writes, reads and closes through a socket
// that package net has let go of.
func TestAConnectionIsTakenOverWhole(t *testing.T) {
	far, near := tcpPair(t)
	b, raw, err := takeOver(near.(*net.TCPConn))
	require.NoError(t, err)
	_, err = near.Write([]byte("x"))
	require.ErrorIs(t, err, net.ErrClosed, "it is somebody else's now")

	var a attempt
	a.init()
	n, err := a.write(raw, []byte("one"))
	require.NoError(t, err)
	require.Equal(t, 3, n)
	_, err = b.Write([]byte("two"))
	require.NoError(t, err)
	require.NoError(t, b.(*bare).CloseWrite())
	got := make([]byte, 16)
	n, err = far.Read(got)
	require.NoError(t, err)
	require.Equal(t, "onetwo"[:n], string(got[:n]))

	require.NoError(t, b.SetReadDeadline(time.Unix(1, 0)))
	_, err = b.Read(got)
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout())

	require.NoError(t, b.SetReadDeadline(time.Time{}))
	waits := make(chan error)
	go func() {
		_, err := b.Read(make([]byte, 1))
		waits <- err
	}()
	require.NoError(t, b.(*bare).SetLinger(0))
	require.NoError(t, b.Close())
	require.Error(t, <-waits, "who waits is told")
}
