package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/embedded"
)

// product builds the product once and returns where it is.
var product = sync.OnceValues(func() (string, error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/tapecast/tapecast").Output()
	if err != nil {
		return "", fmt.Errorf("where the product's module is: %w", err)
	}
	path := filepath.Join(os.TempDir(), fmt.Sprintf("tapecast-bench-%d", os.Getpid()))
	build := exec.Command("go", "build", "-o", path, "./cmd/tapecast") //nolint:gosec // as said
	build.Dir = strings.TrimSpace(string(root))
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the product: %w: %s", err, out)
	}
	return path, nil
})

// feedSchema is of the events that go through a whole stack.
const feedSchema = `{"type":"record","name":"Tick","fields":[{"name":"t","type":"string"},{"name":"p","type":"string"}]}`

// stack is the real roles, each a process of the product's binary, on a broker
// in this process (or, named, a cluster).
type stack struct {
	kafka   *embedded.Broker // nil: a cluster
	addrs   string
	dir     string
	roles   map[string]*role
	feeding context.CancelFunc
	fed     sync.WaitGroup
}

// role is one process of the product.
type role struct {
	cmd           *exec.Cmd
	public, admin string // addresses
	pprof         string // likewise
}

// newStack starts a broker with an empty topic of some partitions.
func newStack(ctx context.Context, cluster string, partitions int) (*stack, error) {
	s := &stack{addrs: cluster, roles: map[string]*role{}, feeding: func() {}}
	if cluster == "" {
		b, err := embedded.Start(embedded.Options{Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler), RetentionBytes: 64 << 20})
		if err != nil {
			return nil, err
		}
		s.kafka, s.addrs = b, b.Addr()
	}
	var err error
	if s.dir, err = os.MkdirTemp("", "tapecast-bench-"); err != nil {
		return s, err
	}
	if err = os.WriteFile(filepath.Join(s.dir, "tick.avsc"), []byte(feedSchema), 0o600); err != nil {
		return s, err
	}
	cl, err := broker.New(broker.Options{Addrs: strings.Split(s.addrs, ","), ClientID: "bench"})
	if err != nil {
		return s, err
	}
	defer cl.Close()
	_, _, err = cl.CreateTopic(ctx, broker.TopicSpec{Name: s.topic(), Partitions: partitions})
	return s, err
}

// topic is the feed topic in Kafka: clients know it as feedTopic.
func (s *stack) topic() string { return "bench-" + filepath.Base(s.dir) }

func (s *stack) close() {
	s.feeding()
	s.fed.Wait()
	for _, r := range s.roles {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
	}
	if s.kafka != nil {
		_ = s.kafka.Close()
	}
	_ = os.RemoveAll(s.dir)
}

// role is who does something: a role's own process, or the one that does all.
func (s *stack) role(name string) *role {
	if r := s.roles[name]; r != nil {
		return r
	}
	return s.roles[oneProcess]
}

// start starts a role and waits until it is ready.
func (s *stack) start(ctx context.Context, name string, flags ...string) error {
	bin, err := product()
	if err != nil {
		return err
	}
	args := append([]string{name, "--kafka", s.addrs, "--registry=", "--log-format", "json", "--admin-listen", "127.0.0.1:0",
		"--topics", feedTopic + "=" + s.topic() + ":avro:" + filepath.Join(s.dir, "tick.avsc")}, flags...)
	if name != "fanout" {
		args = append(args, "--listen", "127.0.0.1:0")
	}
	r := &role{cmd: exec.CommandContext(ctx, bin, args...)}
	said, err := r.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err = r.cmd.Start(); err != nil {
		return err
	}
	s.roles[name] = r
	in := bufio.NewScanner(said)
	if err = r.findAddresses(in, name); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	r.pprof = r.admin
	go func() { _, _ = io.Copy(io.Discard, said) }()
	if err = eventually(ctx, "http://"+r.admin+"/readyz", ""); err != nil {
		return fmt.Errorf("%s is not ready: %w", name, err)
	}
	return nil
}

// eventually asks until the answer is 200 and has a text in it.
func eventually(ctx context.Context, url, text string) error {
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		b, err := get(ctx, url)
		if err == nil && bytes.Contains(b, []byte(text)) {
			return nil
		}
		if time.Since(began) > 60*time.Second {
			return fmt.Errorf("wait for %q from %s, the last answer being %.200q: %w", text, url, b, err)
		}
	}
}

// findAddresses reads from a role's log where it listens.
func (r *role) findAddresses(in *bufio.Scanner, name string) error {
	var addrs []string
	want := 2
	if name == "fanout" {
		want = 1
	}
	var last string
	for len(addrs) < want && in.Scan() {
		last = in.Text()
		var line struct{ Msg, Addr string }
		if json.Unmarshal(in.Bytes(), &line) == nil && line.Msg == "listening" {
			addrs = append(addrs, line.Addr)
		}
	}
	if len(addrs) < want {
		return fmt.Errorf("ended before it listened: %s", last)
	}
	for _, a := range addrs {
		if _, err := get(context.Background(), "http://"+a+"/metrics"); err == nil {
			r.admin = a
		} else {
			r.public = a
		}
	}
	return nil
}

// get returns a body, and an error for any status but 200.
func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return b, err
}

// spent is what a role has used so far: CPU seconds, and bytes that it read and wrote.
type spent struct {
	cpu           float64
	read, written float64
}

// spent reads /proc; a role that is not there has used nothing.
func (s *stack) spent(name string) (out spent, err error) {
	r := s.roles[name]
	if r == nil {
		return out, nil
	}
	proc := "/proc/" + strconv.Itoa(r.cmd.Process.Pid)
	stat, err := os.ReadFile(proc + "/stat")
	if err != nil {
		return out, err
	}
	if out.cpu, err = cpuOf(stat); err != nil {
		return out, err
	}
	b, err := os.ReadFile(proc + "/io")
	if err != nil {
		return out, err
	}
	_, err = fmt.Sscanf(string(b), "rchar: %g\nwchar: %g", &out.read, &out.written)
	return out, err
}

// cpuOf reads user and system time from /proc/PID/stat; a tick is 10 ms on Linux.
func cpuOf(stat []byte) (float64, error) {
	at := bytes.LastIndex(stat, []byte(") ")) // the name before it may hold anything
	f := strings.Fields(string(stat[at+1:]))
	if at < 0 || len(f) < 13 {
		return 0, errors.New("/proc/PID/stat is cut short")
	}
	user, err := strconv.ParseFloat(f[11], 64)
	if err != nil {
		return 0, err
	}
	sys, err := strconv.ParseFloat(f[12], 64)
	return (user + sys) / 100, err
}

// feed posts the work's messages to ingest every 5 ms, what is due then, until
// the stack is closed. due counts deliveries; sent counts events.
func (s *stack) feed(ctx context.Context, w work, on func() bool, due, sent func(int64)) {
	ctx, s.feeding = context.WithCancel(ctx)
	url := "http://" + s.role("ingest").public + "/v1/topics/" + w.topic() + "/events"
	s.fed.Go(func() {
		var c *clock
		tick := time.NewTicker(batchEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if !on() {
				continue
			}
			if c == nil {
				c = newClock(w)
			}
			now := time.Now()
			n := min(c.owed(now), 4000)
			if n <= 0 {
				continue
			}
			if err := post(ctx, url, events(c, n, w.Size, now)); err != nil && ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, "bench: post:", err)
			}
			due(c.due)
			sent(int64(c.sent))
		}
	})
}

// events makes a request's body of the next n messages.
func events(c *clock, n, size int, now time.Time) []byte {
	out := []byte{'['}
	for i := range n {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, '{')
		if k := c.key(); k >= 0 {
			out = append(append(append(out, `"key":"`...), keyName(k)...), `",`...)
		}
		out = append(value(append(out, `"value":`...), size, now), '}')
	}
	return append(out, ']')
}

func post(ctx context.Context, url string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %.300s", resp.Status, answer)
	}
	return err
}
