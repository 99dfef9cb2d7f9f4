//go:build provebad

package gateway

import (
	"fmt"
	"testing"
	"time"

	"github.com/tapecast/tapecast/internal/sabotage"
)

// TestLaneControls takes one safeguard of lanes, full sockets and readers after
// the other away: the histories have to turn red for each.
func TestLaneControls(t *testing.T) {
	const most = 10
	for _, bad := range []string{
		sabotage.LaneAhead, sabotage.LaneSync, sabotage.LaneEarly, sabotage.LaneParted,
		sabotage.RestByte, sabotage.NoUndo, sabotage.ReaderDrop,
	} {
		t.Run(bad, func(t *testing.T) {
			sabotage.Take(bad)
			defer sabotage.Take("")
			for seed := 1; seed <= most; seed++ {
				var o *laneOutcome
				t.Run(fmt.Sprint(seed), func(t *testing.T) { o = playLanes(t, seed, 150, 10*time.Second) })
				if o != nil && len(o.bad) > 0 {
					fmt.Printf("control  %-45s red    seed %d: %s\n", bad, seed, o.bad[0])
					return
				}
			}
			fmt.Printf("control  %-45s GREEN  in %d seeds\n", bad, most)
			t.Errorf("%s: the histories stay green", bad)
		})
	}
}
