package e2e

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/loadtest"
)

// fault is one thing done to a running stack.
type fault struct {
	name string
	do   func()
}

// TestNothingIsLostWhenProcessesDie kills, freezes and restarts every process
// of the stack under load; the verifier's counts must be 0.
func TestNothingIsLostWhenProcessesDie(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		s := newStack(t, strings.Join(env.Addrs, ","), 2, 2)
		faults := []fault{
			{"fanout 0 killed and restarted", func() { s.fanouts[0].kill(); s.fanouts[0].restart() }},
			{"gateway 0 killed and restarted", func() { s.gateways[0].kill(); s.gateways[0].restart() }},
			{"fanout 1 frozen for 8 s", func() {
				s.fanouts[1].signal(syscall.SIGSTOP)
				time.Sleep(8 * time.Second) // the fault itself: longer than the group's session
				s.fanouts[1].signal(syscall.SIGCONT)
			}},
			{"gateway 1 drained and restarted", func() { s.gateways[1].stop(syscall.SIGTERM); s.gateways[1].restart() }},
			{"both fanouts killed at once", func() {
				s.fanouts[0].kill()
				s.fanouts[1].kill()
				s.fanouts[0].restart()
				s.fanouts[1].restart()
			}},
			{"ingest killed and restarted", func() { s.ingests[0].kill(); s.ingests[0].restart() }},
			{"gateway 1 frozen for 12 s", func() {
				s.gateways[1].signal(syscall.SIGSTOP)
				time.Sleep(12 * time.Second) // the fault itself: longer than the node's lease
				s.gateways[1].signal(syscall.SIGCONT)
			}},
		}
		var g errgroup.Group
		var rep *loadtest.Report
		g.Go(func() (err error) {
			o := loadtest.Options{
				Brokers: env.Addrs, RegistryURL: s.registry, Gateways: s.ws, Ingest: s.ingest[0],
				Subscribers: 40, Producers: 2, Rate: 800, Duration: 60 * time.Second, Resume: 4 * time.Second,
				Drain: patience, Progress: os.Stderr,
			}
			if env.Name == "kafka" {
				o.Oracle = javaOracle(t, env.Addrs)
			}
			rep, err = loadtest.Run(t.Context(), o)
			return err
		})
		for _, f := range faults {
			t.Log(f.name)
			f.do()
		}
		require.NoError(t, g.Wait())
		t.Log(rep)
		require.True(t, rep.OK(), "%s\n%s", rep, strings.Join(rep.Notes, "\n"))
		brokertest.Report(t, "2 fan-outs, 2 gateways, 1 ingest as processes, 7 faults, on "+env.Name)
	})
}
