package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/stream"
)

// produced is the answer to a request for partition 0 of topic t.
func produced(code int16) string {
	b := binary.BigEndian.AppendUint32(nil, 1)
	b = append(append(b, 0, 1), 't')
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	b = append(b, make([]byte, 8+8+8+4)...) // base, time, start, no errors of records
	b = append(b, 0xff, 0xff)               // no message
	return string(append(b, 0, 0, 0, 0))    // throttle
}

// sending is a sender to one broker that answers as told, in a bubble.
type sending struct {
	*Sender
	peer   *peer
	cancel context.CancelFunc

	got     sync.Mutex
	settled int     // guarded by got
	errs    []error // guarded by got
}

// answers is how many ends of answers there were.
func (s *sending) answers() int {
	s.got.Lock()
	defer s.got.Unlock()
	return s.settled
}

// verdicts are those of all records.
func (s *sending) verdicts() []error {
	s.got.Lock()
	defer s.got.Unlock()
	return slices.Clone(s.errs)
}

func newSending(t *testing.T, answer func(c net.Conn, request []byte) bool) *sending {
	s := &sending{}
	l, p := pipes(answer)
	e := newTopicEntry()
	e.set(Topic{Name: "t", ID: stream.TopicID{1}, Partitions: []Partition{{ID: 0, Leader: 1}}}, time.Now())
	c := &Client{id: "test", log: slog.New(slog.DiscardHandler), lines: l, topics: map[string]*topicEntry{"t": e}}
	s.peer, s.Sender = p, c.NewSender(func() {
		s.got.Lock()
		defer s.got.Unlock()
		s.settled++
	})
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		l.closeIdle()
		for _, c := range p.conns {
			_ = c.Close()
		}
	})
	synctest.Wait()
	require.False(t, s.one(), "the first one finds no line")
	synctest.Wait()
	return s
}

// one sends one record; false: it was handed back.
func (s *sending) one() bool {
	return len(s.Send([]Outgoing{{Topic: "t", Value: []byte("v"), Done: func(err error) {
		s.got.Lock()
		defer s.got.Unlock()
		s.errs = append(s.errs, err)
	}}})) == 0
}

// lines are how many the sender has, and how many of them carry nothing.
func (s *sending) lines() (all, free int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.to[1].count, len(s.to[1].free)
}

// TestALineCarriesOneRequest: what comes meanwhile takes another one, and what
// finds none is handed back; there are never more than a few.
func TestALineCarriesOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		s := newSending(t, func(c net.Conn, request []byte) bool {
			<-hold
			return reply(c, request, produced(0), "")
		})
		sent := 0
		for range 3 * sendLimit {
			if s.one() {
				sent++
			}
			synctest.Wait() // a line is made for who found none
		}
		require.Equal(t, sendLimit, sent)
		require.Equal(t, sendLimit, s.peer.dialled)
		close(hold)
		synctest.Wait()
		require.Equal(t, make([]error, sent), s.verdicts())
		require.Equal(t, sent, s.answers())
		require.True(t, s.one())
		synctest.Wait()
		require.Equal(t, sendLimit, s.peer.dialled)
	})
}

// TestASendersLineThatGoesWrongIsClosed: what it carried fails, the next request
// has a new one, and nobody waits.
func TestASendersLineThatGoesWrongIsClosed(t *testing.T) {
	for name, bad := range map[string]func(c net.Conn, request []byte) bool{
		"another request's answer": func(c net.Conn, request []byte) bool {
			request[7] ^= 1
			return reply(c, request, produced(0), "")
		},
		"no answer to what was asked": func(c net.Conn, request []byte) bool { return reply(c, request, "xyz", "") },
		"a size below 0":              answerBelowZero,
		"an end in the middle":        answerAndEnd,
		"an end":                      func(c net.Conn, _ []byte) bool { _ = c.Close(); return false },
		"half an answer, then silence": func(c net.Conn, request []byte) bool {
			time.Sleep(SendTimeout / 2)
			_, _ = c.Write([]byte{0, 0, 0, 8, request[4], request[5], request[6], request[7], 'x'})
			return true
		},
		"silence": func(net.Conn, []byte) bool { return true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var wrong atomic.Bool
				s := newSending(t, func(c net.Conn, request []byte) bool {
					if wrong.Load() {
						return bad(c, request)
					}
					return reply(c, request, produced(0), "")
				})
				time.Sleep(SendTimeout / 2) // the line looks at its time when it likes
				wrong.Store(true)
				require.True(t, s.one())
				began := time.Now()
				for range 4 * SendTimeout / time.Millisecond {
					time.Sleep(time.Millisecond)
					synctest.Wait()
					if s.answers() > 0 {
						break
					}
				}
				require.Len(t, s.verdicts(), 1)
				require.Error(t, s.verdicts()[0])
				require.LessOrEqual(t, time.Since(began), SendTimeout+2*time.Millisecond)
				if name == "silence" {
					require.ErrorIs(t, s.verdicts()[0], context.DeadlineExceeded)
					require.True(t, Retryable(s.verdicts()[0]))
					require.InDelta(t, SendTimeout, time.Since(began), float64(2*time.Millisecond))
				}
				all, free := s.lines()
				require.Zero(t, all+free)
				_ = s.peer.conns[0].SetReadDeadline(time.Now().Add(time.Second))
				_, err := s.peer.conns[0].Read(make([]byte, 1))
				require.True(t, disconnected(err), "it is closed: %v", err)
				wrong.Store(false)
				_, known := s.client.knownLeader("t", 0)
				require.Equal(t, !unreached(s.verdicts()[0]), known, "a leader that was not reached is looked up again")
				s.client.topics["t"].set(Topic{Name: "t", Partitions: []Partition{{Leader: 1}}}, time.Now())
				require.False(t, s.one())
				synctest.Wait()
				require.True(t, s.one())
				synctest.Wait()
				require.Equal(t, 2, s.answers())
				require.NoError(t, s.verdicts()[1])
			})
		})
	}
}

// TestKafkasVerdicts: each record has its own error, in words that writers know.
func TestKafkasVerdicts(t *testing.T) {
	for code, is := range map[kafka.Error]error{0: nil, kafka.MessageSizeTooLarge: ErrRecordTooLarge, kafka.NotLeaderForPartition: kafka.NotLeaderForPartition} {
		synctest.Test(t, func(t *testing.T) {
			s := newSending(t, func(c net.Conn, request []byte) bool { return reply(c, request, produced(int16(code)), "") })
			time.Sleep(time.Second) // leaders are not forgotten twice within a moment
			require.True(t, s.one())
			synctest.Wait()
			require.Len(t, s.verdicts(), 1)
			require.ErrorIs(t, s.verdicts()[0], is)
			_, known := s.client.knownLeader("t", 0)
			require.Equal(t, !errors.Is(is, kafka.NotLeaderForPartition), known)
			_, free := s.lines()
			require.Equal(t, 1, free, "the line is as good as before")
		})
	}
}

// TestALeaderAnswersBeforeTheSenderGivesUp: it is told how long it may wait for
// followers. What is late then is in doubt, and the line goes on.
func TestALeaderAnswersBeforeTheSenderGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSending(t, func(c net.Conn, request []byte) bool {
			head := 8 + 2 + len("test") + 2 + 2 // then transaction and acks
			wait := time.Duration(binary.BigEndian.Uint32(request[head:])) * time.Millisecond
			time.Sleep(wait + SendTimeout/4)
			return reply(c, request, produced(int16(kafka.RequestTimedOut)), "")
		})
		require.True(t, s.one())
		time.Sleep(SendTimeout)
		synctest.Wait()
		require.Len(t, s.verdicts(), 1)
		require.ErrorIs(t, s.verdicts()[0], kafka.RequestTimedOut)
		require.True(t, Retryable(s.verdicts()[0]))
		_, free := s.lines()
		require.Equal(t, 1, free, "the line is as good as before")
	})
}

// TestAnAnswerInPieces is waited for, also where a look at the time comes between.
func TestAnAnswerInPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSending(t, func(c net.Conn, request []byte) bool {
			body := produced(0)
			out := binary.BigEndian.AppendUint32(nil, uint32(4+len(body)))
			out = append(append(out, request[4:8]...), body...)
			for _, part := range [][]byte{out[:2], out[2:7], out[7:]} {
				time.Sleep(SendTimeout / 4)
				if _, err := c.Write(part); err != nil {
					return false
				}
			}
			return true
		})
		for i := range 4 {
			require.True(t, s.one())
			time.Sleep(SendTimeout)
			synctest.Wait()
			require.Len(t, s.verdicts(), i+1)
			require.NoError(t, s.verdicts()[i])
		}
		require.Equal(t, 1, s.peer.dialled)
	})
}

// TestAnIdleLineOfASenderEnds, and one that says something unasked.
func TestAnIdleLineOfASenderEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSending(t, func(c net.Conn, request []byte) bool { return reply(c, request, produced(0), "") })
		for range 10 {
			time.Sleep(lineIdle - 2*SendTimeout)
			require.True(t, s.one())
			synctest.Wait()
		}
		require.Equal(t, 1, s.peer.dialled)
		time.Sleep(lineIdle + 2*SendTimeout)
		all, _ := s.lines()
		require.Zero(t, all)
		require.False(t, s.one())
		synctest.Wait()
		_, _ = s.peer.conns[1].Write([]byte{0, 0, 0, 4, 0, 0, 0, 1})
		synctest.Wait()
		all, free := s.lines()
		require.Zero(t, all+free)
		require.Equal(t, make([]error, 10), s.verdicts())
	})
}

// TestTheEndOfASender settles what is on its way.
func TestTheEndOfASender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSending(t, func(net.Conn, []byte) bool { return true })
		require.True(t, s.one())
		s.cancel()
		synctest.Wait()
		require.Len(t, s.verdicts(), 1)
		require.ErrorIs(t, s.verdicts()[0], context.Canceled)
		require.Equal(t, 1, s.answers())
		require.False(t, s.one())
	})
}

// TestNoLeaderIsDialledAllTheTime: one that is away is left alone for a while.
func TestNoLeaderIsDialledAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSending(t, func(c net.Conn, _ []byte) bool { _ = c.Close(); return false })
		require.True(t, s.one())
		synctest.Wait()
		refused := 0
		s.client.lines.dial = func(context.Context, string, string) (net.Conn, error) {
			refused++
			return nil, &net.OpError{Op: "dial", Err: errors.New("refused")}
		}
		s.client.topics["t"].set(Topic{Name: "t", Partitions: []Partition{{Leader: 1}}}, time.Now())
		for range 1000 {
			require.False(t, s.one())
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		require.InDelta(t, time.Second/sendAgain, refused, 1)
	})
}

// TestRecordsAreSortedByLeader: one request for each, in the order they came.
func TestRecordsAreSortedByLeader(t *testing.T) {
	c := &Client{topics: map[string]*topicEntry{}}
	var recs []Outgoing
	for i, leader := range []int32{1, 1, 2, -1, 1, 2, 1} {
		name := string(rune('a' + i))
		e := newTopicEntry()
		e.set(Topic{Name: name, Partitions: []Partition{{ID: 0, Leader: leader}}}, time.Now())
		c.topics[name] = e
		recs = append(recs, Outgoing{Topic: name})
	}
	var got []string
	for rest := recs; len(rest) > 0; {
		leader, known := c.knownLeader(rest[0].Topic, 0)
		var mine []Outgoing
		mine, rest = c.ledBy(leader, known, rest)
		names := ""
		for _, r := range mine {
			names += r.Topic
		}
		got = append(got, names)
	}
	require.Equal(t, []string{"abeg", "cf", "d"}, got)
	names := ""
	for _, r := range recs {
		names += r.Topic
	}
	require.Equal(t, "abcdefg", names, "the caller's slice is as it was")
}
