package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/client"
	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/loadtest"
)

// watcher is a client that notes when its frames come.
type watcher struct {
	sub  *client.Subscription
	mu   sync.Mutex
	last map[int32]time.Time     // by partition
	gap  map[int32]time.Duration // the longest since the last reset
}

func (w *watcher) run(ctx context.Context) {
	for {
		f, err := w.sub.Next(ctx)
		if err != nil {
			return
		}
		if f.Kind != client.KindData {
			continue
		}
		now := time.Now()
		w.mu.Lock()
		if at, ok := w.last[f.Partition]; ok {
			w.gap[f.Partition] = max(w.gap[f.Partition], now.Sub(at))
		}
		w.last[f.Partition] = now
		w.mu.Unlock()
	}
}

// longest is the longest pause of any partition since the last call.
func (w *watcher) longest() (d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p, at := range w.last {
		d = max(d, w.gap[p], time.Since(at))
	}
	clear(w.gap)
	return d
}

// heard tells whether every partition spoke after a moment.
func (w *watcher) heard(since time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, at := range w.last {
		if at.Before(since) {
			return false
		}
	}
	return len(w.last) == 4
}

// stormClients is how many clients return at once: TAPECAST_TEST_STORM, or 1,000.
// A tenth of them, at most 1,000, get events.
func stormClients(t *testing.T) int { return int(envFloat(t, "TAPECAST_TEST_STORM", 1000)) }

// storm kills the gateway of many clients, and tells after which time half of
// them, and all, are subscribed at the other one.
func storm(t *testing.T, ctx context.Context, s *stack, topic string) (half, all time.Duration) {
	t.Helper()
	select {
	case <-s.gateways[0].done: // a row before has killed it
		s.gateways[0].restart()
	default:
	}
	n := stormClients(t)
	back := make(chan time.Time, 10*n)
	cls := make([]*client.Client, n)
	defer func() {
		for _, cl := range cls {
			if cl != nil {
				cl.Close()
			}
		}
	}()
	var g errgroup.Group
	g.SetLimit(64)
	for i := range n {
		g.Go(func() (err error) {
			if cls[i], err = client.Dial(ctx, client.Options{URLs: []string{s.ws[0], s.ws[1]}}); err != nil {
				return err
			}
			key := fmt.Sprint("K", i%100)
			if i >= 1000 {
				key = fmt.Sprint("quiet-", i)
			}
			sub, err := cls[i].Subscribe(ctx, topic, client.SubscribeOptions{Keys: []string{key}})
			if err != nil {
				return err
			}
			go func() {
				for {
					f, err := sub.Next(ctx)
					if err != nil {
						return
					}
					if f.Kind == client.KindSubscribed {
						back <- time.Now()
					}
				}
			}()
			return nil
		})
	}
	require.NoError(t, g.Wait())
	for range n {
		<-back
	}
	s.gateways[0].kill()
	killed := time.Now()
	var times []time.Duration
	for len(times) < n {
		select {
		case at := <-back:
			times = append(times, at.Sub(killed))
		case <-time.After(patience):
			t.Fatalf("%d of %d clients came back", len(times), n)
		}
	}
	s.gateways[0].restart()
	slices.Sort(times)
	return times[len(times)/2].Round(10 * time.Millisecond), times[len(times)-1].Round(10 * time.Millisecond)
}

// row is one line of the table.
type row struct {
	what string
	do   func()
}

// failover kills a broker for 5 s, and returns how long Kafka took to name
// another leader for what that broker led of a topic. Nobody gets an event of
// those partitions before that.
func failover(t *testing.T, ctx context.Context, c *brokertest.Cluster, topic string) (took time.Duration) {
	t.Helper()
	const dead = 1 // its node id: that of the first broker
	kc, err := kgo.NewClient(kgo.SeedBrokers(c.Addrs()[1:]...), kgo.MetadataMinAge(10*time.Millisecond))
	require.NoError(t, err)
	adm, killed := kadm.NewClient(kc), time.Now()
	var g errgroup.Group
	g.Go(func() error {
		defer kc.Close()
		for {
			mctx, cancel := context.WithTimeout(ctx, time.Second)
			md, err := adm.Metadata(mctx, topic)
			cancel()
			led := func(p kadm.PartitionDetail) bool { return p.Leader == dead || p.Leader < 0 }
			if err == nil && !slices.ContainsFunc(md.Topics[topic].Partitions.Sorted(), led) {
				took = time.Since(killed)
				return nil
			}
			if time.Since(killed) > patience {
				return errors.New("no other leader")
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	c.Kill(0)
	time.Sleep(5 * time.Second)
	require.NoError(t, c.Restart(0))
	require.NoError(t, g.Wait())
	return took
}

// TestRecoveryTimes measures how long feeds pause. Its table is the one of
// docs/RELIABILITY.md.
func TestRecoveryTimes(t *testing.T) {
	proveFor(t)
	c := brokertest.StartKafka(t, 3)
	var args []string
	noBypass := os.Getenv("TAPECAST_TEST_NO_BYPASS") != ""
	if noBypass {
		args = append(args, "--silence", "1m") // longer than anything here takes
	}
	only := regexp.MustCompile(os.Getenv("TAPECAST_TEST_ROWS"))
	s := newStack(t, strings.Join(c.Addrs(), ","), 2, 2, args...)
	topic := brokertest.Name(t, "pause")
	env := c.Env(t)
	env.Create(t, topic, 4)
	s.awaitTopic(t, topic)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var g errgroup.Group
	defer func() { cancel(); _ = g.Wait() }()
	g.Go(func() error { // 400 events/s, over all partitions
		_, err := loadtest.Run(ctx, loadtest.Options{
			Brokers: c.Addrs(), RegistryURL: s.registry, Gateways: s.ws, Topic: topic, Subscribers: 2, Producers: 2, Rate: 400, Duration: time.Hour,
		})
		return err
	})
	var ws []*watcher
	for i := range 20 {
		cl, err := client.Dial(ctx, client.Options{URLs: []string{s.ws[i%2], s.ws[1-i%2]}})
		require.NoError(t, err)
		defer cl.Close()
		sub, err := cl.Subscribe(ctx, topic, client.SubscribeOptions{From: client.Live()})
		require.NoError(t, err)
		w := &watcher{sub: sub, last: map[int32]time.Time{}, gap: map[int32]time.Duration{}}
		ws = append(ws, w)
		g.Go(func() error { w.run(ctx); return nil })
	}
	settled := func() {
		from := time.Now()
		require.Eventually(t, func() bool {
			return !slices.ContainsFunc(ws, func(w *watcher) bool { return !w.heard(from) })
		}, patience, 10*time.Millisecond, "every client gets every partition")
		time.Sleep(8 * time.Second) // the measure is of a system at rest
		for _, w := range ws {
			w.longest()
		}
	}
	third := func() {
		admin := brokertest.Addr(t)
		args := append(slices.Clone(s.fanouts[0].args), "--admin-listen", admin, "--instance", "f9")
		p := newProc(t, "fanout-9", "http://"+admin+"/readyz", args...)
		p.awaitReady()
		s.fanouts = append(s.fanouts, p)
	}
	var elected time.Duration
	rows := []row{
		{"nothing", func() {}},
		{"a fan-out joins", third},
		{"a fan-out leaves (SIGTERM)", func() { s.fanouts[2].stop(syscall.SIGTERM) }},
		{"a fan-out is killed, and stays away", func() { s.fanouts[0].kill() }},
		{"all fan-outs are killed, and stay away", func() { s.fanouts[1].kill() }},
		{"the fan-outs come back", func() { s.fanouts[0].restart(); s.fanouts[1].restart() }},
		{"a gateway is killed (its clients go to the other)", func() { s.gateways[0].kill() }},
		{"the gateway comes back", func() { s.gateways[0].restart() }},
		{"a gateway is drained (SIGTERM)", func() { s.gateways[1].stop(syscall.SIGTERM); s.gateways[1].restart() }},
		{"a broker of three is killed, and comes back", func() { elected = failover(t, ctx, c, topic) }},
		{"rolling restart of fan-outs and gateways", func() {
			for _, p := range append(slices.Clone(s.fanouts[:2]), s.gateways...) {
				p.stop(syscall.SIGTERM)
				p.restart()
			}
		}},
	}
	if noBypass { // nobody can wait at rest while all are away
		rows = slices.Delete(rows, 4, 6)
		rows = slices.Insert(rows, 4, row{"the other fan-out is killed too, and both come back", func() {
			s.fanouts[1].kill()
			s.fanouts[0].restart()
			s.fanouts[1].restart()
		}})
	}
	var table strings.Builder
	defer func() {
		fmt.Printf("| fault | median of 20 clients | longest |\n| --- | --- | --- |\n%s", &table)
	}()
	for _, r := range rows {
		if !only.MatchString(r.what) {
			continue
		}
		settled()
		r.do()
		time.Sleep(10 * time.Second) // long enough for every timeout there is
		var all []time.Duration
		for _, w := range ws {
			all = append(all, w.longest())
		}
		slices.Sort(all)
		fmt.Fprintf(&table, "| %s | %s | %s |\n", r.what, all[len(all)/2].Round(10*time.Millisecond), all[len(all)-1].Round(10*time.Millisecond))
	}
	if elected > 0 {
		fmt.Fprintf(&table, "| of which: until Kafka named other leaders | | %s |\n", elected.Round(10*time.Millisecond))
	}
	if !only.MatchString("storm") {
		return
	}
	half, all := storm(t, ctx, s, topic)
	fmt.Fprintf(&table, "| the gateway of %d clients is killed: until they are subscribed elsewhere | %s | %s |\n", stormClients(t), half, all)
}
