// Package ingest is stage 1 of 3: Event to Record. It takes events over HTTP,
// checks them against the topic's schema and writes them to feed topics with
// an idempotent producer.
package ingest

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/schemas"
)

// Options of a Service.
type Options struct {
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Catalog    *catalog.Catalog
	Client     *broker.Client
	Registry   *schemas.Registry

	MaxBody     int64 // bytes of one request that is not streamed; default 8 MiB
	MaxEvent    int   // bytes of one encoded event; default 64 KiB
	MaxBuffered int   // bytes waiting for Kafka, over all requests; default 64 MiB
	Compression string
}

// Service is the ingest room.
type Service struct{}

// New checks the options and starts nothing.
func New(o Options) (*Service, error) { panic("not built") }

// Run runs the producer until ctx ends.
func (s *Service) Run(ctx context.Context) error { panic("not built") }

// Register mounts POST /v1/topics/{topic}/events and POST /topics/{topic}.
func (s *Service) Register(mux *http.ServeMux) { panic("not built") }

// Encoder turns JSON events into a topic's records; shared with tapecast pub.
type Encoder struct{}
