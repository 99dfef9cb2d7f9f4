//go:build unix

package brokertest

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// watchdog runs a command and tells its pid. When its standard input closes,
// because it is told to or because the test process died in whatever way, it
// kills the command, waits for its end, and deletes the directory $1.
const watchdog = `dir=$1 log=$2; shift 2
"$@" >>"$log" 2>&1 </dev/null &
echo $!
cat >/dev/null
kill -9 $! 2>/dev/null
wait $!
if [ -n "$dir" ]; then rm -rf "$dir"; fi`

// process is a command under a watchdog.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	pid   int
}

// startProcess starts a command. Its output goes to the file log; the directory
// remove, if there is one, is deleted when it ends.
func startProcess(remove, log, name string, args ...string) (*process, error) {
	cmd := exec.Command("sh", append([]string{"-c", watchdog, "sh", remove, log, name}, args...)...) //nolint:noctx,gosec // outlives the call; our own arguments
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}                                            // an interrupt is for the tests
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return &process{cmd: cmd, stdin: stdin, pid: pid}, nil
}

func (p *process) kill() {
	_ = syscall.Kill(p.pid, syscall.SIGKILL)
	_ = p.stdin.Close()
	_ = p.cmd.Wait()
}

// terminate asks for an orderly end; what has not ended in 30 s is killed.
func (p *process) terminate() {
	_ = syscall.Kill(p.pid, syscall.SIGTERM)
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end) && syscall.Kill(p.pid, 0) == nil; {
		time.Sleep(50 * time.Millisecond)
	}
	p.kill()
}

func (p *process) stop() error { return syscall.Kill(p.pid, syscall.SIGSTOP) }

func (p *process) cont() error { return syscall.Kill(p.pid, syscall.SIGCONT) }
