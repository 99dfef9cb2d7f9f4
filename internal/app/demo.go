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

// demo makes the demo topics, then runs the market unless it is not wanted.
func (d *Dev) demo(reg *schemas.Registry) part {
	var made atomic.Pointer[error] // why the topics are not there yet
	made.Store(&errNotAsked)
	d.health.checks = append(d.health.checks, check{"demo topics", func() error { return *made.Load() }})
	return part{"demo", func(ctx context.Context) error {
		for {
			err := d.makeDemo(ctx, reg)
			made.Store(&err)
			if err == nil {
				break
			}
			d.log.Debug("demo topics", slog.Any("error", err))
			if !sleep(ctx, demoRetry) {
				return nil
			}
		}
		if d.o.NoDemo {
			<-ctx.Done()
			return nil
		}
		return market.Run(ctx, market.Options{Client: d.client, Registry: reg, Logger: d.log})
	}}
}

// makeDemo makes the demo's topics and waits until the catalog has them.
func (d *Dev) makeDemo(ctx context.Context, reg *schemas.Registry) error {
	if err := market.Setup(ctx, d.client, reg); err != nil {
		return err
	}
	if err := d.catalog.Refresh(ctx); err != nil {
		return fmt.Errorf("learn the cluster's topics: %w", err)
	}
	for _, name := range market.Topics() {
		if _, ok := d.catalog.ByTopic(name); !ok {
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
