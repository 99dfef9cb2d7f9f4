package gateway

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// inUse is what the heap and the stacks take, after collections.
func inUse() int64 {
	for range 5 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse) //nolint:gosec // far below
}

// TestAnIdleSessionIsSmall holds the server's side of many idle, subscribed
// sessions in memory, with their clients' bare sockets.
func TestAnIdleSessionIsSmall(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 1)
	open := func(n int) {
		for range n {
			conn, br := rawUpgrade(t, r, "")
			_, err := conn.Write(masked(0x81, []byte(`{"cmd":"sub","topic":"price"}`)))
			require.NoError(t, err)
			_ = br
		}
	}
	open(50)
	const n = 500
	before := inUse()
	open(n)
	require.Eventually(t, func() bool { return r.feed.holds() == n+50 }, waitLong, tick)
	each := (inUse() - before) / n
	t.Logf("%d bytes per idle session, the client's socket included", each)
	limit := int64(4 << 10)
	if r.service.readers == nil {
		limit = 12 << 10
	}
	require.Less(t, each, limit)
}

// TestAnIdleTLSSessionIsSmallBesideTLS compares sessions over TLS with TLS
// connections that a goroutine each just reads.
func TestAnIdleTLSSessionIsSmallBesideTLS(t *testing.T) {
	r := newRig(t, false)
	r.feed.add("price", 1)
	var mu sync.Mutex
	var kept []net.Conn
	mux := http.NewServeMux()
	r.service.Register(mux)
	mux.HandleFunc("GET /kept", func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
		mu.Lock()
		kept = append(kept, conn)
		mu.Unlock()
		go func() {
			var b [1]byte
			for err := error(nil); err == nil; {
				_, err = conn.Read(b[:])
			}
		}()
	})
	server := httptest.NewTLSServer(mux)
	t.Cleanup(func() {
		for _, c := range kept {
			_ = c.Close()
		}
		server.CloseClientConnections()
	})
	trust := server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	trust.NextProtos = nil
	open := func(path string) {
		conn, err := tls.Dial("tcp", server.Listener.Addr().String(), trust)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		_, err = io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: "+r.base+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
		require.NoError(t, err)
		resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 512), nil)
		require.NoError(t, err)
		require.Equal(t, 101, resp.StatusCode)
		_, err = conn.Write(masked(0x81, []byte(`{"cmd":"sub","topic":"price"}`)))
		require.NoError(t, err)
	}
	const n = 150
	each := func(path string, there func() int) int64 {
		for range 20 {
			open(path)
		}
		require.Eventually(t, func() bool { return there() == 20 }, waitLong, tick)
		before := inUse()
		for range n {
			open(path)
		}
		require.Eventually(t, func() bool { return there() == 20+n }, waitLong, tick)
		return (inUse() - before) / n
	}
	bare := each("/kept", func() int { mu.Lock(); defer mu.Unlock(); return len(kept) })
	session := each("/ws", r.feed.holds)
	t.Logf("TLS alone %d bytes, both ends; an idle session beside it %d", bare, session-bare)
	require.Less(t, session-bare, int64(24<<10))
}
