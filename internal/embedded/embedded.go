// Package embedded is the development broker: kfake, a Kafka broker in the
// process, with a data directory and retention on every topic. It speaks
// Kafka's protocol on loopback, so that any Kafka client works with it. It is
// not for production: one process, no replication, no fsync per write.
//
// What it adds to kfake: clear errors for a port or a data directory that is
// taken; explicit retention on every topic, whoever makes it (kfake applies
// none of its own accord); cleaning that also runs after a restart; automatic
// creation of topics, except of those that tapecast makes for itself.
//
// Goroutines: kfake's own, one cleaner, and one for each listener; Close ends them all.
package embedded

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// Defaults of Options.
const (
	DefaultListen         = "127.0.0.1:9092"
	DefaultPartitions     = 4
	DefaultRetentionBytes = 256 << 20
	DefaultCleanEvery     = 30 * time.Second
)

// Options of a Broker. Every zero value has a sensible meaning.
type Options struct {
	// Listen is the loopback host:port to listen on, and the address that
	// clients are told. Port 0 takes a free one. Default DefaultListen.
	Listen string
	// DataDir keeps topics, records and group offsets over restarts, also
	// after kill -9. Empty: memory only.
	DataDir string
	// Logger gets the broker's own complaints. Default: none.
	Logger *slog.Logger
	// Brokers is how many brokers the cluster has; those after the first
	// listen on free ports. Default 1.
	Brokers int
	// Partitions of a topic that is made without a count. Default DefaultPartitions.
	Partitions int
	// RetentionTime of a topic that does not say. Default: no limit by age,
	// because replayed recordings carry timestamps that are years old.
	RetentionTime time.Duration
	// RetentionBytes of a partition of a topic that does not say. Default
	// DefaultRetentionBytes; negative: no limit.
	RetentionBytes int64
	// CleanEvery is the pause between two runs of retention and compaction.
	// Default DefaultCleanEvery.
	CleanEvery time.Duration
}

// Broker is a running broker.
type Broker struct {
	cluster *kfake.Cluster
	addrs   []string
	doors   []*door
	unlock  func() error
	stop    chan struct{} // closed by Close
	cleaner sync.WaitGroup
	once    sync.Once
}

// Start starts a broker. The error says which address or directory is taken
// when that is the reason.
func Start(o Options) (*Broker, error) {
	o = o.withDefaults()
	unlock := func() error { return nil }
	if o.DataDir != "" {
		var err error
		if unlock, err = lockDir(o.DataDir); err != nil {
			return nil, err
		}
	}
	b, err := start(o, unlock)
	if err != nil {
		return nil, errors.Join(err, unlock())
	}
	return b, nil
}

func start(o Options, unlock func() error) (*Broker, error) {
	lns, err := listen(o.Listen, o.Brokers)
	if err != nil {
		return nil, err
	}
	b := &Broker{unlock: unlock, stop: make(chan struct{})}
	for _, ln := range lns {
		b.addrs = append(b.addrs, ln.Addr().String())
		b.doors = append(b.doors, newDoor(ln))
	}
	taken := 0
	opts := []kfake.Opt{
		kfake.NumBrokers(o.Brokers),
		kfake.ListenFn(func(network, addr string) (net.Listener, error) {
			if taken == len(b.doors) {
				return net.Listen(network, addr) //nolint:noctx // a broker that a test adds, on loopback
			}
			taken++
			return b.doors[taken-1], nil
		}),
		kfake.AllowAutoTopicCreation(),
		kfake.DefaultNumPartitions(o.Partitions),
		kfake.BrokerConfigs(map[string]string{
			"log.cleaner.backoff.ms": strconv.FormatInt(o.CleanEvery.Milliseconds(), 10),
		}),
	}
	if o.Logger != nil {
		opts = append(opts, kfake.WithLogger(bridge{o.Logger}))
	}
	if o.DataDir != "" {
		opts = append(opts, kfake.DataDir(o.DataDir))
	}
	c, err := kfake.NewCluster(opts...)
	if err != nil {
		for _, d := range b.doors {
			_ = d.Close()
		}
		return nil, fmt.Errorf("start the embedded broker: %w", err)
	}
	b.cluster = c
	newPolicy(c, o).install()
	b.cleaner.Go(func() { b.cleanLoop(o.CleanEvery) })
	return b, nil
}

// Addr returns the address clients use, host:port.
func (b *Broker) Addr() string { return b.addrs[0] }

// Addrs returns the addresses of all brokers of the cluster.
func (b *Broker) Addrs() []string { return b.addrs }

// Cluster is kfake itself, for tests that inject faults.
func (b *Broker) Cluster() *kfake.Cluster { return b.cluster }

// Close stops the broker and writes what is not yet on disk. It may be called
// more than once.
func (b *Broker) Close() error {
	var err error
	b.once.Do(func() {
		close(b.stop)
		b.cleaner.Wait()
		b.cluster.Close()
		err = b.unlock()
	})
	return err
}

// cleanLoop runs retention and compaction. kfake has a ticker for it, but
// starts that only when a topic is made or altered, not after a restart.
func (b *Broker) cleanLoop(every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-b.stop:
			return
		case <-tick.C:
			b.cluster.Compact()
		}
	}
}

func (o Options) withDefaults() Options {
	if o.Listen == "" {
		o.Listen = DefaultListen
	}
	if o.Brokers == 0 {
		o.Brokers = 1
	}
	if o.Partitions == 0 {
		o.Partitions = DefaultPartitions
	}
	if o.RetentionTime <= 0 {
		o.RetentionTime = -time.Millisecond // retention.ms -1: none
	}
	if o.RetentionBytes == 0 {
		o.RetentionBytes = DefaultRetentionBytes
	}
	if o.CleanEvery <= 0 {
		o.CleanEvery = DefaultCleanEvery
	}
	return o
}

// listen opens n listeners: the first at addr, the others at free ports of its host.
func listen(addr string, n int) (lns []net.Listener, err error) {
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("the embedded broker's address %q: %w", addr, err)
	}
	if !tcp.IP.IsLoopback() {
		return nil, fmt.Errorf("the embedded broker's address %q is not loopback; it has no access control and must not be reachable from outside", addr)
	}
	for i := range n {
		a := *tcp
		if i > 0 {
			a.Port = 0
		}
		ln, err := net.ListenTCP("tcp", &a)
		if err != nil {
			for _, l := range lns {
				_ = l.Close()
			}
			return nil, fmt.Errorf("the embedded broker cannot listen on %s: %w", addr, err)
		}
		lns = append(lns, ln)
	}
	return lns, nil
}

// bridge hands kfake's log to slog. What kfake calls a warning is a refused
// request, which its client is told anyway.
type bridge struct{ log *slog.Logger }

// Logf implements kfake.Logger.
func (b bridge) Logf(level kfake.LogLevel, format string, args ...any) {
	switch level {
	case kfake.LogLevelError:
		b.log.Error("embedded broker", slog.String("detail", fmt.Sprintf(format, args...)))
	case kfake.LogLevelWarn:
		b.log.Debug("embedded broker", slog.String("detail", fmt.Sprintf(format, args...)))
	case kfake.LogLevelNone, kfake.LogLevelInfo, kfake.LogLevelDebug:
	}
}
