package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
)

// usage is what a process has used, as it says itself.
type usage struct {
	User, Sys  float64 // seconds
	RSS        int64   // bytes
	Heap       uint64  // bytes
	Stacks     uint64  // bytes
	Goroutines int
	Count      int64         // messages: clients count, servers say what was due
	Hist       map[int]int64 // latencies: ms up to 100, then tens of ms
	Min, Max   int64         // messages of one client
}

// used returns what this process has used so far; gc = after collections that
// give back. A stack shrinks by half in each.
func used(gc bool) usage {
	for range 3 {
		if gc {
			debug.FreeOSMemory()
		}
	}
	var u usage
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) == nil {
		u.User = float64(r.Utime.Sec) + float64(r.Utime.Usec)/1e6
		u.Sys = float64(r.Stime.Sec) + float64(r.Stime.Usec)/1e6
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u.Heap, u.Stacks, u.Goroutines = m.HeapInuse, m.StackInuse, runtime.NumGoroutine()
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		var size, rss int64
		if _, err := fmt.Sscan(string(b), &size, &rss); err == nil {
			u.RSS = rss * int64(os.Getpagesize())
		}
	}
	return u
}

// obey is the life of a started process once it works: each line from stdin is
// done and answered with a usage, until stdin ends. "gc" collects first.
func obey(do func(line string, u *usage) error) error {
	in := bufio.NewScanner(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		u := used(in.Text() == "gc")
		if err := do(in.Text(), &u); err != nil {
			return err
		}
		if err := out.Encode(u); err != nil {
			return err
		}
	}
	return in.Err()
}

// process is a server or a client: it obeys lines, and answers each with its usage.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// start starts this program as one of subcommands; core pins it ("" = nowhere).
func start(core string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if core != "" {
		args = append([]string{"-c", core, self}, args...)
		self = "taskset"
	}
	p := &process{cmd: exec.CommandContext(context.Background(), self, args...)}
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReaderSize(out, 1<<20)
	return p, p.cmd.Start()
}

// line reads a line that the process prints by itself.
func (p *process) line() (string, error) {
	s, err := p.out.ReadString('\n')
	return strings.TrimSpace(s), err
}

func (p *process) usage() (u usage, err error) {
	s, err := p.line()
	if err != nil {
		return u, err
	}
	return u, json.Unmarshal([]byte(s), &u)
}

// tell sends a line and returns the answer.
func (p *process) tell(line string) (usage, error) {
	if _, err := fmt.Fprintln(p.in, line); err != nil {
		return usage{}, err
	}
	return p.usage()
}

// stop ends the process.
func (p *process) stop() {
	_ = p.in.Close()
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}
