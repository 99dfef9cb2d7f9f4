package schemas

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCacheIsBoundedAndKeepsWhatIsUsed(t *testing.T) {
	var c codecCache
	small := &Codec{text: "x"}
	for id := range uint32(maxCached) {
		c.put(id, small)
	}
	for id := range uint32(100) {
		_, ok := c.get(id)
		require.True(t, ok)
	}
	for id := range uint32(maxCached / 2) {
		c.put(1_000_000+id, small)
		c.put(1_000_000+id, small)
	}
	entries, bytes := c.size()
	require.Equal(t, maxCached, entries)
	require.Equal(t, maxCached, bytes)
	require.Len(t, c.entries, maxCached)
	for id := range uint32(100) {
		_, ok := c.get(id)
		require.True(t, ok, id)
	}
}

func TestCacheIsBoundedInBytes(t *testing.T) {
	var c codecCache
	big := &Codec{text: strings.Repeat("x", MaxSchema)}
	for id := range uint32(200) {
		c.put(id, big)
		_, ok := c.get(id)
		require.True(t, ok)
	}
	entries, bytes := c.size()
	require.Equal(t, maxCachedBytes/MaxSchema, entries)
	require.Equal(t, maxCachedBytes, bytes)
}

func TestCachedLookupAllocatesNothing(t *testing.T) {
	var c codecCache
	c.put(1, &Codec{})
	require.Zero(t, testing.AllocsPerRun(100, func() { c.get(1) }))
}
