package sim

import (
	"os"
	"runtime/debug"
	"testing"
)

// TestMain gives memory for time: worlds are made and dropped by the second,
// and a quarter of the CPU went into collecting them.
func TestMain(m *testing.M) {
	debug.SetGCPercent(1000)
	debug.SetMemoryLimit(1500 << 20)
	os.Exit(m.Run())
}
