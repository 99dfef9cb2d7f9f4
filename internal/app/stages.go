package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
)

// stageStop is how long the parts of a stage may take to stop, beyond a
// gateway's drain, before the next stage is stopped all the same.
const stageStop = 30 * time.Second

// part is one thing that runs for the life of the process.
type part struct {
	name string
	run  func(ctx context.Context) error
}

// stage is a set of parts that start and stop together.
type stage struct {
	parts  []part
	cancel context.CancelFunc
	done   chan struct{} // closed by wait when all parts have returned
	group  *errgroup.Group
}

// runStages starts the stages in order. When ctx ends or any part returns, it
// stops them in reverse, each only after the one above it has stopped, so that
// nobody loses what they stand on while they drain. stopping is called first;
// limit is how long a stage may take.
// It returns the error of the part that failed, nil after a clean stop.
func runStages(ctx context.Context, log *slog.Logger, limit time.Duration, stopping func(), stages ...[]part) error {
	base := context.WithoutCancel(ctx)
	ended := make(chan error) // never closed: each part offers its end until it is told to stop
	running := make([]*stage, 0, len(stages))
	for _, parts := range stages {
		s := &stage{parts: parts, done: make(chan struct{}), group: &errgroup.Group{}}
		var sctx context.Context
		sctx, s.cancel = context.WithCancel(base)
		for _, p := range parts {
			s.group.Go(func() error { return p.supervise(sctx, ended) })
		}
		running = append(running, s)
	}
	var failure error
	select {
	case <-ctx.Done():
	case failure = <-ended:
	}
	stopping()
	errs := []error{failure}
	for i := len(running) - 1; i >= 0; i-- {
		errs = append(errs, running[i].stop(log, limit))
	}
	return errors.Join(errs...)
}

// supervise runs a part and reports an end that nobody asked for.
func (p part) supervise(ctx context.Context, ended chan<- error) error {
	err := p.run(ctx)
	if ctx.Err() != nil {
		if err == nil || errors.Is(err, context.Canceled) {
			return nil
		}
		return fmt.Errorf("%s: %w", p.name, err)
	}
	if err == nil {
		err = errors.New("ended before it was told to")
	}
	err = fmt.Errorf("%s: %w", p.name, err)
	select {
	case ended <- err:
		return nil
	case <-ctx.Done(): // another one was first
		return err
	}
}

func (s *stage) stop(log *slog.Logger, limit time.Duration) error {
	s.cancel()
	var err error
	go func() { // ends with the parts; left behind only by a process that is about to exit
		err = s.group.Wait()
		close(s.done)
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-s.done:
		return err
	case <-timer.C:
		names := make([]string, len(s.parts))
		for i, p := range s.parts {
			names[i] = p.name
		}
		log.Error("parts did not stop in time", slog.Any("parts", names), slog.Duration("waited", limit))
		return fmt.Errorf("%v did not stop within %s", names, limit)
	}
}
