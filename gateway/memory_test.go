package gateway

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

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
	inUse := func() uint64 {
		for range 5 {
			runtime.GC()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	open(50)
	const n = 500
	before := inUse()
	open(n)
	require.Eventually(t, func() bool { return r.feed.holds() == n+50 }, waitLong, tick)
	each := (inUse() - before) / n
	t.Logf("%d bytes per idle session, the client's socket included", each)
	require.Less(t, each, uint64(20<<10))
}
