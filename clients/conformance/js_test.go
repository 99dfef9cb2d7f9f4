package conformance

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// node finds Node 20 or later, and the flags that give it a WebSocket. Without
// it a test is skipped, unless TAPECAST_TEST_REQUIRE_NODE is set.
func node(t *testing.T) (path string, flags []string) {
	t.Helper()
	missing := func(why string) {
		if os.Getenv("TAPECAST_TEST_REQUIRE_NODE") != "" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	path, err := exec.LookPath("node")
	if err != nil {
		missing("SKIPPED: node is not there: the JavaScript client is not tested")
	}
	out, err := exec.Command(path, "--version").Output()
	require.NoError(t, err)
	major, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(out)), "v"), ".")
	n, err := strconv.Atoi(major)
	require.NoError(t, err)
	if n < 20 {
		missing("SKIPPED: node " + string(out) + " is older than 20: the JavaScript client is not tested")
	}
	if n < 22 {
		flags = []string{"--experimental-websocket", "--no-warnings"}
	}
	return path, flags
}

func TestJavaScriptClient(t *testing.T) {
	d := newJSDriver(t)
	for _, s := range scripts(t) {
		t.Run(s.Name, func(t *testing.T) { play(t, s, d) })
	}
}

// jsDriver is the JavaScript client in a Node process, which serves one script
// after the other.
type jsDriver struct {
	t   *testing.T
	in  io.Writer
	mu  sync.Mutex
	run int
	r   *record
}

func newJSDriver(t *testing.T) *jsDriver {
	path, flags := node(t)
	cmd := exec.Command(path, append(flags, "../js/test/driver.mjs")...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	d := &jsDriver{t: t, in: in}
	read := make(chan struct{})
	go func() { defer close(read); d.listen(out) }()
	t.Cleanup(func() {
		_ = in.Close()
		<-read
		_ = cmd.Wait()
	})
	return d
}

type said struct {
	Run   int
	As    string
	Over  string
	State string
	Frame *struct {
		Kind, Key, KeyBase64, Resume, Cause string
		Partition                           int32
		Offset, From, To                    json.RawMessage
		Data                                json.RawMessage
		Snapshot, Latest                    bool
	}
	Violation *struct {
		Kind         string
		Partition    int32
		Offset, Next int64
	}
	Position json.RawMessage
}

func (d *jsDriver) listen(out io.Reader) {
	sc := bufio.NewScanner(out)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		var s said
		if err := json.Unmarshal(sc.Bytes(), &s); err != nil {
			d.t.Errorf("driver says %s: %v", sc.Text(), err)
			return
		}
		d.mu.Lock()
		r, current := d.r, s.Run == d.run
		d.mu.Unlock()
		if current {
			r.note(func() { s.note(r) })
		}
	}
}

func (s *said) note(r *record) {
	switch f := s.Frame; {
	case s.State != "":
		r.states = append(r.states, s.State)
	case s.Violation != nil:
		v := s.Violation
		r.violations = append(r.violations, fmt.Sprintf("%s %d:%d next %d", v.Kind, v.Partition, v.Offset, v.Next))
	case s.Position != nil:
		r.positions[s.As] = s.Position
	case s.Over != "":
		r.lines[s.As] = append(r.lines[s.As], "over "+s.Over)
	case f != nil:
		r.lines[s.As] = append(r.lines[s.As], s.line())
	}
}

func (s *said) line() string {
	f := s.Frame
	switch f.Kind {
	case "data":
		mark := ""
		if f.Snapshot {
			mark = " snapshot"
		}
		if f.Latest {
			mark = " latest"
		}
		key := f.Key
		if f.KeyBase64 != "" {
			key = "base64:" + f.KeyBase64
		}
		return fmt.Sprintf("data %d:%s %s=%s%s", f.Partition, f.Offset, key, sorted(f.Data), mark)
	case "subscribed":
		return "subscribed " + f.Resume
	case "gap":
		return fmt.Sprintf("gap %d:%s-%s %s", f.Partition, f.From, f.To, f.Cause)
	case "reset":
		return "reset " + f.Cause
	}
	return f.Kind
}

// tell is for the script's goroutines as well: it does not end a test.
func (d *jsDriver) tell(v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = d.in.Write(append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("tell the driver: %w", err)
	}
	return nil
}

func (d *jsDriver) open(url string, r *record) {
	d.mu.Lock()
	d.run++
	d.r = r
	run := d.run
	d.mu.Unlock()
	require.NoError(d.t, d.tell(map[string]any{"do": "open", "run": run, "urls": []string{url}, "options": map[string]any{"minBackoff": 1, "maxBackoff": 20}}))
}

func (d *jsDriver) order(o order) error { return d.tell(o) }

func (d *jsDriver) position(as string) json.RawMessage {
	require.NoError(d.t, d.tell(order{Do: "position", As: as}))
	require.True(d.t, d.r.await(func() bool { return d.r.positions[as] != nil }))
	return d.r.positions[as]
}

func (d *jsDriver) close() {
	require.NoError(d.t, d.tell(map[string]string{"do": "end"}))
	require.True(d.t, d.r.await(func() bool { return slices.Contains(d.r.states, "closed") }))
}
