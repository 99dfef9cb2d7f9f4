package feed

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"
)

// spawner owns every goroutine of a Feed that is not started by Run itself.
// What is asked for before Run has begun is kept and started with it; what is
// asked for after the end is not started.
type spawner struct {
	mu     sync.Mutex
	group  *errgroup.Group             // guarded by mu; nil = not begun
	ctx    context.Context             // guarded by mu; set with group: it ends when Run ends, no request's context
	queued []func(ctx context.Context) // guarded by mu
	over   bool                        // guarded by mu
}

// begin starts what was queued. group must not be waited for before end was called.
func (s *spawner) begin(ctx context.Context, group *errgroup.Group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.group, s.ctx = group, ctx
	for _, fn := range s.queued {
		s.start(fn)
	}
	s.queued = nil
}

// end refuses further goroutines.
func (s *spawner) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over, s.queued = true, nil
}

// spawn runs fn with a context that ends with Run.
func (s *spawner) spawn(fn func(ctx context.Context)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over:
	case s.group == nil:
		s.queued = append(s.queued, fn)
	default:
		s.start(fn)
	}
}

func (s *spawner) start(fn func(ctx context.Context)) {
	ctx := s.ctx
	s.group.Go(func() error {
		fn(ctx)
		return nil
	})
}
