package brokertest

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAFreeAddressIsGivenOnce(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		addr, err := FreeAddr()
		require.NoError(t, err)
		require.False(t, seen[addr], addr)
		seen[addr] = true
		held, err := net.Listen("tcp", addr)
		require.NoError(t, err)
		t.Cleanup(func() { _ = held.Close() })
	}
}

func TestATakenPortIsNotGiven(t *testing.T) {
	first, err := FreeAddr()
	require.NoError(t, err)
	held, err := net.Listen("tcp", first)
	require.NoError(t, err)
	defer held.Close()
	ports.mu.Lock()
	ports.next = (ports.next + portCount - 1) % portCount // as if it had never been given
	ports.mu.Unlock()
	again, err := FreeAddr()
	require.NoError(t, err)
	require.NotEqual(t, first, again)
}
