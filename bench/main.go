package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	var err error
	if len(os.Args) > 1 && subcommands[os.Args[1]] != nil {
		err = subcommands[os.Args[1]](os.Args[2:])
	} else {
		err = benchMain(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are what a run is asked for.
type options struct {
	works, servers string
	length         time.Duration
	rounds         int
	peers          bool
	profile        string
	history        string
	busy           float64
	kafka          string
	add            bool
}

func benchMain(args []string) error {
	fs := flag.NewFlagSet("bench", flag.ExitOnError)
	var o options
	fs.StringVar(&o.works, "work", "", "works to run, comma between; \"\" = all but the extra ones")
	fs.StringVar(&o.servers, "servers", "", "servers of the gateway's works, NAME@MS-HELD, comma between; \"\" = those of each work; of: "+strings.Join(kinds, ", "))
	fs.BoolVar(&o.peers, "peers", false, "the gateway's works beside other servers")
	fs.DurationVar(&o.length, "for", 6*time.Second, "how long a steady phase is measured")
	fs.IntVar(&o.rounds, "rounds", 3, "how often, servers taking turns; the table has the medians")
	fs.StringVar(&o.profile, "profile", "", "CPU profiles: file name; work and server are appended")
	fs.StringVar(&o.history, "history", "history.jsonl", "append the run to this file, a line of JSON; \"\" = do not")
	fs.Float64Var(&o.busy, "busy", .2, "cores: other processes that use more of the machine during the run are told in the table")
	fs.StringVar(&o.kafka, "kafka", "", "host:port of a Kafka cluster for hop, direct, replay and the storms, and for fanout beside the embedded one; \"\" = an embedded broker")
	fs.BoolVar(&o.add, "add", false, "add the works to the last run of -history: a long run in pieces")
	list := fs.Bool("list", false, "list the works")
	against := fs.Bool("compare", false, "print the last two runs of -history side by side")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch {
	case *list:
		all, err := jobs(strings.Join(workNames(), ","))
		for _, j := range all {
			fmt.Printf("%-8s  %s%s\n", j.name, j.about, map[bool]string{true: " (only when named)"}[j.extra])
		}
		return err
	case *against:
		return compareLast(os.Stdout, o.history)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r, err := runAll(ctx, o)
	if r == nil || len(r.Results) == 0 {
		return err
	}
	return errors.Join(err, r.finish(o)) // what was measured before an error is kept
}

// finish keeps a run and prints it.
func (r *run) finish(o options) (err error) {
	if o.add {
		if r, err = addToLast(o.history, r); err != nil {
			return err
		}
	} else if err := keep(o.history, r); err != nil {
		return err
	}
	return r.print(os.Stdout)
}

// runAll runs what is asked for, says on stderr how it goes, and returns the
// medians; with an error, of what was measured before it.
func runAll(ctx context.Context, o options) (*run, error) {
	todo, err := jobs(o.works)
	if err != nil {
		return nil, err
	}
	if o.works != "" && todo[0].name != "write" {
		todo = append([]job{registry["write"]}, todo...)
	}
	out := newRun(o)
	began := time.Now()
	for at, j := range todo {
		e := &env{length: o.length, peers: o.peers, profile: o.profile, kafka: o.kafka}
		if o.servers != "" {
			e.servers = strings.Split(o.servers, ",")
		}
		e.say = func(format string, args ...any) {
			_, _ = fmt.Fprintf(os.Stderr, "%5.0fs  %d/%d %s, round %d: %s\n", time.Since(began).Seconds(), at+1, len(todo), j.name, e.round+1, fmt.Sprintf(format, args...))
		}
		rounds, err := j.rounds(ctx, e, o.rounds)
		out.join(j, rounds)
		if err != nil {
			out.end(began)
			return out, fmt.Errorf("%s: %w", j.name, err)
		}
	}
	out.end(began)
	return out, nil
}

// rounds does a work some times; what was done before an error is returned with it.
func (j job) rounds(ctx context.Context, e *env, n int) (all [][]row, err error) {
	if j.once {
		n = 1
	}
	for e.round = range n {
		e.say("%s", j.about)
		rows, err := j.run(ctx, e)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return all, err
		}
		all = append(all, rows)
	}
	return all, nil
}
