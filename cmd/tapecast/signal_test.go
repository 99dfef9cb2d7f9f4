//go:build unix

package main

import (
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// runMain makes the test binary behave as tapecast itself, so that signals and
// exit codes can be tested on a process.
const runMain = "TAPECAST_TEST_RUN_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(runMain) != "" {
		main()
	}
	os.Exit(m.Run())
}

func process(t *testing.T, args ...string) (cmd *exec.Cmd, out, msg *screen) {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	out, msg = &screen{}, &screen{}
	cmd = exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), runMain+"=1")
	cmd.Stdout, cmd.Stderr = out, msg
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, out, msg
}

func devProcessArgs(t *testing.T) []string {
	return []string{
		"dev", "--no-demo", "--data-dir", t.TempDir(), "--log-level", "info",
		"--listen", "127.0.0.1:0", "--kafka-listen", "127.0.0.1:0", "--registry-listen", "127.0.0.1:0",
	}
}

func TestASignalStopsTheProcessCleanly(t *testing.T) {
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		cmd, out, msg := process(t, devProcessArgs(t)...)
		require.Eventually(t, func() bool { return strings.Contains(out.String(), "Ctrl-C stops it.") }, 60*time.Second, 10*time.Millisecond, "%s", msg)
		require.NoError(t, cmd.Process.Signal(sig))
		require.NoError(t, cmd.Wait(), "%s", msg)
		require.Zero(t, cmd.ProcessState.ExitCode())
		require.Contains(t, msg.String(), "tapecast dev: stopped")
	}
}

func TestASecondSignalCutsTheStopShort(t *testing.T) {
	cmd, out, msg := process(t, devProcessArgs(t)...)
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "Ctrl-C stops it.") }, 60*time.Second, 10*time.Millisecond, "%s", msg)
	var base string
	for _, m := range bannerLine.FindAllStringSubmatch(out.String(), -1) {
		if m[1] == "page" {
			base = strings.TrimSuffix(m[2], "/")
		}
	}
	body := newStuckBody()
	defer body.release()
	req, err := http.NewRequest(http.MethodPost, base+"/v1/topics/price/events", body)
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-ndjson")
	req.Header.Set("Expect", "100-continue") // the body is not read before the server asks for it
	go func() {                              // an upload that never ends keeps the process from stopping at once
		if res, err := http.DefaultClient.Do(req); err == nil {
			_ = res.Body.Close()
		}
	}()
	<-body.reading
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.Eventually(t, func() bool { return strings.Contains(msg.String(), "msg=stopping") }, 60*time.Second, 5*time.Millisecond)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	again := time.NewTicker(sameSignal / 3) // the first ones still count as the first
	defer again.Stop()
	for {
		select {
		case <-again.C:
			_ = cmd.Process.Signal(syscall.SIGTERM) // an error: it has just ended
		case <-ended:
			require.Equal(t, exitRuntime, cmd.ProcessState.ExitCode(), "%s", msg)
			require.Contains(t, msg.String(), "second signal")
			return
		}
	}
}

// stuckBody is a request body with one row, and no end until it is released.
type stuckBody struct {
	reading, done chan struct{} // closed when it is being read; closed by release
	sent          bool
}

func newStuckBody() *stuckBody {
	return &stuckBody{reading: make(chan struct{}), done: make(chan struct{})}
}

func (b *stuckBody) Read(p []byte) (int, error) {
	if !b.sent {
		b.sent = true
		return copy(p, "{\"value\":1}\n"), nil
	}
	close(b.reading)
	<-b.done
	return 0, http.ErrBodyReadAfterClose
}

func (b *stuckBody) release() { close(b.done) }
