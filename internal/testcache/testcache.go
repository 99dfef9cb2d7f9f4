// Package testcache keeps what tests fetch or build once per machine, in the
// user's cache. For tests only.
package testcache

import (
	"fmt"
	"os"
	"path/filepath"
)

// Dir returns the directory of this name. The first caller on the machine
// fills it with fill; others, also of other processes, wait for it. What fill
// left behind when it failed, or its process died, is thrown away. The
// directory stays where it is filled.
func Dir(name string, fill func(dir string) error) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "tapecast", name)
	if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
		return "", err
	}
	unlock, err := lock(dir + ".lock")
	if err != nil {
		return "", fmt.Errorf("lock %s: %w", dir, err)
	}
	defer unlock()
	complete := filepath.Join(dir, "complete")
	if _, err := os.Stat(complete); err == nil {
		return dir, nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := os.Mkdir(dir, 0o750); err != nil {
		return "", err
	}
	if err := fill(dir); err != nil {
		return "", err
	}
	return dir, os.WriteFile(complete, nil, 0o600)
}
