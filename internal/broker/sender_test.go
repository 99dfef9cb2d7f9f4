package broker_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/brokertest"
)

// sender runs a sender until the test ends. The channel gets each end of an answer.
func sender(t *testing.T, c *broker.Client) (s *broker.Sender, settled chan struct{}) {
	settled = make(chan struct{}, 1000)
	s = c.NewSender(func() { settled <- struct{}{} })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return s, settled
}

// known makes topics whose leaders the client has looked up.
func known(t *testing.T, env *brokertest.Env, n int) (topics []string) {
	for range n {
		topics = append(topics, env.Topic(t, 1))
		_, err := env.Client.Append(t.Context(), topics[len(topics)-1], 0, []broker.AppendRecord{{Value: []byte("first")}})
		require.NoError(t, err)
	}
	return topics
}

// warm sends one record, as often as it takes: a line is made for the first that wants one.
func warm(t *testing.T, s *broker.Sender, settled chan struct{}, topic string) {
	verdict := make(chan error, 1)
	require.Eventually(t, func() bool {
		return len(s.Send([]broker.Outgoing{{Topic: topic, Value: []byte("warm"), Done: func(err error) { verdict <- err }}})) == 0
	}, time.Minute, time.Millisecond)
	require.NoError(t, <-verdict)
	<-settled
}

// TestWhatIsSentTogetherLeavesTogether: one request carries it all, and each
// record has a verdict of its own, before the answer counts as settled.
func TestWhatIsSentTogetherLeavesTogether(t *testing.T) {
	env := brokertest.Start(t)
	const writers = 5
	s, settled := sender(t, env.Client)
	topics := known(t, env, writers)
	warm(t, s, settled, topics[0])
	require.NoError(t, env.Client.DeleteTopic(t.Context(), topics[writers-1]))
	asked := requests(env, 0)
	errs := make([]error, writers)
	var done atomic.Int64
	var recs []broker.Outgoing
	for i, topic := range topics {
		recs = append(recs, broker.Outgoing{Topic: topic, Value: fmt.Append(nil, "value ", i), Done: func(err error) {
			errs[i] = err
			done.Add(1)
		}})
	}
	require.Empty(t, s.Send(recs))
	<-settled
	require.EqualValues(t, writers, done.Load())
	require.EqualValues(t, 1, asked.Load(), "requests")
	for i, topic := range topics[:writers-1] {
		require.NoError(t, errs[i])
		before := 1
		if i == 0 {
			before = 2
		}
		got := kafkaGo(t, env, topic, 0, before+1)
		require.Equal(t, fmt.Sprint("value ", i), string(got[before].Value))
		require.Nil(t, got[before].Key)
		require.WithinDuration(t, time.Now(), time.UnixMilli(got[before].Time), time.Minute)
	}
	require.Error(t, errs[writers-1])
	require.True(t, broker.Retryable(errs[writers-1]), "who writes alone finds out that it is gone")
	require.Empty(t, settled)
}

// TestASenderHandsBackWhatItCannotSend, and calls no Done of that.
func TestASenderHandsBackWhatItCannotSend(t *testing.T) {
	env := brokertest.Start(t)
	topic := known(t, env, 1)[0]
	rec := func(topic string) []broker.Outgoing {
		return []broker.Outgoing{{Topic: topic, Value: []byte("x"), Done: func(error) { t.Error("a record that was handed back is settled") }}}
	}
	s := env.Client.NewSender(func() {})
	require.Len(t, s.Send(rec(topic)), 1, "it does not run yet")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	require.Len(t, s.Send(rec(env.Topic(t, 1))), 1, "nobody has asked who leads it")
	cancel()
	require.NoError(t, <-done)
	require.Len(t, s.Send(rec(topic)), 1, "it has ended")
	require.Error(t, s.Run(t.Context()), "once")
}

// TestSentRecordsAreAppends: on both brokers, many writers, every value once and
// in its order.
func TestSentRecordsAreAppends(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		const writers, each = 4, 60
		s, settled := sender(t, env.Client)
		topics := known(t, env, writers)
		next := make([]int, writers) // to write
		for round, left := 0, writers*each; left > 0; round++ {
			verdicts := make(chan error, writers)
			var recs []broker.Outgoing
			for i, topic := range topics {
				if next[i] == each || (round+i)%3 == 0 { // not all at the same time
					continue
				}
				recs = append(recs, broker.Outgoing{Topic: topic, Value: fmt.Appendf(nil, "%d/%d %0*d", i, next[i], next[i]*next[i], 0), Done: func(err error) {
					next[i]++
					verdicts <- err
				}})
			}
			sent := len(recs) - len(s.Send(recs))
			if sent == 0 {
				time.Sleep(time.Millisecond) // a line is being made
				continue
			}
			<-settled
			for range sent {
				require.NoError(t, <-verdicts)
				left--
			}
		}
		for i, topic := range topics {
			for k, rec := range kafkaGo(t, env, topic, 0, each+1)[1:] {
				require.Equal(t, fmt.Sprintf("%d/%d %0*d", i, k, k*k, 0), string(rec.Value))
				require.EqualValues(t, k+1, rec.Offset)
			}
		}
	})
}
