package catalog_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/internal/catalog"
)

func TestTopicsComeAndGoWhileItRuns(t *testing.T) {
	brokertest.All(t, func(t *testing.T, env *brokertest.Env) {
		mine := brokertest.Name(t, "feed")
		c, err := catalog.New(catalog.Options{Client: env.Client, Rules: []catalog.Rule{{Pattern: mine + "*"}}})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = c.Run(ctx) })
		defer wg.Wait()
		defer cancel()
		await := func(what string, holds func() bool) {
			t.Helper()
			limit := time.After(30 * time.Second)
			for {
				changed := c.Changed()
				if holds() {
					return
				}
				select {
				case <-changed:
				case <-limit:
					t.Fatal(what)
				}
			}
		}
		env.Create(t, mine, 2)
		env.Create(t, "__"+mine, 1)
		await("made", func() bool { f, ok := c.Feed(mine); return ok && len(f.Partitions) == 2 && !f.ID.IsZero() })
		first, _ := c.Feed(mine)
		require.NoError(t, env.Client.AddPartitions(ctx, mine, 3))
		await("more partitions", func() bool { f, _ := c.Feed(mine); return len(f.Partitions) == 3 })
		require.NoError(t, env.Client.DeleteTopic(ctx, mine))
		await("gone", func() bool { _, ok := c.Feed(mine); return !ok })
		env.Create(t, mine, 1)
		await("made again", func() bool { f, ok := c.Feed(mine); return ok && f.ID != first.ID && len(f.Partitions) == 1 })
		require.Len(t, c.Feeds(), 1)
	})
}
