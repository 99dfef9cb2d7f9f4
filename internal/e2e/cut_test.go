package e2e

import (
	"context"
	varint "encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tapecast/tapecast/client"
	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/schemas"
)

// cutLog is a topic whose log is cut by an unclean election, and one client's
// history of it.
type cutLog struct {
	t      *testing.T
	env    *brokertest.Env
	admin  *kgo.Client
	topic  string
	schema uint32
	n      int

	mu     sync.Mutex
	seen   map[int64]string // since the last reset
	resets []client.Frame
	before int // events before the first reset
	wrong  []string
	next   int64
}

// TestACutLogIsTold has Kafka lose acknowledged events by an unclean election
// (min.insync.replicas=1, unclean.leader.election.enable=true): a client that
// has seen them is told by a reset, and gets everything from there on.
func TestACutLogIsTold(t *testing.T) {
	proveFor(t)
	c := brokertest.StartKafka(t, 3)
	s := newStack(t, strings.Join(c.Addrs(), ","), 2, 2)
	admin, err := kgo.NewClient(kgo.SeedBrokers(c.Addrs()...))
	require.NoError(t, err)
	t.Cleanup(admin.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	l := &cutLog{t: t, env: c.Env(t), admin: admin, topic: brokertest.Name(t, "cut"), seen: map[int64]string{}}
	reg, err := schemas.NewRegistry(schemas.RegistryOptions{URL: s.registry})
	require.NoError(t, err)
	l.schema, err = reg.Register(ctx, schemas.Subject(l.topic), `"string"`)
	require.NoError(t, err)
	l.create(ctx)
	s.awaitTopic(t, l.topic)
	stop := l.follow(ctx, s.ws)
	defer stop()

	l.write(ctx, 20)
	l.await("20 events", func() bool { return len(l.seen) == 20 })
	c.Kill(1)
	l.awaitLeader(ctx, 1, 1)
	l.write(ctx, 10) // acknowledged by broker 1 alone
	l.await("30 events", func() bool { return len(l.seen) == 30 })
	c.Kill(0)
	require.NoError(t, c.Restart(1))
	l.awaitLeader(ctx, 2, 1) // which never had the last ten
	l.await("the client is told", func() bool { return len(l.resets) == 1 })
	l.write(ctx, 25) // beyond where the old log ended, too
	require.NoError(t, c.Restart(0))
	l.write(ctx, 5)
	d := dump(t, ctx, c.Addrs(), l.topic)
	l.await("all there is", func() bool { return l.next == d.End[0] })
	l.judge(d)
}

func (l *cutLog) create(ctx context.Context) {
	r := kmsg.NewPtrCreateTopicsRequest()
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = l.topic, -1, -1
	ra := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
	ra.Partition, ra.Replicas = 0, []int32{1, 2}
	rt.ReplicaAssignment = append(rt.ReplicaAssignment, ra)
	for k, v := range map[string]string{"min.insync.replicas": "1", "unclean.leader.election.enable": "true"} {
		rc := kmsg.NewCreateTopicsRequestTopicConfig()
		rc.Name, rc.Value = k, kmsg.StringPtr(v)
		rt.Configs = append(rt.Configs, rc)
	}
	r.Topics = append(r.Topics, rt)
	resp, err := r.RequestWith(ctx, l.admin)
	require.NoError(l.t, err)
	require.Zero(l.t, resp.Topics[0].ErrorCode, "%v", resp.Topics[0].ErrorMessage)
}

// awaitLeader waits until a broker leads, with that many replicas in sync.
func (l *cutLog) awaitLeader(ctx context.Context, leader int32, isr int) {
	adm := kadm.NewClient(l.admin)
	var last kadm.PartitionDetail
	require.Eventually(l.t, func() bool {
		actx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		l.admin.ForceMetadataRefresh()
		ts, err := adm.ListTopics(actx, l.topic)
		if err != nil {
			return false
		}
		last = ts[l.topic].Partitions[0]
		return last.Leader == leader && len(last.ISR) == isr
	}, patience, 200*time.Millisecond, "broker %d leads: %+v", leader, &last)
}

func (l *cutLog) write(ctx context.Context, n int) {
	for range n {
		text := fmt.Sprintf("event %d", l.n)
		l.n++
		v := varint.AppendVarint(schemas.AppendWireHeader(nil, l.schema), int64(len(text)))
		require.Eventually(l.t, func() bool {
			_, err := l.env.Client.Append(ctx, l.topic, 0, []broker.AppendRecord{{Value: append(v, text...)}})
			return err == nil
		}, patience, 50*time.Millisecond)
	}
}

// follow reads as one client, over all its connections, until stop.
func (l *cutLog) follow(ctx context.Context, urls []string) (stop func()) {
	cl, err := client.Dial(ctx, client.Options{URLs: urls, OnViolation: func(v client.Violation) { l.fault("violation %+v", v) }})
	require.NoError(l.t, err)
	sub, err := cl.Subscribe(ctx, l.topic, client.SubscribeOptions{From: client.Earliest()})
	require.NoError(l.t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			f, err := sub.Next(ctx)
			if err != nil {
				return
			}
			l.take(&f)
		}
	}()
	return func() { cl.Close(); <-done }
}

func (l *cutLog) fault(format string, a ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, fmt.Sprintf(format, a...))
}

func (l *cutLog) take(f *client.Frame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch f.Kind {
	case client.KindReset:
		if len(l.resets) == 0 {
			l.before = len(l.seen)
		}
		l.resets, l.seen, l.next = append(l.resets, *f), map[int64]string{}, f.From[0]
	case client.KindSubscribed:
		if f.Resume == "reset" {
			if len(l.resets) == 0 {
				l.before = len(l.seen)
			}
			l.resets, l.seen, l.next = append(l.resets, *f), map[int64]string{}, f.From[0]
		}
	case client.KindData:
		if f.Offset != l.next {
			l.wrong = append(l.wrong, fmt.Sprintf("offset %d at position %d", f.Offset, l.next))
		}
		var text string
		_ = json.Unmarshal(f.Value, &text)
		l.seen[f.Offset] = text
		l.next = f.Offset + 1
	case client.KindGap:
		l.wrong = append(l.wrong, fmt.Sprintf("gap %s", f.Raw))
	}
}

func (l *cutLog) await(what string, ok func() bool) {
	l.t.Helper()
	require.Eventually(l.t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return ok()
	}, patience, 20*time.Millisecond, "%s", what)
}

// judge holds what came after the reset against what the log holds now.
func (l *cutLog) judge(d *brokertest.Dump) {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := l.resets[len(l.resets)-1].From[0]
	right := 0
	for _, r := range d.Records[0] {
		if r.Offset < from {
			continue
		}
		if got, ok := l.seen[r.Offset]; !ok || !strings.HasSuffix(string(r.Value), got) || got == "" {
			l.wrong = append(l.wrong, fmt.Sprintf("offset %d holds %q, the client has %q", r.Offset, r.Value, got))
			continue
		}
		right++
	}
	line := fmt.Sprintf("cut log: %d events before, %d told by %d resets to %d, %d verified after, wrong=%d",
		l.before, l.before-int(from), len(l.resets), from, right, len(l.wrong))
	fmt.Println(line)
	brokertest.Report(l.t, line)
	require.Empty(l.t, l.wrong)
	require.Len(l.t, l.resets, 1)
	require.Equal(l.t, int64(20), from, "the log was cut to the first 20")
	require.Len(l.t, l.seen, right)
	require.Equal(l.t, 30, right)
}
