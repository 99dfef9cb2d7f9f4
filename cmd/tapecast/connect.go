package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/tapecast/tapecast/internal/app"
	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/internal/config"
	"github.com/tapecast/tapecast/internal/stream"
	"github.com/tapecast/tapecast/schemas"
)

// dialTimeout is how long the tools for people wait for a first answer.
const dialTimeout = 5 * time.Second

// connection is where the tools for people find Kafka and the registry: flags,
// else TAPECAST_KAFKA_BROKERS and TAPECAST_REGISTRY_URL, else `tapecast dev`.
type connection struct {
	kafka       string
	registryURL string
	security    broker.Security // from TAPECAST_KAFKA_TLS... and TAPECAST_KAFKA_SASL_...
	log         *slog.Logger
}

func (c *connection) define(fs *flagSet, sys system) error {
	kafka, err := config.Lookup(sys.environ, "kafka.brokers")
	if err != nil {
		return usagef("%s", err)
	}
	registry, err := config.Lookup(sys.environ, "registry.url")
	if err != nil {
		return usagef("%s", err)
	}
	env, err := config.EnvKafka(sys.environ)
	if err != nil {
		return usagef("%s", err)
	}
	c.security = app.KafkaSecurity(env)
	fs.StringVar(&c.kafka, "kafka", kafka, "bootstrap `BROKERS`, host:port,...")
	fs.StringVar(&c.registryURL, "registry", registry, "schema registry's `URL`")
	c.log = slog.New(slog.NewTextHandler(sys.err, &slog.HandlerOptions{Level: slog.LevelError}))
	return nil
}

// check looks at the addresses.
func (c *connection) check() error {
	if _, err := parseBrokers(c.kafka); err != nil {
		return err
	}
	if err := config.CheckURL(c.registryURL); err != nil && c.registryURL != "" {
		return usagef("--registry: %q %s", c.registryURL, err)
	}
	return nil
}

// parseBrokers reads --kafka.
func parseBrokers(s string) ([]string, error) {
	var out []string
	for b := range strings.SplitSeq(s, ",") {
		if b = strings.TrimSpace(b); b == "" {
			continue
		}
		if err := config.CheckBroker(b); err != nil {
			return nil, usagef("--kafka: %q %s; expected host:port, or several with commas", b, err)
		}
		out = append(out, b)
	}
	if len(out) == 0 {
		return nil, usagef("--kafka: no broker is named")
	}
	return out, nil
}

// dial makes a client and sees whether the cluster is there.
func (c *connection) dial(ctx context.Context, clientID string) (*broker.Client, error) {
	addrs, err := parseBrokers(c.kafka)
	if err != nil {
		return nil, err
	}
	client, err := broker.New(broker.Options{Addrs: addrs, ClientID: clientID, Logger: c.log, Security: c.security})
	if err != nil {
		return nil, err
	}
	pctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if err := client.Ping(pctx); err != nil {
		client.Close()
		return nil, fmt.Errorf("no Kafka broker answers at %s: %w\nStart one with 'tapecast dev', or name yours with --kafka host:port", c.kafka, err)
	}
	return client, nil
}

func (c *connection) registry() (*schemas.Registry, error) {
	if c.registryURL == "" {
		return nil, usagef("--registry: a schema registry is needed")
	}
	r, err := schemas.NewRegistry(schemas.RegistryOptions{URL: c.registryURL, Logger: c.log})
	if err != nil {
		return nil, usagef("--registry: %s", err)
	}
	return r, nil
}

func (c *connection) registryError(err error) error {
	return fmt.Errorf("the schema registry at %s: %w\nName yours with --registry URL", c.registryURL, err)
}

// internalTopic tells tapecast's, Kafka's and the registry's own topics.
func internalTopic(t broker.Topic) bool {
	return t.Internal || strings.HasPrefix(t.Name, stream.InternalPrefix) || strings.HasPrefix(t.Name, "_")
}

// maxTopic is Kafka's limit for a topic's name.
const maxTopic = 249

// checkTopic refuses names that Kafka does not take, and topics that belong to
// machines: an event among tapecast's interests, Kafka's offsets or the
// registry's schemas harms whoever reads those.
func checkTopic(name string) error {
	if catalog.Internal(name) {
		return fmt.Errorf("%q is one of tapecast's own topics, Kafka's or the registry's", name)
	}
	odd := strings.ContainsFunc(name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._-", c)
	})
	if odd || name == "" || name == "." || name == ".." || len(name) > maxTopic {
		return fmt.Errorf("%.80q cannot name a topic: expected 1 to %d of a-z A-Z 0-9 . _ -", name, maxTopic)
	}
	return nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// plural writes "1 row", "2,000 rows".
func plural(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return group(n) + " " + what + "s"
}

// group writes a number with commas.
func group(n int64) string {
	s := strconv.FormatInt(n, 10)
	start := 0
	if n < 0 {
		start = 1
	}
	for i := len(s) - 3; i > start; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
