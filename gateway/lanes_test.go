package gateway

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What the histories of TestLanesAgainstAModel are set by.
const (
	envLaneSeeds = "TAPECAST_TEST_LANES_SEEDS" // how many histories; default 6
	envLaneFirst = "TAPECAST_TEST_LANES_FIRST" // the first one's seed; default 1
	envLaneSteps = "TAPECAST_TEST_LANES_STEPS" // how long each is; default 200
)

func laneEnv(name string, def int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return def
}

// TestLanesAgainstAModel has clients over real sockets follow topics to which
// anything may happen while they sit in lanes, and holds what each saw against
// what was written: in order, nothing twice, nothing missing without a gap, no
// gap without a cause, positions that are what was sent, and every command
// answered. The simulation runs in memory, where there are neither lanes nor
// epoll sets. A seed fixes what is done; which socket is full when is the kernel's.
func TestLanesAgainstAModel(t *testing.T) {
	first, n, steps := laneEnv(envLaneFirst, 1), laneEnv(envLaneSeeds, 6), laneEnv(envLaneSteps, 200)
	for seed := first; seed < first+n; seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			o := playLanes(t, seed, steps, time.Minute)
			if len(o.bad) > 0 {
				t.Fatalf("replay with %s=%d %s=%d\n%s\nwhat was done: %v", envLaneFirst, seed, envLaneSteps, steps, strings.Join(o.bad[:min(len(o.bad), 30)], "\n"), o.did)
			}
			require.Positive(t, o.passes, "nobody sat in a lane")
			require.Positive(t, o.did["topic made again"]+o.did["partition added"]+o.did["records deleted"], "nothing was done to the topics")
			require.Positive(t, o.sum.gaps*o.sum.resumes, "%+v", o.sum)
			t.Logf("%d steps %v, %d reads of taps: %+v", steps, o.did, o.passes, o.sum)
		})
	}
}

// laneOutcome is what came of one history.
type laneOutcome struct {
	bad    []string
	did    map[string]int
	passes int // reads for lanes
	sum    laneCounts
}

// playLanes plays one history. Clients that have not seen everything after that
// patience are stuck.
func playLanes(t *testing.T, seed, steps int, patience time.Duration) *laneOutcome {
	const clients = 16
	r := newRig(t, false, func(o *Options) {
		o.Heartbeat, o.MaxLag, o.CommandRate, o.CommandBurst = 30*time.Millisecond, 0, 1e6, 1<<20
		if seed%2 == 0 {
			o.Hold = 2 * time.Millisecond
		}
		o.portable = o.portable || seed%5 == 0 // a goroutine reads each socket
	})
	r.feed.held = seed%3 == 0 // resumes are placed by the tapes
	w := &laneWorld{rig: r, rnd: laneRand(seed, 0), did: map[string]int{}}
	for i := range laneTopics {
		w.begin(i, 1+i*2)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var cs []*laneClient
	for i := range clients {
		c := &laneClient{w: w, rnd: laneRand(seed, 1+i)}
		cs = append(cs, c)
		wg.Go(func() {
			c.run(ctx)
			if len(c.bad) > 0 {
				cancel() // one is enough
			}
		})
	}
	for i := 0; i < steps && ctx.Err() == nil; i++ {
		w.step()
		w.lookForFull()
	}
	w.come()
	w.calm.Store(true)
	stuck := time.AfterFunc(patience, cancel)
	wg.Wait()
	return w.outcome(cs, !stuck.Stop())
}

func laneRand(seed, who int) *rand.Rand {
	return rand.New(rand.NewPCG(uint64(seed), uint64(who))) //nolint:gosec // not negative
}

// lookForFull notes whether some socket is full now.
func (w *laneWorld) lookForFull() {
	for _, s := range w.rig.service.open() {
		if s.card.rest.Load() > 0 {
			w.did["seen a full socket"]++
			return
		}
	}
}

func (w *laneWorld) outcome(cs []*laneClient, stuck bool) *laneOutcome {
	o := &laneOutcome{did: w.did}
	for i, c := range cs {
		o.sum.add(c.sum)
		for _, what := range append(c.bad, w.judge(c)...) {
			o.bad = append(o.bad, fmt.Sprintf("client %d: %s", i, what))
		}
		if stuck && !c.done() {
			for topic, l := range c.open {
				epoch, ends := w.ends(topic)
				o.bad = append(o.bad, fmt.Sprintf("client %d is stuck: %s %v, the end is %s %v, %d pings", i, l.epoch, l.pos, epoch, ends, len(c.pings)))
			}
		}
	}
	w.rig.feed.mu.Lock()
	o.passes = w.rig.feed.passes
	w.rig.feed.mu.Unlock()
	return o
}
