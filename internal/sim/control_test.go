package sim

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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

// kindsFor are the faults that a control is played with. kafka-go's Reader waits
// for answers with mutexes held, which would stop the bubble's clock: its
// network stays whole. It turns red for what the Reader hands out (records of
// aborted transactions, control records). That it commits ahead of deliveries
// and is not told of generations hardly ever does harm: coverage and the
// filling of gaps make up for it.
func kindsFor(bad string) []string {
	if bad == sabotage.GroupReader {
		return []string{"fan-out crashed", "fan-out stopped", "gateway crashed", "delivery dropped", "delivery topic deleted", "requests refused", "topic made again"}
	}
	return allKinds()
}

// TestControls takes one safeguard after the other away: the simulation has to
// turn red for each, and green for the same history with it. Those inside the
// product need the build tag provebad (`make prove-controls`); the others are
// part of every run.
func TestControls(t *testing.T) {
	const most = 20
	all := []string{plainProducer}
	for _, k := range meddler.Kinds() {
		all = append(all, string(k))
	}
	if sabotaged {
		all = append(all, sabotage.AbortedThrough, sabotage.NoFill, sabotage.NoFilter, sabotage.LateEarliest, sabotage.GroupReader)
	}
	for _, bad := range all {
		t.Run(bad, func(t *testing.T) {
			take(bad)
			defer take("")
			for seed := uint64(1); seed <= most; seed++ {
				h := plan(seed, kindsFor(bad), brief).with(bad)
				var v *verdict
				t.Run(fmt.Sprint(seed), func(t *testing.T) { v = play(t, h) })
				if len(v.bad) == 0 {
					continue
				}
				fmt.Printf("control  %-45s red    seed %d: %s\n", bad, seed, v.bad[0])
				take("")
				t.Run("with it", func(t *testing.T) { v = play(t, h.with("")) })
				require.Empty(t, v.bad, "the same history with the safeguard")
				return
			}
			fmt.Printf("control  %-45s GREEN  in %d seeds\n", bad, most)
			t.Errorf("%s: the suite stays green", bad)
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
