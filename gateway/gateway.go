// Package gateway is stage 3 of 3: Batch to Frame to socket. It holds the
// sessions: WebSocket, SSE and NDJSON, over the feed (package feed).
package gateway

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tapecast/tapecast/gateway/feed"
)

// Options of a Service.
type Options struct {
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Feed       *feed.Feed

	Origins       []string      // allowed besides the same origin; exact scheme://host[:port]; "*" = any
	RequireOrigin bool          // refuse requests without Origin
	MaxSessions   int           // default 20,000
	MaxPerIP      int           // default 0 = no limit
	MaxSubs       int           // subscriptions per session; default 256
	MaxCommand    int           // bytes of a client frame; default 4 KiB... keys need more: 64 KiB
	CommandRate   float64       // per second, sustained; default 20
	CommandBurst  int           // default 256
	Heartbeat     time.Duration // default 5 s
	Ping          time.Duration // default 30 s
	Drain         time.Duration // clients are told to come back spread over this; default 8 s
	WriteTimeout  time.Duration // a socket that takes nothing for that long is closed; default 30 s
}

// Service is the gateway room.
type Service struct{}

// New checks the options and starts nothing.
func New(o Options) (*Service, error) { panic("not built") }

// Run serves until ctx ends, then drains: bye frames, then closes.
func (s *Service) Run(ctx context.Context) error { panic("not built") }

// Register mounts /ws, GET /v1/topics, GET /v1/topics/{topic} and GET /v1/topics/{topic}/events.
func (s *Service) Register(mux *http.ServeMux) { panic("not built") }
