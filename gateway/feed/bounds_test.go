package feed

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/stream"
)

func TestManyWhoAskForBoundsShareTheQuestions(t *testing.T) {
	var wg sync.WaitGroup
	under, gate := make(chan struct{}), make(chan struct{})
	asks := int64(0) // one asks at a time
	a := newAsker(func(fn func(context.Context)) { wg.Go(func() { fn(t.Context()) }) },
		func(context.Context, string, stream.TopicID, []int32) (map[int32]broker.Bounds, error) {
			asks++
			under <- struct{}{}
			<-gate
			if asks == 3 {
				return nil, errors.New("away")
			}
			return map[int32]broker.Bounds{0: {End: asks}}, nil
		})
	what := asked{"t", stream.TopicID{}, 1}
	first := a.join(what, nil)
	<-under
	second := a.join(what, nil)
	for range 10_000 {
		require.Same(t, second, a.join(what, nil), "an answer that was asked for before somebody came is not fresh")
	}
	gate <- struct{}{}
	<-under
	told := map[string][]int64{}
	tell := func(who string) func(b map[int32]broker.Bounds, err error) {
		return func(b map[int32]broker.Bounds, err error) { // called by one at a time
			require.Equal(t, who == "third", err != nil)
			told[who] = append(told[who], b[0].End)
		}
	}
	third := a.join(what, tell("third"))
	require.NotSame(t, second, third)
	require.Same(t, third, a.join(what, tell("third")))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := a.bounds(ctx, "t", stream.TopicID{}, 1)
	require.ErrorIs(t, err, context.Canceled, "who goes waits for nobody")
	gate <- struct{}{}
	<-under
	gate <- struct{}{}
	wg.Wait()
	for i, q := range []*question{first, second, third} {
		<-q.done
		require.Equal(t, i == 2, q.err != nil)
		require.Equal(t, i < 2, q.bounds[0].End == int64(i+1))
	}
	require.Empty(t, a.open, "nobody waits: nothing is asked")
	require.Equal(t, map[string][]int64{"third": {0, 0}}, told)

	a.join(what, tell("fourth"))
	<-under
	a.join(what, tell("fifth"))
	gate <- struct{}{}
	<-under
	gate <- struct{}{}
	wg.Wait()
	require.Equal(t, map[string][]int64{"third": {0, 0}, "fourth": {4}, "fifth": {5}}, told, "who does not wait is told once, by its question's answer")
}
