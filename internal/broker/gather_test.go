package broker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/internal/stream"
)

// puller runs a puller until the test ends.
func puller(t *testing.T, c *broker.Client) *broker.Puller {
	p := c.NewPuller(func() time.Duration { return time.Millisecond }, 2, func() {})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return p
}

// requests counts what a kfake is asked, by key.
func requests(env *brokertest.Env, key int16) *atomic.Int64 {
	n := new(atomic.Int64)
	env.Kfake.ControlKey(key, func(kmsg.Request) (kmsg.Response, error, bool) {
		env.Kfake.KeepControl()
		n.Add(1)
		return nil, nil, false
	})
	return n
}

// kafkaGo reads a partition with kafka-go's own fetch.
func kafkaGo(t *testing.T, env *brokertest.Env, topic string, partition int, n int) (out []stream.Record) {
	transport := &kafka.Transport{MetadataTTL: 50 * time.Millisecond} // it may remember a time before the topic
	defer transport.CloseIdleConnections()
	c := &kafka.Client{Addr: kafka.TCP(env.Addrs[0]), Transport: transport}
	for next := int64(0); len(out) < n; {
		var r *kafka.FetchResponse
		var err error
		require.Eventually(t, func() bool {
			r, err = c.Fetch(t.Context(), &kafka.FetchRequest{Topic: topic, Partition: partition, Offset: next, MinBytes: 1, MaxBytes: 1 << 20, MaxWait: time.Second})
			return err == nil
		}, time.Minute, 20*time.Millisecond, "fetch: %v", err)
		require.NoError(t, r.Error)
		for {
			rec, err := r.Records.ReadRecord()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			s := stream.Record{Offset: rec.Offset, Time: rec.Time.UnixMilli()}
			if rec.Key != nil {
				s.Key, err = io.ReadAll(rec.Key)
				require.NoError(t, err)
			}
			if rec.Value != nil {
				s.Value, err = io.ReadAll(rec.Value)
				require.NoError(t, err)
			}
			out, next = append(out, s), rec.Offset+1
		}
	}
	return out
}

// TestSharedReadsAreReads holds readers that share their requests to kafka-go's
// own fetch: many partitions of two topics, batches larger than what a
// partition may bring, and nothing lost, doubled or out of order.
func TestSharedReadsAreReads(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		const partitions, batches, size = 4, 12, 40
		p := puller(t, env.Client)
		topics := []string{env.Topic(t, partitions), env.Topic(t, partitions)}
		var all sync.WaitGroup
		defer all.Wait()
		got := make([][]stream.Record, len(topics)*partitions)
		for i := range got {
			all.Go(func() {
				r := p.NewReader(topics[i/partitions], stream.TopicID{}, int32(i%partitions))
				defer r.Close()
				err := r.Follow(t.Context(), 0, 2<<10, 300*time.Millisecond, func(span broker.Span) bool {
					for _, rec := range span.Records {
						rec.Key, rec.Value = append([]byte(nil), rec.Key...), append([]byte(nil), rec.Value...)
						got[i] = append(got[i], rec)
					}
					return len(got[i]) < batches*size
				})
				if err != nil {
					t.Errorf("follow %d: %v", i, err)
				}
			})
		}
		for b := range batches {
			for i := range got {
				recs := make([]broker.AppendRecord, size)
				for k := range recs {
					recs[k] = broker.AppendRecord{Key: fmt.Append(nil, "k", k), Value: fmt.Appendf(nil, "%d/%d/%d %0*d", i, b, k, 20+b*30, k)}
				}
				_, err := env.Client.Append(t.Context(), topics[i/partitions], int32(i%partitions), recs)
				require.NoError(t, err)
			}
		}
		all.Wait()
		for i := range got {
			require.Equal(t, kafkaGo(t, env, topics[i/partitions], i%partitions, batches*size), got[i], "partition %d", i)
		}
	})
}

func TestIdleReadsShareTheirRequests(t *testing.T) {
	env := brokertest.Start(t)
	const partitions, rounds = 20, 6
	topic := env.Topic(t, partitions)
	p := puller(t, env.Client)
	var all sync.WaitGroup
	asked := requests(env, 1)
	for i := range partitions {
		all.Go(func() {
			r := p.NewReader(topic, stream.TopicID{}, int32(i))
			defer r.Close()
			left := rounds
			err := r.Follow(t.Context(), 0, 1<<20, 100*time.Millisecond, func(span broker.Span) bool {
				if span.To != 0 || span.End != 0 {
					t.Errorf("read of an empty partition: %+v", span)
				}
				left--
				return left > 0
			})
			if err != nil {
				t.Errorf("follow: %v", err)
			}
		})
	}
	all.Wait()
	require.Less(t, asked.Load(), int64(partitions*rounds/2), "idle reads were not shared")
}

// TestAReaderThatLeavesTakesNobodyAlong also has one of a partition that is
// not there share the request.
func TestAReaderThatLeavesTakesNobodyAlong(t *testing.T) {
	env := brokertest.Start(t)
	topic, gone := env.Topic(t, 2), env.Topic(t, 1)
	was, err := env.Client.Topics(t.Context(), gone)
	require.NoError(t, err)
	p := puller(t, env.Client)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	more := func(broker.Span) bool { return true }
	all.Go(func() {
		if err := p.NewReader(topic, stream.TopicID{}, 0).Follow(ctx, 0, 1<<20, time.Minute, more); !errors.Is(err, context.Canceled) {
			t.Errorf("a reader that was given up: %v", err)
		}
	})
	all.Go(func() {
		if err := p.NewReader(gone, was[0].ID, 0).Follow(t.Context(), 0, 1<<20, 100*time.Millisecond, more); !errors.Is(err, stream.ErrTopicChanged) {
			t.Errorf("a reader of a topic that is gone: %v", err)
		}
	})
	r := p.NewReader(topic, stream.TopicID{}, 1)
	require.NoError(t, r.Follow(t.Context(), 0, 1<<20, 50*time.Millisecond, func(broker.Span) bool { return false }))
	cancel()
	require.NoError(t, env.Client.DeleteTopic(t.Context(), gone))
	_, err = env.Client.Append(t.Context(), topic, 1, []broker.AppendRecord{{Value: []byte("x")}})
	require.NoError(t, err)
	require.NoError(t, r.Follow(t.Context(), 0, 1<<20, time.Second, func(span broker.Span) bool { return len(span.Records) == 0 }))
	all.Wait()
}

// TestARequestThatIsTooEarlyWaitsAtTheLeader, and is answered before its time is
// over when there is enough to read.
func TestARequestThatIsTooEarlyWaitsAtTheLeader(t *testing.T) {
	env := brokertest.Start(t)
	topic := env.Topic(t, 1)
	type ask struct{ minBytes, maxWait int32 }
	asked := make(chan ask, 100)
	env.Kfake.ControlKey(1, func(r kmsg.Request) (kmsg.Response, error, bool) {
		env.Kfake.KeepControl()
		if f, ok := r.(*kmsg.FetchRequest); ok {
			asked <- ask{f.MinBytes, f.MaxWaitMillis}
		}
		return nil, nil, false
	})
	var served atomic.Int64 // times
	p := env.Client.NewPuller(func() time.Duration { return time.Minute }, 1, func() { served.Add(1) })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	write := func(size int) {
		_, err := env.Client.Append(t.Context(), topic, 0, []broker.AppendRecord{{Value: make([]byte, size)}})
		require.NoError(t, err)
	}
	write(1)
	r := p.NewReader(topic, stream.TopicID{}, 0)
	defer r.Close()
	var got []int
	require.NoError(t, r.Follow(t.Context(), 0, 1<<20, time.Second, func(s broker.Span) bool {
		for _, rec := range s.Records {
			got = append(got, len(rec.Value))
		}
		if len(got) == 1 {
			write(80 << 10)
		}
		return len(got) < 2
	}))
	require.Equal(t, []int{1, 80 << 10}, got)
	first, second := <-asked, <-asked
	require.EqualValues(t, 1, first.minBytes)
	require.EqualValues(t, 64<<10, second.minBytes)
	require.Greater(t, second.maxWait, int32(10_000))
	require.Empty(t, asked)
	cancel()
	require.NoError(t, <-done)
	require.EqualValues(t, 2, served.Load(), "once for each answer")
}

func TestAPullerEndsWhoeverStillFollows(t *testing.T) {
	env := brokertest.Start(t)
	topic := env.Topic(t, 1)
	p := env.Client.NewPuller(func() time.Duration { return 0 }, 1, func() {})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	read, began := make(chan error, 1), make(chan struct{})
	var first sync.Once
	reading, endRead := context.WithCancel(t.Context())
	go func() {
		read <- p.NewReader(topic, stream.TopicID{}, 0).Follow(reading, 0, 1<<20, 100*time.Millisecond, func(broker.Span) bool {
			first.Do(func() { close(began) })
			return true
		})
	}()
	<-began
	cancel() // from now on it reads by itself
	endRead()
	require.ErrorIs(t, <-read, context.Canceled)
	require.NoError(t, <-done)
}
