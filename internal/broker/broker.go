// Package broker is all that tapecast knows of Kafka: the only importer of
// kafka-go. It keeps kafka-go behind a few narrow types (admin, raw reader,
// idempotent producer, sender, group membership), so that a later swap is a
// package, not a rewrite.
//
// kafka-go gives the connections of all but records, and the login's mechanisms.
// The requests are written here, handed to its Transport as raw exchanges and
// routed by leaders that are asked for here, because its own metadata comes from
// a cache, its fetch drops the list of aborted transactions, its producer is not
// idempotent, and its heartbeat goes to the wrong broker. Records are fetched and
// written on connections of our own (see lines), because a request through its
// Transport is handed from goroutine to goroutine, which costs more than the
// records of a millisecond.
//
// Every call takes a context, does not retry for ever by itself unless it says
// so, and returns errors that [Retryable] classifies.
//
// Goroutines: kafka-go's per connection; one per partition that is being
// written, inside [Producer.Run]; one per leader and one per request, inside
// [Puller.Run]; one per line, inside [Sender.Run].
package broker

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
)

// Options of a Client.
type Options struct {
	Addrs    []string // host:port of bootstrap brokers
	ClientID string
	Logger   *slog.Logger
	Security Security
	// Dial replaces net.Dialer.DialContext (tests: toxiproxy, in-memory pipes).
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Client is one process's door to a Kafka cluster: one shared transport, and lines
// of our own for records. Safe for concurrent use.
type Client struct {
	// static after New
	addr      net.Addr
	id        string
	log       *slog.Logger
	transport *kafka.Transport
	lines     *lines

	correlation atomic.Int32
	lastDrop    atomic.Int64 // when idle connections were last dropped, Unix ns

	mu       sync.Mutex
	topics   map[string]*topicEntry // guarded by mu; what leaders were last seen
	fetchVer map[int32]int16        // guarded by mu; the fetch version each broker speaks
}

// Times that bound every request.
const (
	// requestTimeout bounds one exchange with a broker, beyond what the
	// broker was asked to wait.
	requestTimeout = 10 * time.Second
	// dataTimeout is that for records, which may be asked for or sent again.
	dataTimeout = 5 * time.Second
	// lookupTimeout is that for questions that any broker can answer: another
	// is asked next.
	lookupTimeout = 3 * time.Second
	// metadataTTL is how often, at most, the transport asks for the brokers'
	// addresses. The question names no topic, so it is small.
	metadataTTL = 2 * time.Second
)

// New makes a client; it dials nothing yet.
func New(o Options) (*Client, error) {
	var addrs []string
	for _, a := range o.Addrs {
		for _, a := range strings.Split(a, ",") { // kafka.TCP panics on a list in one string
			if a = strings.TrimSpace(a); a == "" {
				continue
			}
			if _, _, err := net.SplitHostPort(a); err != nil {
				return nil, fmt.Errorf("kafka address %q is not host:port: %w", a, err)
			}
			addrs = append(addrs, a)
		}
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("no kafka address given")
	}
	if o.ClientID == "" {
		o.ClientID = "tapecast"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Client{
		addr: kafka.TCP(addrs...),
		id:   o.ClientID,
		log:  o.Logger,
		transport: &kafka.Transport{
			Dial:           o.Dial,
			DialTimeout:    5 * time.Second,
			IdleTimeout:    60 * time.Second,
			MetadataTTL:    metadataTTL,
			MetadataTopics: []string{}, // none: leaders are asked for here
			ClientID:       o.ClientID,
		},
		topics:   make(map[string]*topicEntry),
		fetchVer: make(map[int32]int16),
	}
	if err := o.Security.apply(c.transport); err != nil {
		return nil, err
	}
	c.lines = &lines{
		dial: o.Dial, tls: c.transport.TLS, sasl: c.transport.SASL, client: o.ClientID,
		addrs: make(map[int32]string), idle: make(map[string][]*line),
	}
	if o.Dial == nil {
		c.lines.dial = (&net.Dialer{}).DialContext
	}
	return c, nil
}

// Close closes idle connections; those in use are closed when they are idle.
func (c *Client) Close() {
	c.transport.CloseIdleConnections()
	c.lines.closeIdle()
}

// Ping asks any bootstrap broker for metadata.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.metadata(ctx, []string{})
	if err != nil {
		return fmt.Errorf("ping kafka: %w", err)
	}
	return nil
}
