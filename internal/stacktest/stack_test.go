// Package stacktest runs the tour of docs/QUICKSTART.md against real
// containers, from nothing, and takes it down again. It needs Docker with
// Compose v2: make test-stack.
package stacktest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// project keeps the tour's containers and volumes apart from a stack in use.
const project = "tapecast-tour"

// stack is the compose stack under test.
type stack struct {
	t    *testing.T
	dir  string
	env  []string
	http string            // host:port of nginx
	swap *strings.Replacer // the page's addresses to this run's
}

// ports of the page, and the variables that move them.
var ports = []struct{ variable, page string }{
	{"HTTP_PORT", "8080"}, {"KAFKA_PORT", "9092"}, {"REGISTRY_PORT", "8081"}, {"PROMETHEUS_PORT", "9090"}, {"GRAFANA_PORT", "3000"},
}

// newStack prepares a stack on free ports; the engine's state is cleaned first.
func newStack(t *testing.T) *stack {
	t.Helper()
	dir, err := filepath.Abs("../..")
	require.NoError(t, err)
	s := &stack{t: t, dir: dir, env: append(os.Environ(), "COMPOSE_PROJECT_NAME="+project, "MARKET_RATE=500")}
	var swaps []string
	for _, p := range ports {
		port := freePort(t)
		s.env = append(s.env, p.variable+"="+port)
		swaps = append(swaps, "127.0.0.1:"+p.page, "127.0.0.1:"+port)
		if p.variable == "HTTP_PORT" {
			s.http = "127.0.0.1:" + port
		}
	}
	s.swap = strings.NewReplacer(swaps...)
	s.must(2*time.Minute, "docker compose down -v --remove-orphans")
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := s.run(time.Minute, "docker compose ps -a; docker compose logs --tail 40")
			t.Logf("the stack, as it was at the end:\n%s", out)
		}
		_, _ = s.run(3*time.Minute, "docker compose down -v --remove-orphans")
	})
	return s
}

// freePort finds a port that nobody has now. Docker takes it a moment later.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close() // it was only asked for a number
	return strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
}

// run runs shell commands in the project's folder.
func (s *stack) run(limit time.Duration, script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-eu", "-c", s.swap.Replace(script))
	cmd.Dir, cmd.Env, cmd.WaitDelay = s.dir, s.env, 5*time.Second
	var out, msg bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &msg
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w\n%s\n%s", err, script, tail(msg.String()))
	}
	return out.String(), nil
}

func tail(s string) string {
	const most = 4000
	if len(s) > most {
		return "..." + s[len(s)-most:]
	}
	return s
}

// must is run that cannot fail.
func (s *stack) must(limit time.Duration, script string) string {
	s.t.Helper()
	out, err := s.run(limit, script)
	require.NoError(s.t, err)
	return out
}

// awaits repeats a command until its output is as wanted.
func (s *stack) awaits(what, script string, want func(out string) bool) {
	s.t.Helper()
	var out string
	var err error
	for until := time.Now().Add(5 * time.Minute); time.Now().Before(until); time.Sleep(500 * time.Millisecond) {
		if out, err = s.run(time.Minute, script); err == nil && want(out) {
			return
		}
	}
	s.t.Fatalf("%s: not within five minutes: %v\n%s", what, err, out)
}

// memory reports what each service holds.
func (s *stack) memory() string {
	return s.must(time.Minute,
		`docker stats --no-stream --format '{{.Name}} {{.MemUsage}}' $(docker compose ps -q) | sort | sed 's/^`+project+`-//'`)
}
