package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// errNotAsked is what a probe answers before its first question was answered.
var errNotAsked = errors.New("no answer yet")

// check is one condition of being ready.
type check struct {
	name  string
	ready func() error // nil = fulfilled
}

// health answers /healthz and /readyz. The checks are static after construction.
type health struct {
	checks   []check
	stopping atomic.Bool
}

// missing names what is not ready, by check.
func (h *health) missing() map[string]string {
	m := map[string]string{}
	for _, c := range h.checks {
		if err := c.ready(); err != nil {
			m[c.name] = err.Error()
		}
	}
	if h.stopping.Load() {
		m["process"] = "it is stopping"
	}
	return m
}

// firstMissing is the first condition that is not fulfilled.
func firstMissing(checks []check) error {
	for _, c := range checks {
		if err := c.ready(); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

// gauge is readiness as a metric.
func (h *health) gauge() float64 {
	if len(h.missing()) > 0 {
		return 0
	}
	return 1
}

func (h *health) stop() { h.stopping.Store(true) }

// hidden stands for a reason on a listener that strangers may reach: reasons
// name addresses.
const hidden = "not ready; the admin listener says why"

// register mounts /healthz (the process lives) and /readyz (it can do its
// work; reasons: also why not).
func (h *health) register(mux *http.ServeMux, reasons bool) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]bool{"alive": true})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		missing := h.missing()
		code := http.StatusOK
		if len(missing) > 0 {
			code = http.StatusServiceUnavailable
		}
		for name := range missing {
			if !reasons {
				missing[name] = hidden
			}
		}
		writeJSON(w, code, readiness{Ready: len(missing) == 0, Missing: missing})
	})
}

// readiness is the body of /readyz.
type readiness struct {
	Ready   bool              `json:"ready"`
	Missing map[string]string `json:"missing,omitempty"` // what, and why
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client is gone: nothing to do
}

// Probing.
const (
	probeEvery   = 2 * time.Second
	probeTimeout = 5 * time.Second
	probeFirst   = 200 * time.Millisecond // between questions until the first good answer
)

// probe asks a dependency again and again whether it is there. A change is
// logged once.
type probe struct {
	name string
	ask  func(context.Context) error
	log  *slog.Logger
	// once: after the first good answer a dependency that goes away does not
	// make the process unready, because it can go on without.
	once bool

	mu   sync.Mutex
	err  error // guarded by mu; of the last question
	seen bool  // guarded by mu; there was a good answer
}

func newProbe(name string, once bool, log *slog.Logger, ask func(context.Context) error) *probe {
	return &probe{name: name, ask: ask, log: log, once: once, err: errNotAsked}
}

func (p *probe) ready() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.once && p.seen {
		return nil
	}
	return p.err
}

// up is the last answer as a metric. Unlike ready, it tells of a dependency
// that the process goes on without.
func (p *probe) up() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return 0
	}
	return 1
}

func (p *probe) check() check { return check{p.name, p.ready} }
func (p *probe) part() part   { return part{p.name + " probe", p.run} }

func (p *probe) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		actx, cancel := context.WithTimeout(ctx, probeTimeout)
		err := p.ask(actx)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		timer.Reset(p.note(err))
	}
}

// note keeps an answer and returns when to ask again.
func (p *probe) note(err error) time.Duration {
	p.mu.Lock()
	before, seen := p.err, p.seen
	p.err = err
	p.seen = p.seen || err == nil
	p.mu.Unlock()
	switch {
	case err != nil && (before == nil || errors.Is(before, errNotAsked)):
		p.log.Warn("dependency is away, trying on", slog.String("dependency", p.name), slog.Any("error", err))
	case err == nil && before != nil && !errors.Is(before, errNotAsked):
		p.log.Info("dependency is back", slog.String("dependency", p.name))
	}
	if !seen && err != nil {
		return probeFirst
	}
	return probeEvery
}
