package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/schemas/registry"
)

// patience bounds waits for what has to come: it is for what hangs, not for a
// slow machine.
const patience = 3 * time.Minute

// binary builds tapecast once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "tapecast-e2e-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "tapecast")
	out, err := exec.Command("go", "build", "-o", path, "github.com/tapecast/tapecast/cmd/tapecast").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// output keeps the last of what a process wrote.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.buf.Len() > 256<<10 {
		o.buf.Next(o.buf.Len() - 128<<10)
	}
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// proc is one process of the real binary, which can be killed and started again.
type proc struct {
	t     testing.TB
	name  string
	args  []string
	ready string // URL of /readyz; "" = none
	out   output

	cmd  *exec.Cmd
	done chan struct{}
}

func newProc(t testing.TB, name, ready string, args ...string) *proc {
	t.Helper()
	p := &proc{t: t, name: name, args: args, ready: ready}
	p.start()
	t.Cleanup(func() {
		p.signal(syscall.SIGCONT)
		p.stop(syscall.SIGTERM)
		if t.Failed() {
			t.Logf("--- %s\n%s", name, p.out.String())
		}
	})
	return p
}

func (p *proc) start() {
	path, err := binary()
	require.NoError(p.t, err)
	p.cmd = exec.Command(path, p.args...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.Env = append(os.Environ(), "GOMEMLIMIT=1GiB")
	require.NoError(p.t, p.cmd.Start())
	done := make(chan struct{})
	p.done = done
	cmd := p.cmd
	go func() { _ = cmd.Wait(); close(done) }()
}

func (p *proc) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// stop sends a signal and waits for the end; a process that does not end in
// 30 s is killed, and the test has failed.
func (p *proc) stop(s syscall.Signal) {
	p.signal(s)
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		assert.Fail(p.t, p.name+" does not end", "on %s, in 30 s", s)
		p.signal(syscall.SIGKILL)
		<-p.done
	}
}

func (p *proc) kill() { p.stop(syscall.SIGKILL) }

func (p *proc) restart() {
	p.start()
	p.awaitReady()
}

// awaitReady asks until /readyz says yes.
func (p *proc) awaitReady() {
	p.t.Helper()
	last := ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		select {
		case <-p.done:
			require.FailNow(p.t, p.name+" has ended", p.out.String())
		default:
		}
		resp, err := http.Get(p.ready)
		if err != nil {
			last = err.Error()
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return
		}
		last = string(body)
	}
	require.FailNow(p.t, p.name+" is not ready", "%s\n%s", last, p.out.String())
}

// stack is tapecast as in production: several processes of each role.
type stack struct {
	brokers  string
	registry string
	ingests  []*proc
	fanouts  []*proc
	gateways []*proc
	ws       []string // WebSocket URLs of the gateways
	ingest   []string // base URLs of the ingest doors
}

// newRegistry serves the embedded registry, outside the processes under test.
func newRegistry(t testing.TB) string {
	t.Helper()
	srv, err := registry.Open(t.TempDir(), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	hs := httptest.NewServer(srv.Handler())
	t.Cleanup(func() { hs.Close(); _ = srv.Close() })
	return hs.URL
}

// newStack starts the processes and waits until all are ready.
func newStack(t testing.TB, brokers string, fanouts, gateways int, gatewayArgs ...string) *stack {
	t.Helper()
	s := &stack{brokers: brokers, registry: newRegistry(t)}
	group := fmt.Sprintf("fanout-%d", time.Now().UnixNano())
	common := []string{"--kafka", brokers, "--topics", "*", "--log-level", "info"}
	for i := range fanouts {
		admin := brokertest.Addr(t)
		args := append([]string{"fanout", "--admin-listen", admin, "--group", group, "--instance", fmt.Sprintf("f%d", i)}, common...)
		s.fanouts = append(s.fanouts, newProc(t, fmt.Sprintf("fanout-%d", i), "http://"+admin+"/readyz", args...))
	}
	for i := range gateways {
		addr, admin := brokertest.Addr(t), brokertest.Addr(t)
		args := append([]string{"gateway", "--listen", addr, "--admin-listen", admin, "--registry", s.registry,
			"--node", fmt.Sprintf("g%d", i), "--drain", "1s"}, append(common, gatewayArgs...)...)
		s.gateways = append(s.gateways, newProc(t, fmt.Sprintf("gateway-%d", i), "http://"+admin+"/readyz", args...))
		s.ws = append(s.ws, "ws://"+addr+"/ws")
	}
	addr, admin := brokertest.Addr(t), brokertest.Addr(t)
	args := append([]string{"ingest", "--listen", addr, "--admin-listen", admin, "--registry", s.registry}, common...)
	s.ingests = append(s.ingests, newProc(t, "ingest-0", "http://"+admin+"/readyz", args...))
	s.ingest = append(s.ingest, "http://"+addr)
	for _, p := range s.all() {
		p.awaitReady()
	}
	return s
}

// awaitTopic waits until every gateway has found a new topic.
func (s *stack) awaitTopic(t testing.TB, topic string) {
	t.Helper()
	for _, ws := range s.ws {
		url := "http" + strings.TrimSuffix(strings.TrimPrefix(ws, "ws"), "/ws") + "/v1/topics/" + topic
		require.Eventually(t, func() bool {
			resp, err := http.Get(url)
			if err != nil {
				return false
			}
			_ = resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		}, patience, 20*time.Millisecond, "%s does not find %s", ws, topic)
	}
}

func (s *stack) all() []*proc {
	return append(append(append([]*proc{}, s.ingests...), s.fanouts...), s.gateways...)
}

// run runs a program to its end and returns what it wrote to standard output.
func run(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s %v\n%s\n%s", name, args, stderr.String(), out)
	return out
}
