package feed

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/tapecast/tapecast/schemas"
)

const (
	// schemaTimeout bounds one question to the registry.
	schemaTimeout = 5 * time.Second
	// schemaRetry is how long a failed question rests; sessions try again then.
	schemaRetry = time.Second
	// schemaUnknown is how long an id that the registry does not know is poison.
	schemaUnknown = 30 * time.Second
	// maxSchemaFlights and maxUnknown bound what records with invented schema ids can cost.
	maxSchemaFlights = 64
	maxUnknown       = 4096
)

// registry is what the resolver needs of a schemas.Registry.
type registry interface {
	Codec(ctx context.Context, id uint32) (*schemas.Codec, error)
	Cached(id uint32) (*schemas.Codec, bool)
}

// resolver fetches schemas so that no session ever waits for the registry: one
// flight per id, its end wakes those who wait.
type resolver struct {
	// static after construction
	reg   registry // nil = none
	spawn func(fn func(ctx context.Context))
	wake  func() // wakes the subs of all topics that wait for a schema

	mu      sync.Mutex
	flights map[uint32]struct{}  // guarded by mu
	unknown map[uint32]time.Time // guarded by mu; until when
}

func newResolver(reg registry, spawn func(func(ctx context.Context)), wake func()) *resolver {
	return &resolver{reg: reg, spawn: spawn, wake: wake, flights: map[uint32]struct{}{}, unknown: map[uint32]time.Time{}}
}

// ready returns nil if the schema is at hand, errSchemaAway if it is being
// fetched (wake follows), or a *schemas.PoisonError.
func (r *resolver) ready(id uint32) error {
	if r.reg == nil {
		return nil // the decoder says that there is no registry
	}
	if _, ok := r.reg.Cached(id); ok {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if until, ok := r.unknown[id]; ok {
		if time.Now().Before(until) {
			return &schemas.PoisonError{Reason: fmt.Sprintf("schema id %d cannot be used", id)}
		}
		delete(r.unknown, id)
	}
	if _, ok := r.flights[id]; ok || len(r.flights) >= maxSchemaFlights {
		return errSchemaAway
	}
	r.flights[id] = struct{}{}
	r.spawn(func(ctx context.Context) { r.fetch(ctx, id) })
	return errSchemaAway
}

func (r *resolver) fetch(ctx context.Context, id uint32) {
	tctx, cancel := context.WithTimeout(ctx, schemaTimeout)
	_, err := r.reg.Codec(tctx, id)
	cancel()
	final := err != nil && !schemas.Transient(err)
	if err != nil && !final {
		_ = sleep(ctx, schemaRetry)
	}
	r.mu.Lock()
	delete(r.flights, id)
	if final {
		if len(r.unknown) >= maxUnknown {
			clear(r.unknown)
		}
		r.unknown[id] = time.Now().Add(schemaUnknown)
	}
	r.mu.Unlock()
	r.wake()
}
