package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/config"
	"github.com/tapecast/tapecast/schemas"
)

// topicsCommand is what the subcommands of `tapecast topics` share.
type topicsCommand struct {
	conn   connection
	asJSON bool
	sys    system
	client *broker.Client
}

// runTopics is `tapecast topics`.
func runTopics(ctx context.Context, sys system, args []string) error {
	t := &topicsCommand{sys: sys}
	word := "list"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		word, args = args[0], args[1:]
	}
	switch word {
	case "list", "ls":
		return t.runList(ctx, args)
	case "create":
		return t.runCreate(ctx, args)
	case "describe":
		return t.runDescribe(ctx, args)
	case "apply":
		return t.runApply(ctx, args)
	}
	return usagef("unknown subcommand %q%s; expected list, create, describe or apply", word,
		config.DidYouMean(word, []string{"list", "create", "describe", "apply"}))
}

func (t *topicsCommand) flags(synopsis, about string, examples ...string) (*flagSet, error) {
	fs := newFlags(synopsis, about, examples...)
	if err := t.conn.define(fs, t.sys); err != nil {
		return nil, err
	}
	fs.BoolVar(&t.asJSON, "json", false, "print JSON")
	return fs, nil
}

// connect parses and dials.
func (t *topicsCommand) connect(ctx context.Context, fs *flagSet, args []string) ([]string, error) {
	rest, err := fs.parse(t.sys, args)
	if err != nil {
		return nil, err
	}
	if err := t.conn.check(); err != nil {
		return nil, err
	}
	t.client, err = t.conn.dial(ctx, "tapecast-topics")
	return rest, err
}

// listed is one line of `topics list`.
type listed struct {
	Topic      string `json:"topic"`
	ID         string `json:"id"`
	Partitions int    `json:"partitions"`
	Retained   int64  `json:"retained"` // offsets between first and end, over all partitions
	Internal   bool   `json:"internal,omitempty"`
}

func (t *topicsCommand) runList(ctx context.Context, args []string) error {
	fs, err := t.flags("topics [list] [flags]",
		"List topics. Subcommands: list, create NAME, describe NAME, apply FILE.",
		"tapecast topics", "tapecast topics list --all", "tapecast topics describe quotes")
	if err != nil {
		return err
	}
	all := fs.Bool("all", false, "also tapecast's, Kafka's and the registry's own topics")
	rest, err := t.connect(ctx, fs, args)
	if err != nil {
		return err
	}
	defer t.client.Close()
	if err := noArgs(rest); err != nil {
		return err
	}
	topics, err := t.client.Topics(ctx)
	if err != nil {
		return fmt.Errorf("ask Kafka for its topics: %w", err)
	}
	out := []listed{}
	for _, tp := range topics {
		if internalTopic(tp) && !*all {
			continue
		}
		l := listed{Topic: tp.Name, ID: tp.ID.String(), Partitions: len(tp.Partitions), Internal: internalTopic(tp)}
		bounds, err := t.client.Bounds(ctx, tp.Name, partitionIDs(tp))
		if err != nil {
			return fmt.Errorf("ask Kafka for the offsets of %s: %w", tp.Name, err)
		}
		for _, b := range bounds {
			l.Retained += b.End - b.Start
		}
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b listed) int { return strings.Compare(a.Topic, b.Topic) })
	if t.asJSON {
		return printJSON(t.sys.out, out)
	}
	return t.printList(out)
}

func (t *topicsCommand) printList(topics []listed) error {
	if len(topics) == 0 {
		fmt.Fprintln(t.sys.err, "there are no topics yet; make one with 'tapecast topics create NAME'")
		return nil
	}
	w := tabwriter.NewWriter(t.sys.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TOPIC\tPARTITIONS\tRETAINED")
	for _, l := range topics {
		fmt.Fprintf(w, "%s\t%d\t%s\n", l.Topic, l.Partitions, group(l.Retained))
	}
	return w.Flush()
}

func partitionIDs(t broker.Topic) []int32 {
	ids := make([]int32, len(t.Partitions))
	for i, p := range t.Partitions {
		ids[i] = p.ID
	}
	return ids
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func (t *topicsCommand) runCreate(ctx context.Context, args []string) error {
	fs, err := t.flags("topics create NAME [flags]",
		"Create a topic and, with --schema, register the schema of its values.",
		"tapecast topics create orders --partitions 8 --schema order.avsc",
		"tapecast topics create prices --partitions 4 --replicas 3 --config retention.ms=86400000 --config min.insync.replicas=2")
	if err != nil {
		return err
	}
	spec := broker.TopicSpec{Config: map[string]string{}}
	var configs listFlag
	fs.IntVar(&spec.Partitions, "partitions", 1, "number of partitions")
	fs.IntVar(&spec.Replicas, "replicas", 0, "replicas of each partition; 0 = the cluster's default")
	fs.Var(&configs, "config", "`KEY=VALUE` of Kafka's topic configuration; may be repeated")
	schema := fs.String("schema", "", "`FILE` with the Avro schema of the values")
	rest, err := fs.parse(t.sys, args)
	if err != nil {
		return err
	}
	if spec.Name, err = oneArg(rest, "NAME"); err != nil {
		return err
	}
	if err := checkSpec(&spec, configs); err != nil {
		return err
	}
	var text string
	if *schema != "" {
		if text, err = readSchema(*schema); err != nil {
			return fmt.Errorf("--schema: %w", err)
		}
	}
	if err := t.conn.check(); err != nil {
		return err
	}
	if t.client, err = t.conn.dial(ctx, "tapecast-topics"); err != nil {
		return err
	}
	defer t.client.Close()
	return t.create(ctx, spec, text)
}

func checkSpec(spec *broker.TopicSpec, configs []string) error {
	if err := checkTopic(spec.Name); err != nil {
		return usagef("%s", err)
	}
	if spec.Partitions < 1 || spec.Replicas < 0 {
		return usagef("--partitions must be at least 1, --replicas at least 0")
	}
	for _, kv := range configs {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return usagef("--config %q: expected KEY=VALUE, for example retention.ms=86400000", kv)
		}
		spec.Config[k] = v
	}
	return nil
}

func readSchema(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	if _, err := schemas.Compile(string(text)); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	return string(text), nil
}

// create makes the topic last: whoever sees it can look its schema up.
func (t *topicsCommand) create(ctx context.Context, spec broker.TopicSpec, schema string) error {
	var id uint32
	if schema != "" {
		reg, err := t.conn.registry()
		if err != nil {
			return err
		}
		if id, err = reg.Register(ctx, schemas.Subject(spec.Name), schema); err != nil {
			return t.conn.registryError(err)
		}
	}
	_, created, err := t.client.CreateTopic(ctx, spec)
	if err != nil {
		return fmt.Errorf("create topic %s: %w", spec.Name, err)
	}
	if t.asJSON {
		return printJSON(t.sys.out, map[string]any{"topic": spec.Name, "created": created, "schema_id": id})
	}
	switch {
	case created:
		fmt.Fprintf(t.sys.out, "created topic %s with %s\n", spec.Name, plural(int64(spec.Partitions), "partition"))
	default:
		fmt.Fprintf(t.sys.out, "topic %s is already there; it was left as it is\n", spec.Name)
	}
	if schema != "" {
		fmt.Fprintf(t.sys.out, "registered schema %d as %s\n", id, schemas.Subject(spec.Name))
	}
	return nil
}

// described is what `topics describe` tells.
type described struct {
	Topic       string          `json:"topic"`
	ID          string          `json:"id"`
	Schema      *schemaVersion  `json:"schema,omitempty"`
	SchemaError string          `json:"schema_error,omitempty"`
	Partitions  []partitionInfo `json:"partitions"`
	Group       string          `json:"group"`
	Subscribers []subscriber    `json:"subscribers"`
}

type partitionInfo struct {
	Partition int32  `json:"partition"`
	Leader    int32  `json:"leader"` // -1 = none now
	Replicas  int    `json:"replicas"`
	InSync    int    `json:"in_sync"`
	First     int64  `json:"first"`               // first retained offset
	End       int64  `json:"end"`                 // next offset to be written (last stable)
	Committed *int64 `json:"committed,omitempty"` // of the fan-out group
	Lag       *int64 `json:"lag,omitempty"`
}

func (t *topicsCommand) runDescribe(ctx context.Context, args []string) error {
	fs, err := t.flags("topics describe NAME [flags]",
		"Tell everything about a topic: partitions, offsets, schema, how far the fan-out is, and which gateways want it.",
		"tapecast topics describe quotes", "tapecast topics describe quotes --json")
	if err != nil {
		return err
	}
	groupName := fs.String("group", config.DefaultGroup, "consumer `GROUP` of the fan-out")
	rest, err := t.connect(ctx, fs, args)
	if err != nil {
		return err
	}
	defer t.client.Close()
	name, err := oneArg(rest, "NAME")
	if err != nil {
		return err
	}
	d, err := t.describe(ctx, name, *groupName)
	if err != nil {
		return err
	}
	if t.asJSON {
		return printJSON(t.sys.out, d)
	}
	return printDescribed(t.sys.out, d)
}

func (t *topicsCommand) describe(ctx context.Context, name, groupName string) (*described, error) {
	topics, err := t.client.Topics(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("ask Kafka for topic %s: %w", name, err)
	}
	if len(topics) == 0 {
		return nil, fmt.Errorf("there is no topic %s%s", name, nearestTopic(ctx, t.client, name))
	}
	tp := topics[0]
	ids := partitionIDs(tp)
	bounds, err := t.client.Bounds(ctx, name, ids)
	if err != nil {
		return nil, fmt.Errorf("ask Kafka for the offsets of %s: %w", name, err)
	}
	committed, err := t.client.GroupOffsets(ctx, groupName, name, ids)
	if err != nil {
		return nil, fmt.Errorf("ask Kafka for what group %s has committed: %w", groupName, err)
	}
	d := &described{Topic: tp.Name, ID: tp.ID.String(), Group: groupName}
	for _, p := range tp.Partitions {
		b := bounds[p.ID]
		info := partitionInfo{Partition: p.ID, Leader: p.Leader, Replicas: p.Replicas, InSync: p.ISR, First: b.Start, End: b.End}
		if c, ok := committed[p.ID]; ok && c.Offset >= 0 {
			lag := max(b.End-c.Offset, 0)
			info.Committed, info.Lag = &c.Offset, &lag
		}
		d.Partitions = append(d.Partitions, info)
	}
	if d.Schema, err = latestSchema(ctx, t.conn.registryURL, name); err != nil {
		d.SchemaError = err.Error()
	}
	if d.Subscribers, err = subscribers(ctx, t.client, name); err != nil {
		return nil, err
	}
	return d, nil
}

func printDescribed(out io.Writer, d *described) error {
	fmt.Fprintf(out, "topic    %s\nepoch    %s\n", d.Topic, d.ID)
	switch {
	case d.Schema != nil:
		fmt.Fprintf(out, "schema   id %d, version %d of %s\n", d.Schema.ID, d.Schema.Version, d.Schema.Subject)
	default:
		fmt.Fprintf(out, "schema   none: %s\n", d.SchemaError)
	}
	fmt.Fprintf(out, "fan-out  group %s\n\n", d.Group)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "PARTITION\tLEADER\tIN SYNC\tFIRST\tEND\tCOMMITTED\tLAG\t")
	for _, p := range d.Partitions {
		fmt.Fprintf(w, "%d\t%s\t%d/%d\t%d\t%d\t%s\t%s\t\n", p.Partition, orDash(p.Leader >= 0, int64(p.Leader)), p.InSync, p.Replicas,
			p.First, p.End, offsetText(p.Committed), offsetText(p.Lag))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	if len(d.Subscribers) == 0 {
		_, err := fmt.Fprintln(out, "no gateway wants this topic now")
		return err
	}
	w = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tINCARNATION\tWANTS")
	for _, s := range d.Subscribers {
		fmt.Fprintf(w, "%s\t%s\t%s\n", s.Node, s.Incarnation, s.wants())
	}
	return w.Flush()
}

func orDash(ok bool, n int64) string {
	if !ok {
		return "-"
	}
	return fmt.Sprint(n)
}

func offsetText(n *int64) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprint(*n)
}

var errNoSubject = errors.New("the registry has none for this topic")
