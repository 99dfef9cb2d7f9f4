package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A proxy that prefers the node with the fewest sessions would send everybody
// to one that has just started.
func TestNobodyComesInBeforeTheNodeIsReady(t *testing.T) {
	var ready, asked atomic.Bool
	source := newFakeFeed()
	source.add("price", 1)
	s, err := New(Options{source: source, Ready: func() error {
		asked.Store(true)
		if !ready.Load() {
			return errors.New("not yet")
		}
		return nil
	}})
	require.NoError(t, err)
	mux := http.NewServeMux()
	s.Register(mux)
	server := httptest.NewServer(mux)
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	require.Eventually(t, asked.Load, adminPatience, time.Millisecond)
	for _, path := range []string{"/ws", "/v1/topics/price/events"} {
		require.Equal(t, http.StatusServiceUnavailable, status(t, server.URL+path), path)
	}
	require.ErrorContains(t, s.Ready(), "starting")
	ready.Store(true)
	require.Eventually(t, s.running, adminPatience, time.Millisecond)
	require.Equal(t, http.StatusOK, status(t, server.URL+"/v1/topics/price/events?from=earliest&until=live"))
	require.Equal(t, http.StatusBadRequest, status(t, server.URL+"/ws"), "no upgrade was asked for, but the door is open")
	require.NoError(t, s.Ready())
	cancel()
	require.NoError(t, <-done)
	require.ErrorContains(t, s.Ready(), "drain")
	require.Equal(t, http.StatusServiceUnavailable, status(t, server.URL+"/ws"))
}

func TestAStopBeforeTheNodeIsReadyIsAStop(t *testing.T) {
	s, err := New(Options{source: newFakeFeed(), Ready: func() error { return errors.New("never") }})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, s.Run(ctx))
}

func status(t *testing.T, url string) int {
	t.Helper()
	resp, err := http.Get(url)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode
}
