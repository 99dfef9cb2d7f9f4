package conformance

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/pyenv"
)

// TestPythonExample holds the example without a library to the scripts that it
// can follow: those without options. It shows events only.
func TestPythonExample(t *testing.T) {
	bin := pyenv.Python(t, "websocket-client==1.8.0")
	for _, s := range scripts(t) {
		if !slices.Contains([]string{"resume after a cut", "gap", "another epoch at resumption", "drain"}, s.Name) {
			continue
		}
		s.Violations, s.States, s.Position = nil, nil, nil
		s.Expect = map[string][]string{"a": slices.DeleteFunc(s.Expect["a"], func(l string) bool { return !strings.HasPrefix(l, "data ") })}
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel() // each waits for a moment between its connections
			play(t, s, &pythonDriver{t: t, bin: bin})
		})
	}
}

type pythonDriver struct {
	t    *testing.T
	bin  string
	stop func()
}

func (d *pythonDriver) open(url string, r *record) {
	cmd := exec.Command(d.bin, "../python/tail.py", url, "quotes")
	out, err := cmd.StdoutPipe()
	require.NoError(d.t, err)
	require.NoError(d.t, cmd.Start())
	read := make(chan struct{})
	go func() { defer close(read); d.listen(out, r) }()
	d.stop = func() {
		_ = cmd.Process.Kill()
		<-read
		_ = cmd.Wait()
	}
}

func (d *pythonDriver) listen(out io.Reader, r *record) {
	for sc := bufio.NewScanner(out); sc.Scan(); {
		f := strings.SplitN(sc.Text(), " ", 4)
		line := fmt.Sprintf("data %s:%s %s=%s", f[0], f[1], f[2], f[3])
		r.note(func() { r.lines["a"] = append(r.lines["a"], line) })
	}
}

func (d *pythonDriver) order(order) error               { return nil }
func (d *pythonDriver) position(string) json.RawMessage { return nil }
func (d *pythonDriver) close()                          { d.stop() }
