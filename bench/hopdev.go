package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/tapecast/tapecast/internal/broker"
)

const (
	// oneProcess is the role that does everything: tapecast dev.
	oneProcess = "dev"
	// devTopic is the feed in it: the demo has feedTopic for itself.
	devTopic = "ticks"
)

// devStack starts the product's one process, with the broker and the registry
// in it, and makes a topic with a schema. It is to be closed also beside an error.
func devStack(ctx context.Context, topic string) (*stack, error) {
	s := &stack{roles: map[string]*role{}, feeding: func() {}}
	bin, err := product()
	if err != nil {
		return s, err
	}
	if s.dir, err = os.MkdirTemp("", "tapecast-bench-"); err != nil {
		return s, err
	}
	r := &role{cmd: exec.CommandContext(ctx, bin, oneProcess, "--no-demo", "--data-dir", s.dir, "--hold", "0s", "--listen", "127.0.0.1:0",
		"--kafka-listen", "127.0.0.1:0", "--registry-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")}
	said, err := r.cmd.StdoutPipe()
	if err != nil {
		return s, err
	}
	r.cmd.Stderr = os.Stderr
	if err = r.cmd.Start(); err != nil {
		return s, err
	}
	s.roles[oneProcess] = r
	where, err := readBanner(bufio.NewReader(said))
	if err != nil {
		return s, err
	}
	go func() { _, _ = io.Copy(io.Discard, said) }()
	r.public, r.admin, r.pprof, s.addrs = where["HTTP"], where["HTTP"], where["admin"], where["Kafka"]
	if err = postSchema(ctx, where["registry"], topic); err != nil {
		return s, err
	}
	cl, err := broker.New(broker.Options{Addrs: []string{s.addrs}, ClientID: "bench"})
	if err != nil {
		return s, err
	}
	defer cl.Close()
	if _, _, err = cl.CreateTopic(ctx, broker.TopicSpec{Name: topic, Partitions: 1}); err != nil {
		return s, err
	}
	return s, eventually(ctx, "http://"+r.public+"/v1/topics", `"`+topic+`"`)
}

// postSchema registers the feed's schema.
func postSchema(ctx context.Context, registry, topic string) error {
	body, err := json.Marshal(map[string]string{"schema": feedSchema})
	if err != nil {
		return err
	}
	return post(ctx, "http://"+registry+"/subjects/"+topic+"-value/versions", body)
}

// readBanner reads where everything is from what tapecast dev prints first: a
// name and a URL or an address a line, the last of them is "data".
func readBanner(in *bufio.Reader) (map[string]string, error) {
	where := map[string]string{}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return nil, fmt.Errorf("tapecast dev ended before it said where it is: %w", err)
		}
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		if f[0] == "data" {
			return where, nil
		}
		where[f[0]], _, _ = strings.Cut(strings.TrimPrefix(f[1], "http://"), "/")
	}
}
