//go:build !provebad

package sabotage

// Is tells whether a safeguard is taken away: never.
func Is(string) bool { return false }
