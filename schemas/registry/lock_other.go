//go:build !unix

package registry

import "os"

// lockFile does nothing where the system has no advisory locks.
func lockFile(*os.File) error { return nil }

// syncDir does nothing where directories cannot be synced.
func syncDir(string) error { return nil }
