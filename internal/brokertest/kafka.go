package brokertest

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tapecast/tapecast/internal/testcache"
)

// KafkaVersion is the Apache Kafka that tests run against.
const KafkaVersion = "4.1.0"

// Environment variables.
const (
	// EnvKafka names a broker (host:port) to use instead of starting one.
	EnvKafka = "TAPECAST_TEST_KAFKA"
	// EnvRequire set to 1 makes a missing Apache Kafka a failure, not a skip.
	EnvRequire = "TAPECAST_TEST_REQUIRE_KAFKA"
)

// pom says what Maven has to fetch.
//
//go:embed pom.xml
var pom []byte

// shared is the broker that the tests of this process share. It dies with the process.
var shared struct {
	once    sync.Once
	cluster *Cluster // held: its pipe's end is what the broker lives by
	addr    string
	err     error
}

// Kafka gives the Apache Kafka that all tests of this process share. Where
// there can be none the test is skipped, or fails if EnvRequire says so.
func Kafka(t testing.TB) *Env {
	t.Helper()
	shared.once.Do(func() {
		if shared.addr = os.Getenv(EnvKafka); shared.addr != "" {
			return
		}
		if shared.cluster, shared.err = startShared(); shared.err == nil {
			shared.addr = shared.cluster.Addrs()[0]
		}
	})
	if shared.err != nil {
		missing(t, shared.err)
	}
	return &Env{Name: "kafka", Addrs: []string{shared.addr}, Client: Dial(t, shared.addr)}
}

// kafkaVersion is the version that pom.xml asks for, or where an outside broker is.
func kafkaVersion() string {
	if addr := os.Getenv(EnvKafka); addr != "" {
		return "at " + addr
	}
	_, rest, _ := strings.Cut(string(pom), "<artifactId>kafka_2.13</artifactId>")
	_, rest, _ = strings.Cut(rest, "<version>")
	version, _, _ := strings.Cut(rest, "</version>")
	return version
}

func startShared() (*Cluster, error) {
	dir, err := os.MkdirTemp("", "tapecast-kafka-")
	if err != nil {
		return nil, err
	}
	return startCluster(dir, 1, true)
}

// StartKafka starts an Apache Kafka cluster of n brokers for this test: each a
// Java process of its own, which can be killed, frozen and started again.
func StartKafka(t testing.TB, n int) *Cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "tapecast-kafka-") //nolint:usetesting // deleted by the watchdog, after Java has ended
	if err != nil {
		t.Fatal(err)
	}
	c, err := startCluster(dir, n, false)
	if err != nil {
		missing(t, err)
	}
	t.Cleanup(c.Close)
	return c
}

// errNoKafka says that this machine cannot run Apache Kafka.
var errNoKafka = errors.New("no Apache Kafka can run here")

func missing(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, errNoKafka) && os.Getenv(EnvRequire) != "1" {
		t.Skipf("NOT TESTED AGAINST APACHE KAFKA: %v", err)
	}
	t.Fatalf("Apache Kafka: %v", err)
}

// fetch returns the directory with Kafka's jars, from the cache or by Maven.
func fetch() (string, error) {
	for _, tool := range []string{"java", "mvn"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "", fmt.Errorf("%w: %s is not installed", errNoKafka, tool)
		}
	}
	dir, err := testcache.Dir("kafka-"+KafkaVersion, func(dir string) error {
		if err := os.WriteFile(filepath.Join(dir, "pom.xml"), pom, 0o600); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=libs", "-DincludeScope=runtime")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: Maven could not fetch it: %w\n%s", errNoKafka, err, tail(string(out), 20))
		}
		return nil
	})
	return filepath.Join(dir, "libs"), err
}

// tail returns the last n lines.
func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// await waits until all n brokers of a cluster serve.
func await(addrs []string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for {
		n, err := brokers(ctx, addrs)
		if err == nil && n == len(addrs) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d brokers serve: %w", n, len(addrs), errors.Join(err, ctx.Err()))
		case <-time.After(100 * time.Millisecond):
		}
	}
}
