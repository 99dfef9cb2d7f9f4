package app

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/tapecast/tapecast/internal/market"
	"github.com/tapecast/tapecast/schemas"
)

// demoRetry is the pause between two tries to make the demo topics, on a
// cluster that is not there yet.
const demoRetry = 100 * time.Millisecond

// demo makes the demo topics, then runs the market, or with nil only keeps still.
func (b *base) demo(reg *schemas.Registry, run *market.Options) part {
	var made atomic.Pointer[error] // why the topics are not there yet
	made.Store(&errNotAsked)
	b.health.checks = append(b.health.checks, check{"demo topics", func() error { return *made.Load() }})
	return part{"demo", func(ctx context.Context) error {
		for {
			err := b.makeDemo(ctx, reg)
			made.Store(&err)
			if err == nil {
				break
			}
			b.log.Debug("demo topics", slog.Any("error", err))
			if !sleep(ctx, demoRetry) {
				return nil
			}
		}
		if run == nil {
			<-ctx.Done()
			return nil
		}
		return market.Run(ctx, *run)
	}}
}

// makeDemo makes the demo's topics and waits until the catalog has them.
func (b *base) makeDemo(ctx context.Context, reg *schemas.Registry) error {
	if err := market.Setup(ctx, b.client, reg); err != nil {
		return err
	}
	if err := b.catalog.Refresh(ctx); err != nil {
		return fmt.Errorf("learn the cluster's topics: %w", err)
	}
	for _, name := range market.Topics() {
		if _, ok := b.catalog.ByTopic(name); !ok {
			return fmt.Errorf("topic %s is not in the catalog yet", name)
		}
	}
	return nil
}

// sleep returns false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
