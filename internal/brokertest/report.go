package brokertest

import (
	"errors"
	"fmt"
	"os"
	"testing"
)

// EnvReport names a file to which tests append what they ran against what: the
// last lines of `make test`.
const EnvReport = "TAPECAST_TEST_REPORT"

// Report appends a line to the file that EnvReport names, if it names one.
func Report(t testing.TB, line string) {
	t.Helper()
	path := os.Getenv(EnvReport)
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintln(f, line)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}
