package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/meddler"
	"github.com/tapecast/tapecast/internal/sabotage"
)

// plainProducer needs no other build, as the kinds of meddlers do.
const plainProducer = "plain writer for the idempotent producer"

// plain writes as a writer without idempotence does: what was not acknowledged
// is sent again.
func (w *world) plain(ctx context.Context, client *broker.Client, t *topic, recs []broker.ProduceRecord) {
	for _, r := range recs {
		for ctx.Err() == nil {
			if _, err := client.Append(ctx, t.name, 0, []broker.AppendRecord{{Key: r.Key, Value: r.Value}}); err == nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// control is a known-bad behaviour, and the histories that it is played in.
type control struct {
	name, bad    string
	kinds        []string
	pace         pace
	transactions bool
	most         uint64 // seeds
}

// The group Reader is played twice. kafka-go's Reader waits for answers with
// mutexes held, which would stop the bubble's clock: its network stays whole.
// With transactions it turns red for what it hands out (records of aborted
// transactions, control records); without them for what it commits before it
// was delivered, if brokers refuse deliveries while partitions go from one
// fan-out to the other and back: in one history of fifteen or so.
const ahead = "deliveries refused while the group changes"

func controls() (all []control) {
	add := func(bad string) {
		all = append(all, control{bad, bad, allKinds(), brief, true, 20})
	}
	add(plainProducer)
	for _, k := range meddler.Kinds() {
		add(string(k))
	}
	if !sabotaged {
		return all
	}
	for _, bad := range []string{sabotage.AbortedThrough, sabotage.NoFill, sabotage.NoFilter, sabotage.LateEarliest} {
		add(bad)
	}
	whole := []string{"fan-out crashed", "fan-out stopped", "gateway crashed", "delivery dropped", "delivery topic deleted", "requests refused", "topic made again"}
	return append(all,
		control{sabotage.GroupReader, sabotage.GroupReader, whole, brief, true, 20},
		control{"the group Reader, without transactions", sabotage.GroupReader, []string{ahead}, long, false, 300})
}

// deed is what a kind of step does: one of the actions, or that of a control.
func deed(kind string) action {
	if kind == ahead {
		return swapAhead
	}
	return actions[kind]
}

// swapAhead has partitions go from one fan-out to the other while brokers refuse
// what they deliver.
func swapAhead(w *world, rng *rand.Rand) {
	for _, g := range w.gateways {
		if d := g.delivery(); d != "" {
			defer w.kfake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: d, Err: kerr.NotEnoughReplicas, Count: -1}).Remove()
		}
	}
	time.Sleep(between(rng, 100*time.Millisecond, time.Second))
	defer w.kfake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.IllegalGeneration, Count: 2}).Remove()
	time.Sleep(between(rng, 500*time.Millisecond, 1500*time.Millisecond))
}

// TestControls takes one safeguard after the other away: the simulation has to
// turn red for each, and green for the same history with it. Those inside the
// product need the build tag provebad (`make prove-controls`); the others are
// part of every run.
func TestControls(t *testing.T) {
	for _, c := range controls() {
		t.Run(c.name, func(t *testing.T) {
			take(c.bad)
			defer take("")
			for seed := uint64(1); seed <= c.most; seed++ {
				h := plan(seed, c.kinds, c.pace).with(c.bad)
				h.plain = !c.transactions
				var v *verdict
				t.Run(fmt.Sprint(seed), func(t *testing.T) { v = play(t, h) })
				if len(v.bad) == 0 {
					continue
				}
				fmt.Printf("control  %-45s red    seed %d: %s\n", c.name, seed, v.bad[0])
				take("")
				t.Run("with it", func(t *testing.T) { v = play(t, h.with("")) })
				require.Empty(t, v.bad, "the same history with the safeguard")
				return
			}
			fmt.Printf("control  %-45s GREEN  in %d seeds\n", c.name, c.most)
			t.Errorf("%s: the suite stays green", c.name)
		})
	}
}

// TestHistoriesWithoutFaultsProveNothing: transactions that producers abort by
// themselves do not count.
func TestHistoriesWithoutFaultsProveNothing(t *testing.T) {
	sum := verdict{counts: map[string]int{}}
	for seed := uint64(1); sum.counts["aborted transactions"] == 0; seed++ {
		h := plan(seed, allKinds(), brief)
		h.steps = nil
		v := play(t, h)
		require.Empty(t, v.bad)
		sum.add(v)
	}
	require.Positive(t, sum.verified)
	require.Equal(t, "no fault was injected", sum.provesNothing())
	sum.counts["broker down"]++
	require.Empty(t, sum.provesNothing())
	sum.verified = 0
	require.NotEmpty(t, sum.provesNothing())
}

// TestAFailingSeedShrinks: a failing history comes down to the steps that it takes.
func TestAFailingSeedShrinks(t *testing.T) {
	h := plan(1, allKinds(), brief)
	first, last := h.steps[0], h.steps[len(h.steps)-1]
	small := shrink(h, func(h history) bool {
		return slices.Contains(h.steps, first) && slices.Contains(h.steps, last)
	})
	require.Equal(t, []step{first, last}, small.steps)

	// Played: it fails again, and what is left of it is part of it. Whether that
	// always fails hangs on the scheduler, which is why each is played three times.
	for seed := uint64(1); seed <= 20; seed++ {
		h := plan(seed, allKinds(), brief).with(plainProducer)
		if len(play(t, h).bad) == 0 || !fails(t, h) {
			continue
		}
		small := shrink(h, func(h history) bool { return fails(t, h) })
		require.Subset(t, h.steps, small.steps)
		t.Logf("seed %d: %d of %d steps are left: %v", seed, len(small.steps), len(h.steps), small.steps)
		return
	}
	t.Error("no seed fails twice")
}
