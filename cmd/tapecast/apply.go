package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/config"
	"github.com/tapecast/tapecast/schemas"
)

// applyRetry is the pause between two tries while Kafka or the registry is away.
const applyRetry = time.Second

// applier is one run of `tapecast topics apply`.
type applier struct {
	*topicsCommand
	plan     *config.Plan
	texts    map[string]string // schemas by file
	registry *schemas.Registry
	grow     bool
	until    time.Time // what is away may come back before that
}

// applied is one line of what was done.
type applied struct {
	Topic    string `json:"topic,omitempty"`
	Subject  string `json:"subject,omitempty"`
	SchemaID uint32 `json:"schema_id,omitempty"`
	Created  bool   `json:"created,omitempty"`
	Grown    bool   `json:"grown,omitempty"`
}

// runApply is `tapecast topics apply`.
func (t *topicsCommand) runApply(ctx context.Context, args []string) error {
	fs, err := t.flags("topics apply FILE [flags]",
		"Make the topics that FILE describes and register their schemas, schemas first. What is there already stays as\n"+
			"it is; where it differs from FILE, that is an error that says how. Doing it again does no harm.",
		"tapecast topics apply deploy/topics.yaml",
		"tapecast topics apply topics.yaml --wait 2m    # Kafka and the registry may start later")
	if err != nil {
		return err
	}
	a := &applier{topicsCommand: t}
	wait := fs.Duration("wait", 0, "how long to wait for Kafka and the registry")
	fs.BoolVar(&a.grow, "grow", false, "add partitions to topics that have fewer: keys move to other partitions, and their order is lost there")
	rest, err := fs.parse(t.sys, args)
	if err != nil {
		return err
	}
	file, err := oneArg(rest, "FILE")
	if err != nil {
		return err
	}
	if err := t.conn.check(); err != nil {
		return err
	}
	if err := a.read(file); err != nil {
		return err
	}
	a.until = time.Now().Add(*wait)
	if err := a.connect(ctx); err != nil {
		return err
	}
	defer t.client.Close()
	return a.apply(ctx)
}

// read reads the plan and every schema that it names.
func (a *applier) read(file string) (err error) {
	if a.plan, err = config.LoadPlan(file); err != nil {
		return err
	}
	a.texts = map[string]string{}
	files := map[string]string{} // what names it
	for _, t := range a.plan.Topics {
		if err := checkTopic(t.Name); err != nil {
			return usagef("%s: topic %s", file, err)
		}
		if t.Schema != "" {
			files[t.Schema] = "topic " + t.Name
		}
	}
	for _, s := range a.plan.Schemas {
		files[s.File] = "subject " + s.Subject
	}
	for _, f := range slices.Sorted(maps.Keys(files)) {
		if a.texts[f], err = readSchema(f); err != nil {
			return fmt.Errorf("%s: %s: %w", file, files[f], err)
		}
	}
	return nil
}

// connect waits for Kafka and, if a schema is to be registered, for the registry.
func (a *applier) connect(ctx context.Context) (err error) {
	a.client, err = retried(ctx, a.until, anyError, func() (*broker.Client, error) { return a.conn.dial(ctx, "tapecast-topics") })
	if err != nil {
		return err
	}
	if len(a.texts) == 0 {
		return nil
	}
	if a.registry, err = a.conn.registry(); err == nil {
		_, err = retried(ctx, a.until, anyError, func() (struct{}, error) { return struct{}{}, a.registry.Ping(ctx) })
		if err != nil {
			err = a.conn.registryError(err)
		}
	}
	if err != nil {
		a.client.Close()
	}
	return err
}

// anyError is worth another try, unless it is the command line's.
func anyError(err error) bool {
	var usage *usageError
	return !errors.As(err, &usage)
}

// retried calls f until it succeeds, fails for good, or the time is over.
func retried[T any](ctx context.Context, until time.Time, again func(error) bool, f func() (T, error)) (T, error) {
	for {
		v, err := f()
		if err == nil || !again(err) || time.Now().After(until) {
			return v, err
		}
		select {
		case <-ctx.Done():
			return v, err
		case <-time.After(applyRetry):
		}
	}
}

// register registers a schema. A registry that has just started may answer a
// ping and be too slow for more.
func (a *applier) register(ctx context.Context, subject, file string) (uint32, error) {
	id, err := retried(ctx, a.until, schemas.Transient, func() (uint32, error) {
		return a.registry.Register(ctx, subject, a.texts[file])
	})
	if err != nil {
		return 0, a.conn.registryError(err)
	}
	return id, nil
}

// apply does all that it can; its error tells of everything that it could not.
func (a *applier) apply(ctx context.Context) error {
	var done []applied
	var errs []error
	for _, s := range a.plan.Schemas {
		id, err := a.register(ctx, s.Subject, s.File)
		if err != nil {
			return err
		}
		done = append(done, applied{Subject: s.Subject, SchemaID: id})
	}
	for _, t := range a.plan.Topics {
		what, err := a.topic(ctx, t)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		done = append(done, what)
	}
	if a.asJSON {
		errs = append(errs, printJSON(a.sys.out, done))
	} else {
		a.print(done)
	}
	return errors.Join(errs...)
}

// topic makes a topic last: whoever sees it can look its schema up.
func (a *applier) topic(ctx context.Context, t config.PlannedTopic) (done applied, err error) {
	done.Topic = t.Name
	if t.Schema != "" {
		done.Subject = schemas.Subject(t.Name)
		if done.SchemaID, err = a.register(ctx, done.Subject, t.Schema); err != nil {
			return done, err
		}
	}
	var have broker.Topic
	have, done.Created, err = a.client.CreateTopic(ctx, broker.TopicSpec{
		Name: t.Name, Partitions: t.Partitions, Replicas: t.Replicas, Config: t.Config,
	})
	if err != nil || done.Created {
		return done, err
	}
	done.Grown, err = a.compare(ctx, t, len(have.Partitions))
	return done, err
}

// compare holds a topic that was there against the plan.
func (a *applier) compare(ctx context.Context, t config.PlannedTopic, have int) (grown bool, err error) {
	switch {
	case have < t.Partitions && a.grow:
		if err := a.client.AddPartitions(ctx, t.Name, t.Partitions); err != nil {
			return false, err
		}
		grown = true
	case have < t.Partitions:
		return false, fmt.Errorf("topic %s has %s, the file says %d: set it to %d, or add them with --grow (keys move to other partitions), or remove the topic",
			t.Name, plural(int64(have), "partition"), t.Partitions, have)
	case have > t.Partitions:
		return false, fmt.Errorf("topic %s has %s, the file says %d: Kafka cannot take partitions away; set it to %d, or remove the topic",
			t.Name, plural(int64(have), "partition"), t.Partitions, have)
	}
	if len(t.Config) == 0 {
		return grown, nil
	}
	now, err := a.client.TopicConfig(ctx, t.Name)
	if err != nil {
		return grown, err
	}
	var differ []string
	for _, k := range slices.Sorted(maps.Keys(t.Config)) {
		if now[k] != t.Config[k] {
			differ = append(differ, fmt.Sprintf("%s is %q, the file says %q", k, now[k], t.Config[k]))
		}
	}
	if len(differ) > 0 {
		return grown, fmt.Errorf("topic %s was made with other settings: %s; change the file, or the topic with kafka-configs",
			t.Name, strings.Join(differ, "; "))
	}
	return grown, nil
}

func (a *applier) print(done []applied) {
	for _, d := range done {
		what := "subject " + d.Subject
		if d.Topic != "" {
			what = "topic " + d.Topic + ": is there"
			switch {
			case d.Created:
				what = "topic " + d.Topic + ": created"
			case d.Grown:
				what = "topic " + d.Topic + ": partitions added"
			}
			if d.Subject != "" {
				what += ", subject " + d.Subject
			}
		}
		if d.SchemaID != 0 {
			what += fmt.Sprintf(", schema %d", d.SchemaID)
		}
		fmt.Fprintln(a.sys.out, what)
	}
}
