package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// hopSamples is how many events' way is asked for after a trip.
const hopSamples = 400

// hopNames are the moments that a gateway's trace tells, in their order.
var hopNames = []string{"accepted", "read", "batched", "arrived", "taped", "encoded"}

// hops asks the gateway for the way of events that were among the last of so
// many, and says how long each part of it took. A part that no event tells is left out.
func (s *stack) hops(ctx context.Context, topic string, last, of int64) (string, error) {
	parts := map[string][]float64{}
	for range hopSamples {
		at := last - 1 - rand.Int64N(max(min(of, last), 1))
		b, err := get(ctx, fmt.Sprintf("http://%s/v1/admin/trace/%s/0/%d", s.role("gateway").admin, topic, at))
		if err != nil {
			return "", err
		}
		var seen struct{ Hops map[string]int64 }
		if err := json.Unmarshal(b, &seen); err != nil {
			return "", fmt.Errorf("trace of offset %d: %w", at, err)
		}
		for i, name := range hopNames[1:] {
			from, to := seen.Hops[hopNames[i]], seen.Hops[name]
			if from > 0 && to > 0 {
				parts[name] = append(parts[name], float64(to-from)/1e3)
			}
		}
	}
	var out []string
	for i, name := range hopNames[1:] {
		if v := parts[name]; len(v) > 0 {
			slices.Sort(v)
			out = append(out, fmt.Sprintf("%s-%s %.2f/%.2f/%.2f", hopNames[i], name, v[len(v)/2], v[len(v)*99/100], v[len(v)-1]))
		}
	}
	return strings.Join(out, ", "), nil
}

// profile begins CPU profiles of all roles, if there are to be any; what it
// returns waits until they are written.
func (s *stack) profile(ctx context.Context, e *env, w work) (wait func() error) {
	if e.profile == "" {
		return func() error { return nil }
	}
	var g errgroup.Group
	for name, r := range s.roles {
		g.Go(func() error {
			b, err := get(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", r.pprof, max(int(e.length.Seconds()), 1)))
			if err != nil {
				return fmt.Errorf("profile of %s: %w", name, err)
			}
			return os.WriteFile(fmt.Sprintf("%s.%s.%d.%s", e.profile, w.Name, w.Rate, name), b, 0o600)
		})
	}
	return g.Wait
}

// saidHops is hops of what was sent in a time before now, or why there are none.
func (s *stack) saidHops(ctx context.Context, w work, sent int64, d time.Duration) string {
	text, err := s.hops(ctx, w.topic(), sent, int64(float64(w.Rate)*d.Seconds()))
	if err != nil {
		return "not told: " + err.Error()
	}
	return text
}
