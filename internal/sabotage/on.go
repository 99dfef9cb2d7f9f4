//go:build provebad

package sabotage

import "sync/atomic"

var taken atomic.Pointer[string]

// Is tells whether a safeguard is taken away.
func Is(what string) bool {
	p := taken.Load()
	return p != nil && *p == what
}

// Take takes one safeguard away, "" none.
func Take(what string) { taken.Store(&what) }
