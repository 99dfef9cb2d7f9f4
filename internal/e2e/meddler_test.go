package e2e

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/internal/meddler"
	"github.com/tapecast/tapecast/loadtest"
)

// TestAMeddlingProxyIsNoticed puts a proxy between the verifier's clients and a
// gateway that changes one event in a thousand in the frames on the wire: the
// verifier, which judges every run with processes, has to count it. The same
// proxy is not noticed while it changes nothing.
func TestAMeddlingProxyIsNoticed(t *testing.T) {
	env := brokertest.Start(t)
	s := newStack(t, strings.Join(env.Addrs, ","), 1, 1)
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		m := meddler.New(meddler.Removed, 1<<40)
		rep := meddled(t, s, env, m)
		require.True(t, rep.OK(), "%s\n%s", rep, strings.Join(rep.Notes, "\n"))
		require.Zero(t, m.Done())
	})
	for kind, count := range map[meddler.Kind]func(*loadtest.Counts) int64{
		meddler.Removed: func(c *loadtest.Counts) int64 { return c.Skip + c.LateStart },
		meddler.Doubled: func(c *loadtest.Counts) int64 { return c.Backwards },
		meddler.Swapped: func(c *loadtest.Counts) int64 { return c.Backwards },
		meddler.Altered: func(c *loadtest.Counts) int64 { return c.Inconsistent },
	} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			m := meddler.New(kind, 1000)
			rep := meddled(t, s, env, m)
			require.Positive(t, m.Done())
			require.False(t, rep.OK())
			require.Positive(t, count(&rep.Counts), "%s", rep)
			fmt.Printf("control  %-45s red    processes, %d changed: %s\n", kind, m.Done(), rep.Counts)
		})
	}
}

// meddled is a load test through a meddler.
func meddled(t *testing.T, s *stack, env *brokertest.Env, m *meddler.Meddler) *loadtest.Report {
	t.Helper()
	rep, err := loadtest.Run(t.Context(), loadtest.Options{
		Brokers: env.Addrs, RegistryURL: s.registry, Gateways: []string{"ws://" + meddle(t, s.ws[0], m) + "/ws"},
		Subscribers: 20, Rate: 400, Duration: 3 * time.Second, Resume: 2 * time.Second, Drain: patience,
	})
	require.NoError(t, err)
	return rep
}

// meddle listens for clients of a gateway, and passes on what a meddler leaves.
func meddle(t *testing.T, gateway string, m *meddler.Meddler) (addr string) {
	t.Helper()
	upstream := strings.TrimSuffix(strings.TrimPrefix(gateway, "ws://"), "/ws")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var all sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	all.Go(func() {
		for {
			down, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", upstream)
			if err != nil {
				_ = down.Close()
				continue
			}
			pass := func(to, from net.Conn) {
				_, _ = io.Copy(to, from)
				_ = up.Close()
				_ = down.Close()
			}
			all.Go(func() { pass(up, down) })
			all.Go(func() { pass(down, m.Conn(up)) })
		}
	})
	return l.Addr().String()
}
