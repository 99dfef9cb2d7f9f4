package coverage

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each control takes one rule back; the model must find what it was for.
// Findings by number: docs/ARCHITECTURE.md, "The coverage protocol".
var controls = []struct {
	name  string
	want  string // what the checker must say; other words may come of how the hole is made
	holes holes
	// faults and calm let a control meet what it needs within few seeds. The
	// same plan without the hole must be clean.
	faults []string
	calm   bool
}{
	{name: "S1: the tape serves below an interest's X", want: "LOST", holes: holes{noX: true}},
	{name: "S2: a new interest is announced by one section from the chain", want: "LOST", holes: holes{mut: mutS2Announce}},
	{name: "S2: E is stamped at a section's end", want: "LOST", holes: holes{mut: mutS2Stamp}},
	{name: "S3: interest ids are used again", want: "LOST", holes: holes{reuseIDs: true}, faults: []string{"rebalance", "metadata"}},
	{name: "S4: interest ids are used again, and a fan-out begins before the log's end", want: "LOST", holes: holes{reuseIDs: true, partialLoad: true}, faults: []string{"crash", "rebalance", "interest compaction"}},
	{name: "S5: a lease that ran out empties the map", want: "LOST", holes: holes{purge: true}, faults: []string{"end incarnation"}},
	{name: "S6: the topic id is not looked at", want: "MIXED", holes: holes{mut: mutS6, oneHistory: true}, faults: []string{"recreate", "metadata"}},
	{name: "S7: the interest log's id is not looked at", want: "LOST", holes: holes{mut: mutS7, oneLog: true}, faults: []string{"recreate interests"}},
	{name: "S8: rule 3 looks only at interests that are served live", want: "LOST", holes: holes{mut: mutS8}, faults: []string{"rebalance", "crash", "pause", "evict", "metadata", "interest compaction"}},
	{name: "S9: an interest whose tombstone is under way is shared", want: "LOST", holes: holes{shareClosing: true}},
	{name: "S10: a cursor begins at min(R, X)", want: "DOUBLED", holes: holes{startLow: true}, faults: []string{"rebalance", "metadata", "evict"}},
	{name: "S11: a new partition starts at its end", want: "LOST", holes: holes{newAtEnd: true}, faults: []string{"add partition", "metadata", "rebalance"}},
	{name: "S12: retention moves next without a gap entry", want: "LOST", holes: holes{mut: mutS12}, faults: []string{"retention", "evict", "long pause"}},
	// Not among S1 to S12; the first two were found by this model.
	{name: "an incarnation's chain outlives its end for a while", want: "LOST", holes: holes{lateEnd: true}, faults: []string{"end incarnation", "rebalance"}},
	{name: "a node that ended while a batch was routed gets a section", want: "LOST", holes: holes{mut: mutUnknown}, faults: []string{"end incarnation", "rebalance"}},
	{name: "rule 3 does not count an interest that is not acked", want: "LOST", holes: holes{mut: mutUnacked}, faults: []string{"long pause", "rebalance"}},
	{name: "L2: no X without a section", want: "HANG", holes: holes{mut: mutFallback}, faults: []string{"rebalance"}},
}

func TestEachRuleTakenBackTurnsTheModelRed(t *testing.T) {
	t.Parallel()
	seeds := envInt(t, "TAPECAST_CONTROL_SEEDS", 5000)
	for _, c := range controls {
		t.Run(c.name, func(t *testing.T) {
			p := plan{holes: c.holes, faults: c.faults, calm: c.calm, steps: 800, pace: 40}
			for seed := range seeds {
				if _, v := try(seed, p); strings.HasPrefix(string(v), c.want) {
					t.Logf("red at seed %d: %s", seed, v)
					p.holes = holes{}
					_, v = try(seed, p)
					require.Empty(t, v, "without the hole the same seed is clean")
					return
				}
			}
			t.Fatalf("the model did not notice in %d seeds", seeds)
		})
	}
}

// With fresh ids, reading the interest log to its end before routing saves
// reads; nothing hangs on it.
func TestAFanOutThatBeginsBeforeTheLogsEndIsSafe(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		p := randomPlan(seed)
		p.holes.partialLoad = true
		_, v := try(seed, p)
		require.Empty(t, v, "seed %d", seed)
	}
}
