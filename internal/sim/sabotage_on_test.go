//go:build provebad

package sim

import "github.com/tapecast/tapecast/internal/sabotage"

const sabotaged = true

func take(what string) { sabotage.Take(what) }
