// Command tapecast casts Kafka topics to WebSocket clients. Run it without
// arguments to see what it can do; `tapecast dev` needs nothing else installed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/tapecast/tapecast/internal/config"
)

// Exit codes.
const (
	exitOK      = 0
	exitRuntime = 1
	exitUsage   = 2
)

// system is what a command may touch of the world around it.
type system struct {
	in      io.Reader
	out     io.Writer // what was asked for
	err     io.Writer // messages, progress, logs
	environ []string
}

// command is one row of the command table.
type command struct {
	name    string
	summary string
	run     func(ctx context.Context, sys system, args []string) error
}

// commands is the table; the order is the one of the help.
func commands() []command {
	return []command{
		{"dev", "everything in one process, for development", runDev},
		{"ingest", "production role: take events over HTTP, write them to Kafka", roleCommand(roleIngest)},
		{"fanout", "production role: read feed topics, write to each gateway what it wants", roleCommand(roleFanout)},
		{"gateway", "production role: serve WebSocket, SSE and NDJSON clients", roleCommand(roleGateway)},
		{"pub", "publish NDJSON or CSV to a topic", runPub},
		{"sub", "subscribe to a topic and print its events", runSub},
		{"topics", "list, create and describe topics, and make those of a file", runTopics},
		{"market", "write the demo market to any Kafka cluster", runMarket},
		{"loadtest", "load a tapecast and check every client's history", runLoadtest},
		{"health", "ask a process whether it is ready: a health check", runHealth},
		{"config", "print the effective configuration of the production roles", runConfig},
		{"top", "show the flow through the stages, from their metrics", runTop},
		{"completion", "print a script that completes commands and flags in bash, zsh or fish", runCompletion},
		{"version", "print version and build", runVersion},
	}
}

func main() {
	sys := system{in: os.Stdin, out: os.Stdout, err: os.Stderr, environ: os.Environ()}
	os.Exit(run(signalContext(), sys, os.Args[1:]))
}

// sameSignal is how long further signals count as the first one: GNU timeout
// and some supervisors signal the process and its group.
const sameSignal = 300 * time.Millisecond

// signalContext ends with the first SIGINT or SIGTERM. The second one cuts the
// graceful stop short.
func signalContext() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() { // owned by the process: it ends with it
		<-signals
		first := time.Now()
		cancel()
		for s := range signals {
			if time.Since(first) < sameSignal {
				continue
			}
			fmt.Fprintf(os.Stderr, "tapecast: second signal (%s), stopping at once\n", s)
			os.Exit(exitRuntime)
		}
	}()
	return ctx
}

// run finds the command, runs it and turns its error into an exit code.
func run(ctx context.Context, sys system, args []string) int {
	if len(args) == 0 {
		usage(sys.err)
		return exitUsage
	}
	name := args[0]
	switch name {
	case "help", "-h", "-help", "--help":
		if len(args) > 1 {
			return run(ctx, sys, []string{args[1], "--help"})
		}
		usage(sys.out)
		return exitOK
	case "-v", "-version", "--version":
		name = "version"
	}
	table := commands()
	names := make([]string, 0, len(table))
	for _, c := range table {
		if c.name == name {
			return exit(sys, c.name, c.run(ctx, sys, args[1:]))
		}
		names = append(names, c.name)
	}
	fmt.Fprintf(sys.err, "tapecast: unknown command %q%s\nRun 'tapecast help' for the list.\n",
		name, config.DidYouMean(name, names))
	return exitUsage
}

func exit(sys system, name string, err error) int {
	var usage *usageError
	var problems config.Problems
	switch {
	case err == nil, errors.Is(err, errHelp):
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintf(sys.err, "tapecast %s: %s\nRun 'tapecast %s --help' for help.\n", name, usage.msg, name)
		return exitUsage
	case errors.As(err, &problems):
		fmt.Fprintf(sys.err, "tapecast %s: %s\n", name, problems.Error())
		return exitUsage
	case errors.Is(err, errReported):
		return exitRuntime
	}
	fmt.Fprintf(sys.err, "tapecast %s: %s\n", name, err)
	return exitRuntime
}

func usage(w io.Writer) {
	var b strings.Builder
	b.WriteString("tapecast casts Kafka topics to very many WebSocket clients: replayable, ordered, without holes.\n\n")
	b.WriteString("Usage:\n  tapecast COMMAND [flags]\n\nCommands:\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "  %-10s %s\n", c.name, c.summary)
	}
	b.WriteString("\nBegin with:\n  tapecast dev\n\n'tapecast COMMAND --help' shows a command's flags, with examples.\n")
	_, _ = io.WriteString(w, b.String())
}
