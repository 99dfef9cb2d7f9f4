//go:build provebad

package gateway

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/sabotage"
)

// TestLaneControls takes one safeguard of lanes, full sockets and readers after
// the other away: the histories have to turn red for each, and green for the
// same seed with it.
func TestLaneControls(t *testing.T) {
	const most, steps, patience = 40, 150, 30 * time.Second // the same patience with and without: red is not for being slow
	for _, bad := range []string{
		sabotage.LaneAhead, sabotage.LaneSync, sabotage.LaneEarly, sabotage.LaneParted,
		sabotage.RestByte, sabotage.NoUndo, sabotage.ReaderDrop,
	} {
		t.Run(bad, func(t *testing.T) {
			sabotage.Take(bad)
			defer sabotage.Take("")
			for seed := 1; seed <= most; seed++ {
				var o *laneOutcome
				t.Run(fmt.Sprint(seed), func(t *testing.T) { o = playLanes(t, seed, steps, patience) })
				if len(o.bad) == 0 {
					continue
				}
				fmt.Printf("control  %-45s red    seed %d: %.200s\n", bad, seed, o.bad[0])
				sabotage.Take("")
				t.Run("with it", func(t *testing.T) { o = playLanes(t, seed, steps, patience) })
				require.Empty(t, o.bad, "the same seed with the safeguard")
				return
			}
			fmt.Printf("control  %-45s GREEN  in %d seeds\n", bad, most)
			t.Errorf("%s: the histories stay green", bad)
		})
	}
}
