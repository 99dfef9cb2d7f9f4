package conformance

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestJavaScriptUnits runs what the scripts cannot say: storage, the page's
// events, silence, sizes.
func TestJavaScriptUnits(t *testing.T) {
	path, _ := node(t)
	out, err := exec.Command(path, "--test", "../js/test/unit.test.mjs").CombinedOutput()
	require.NoError(t, err, "%s", out)
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "bytes gzipped") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

// TestPackage packs the module as npm would publish it, and uses what was packed.
func TestPackage(t *testing.T) {
	path, flags := node(t)
	npm, err := exec.LookPath("npm")
	if err != nil {
		if os.Getenv("TAPECAST_TEST_REQUIRE_NODE") != "" {
			t.Fatal("npm is not there")
		}
		t.Skip("SKIPPED: npm is not there: the package is not packed")
	}
	dir := t.TempDir()
	pack := exec.Command(npm, "pack", "--json", "--pack-destination", dir)
	pack.Dir = "../js"
	pack.Env = append(os.Environ(), "npm_config_update_notifier=false", "npm_config_cache="+filepath.Join(dir, "cache"))
	var stderr bytes.Buffer
	pack.Stderr = &stderr
	out, err := pack.Output()
	require.NoError(t, err, "%s%s", out, stderr.Bytes())
	var packed []struct {
		Filename string
		Files    []struct{ Path string }
	}
	require.NoError(t, json.Unmarshal(out, &packed), "%s", out)
	require.Len(t, packed, 1)
	names := map[string]bool{}
	for _, f := range packed[0].Files {
		names[f.Path] = true
		require.NotContains(t, f.Path, "test/")
	}
	for _, want := range []string{"tapecast.js", "tapecast.d.ts", "package.json", "README.md", "LICENSE", "examples/node.mjs", "examples/page.html"} {
		require.True(t, names[want], want)
	}

	module := filepath.Join(dir, "node_modules", "tapecast")
	require.NoError(t, os.MkdirAll(module, 0o700))
	tar, err := exec.Command("tar", "-xzf", filepath.Join(dir, packed[0].Filename), "-C", module, "--strip-components=1").CombinedOutput()
	require.NoError(t, err, "%s", tar)
	use := filepath.Join(dir, "use.mjs")
	require.NoError(t, os.WriteFile(use, []byte("import { Client } from 'tapecast'\nnew Client('ws://127.0.0.1:1/ws').close()\nconsole.log('used')\n"), 0o600))
	out, err = exec.Command(path, append(flags, use)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "used")
}

// TestPackageRunsNoScripts: installing it executes nothing, and needs nothing.
func TestPackageRunsNoScripts(t *testing.T) {
	text, err := os.ReadFile("../js/package.json")
	require.NoError(t, err)
	var p map[string]any
	require.NoError(t, json.Unmarshal(text, &p))
	for _, field := range []string{"scripts", "dependencies", "devDependencies", "optionalDependencies", "bin", "gypfile"} {
		require.NotContains(t, p, field)
	}
}
