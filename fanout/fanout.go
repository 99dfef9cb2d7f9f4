// Package fanout is stage 2 of 3: Record to Delivery. It reads the feed topics'
// partitions, routes each record by topic and key to the gateway nodes that
// want it, and writes batches to their delivery topics.
package fanout

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
)

// Options of a Service.
type Options struct {
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Catalog    *catalog.Catalog
	Client     *broker.Client

	Group      string        // consumer group; default "tapecast.fanout"
	Instance   string        // static member name; default random
	Session    time.Duration // default 6 s
	QueueBytes int           // per node; default 16 MiB
	Linger     time.Duration // 0 = by the number of nodes
}

// Service is the fan-out room.
type Service struct{}

// New checks the options and starts nothing.
func New(o Options) (*Service, error) { panic("not built") }

// Run joins the group and casts until ctx ends. When it returns, every
// goroutine it started has ended.
func (s *Service) Run(ctx context.Context) error { panic("not built") }

// Ready tells what is missing; nil = interests loaded and in the group.
func (s *Service) Ready() error { panic("not built") }
