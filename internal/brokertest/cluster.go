package brokertest

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// patience bounds waits for brokers: it is for what hangs, not for a slow machine.
const patience = 3 * time.Minute

// Cluster is an Apache Kafka of one or more brokers, each a Java process. Not
// safe for concurrent use.
type Cluster struct {
	dir   string
	nodes []*node
}

// node is one broker, over all its lives.
type node struct {
	dir        string
	addr       string
	via        string // what clients of the listener at behind are told: a proxy's address
	behind     string
	controller string // where its half that is a controller listens
	libs       string
	remove     string   // to be deleted when the process ends
	process    *process // nil = dead
}

// Addrs returns the brokers' addresses.
func (c *Cluster) Addrs() []string {
	var out []string
	for _, n := range c.nodes {
		out = append(out, n.addr)
	}
	return out
}

// Proxied returns the addresses of a second way in: broker i listens at
// upstream[i] too, and tells who comes there that its address is via[i], where
// nobody listens until a test puts a proxy there.
func (c *Cluster) Proxied() (via, upstream []string) {
	for _, n := range c.nodes {
		via, upstream = append(via, n.via), append(upstream, n.behind)
	}
	return via, upstream
}

// Env returns an Env of this cluster.
func (c *Cluster) Env(t testing.TB) *Env {
	t.Helper()
	return &Env{Name: "kafka", Addrs: c.Addrs(), Client: Dial(t, c.Addrs()...)}
}

// Kill kills broker i (from 0) with SIGKILL, and waits until it is dead.
func (c *Cluster) Kill(i int) { c.nodes[i].kill() }

// Stop freezes broker i with SIGSTOP.
func (c *Cluster) Stop(i int) error { return c.nodes[i].process.stop() }

// Cont thaws broker i with SIGCONT.
func (c *Cluster) Cont(i int) error { return c.nodes[i].process.cont() }

// Terminate ends broker i with SIGTERM, as an operator does, and waits for it.
func (c *Cluster) Terminate(i int) { c.nodes[i].terminate() }

// Restart starts broker i again, killing it first if it runs, and waits until
// all brokers that run serve.
func (c *Cluster) Restart(i int) error {
	c.nodes[i].kill()
	if err := c.nodes[i].start(); err != nil {
		return err
	}
	var addrs []string
	for _, n := range c.nodes {
		if n.process != nil {
			addrs = append(addrs, n.addr)
		}
	}
	return await(addrs, patience)
}

// Close kills all brokers and deletes their data.
func (c *Cluster) Close() {
	for _, n := range c.nodes {
		n.kill()
	}
	_ = os.RemoveAll(c.dir)
}

// startCluster starts n brokers with their data under dir. A cluster that lasts
// as long as the process has its data deleted by its watchdog.
func startCluster(dir string, n int, lasting bool) (*Cluster, error) {
	libs, err := fetch()
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		c, err := tryCluster(filepath.Join(dir, fmt.Sprint(try)), libs, n, lasting)
		if err == nil {
			c.dir = dir
			return c, nil
		}
		c.Close()
		// Somebody else may have taken a port that was free when it was picked.
		if try == 3 || !strings.Contains(err.Error(), "in use") {
			_ = os.RemoveAll(dir)
			return nil, err
		}
	}
}

func tryCluster(dir, libs string, n int, lasting bool) (*Cluster, error) {
	c := &Cluster{dir: dir}
	var voters []string
	for i := range n {
		nd := &node{dir: filepath.Join(dir, fmt.Sprintf("broker-%d", i+1)), libs: libs}
		for _, addr := range []*string{&nd.addr, &nd.controller, &nd.behind, &nd.via} {
			var err error
			if *addr, err = FreeAddr(); err != nil {
				return c, err
			}
		}
		if lasting {
			nd.remove = filepath.Dir(dir)
		}
		c.nodes = append(c.nodes, nd)
		voters = append(voters, fmt.Sprintf("%d@%s", i+1, nd.controller))
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	cluster := base64.RawURLEncoding.EncodeToString(id)
	if strings.HasPrefix(cluster, "-") {
		cluster = "A" + cluster[1:] // would look like an option
	}
	for i, nd := range c.nodes {
		if err := os.MkdirAll(nd.dir, 0o750); err != nil {
			return c, err
		}
		if err := os.WriteFile(nd.file("server.properties"), properties(nd, i+1, n, voters), 0o600); err != nil {
			return c, err
		}
		out, err := exec.Command("java", nd.java("kafka.tools.StorageTool", "format", "-t", cluster, "-c", nd.file("server.properties"))...).CombinedOutput() //nolint:noctx,gosec // ends by itself; our own arguments
		if err != nil {
			return c, fmt.Errorf("format broker %d: %w\n%s", i+1, err, tail(string(out), 20))
		}
	}
	for _, nd := range c.nodes {
		if err := nd.start(); err != nil {
			return c, err
		}
	}
	if err := await(c.Addrs(), patience); err != nil {
		log, _ := os.ReadFile(c.nodes[0].file("log"))
		return c, fmt.Errorf("%w\n%s", err, tail(string(log), 30))
	}
	return c, nil
}

func (n *node) file(name string) string { return filepath.Join(n.dir, name) }

// java returns the arguments of a small, quickly starting JVM.
func (n *node) java(args ...string) []string {
	return append([]string{
		"-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
		"-Dorg.apache.logging.log4j.level=WARN", "-Djava.awt.headless=true",
		"-cp", filepath.Join(n.libs, "*"),
	}, args...)
}

func (n *node) start() (err error) {
	n.process, err = startProcess(n.remove, n.file("log"), "java", n.java("kafka.Kafka", n.file("server.properties"))...)
	return err
}

func (n *node) terminate() {
	if n.process != nil {
		n.process.terminate()
		n.process = nil
	}
}

func (n *node) kill() {
	if n.process != nil {
		n.process.kill()
		n.process = nil
	}
}

// properties configures a broker that is also a controller, for tests: quick
// to notice a dead peer, quick to clean, frugal with memory.
func properties(n *node, id, count int, voters []string) []byte {
	replicas, minISR := 1, 1
	if count >= 3 {
		replicas, minISR = 3, 2
	}
	return fmt.Appendf(nil, `process.roles=broker,controller
node.id=%[1]d
controller.quorum.voters=%[2]s
listeners=PLAINTEXT://%[3]s,PROXIED://%[8]s,CONTROLLER://%[4]s
advertised.listeners=PLAINTEXT://%[3]s,PROXIED://%[9]s
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=%[5]s
num.partitions=1
default.replication.factor=%[6]d
min.insync.replicas=%[7]d
auto.create.topics.enable=false
offsets.topic.replication.factor=%[6]d
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=%[6]d
transaction.state.log.min.isr=%[7]d
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=%[6]d
share.coordinator.state.topic.min.isr=%[7]d
group.initial.rebalance.delay.ms=0
log.cleaner.backoff.ms=200
log.cleaner.dedupe.buffer.size=8388608
log.initial.task.delay.ms=100
log.retention.check.interval.ms=500
log.retention.ms=-1
log.segment.delete.delay.ms=500
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=4000
controlled.shutdown.enable=false
num.network.threads=2
num.io.threads=4
background.threads=4
`, id, strings.Join(voters, ","), n.addr, n.controller, n.file("data"), replicas, minISR, n.behind, n.via)
}

// brokers returns how many brokers the cluster's metadata shows.
func brokers(ctx context.Context, addrs []string) (int, error) {
	c, err := kgo.NewClient(kgo.SeedBrokers(addrs...))
	if err != nil {
		return 0, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	m, err := kadm.NewClient(c).BrokerMetadata(ctx)
	if err != nil {
		return 0, err
	}
	return len(m.Brokers), nil
}
