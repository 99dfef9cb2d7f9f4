package testcache

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestADirectoryIsFilledOnce(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	var mu sync.Mutex
	fills := 0
	fill := func(dir string) error {
		mu.Lock()
		fills++
		mu.Unlock()
		return os.WriteFile(filepath.Join(dir, "a"), []byte("x"), 0o600)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			dir, err := Dir("once", fill)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := os.Stat(filepath.Join(dir, "a")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	require.Equal(t, 1, fills)
}

func TestWhatAFailedFillLeftIsThrownAway(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	_, err := Dir("half", func(dir string) error {
		return errors.Join(errors.New("no network"), os.WriteFile(filepath.Join(dir, "half"), nil, 0o600))
	})
	require.ErrorContains(t, err, "no network")
	dir, err := Dir("half", func(string) error { return nil })
	require.NoError(t, err)
	require.NoFileExists(t, filepath.Join(dir, "half"))
}
