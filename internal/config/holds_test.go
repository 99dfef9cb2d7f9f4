package config

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHoldsOfTopics(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	require.NoError(t, os.WriteFile(path, []byte("topics: ['*']\ngateway:\n  holds: ['trade.*=0s', 'screen.?=50ms']\n"), 0o600))
	l, err := Load(Input{Role: RoleGateway, File: path})
	require.NoError(t, err)
	require.Equal(t, []TopicHold{{"trade.*", 0}, {"screen.?", 50 * time.Millisecond}}, l.Config.Gateway.Holds)
	var h []TopicHold
	v := holdsValue{&h}
	require.NoError(t, v.Set("a=1ms, b.*=2s"))
	require.Equal(t, "a=1ms,b.*=2s", v.String())
	for text, want := range map[string]string{"a": "names no duration", "a=x": "is not a duration", "a=-1s": "out of bounds", "=1s": "names no topic", "a b=1s": "cannot be a topic", "a=11s": "out of bounds"} {
		require.ErrorContains(t, v.Set(text), want, text)
	}
	require.Len(t, h, 2, "a mistake changes nothing")
}
