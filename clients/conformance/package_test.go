package conformance

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// pack packs the module as npm would publish it, and installs that in a directory.
func pack(t *testing.T) (dir string) {
	t.Helper()
	npm, err := exec.LookPath("npm")
	if err != nil {
		if os.Getenv("TAPECAST_TEST_REQUIRE_NODE") != "" {
			t.Fatal("npm is not there")
		}
		t.Skip("SKIPPED: npm is not there: the package is not packed")
	}
	dir = t.TempDir()
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
	var names []string
	for _, f := range packed[0].Files {
		names = append(names, f.Path)
	}
	slices.Sort(names)
	require.Equal(t, []string{
		"LICENSE", "README.md", "examples/node.mjs", "examples/page.html", "package.json", "tapecast.d.ts", "tapecast.js",
	}, names)
	module := filepath.Join(dir, "node_modules", "tapecast")
	require.NoError(t, os.MkdirAll(module, 0o700))
	tar, err := exec.Command("tar", "-xzf", filepath.Join(dir, packed[0].Filename), "-C", module, "--strip-components=1").CombinedOutput()
	require.NoError(t, err, "%s", tar)
	return dir
}

// TestPackage uses what was packed.
func TestPackage(t *testing.T) {
	path, flags := node(t)
	dir := pack(t)
	use := filepath.Join(dir, "use.mjs")
	require.NoError(t, os.WriteFile(use, []byte("import { Client } from 'tapecast'\nnew Client('ws://127.0.0.1:1/ws').close()\nconsole.log('used')\n"), 0o600))
	out, err := exec.Command(path, append(flags, use)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "used")
}

// usesTypes is a strict program over every part of the declarations. The lines
// that are marked have to be refused.
const usesTypes = `import { Client, TapecastError, type DataFrame, type Frame, type Position } from 'tapecast'

interface Quote { bid: number, ask: number }
const client = new Client(['wss://a.example.org/ws'], {
  credentials: async () => ({ protocols: ['token.abc'] }), onstate: (s) => { if (s.phase === 'waiting') s.wait.toFixed() },
  onviolation: (v) => v.kind === 'order'
})
const sub = client.subscribe<Quote>('quotes', { keys: ['EURUSD'], from: { last: 100 }, until: 'live', remember: true, overflow: 'drop' })
const at: Position | null = sub.position
client.subscribe('trades', { from: at ?? 'earliest', ondata: (f) => { const k: string | null = f.key; return void k } }).close()
for await (const f of sub) {
  if (f.kind === 'data') (f satisfies DataFrame<Quote>).data.bid.toFixed(5)
  else if (f.kind === 'gap') f.to - f.from
  else (f satisfies Frame<Quote>).topic
}
if (sub.error instanceof TapecastError && sub.error.retry) client.reconnect()
// @ts-expect-error there is no such mode
client.subscribe('quotes', { mode: 'newest' })
// @ts-expect-error offsets are numbers
client.subscribe('quotes', { from: { offsets: { 0: 'x' } } })
// @ts-expect-error a position is made by the client
sub.position = null
`

// TestTypes compiles a program against the types that were packed, with the
// compiler that TAPECAST_TEST_TSC names: "npx -y -p typescript@5.9.3 tsc".
func TestTypes(t *testing.T) {
	tsc := strings.Fields(os.Getenv("TAPECAST_TEST_TSC"))
	if len(tsc) == 0 {
		t.Skip(`SKIPPED: no TypeScript compiler is named; TAPECAST_TEST_TSC="npx -y -p typescript@5.9.3 tsc"`)
	}
	dir := pack(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "use.mts"), []byte(usesTypes), 0o600))
	cmd := exec.Command(tsc[0], append(tsc[1:], "--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom", "use.mts")...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
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
