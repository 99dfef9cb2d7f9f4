package broker

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/stretchr/testify/require"
)

// peer is the other side of lines over pipes.
type peer struct {
	dialled int
	conns   []net.Conn
	answer  func(c net.Conn, request []byte) bool // false: it says no more
}

// pipes makes lines to one broker, number 1, that answers as told.
func pipes(answer func(c net.Conn, request []byte) bool) (*lines, *peer) {
	p := &peer{answer: answer}
	s := &lines{client: "test", addrs: map[int32]string{1: "broker:9092"}, idle: map[string][]*line{}}
	s.dial = func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		p.dialled++
		p.conns = append(p.conns, far)
		go p.serve(far)
		return near, nil
	}
	return s, p
}

func (p *peer) serve(c net.Conn) {
	for {
		b := readFrame(c)
		if b == nil || !p.answer(c, b) {
			return
		}
	}
}

// readFrame returns nil at the connection's end.
func readFrame(c net.Conn) []byte {
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		return nil
	}
	return b
}

// reply answers a request with a body, and says whatever comes behind it.
func reply(c net.Conn, request []byte, body string, behind string) bool {
	out := binary.BigEndian.AppendUint32(nil, uint32(4+len(body)))
	out = append(append(append(out, request[4:8]...), body...), behind...)
	_, err := c.Write(out)
	return err == nil
}

func echo(c net.Conn, request []byte) bool { return reply(c, request, "body", "") }

// asking is an exchange that any answer of up to 8 bytes fits.
func asking(correlation int32) *exchange {
	f := newFrame(nil, keyFetch, fetchByID, false, correlation, "test")
	return &exchange{key: keyFetch, to: 1, correlation: correlation, frame: f.bytes(), limit: 8}
}

func TestALineIsUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := pipes(echo)
		defer s.closeIdle()
		for i := range int32(5) {
			x := asking(i)
			require.NoError(t, s.roundTrip(t.Context(), 1, x, time.Second))
			require.Equal(t, "body", string(*x.buf))
			time.Sleep(lineIdle - time.Second)
		}
		require.Equal(t, 1, p.dialled)
		time.Sleep(2 * time.Second)
		require.NoError(t, s.roundTrip(t.Context(), 1, asking(9), time.Second))
		require.Equal(t, 2, p.dialled, "one that lay idle for too long is not used")
		require.Len(t, s.idle["broker:9092"], 1)
	})
}

func TestRequestsAtTheSameTimeHaveLinesOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := make(chan struct{})
		s, p := pipes(func(c net.Conn, request []byte) bool {
			if binary.BigEndian.Uint32(request[4:]) == 1 {
				<-held
			}
			return echo(c, request)
		})
		first := make(chan error, 1)
		go func() { first <- s.roundTrip(t.Context(), 1, asking(1), time.Minute) }()
		synctest.Wait()
		require.NoError(t, s.roundTrip(t.Context(), 1, asking(2), time.Second))
		close(held)
		require.NoError(t, <-first)
		require.Equal(t, 2, p.dialled)

		// Those that nobody needs any more go.
		time.Sleep(lineIdle / 2)
		require.NoError(t, s.roundTrip(t.Context(), 1, asking(3), time.Second))
		time.Sleep(lineIdle / 2)
		require.NoError(t, s.roundTrip(t.Context(), 1, asking(4), time.Second))
		require.Len(t, s.idle["broker:9092"], 1)
		s.closeIdle()
		require.Empty(t, s.idle)
	})
}

// answerBelowZero answers with a size that cannot be.
func answerBelowZero(c net.Conn, _ []byte) bool {
	_, _ = c.Write([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	return false
}

// answerAndEnd ends the connection in the middle of an answer.
func answerAndEnd(c net.Conn, request []byte) bool {
	_, _ = c.Write([]byte{0, 0, 0, 8, request[4], request[5], request[6], request[7], 'x'})
	_ = c.Close()
	return false
}

// TestALineThatGoesWrongIsClosed: whatever comes that is not the answer, the
// line is never used again, nor are the idle ones beside it.
func TestALineThatGoesWrongIsClosed(t *testing.T) {
	for name, bad := range map[string]func(c net.Conn, request []byte) bool{
		"another request's answer": func(c net.Conn, request []byte) bool {
			request[7] ^= 1
			return reply(c, request, "body", "")
		},
		"beyond the limit":     func(c net.Conn, request []byte) bool { return reply(c, request, "nine bytes", "") },
		"something behind":     func(c net.Conn, request []byte) bool { return reply(c, request, "body", "more") },
		"a size below 0":       answerBelowZero,
		"an end in the middle": answerAndEnd,
		"silence":              func(net.Conn, []byte) bool { return true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var wrong atomic.Bool
				s, p := pipes(func(c net.Conn, request []byte) bool {
					if wrong.Load() {
						return bad(c, request)
					}
					return echo(c, request)
				})
				idle, err := s.take(t.Context(), 1)
				require.NoError(t, err)
				require.NoError(t, s.roundTrip(t.Context(), 1, asking(1), time.Second))
				s.give(t.Context(), idle)
				require.Len(t, s.idle["broker:9092"], 2)

				wrong.Store(true)
				began := time.Now()
				err = s.roundTrip(t.Context(), 1, asking(2), time.Second)
				require.Error(t, err)
				if name == "silence" {
					require.ErrorIs(t, err, context.DeadlineExceeded)
					require.True(t, Retryable(err))
					require.Equal(t, time.Second, time.Since(began))
				}
				require.Empty(t, s.idle["broker:9092"])
				for _, c := range p.conns {
					_ = c.SetReadDeadline(time.Now().Add(time.Second))
					_, err := c.Read(make([]byte, 1))
					require.True(t, disconnected(err), "it is closed: %v", err)
				}
				wrong.Store(false)
				require.NoError(t, s.roundTrip(t.Context(), 1, asking(3), time.Second))
				require.Equal(t, 3, p.dialled)
				s.closeIdle()
			})
		})
	}
}

func TestACallerThatLeavesTakesItsLineAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := pipes(func(c net.Conn, request []byte) bool {
			return binary.BigEndian.Uint32(request[4:]) == 1 || echo(c, request)
		})
		defer s.closeIdle()
		idle, err := s.take(t.Context(), 1)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() { left <- s.roundTrip(ctx, 1, asking(1), time.Hour) }()
		synctest.Wait()
		s.give(t.Context(), idle)
		cancel()
		require.ErrorIs(t, <-left, context.Canceled)
		require.NoError(t, s.roundTrip(t.Context(), 1, asking(2), time.Second))
		require.Equal(t, 2, p.dialled, "the other one is as good as before")
	})
}

func TestLinesGoWhereBrokersAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := pipes(echo)
		require.ErrorIs(t, s.roundTrip(t.Context(), 2, asking(1), time.Second), kafka.BrokerNotAvailable)
		require.Zero(t, p.dialled)
		s.know(map[int32]string{2: "other:9092"})
		require.NoError(t, s.roundTrip(t.Context(), 2, asking(1), time.Second))
		require.ErrorIs(t, s.roundTrip(t.Context(), 1, asking(1), time.Second), kafka.BrokerNotAvailable)
		s.know(nil) // an answer without brokers says nothing
		require.NoError(t, s.roundTrip(t.Context(), 2, asking(2), time.Second))
		require.Equal(t, 1, p.dialled)
		s.closeIdle()
	})
}

// TestLinesInUseAreClosedLater: Close of a client that is in use.
func TestLinesInUseAreClosedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := pipes(echo)
		l, err := s.take(t.Context(), 1)
		require.NoError(t, err)
		s.closeIdle()
		require.NoError(t, l.exchange(t.Context(), asking(1), time.Now().Add(time.Second)))
		s.give(t.Context(), l)
		require.Empty(t, s.idle["broker:9092"])
		_, err = p.conns[0].Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	})
}

// talker is a mechanism that wants so many turns.
type talker struct{ turns int }

func (m talker) Name() string { return "TALK" }

func (m talker) Start(context.Context) (sess sasl.StateMachine, first []byte, err error) {
	return &m, []byte("first"), nil
}

func (m *talker) Next(_ context.Context, challenge []byte) (bool, []byte, error) {
	m.turns--
	return m.turns == 0, append([]byte("to "), challenge...), nil
}

func TestALoginEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		turns int
		code  byte // of the broker's answers
		lasts byte // seconds
		dials int  // for two requests, 3 s apart
		fails string
	}{
		"at once":               {turns: 1, dials: 1},
		"after a while":         {turns: 3, dials: 1},
		"never":                 {turns: 1000, fails: "comes to no end"},
		"refused":               {turns: 1, code: 58, fails: "SASL Authentication Failed"},
		"for a shorter time":    {turns: 1, lasts: 3, dials: 2},
		"for a time that is ok": {turns: 1, lasts: 5, dials: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, p := pipes(func(c net.Conn, request []byte) bool {
					switch int16(binary.BigEndian.Uint16(request)) {
					case keySASLHandshake:
						return reply(c, request, "\x00\x00\x00\x00\x00\x00", "")
					case keySASLAuthenticate:
						ms := binary.BigEndian.AppendUint64(nil, uint64(tt.lasts)*1000)
						return reply(c, request, "\x00"+string(rune(tt.code))+"\xff\xff\x00\x00\x00\x03abc"+string(ms), "")
					}
					return echo(c, request)
				})
				s.sasl = talker{tt.turns}
				err := s.roundTrip(t.Context(), 1, asking(1), time.Second)
				if tt.fails != "" {
					require.ErrorContains(t, err, tt.fails)
					require.ErrorContains(t, err, "broker:9092")
					return
				}
				require.NoError(t, err)
				time.Sleep(3 * time.Second)
				require.NoError(t, s.roundTrip(t.Context(), 1, asking(2), time.Second))
				require.Equal(t, tt.dials, p.dialled)
				s.closeIdle()
			})
		})
	}
}

func TestLinesToWhereNoBrokerIsAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := pipes(echo)
		defer s.closeIdle()
		for range 3 { // each time the broker starts again it has another address
			var ls []*line
			for range 4 {
				l, err := s.take(t.Context(), 1)
				require.NoError(t, err)
				ls = append(ls, l)
			}
			for i, l := range ls {
				require.NoError(t, l.exchange(t.Context(), asking(int32(i)), time.Now().Add(time.Second)))
				s.give(t.Context(), l)
			}
			time.Sleep(time.Second)
			s.know(map[int32]string{1: time.Now().Format("h150405") + ":9092"})
		}
		require.NoError(t, s.roundTrip(t.Context(), 1, asking(9), time.Second))
		require.Len(t, s.idle, 1)
		open := 0
		for _, c := range p.conns {
			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
			if _, err := c.Read(make([]byte, 1)); !disconnected(err) {
				open++
			}
		}
		require.Equal(t, 1, open)
		time.Sleep(2 * lineIdle)
		s.know(s.addrs)
		require.Empty(t, s.idle, "what is idle for long is closed when metadata come, too")
	})
}

// A caller that is in a hurry says nothing about the broker.
func TestACallersDeadlineKeepsTheIdleLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := pipes(func(c net.Conn, b []byte) bool {
			time.Sleep(time.Second)
			return echo(c, b)
		})
		defer s.closeIdle()
		other, err := s.take(t.Context(), 1)
		require.NoError(t, err)
		require.NoError(t, other.exchange(t.Context(), asking(1), time.Now().Add(time.Minute)))
		hasty, err := s.take(t.Context(), 1)
		require.NoError(t, err)
		s.give(t.Context(), other)
		s.give(t.Context(), hasty)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, s.roundTrip(ctx, 1, asking(2), time.Minute), context.DeadlineExceeded)
		require.Len(t, s.idle["broker:9092"], 1)
		require.Error(t, s.roundTrip(t.Context(), 1, asking(3), 100*time.Millisecond), "the broker is slow")
		require.Empty(t, s.idle["broker:9092"])
		time.Sleep(2 * time.Second) // the peer's answers come to their end
	})
}
