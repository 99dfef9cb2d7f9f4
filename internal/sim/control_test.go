package sim

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/sabotage"
)

// Known-bad behaviour that needs no other build.
const (
	plainProducer = "plain writer for the idempotent producer"
	eventDeleted  = "one event in 200 deleted from the stream"
)

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
// and is not told of generations does no harm: coverage and the filling of
// gaps make up for it, and without transactions this control stays green.
func kindsFor(bad string) []string {
	if bad == sabotage.GroupReader {
		return []string{"fan-out crashed", "fan-out stopped", "gateway crashed", "delivery dropped", "delivery topic deleted", "requests refused", "topic made again"}
	}
	return allKinds()
}

// TestControls takes one safeguard after the other away: the simulation has to
// turn red for each. Those inside the product need the build tag provebad
// (`make prove-controls`); the others are part of every run.
func TestControls(t *testing.T) {
	all := []string{plainProducer, eventDeleted}
	if sabotaged {
		all = append(all, sabotage.AbortedThrough, sabotage.NoFill, sabotage.NoFilter, sabotage.GroupReader)
	}
	const most = 20
	for _, bad := range all {
		t.Run(bad, func(t *testing.T) {
			take(bad)
			defer take("")
			for seed := uint64(1); seed <= most; seed++ {
				var v *verdict
				t.Run(fmt.Sprint(seed), func(t *testing.T) { v = play(t, plan(seed, kindsFor(bad), brief).with(bad)) })
				if len(v.bad) > 0 {
					fmt.Printf("control  %-45s red    seed %d: %s\n", bad, seed, v.bad[0])
					return
				}
			}
			fmt.Printf("control  %-45s GREEN  in %d seeds\n", bad, most)
			t.Errorf("%s: the suite stays green", bad)
		})
	}
}

// TestAFailingSeedShrinks: a failing history fails again when it is played
// again, and comes down to the steps that it takes.
func TestAFailingSeedShrinks(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		h := plan(seed, allKinds(), brief).with(plainProducer)
		if len(play(t, h).bad) == 0 {
			continue
		}
		if !fails(t, h) {
			continue // it hung on the scheduler
		}
		small := shrink(t, h)
		if len(small.steps) == len(h.steps) {
			t.Errorf("seed %d: none of %d steps could be left out", seed, len(h.steps))
		}
		if !fails(t, small) {
			t.Errorf("seed %d: what is left does not fail any more", seed)
		}
		t.Logf("seed %d: %d of %d steps are left", seed, len(small.steps), len(h.steps))
		for _, s := range small.steps {
			t.Logf("  %s %s", s.at, s.kind)
		}
		return
	}
	t.Error("no seed fails")
}
