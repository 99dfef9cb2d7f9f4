// Package catalog knows which Kafka topics are feeds: the configured
// allow-list, joined with what the cluster has, refreshed while it runs. It is
// the one place where a client's topic name becomes a Kafka topic name. Its
// one goroutine is Run's.
package catalog

import (
	"context"
	"log/slog"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
)

// Rule allows topics. The first rule that matches a Kafka topic's name decides.
type Rule struct {
	Pattern string // exact name, or a glob with * and ?; never matches tapecast's, Kafka's or the registry's own topics
	Name    string // what clients call it; "" = the Kafka name (only with an exact Pattern)
	Format  string // how values are read: "avro" (default, Confluent wire format), "json", "string", "bytes", "avro:FILE" (fixed schema, no header)
	Deny    bool
}

// Feed is one topic that clients may subscribe to.
type Feed struct {
	Name         string // the client's name
	Format       string
	broker.Topic // Kafka's name, id, partitions
}

// Options of a Catalog.
type Options struct {
	Client  *broker.Client
	Rules   []Rule
	Refresh time.Duration // default 1 s
	Logger  *slog.Logger
}

// Catalog is safe for concurrent use.
type Catalog struct{}

// New validates the rules.
func New(o Options) (*Catalog, error) { panic("not built") }

// Run refreshes until ctx ends. A cluster that is away keeps the last known feeds.
func (c *Catalog) Run(ctx context.Context) error { panic("not built") }

// Feed finds a feed by the client's name.
func (c *Catalog) Feed(name string) (Feed, bool) { panic("not built") }

// ByTopic finds a feed by the Kafka topic's name.
func (c *Catalog) ByTopic(topic string) (Feed, bool) { panic("not built") }

// Feeds lists all feeds, by name.
func (c *Catalog) Feeds() []Feed { panic("not built") }

// Refresh asks the cluster now (rate-limited, shared by concurrent callers).
func (c *Catalog) Refresh(ctx context.Context) error { panic("not built") }

// Changed returns a channel that is closed at the next change of the feeds
// (a topic more or less, another id, more partitions).
func (c *Catalog) Changed() <-chan struct{} { panic("not built") }

// Synced tells when the cluster last answered; zero = never.
func (c *Catalog) Synced() time.Time { panic("not built") }
