// Package pyenv gives tests Python programs of fixed versions, in a virtual
// environment that is made once per machine. For tests only.
package pyenv

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tapecast/tapecast/internal/testcache"
)

// EnvRequire set to anything makes a missing Python environment a failure, not a skip.
const EnvRequire = "TAPECAST_TEST_REQUIRE_PYTHON"

// Confluent is Confluent's client, its Avro serialisers and registry client.
const Confluent = "confluent-kafka[avro,schemaregistry]==2.16.0"

// install is how long fetching packages may take.
const install = 10 * time.Minute

// Python is Bin's interpreter.
func Python(t testing.TB, packages ...string) string {
	t.Helper()
	return filepath.Join(Bin(t, packages...), "python")
}

// Bin returns the folder of the programs of a virtual environment that has
// these packages, each with its version: "name==1.2.3". Where there can be
// none the test is skipped, or fails if EnvRequire is set.
func Bin(t testing.TB, packages ...string) string {
	t.Helper()
	dir, err := environment(packages)
	if err == nil {
		return filepath.Join(dir, "bin")
	}
	if os.Getenv(EnvRequire) != "" {
		t.Fatalf("Python with %v: %v", packages, err)
	}
	t.Skipf("NOT TESTED WITH PYTHON: %v: %v", packages, err)
	return ""
}

func environment(packages []string) (string, error) {
	for _, p := range packages {
		if !strings.Contains(p, "==") {
			return "", fmt.Errorf("package %s has no version", p)
		}
	}
	py, err := exec.LookPath("python3")
	if err != nil {
		return "", errors.New("python3 is not installed")
	}
	// An environment is of one interpreter: another version needs another one.
	version, err := output(time.Minute, py, "-c", "import sys; print(sys.version, sys.executable)")
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(strings.Join(packages, " ") + version))
	return testcache.Dir("python-"+hex.EncodeToString(sum[:6]), func(dir string) error {
		if _, err := output(install, py, "-m", "venv", dir); err != nil {
			return err
		}
		pip := []string{"-m", "pip", "install", "-q", "--disable-pip-version-check"}
		_, err := output(install, filepath.Join(dir, "bin", "python"), append(pip, packages...)...)
		return err
	})
}

// output runs a command. What it printed is part of its error.
func output(limit time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput() //nolint:gosec // the tests' own commands
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
