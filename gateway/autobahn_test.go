package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/pyenv"
)

// kosoku is the runner of the Autobahn cases, from PyPI.
const kosoku = "kosoku==0.1.0"

// echo is an endpoint over the sessions' own connection code: accept, reader,
// loop, writer, close. Only what a message means is different: it comes back.
func (s *Service) echo(w http.ResponseWriter, r *http.Request) {
	leave, ok := s.door.admit(w, r)
	if !ok {
		return
	}
	h := &hijacker{ResponseWriter: w}
	if _, err := upgrader.Upgrade(h, r, nil); err != nil {
		leave()
		return
	}
	terms := *s.terms
	terms.commands, terms.meaning = pace{}, func(_ *socket, kind int, text []byte) input {
		switch {
		case kind == websocket.BinaryMessage:
			return input{raw: appendFrame(nil, opBinary, text)}
		case !utf8.Valid(text):
			return input{end: utf8Ending}
		}
		return input{raw: appendFrame(nil, opText, text)}
	}
	s.startSocket(h.conn, textWire{}, &terms, leave)
}

const opBinary = 0x82

// TestAutobahn runs cases 1 to 7 and 10 of the Autobahn suite.
func TestAutobahn(t *testing.T) {
	bin := filepath.Join(pyenv.Bin(t, kosoku), "kosoku")
	r := newRig(t, false, func(o *Options) { o.MaxCommand = 1 << 20 })
	mux := http.NewServeMux()
	mux.HandleFunc("/", r.service.echo)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-served })

	dir := t.TempDir()
	args := []string{"-m", "fuzzingclient", "-o", dir, "-p", "4"}
	for _, i := range []int{1, 2, 3, 4, 5, 6, 7, 10} {
		args = append(args, "-i", fmt.Sprintf("%d.*", i))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, append(args, "ws://"+l.Addr().String())...) //nolint:gosec // a test's own arguments
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	t.Logf("kosoku: %v\n%s", err, out)

	text, err := os.ReadFile(filepath.Join(dir, "index.json"))
	require.NoError(t, err)
	var index map[string]map[string]struct {
		Behavior      string `json:"behavior"`
		BehaviorClose string `json:"behaviorClose"`
	}
	require.NoError(t, json.Unmarshal(text, &index))
	verdicts := map[string]int{}
	for _, cases := range index {
		for id, c := range cases {
			verdicts[c.Behavior]++
			switch c.Behavior {
			case "OK", "NON-STRICT", "INFORMATIONAL":
			default:
				t.Errorf("case %s: %s", id, c.Behavior)
			}
			if c.BehaviorClose == "FAILED" || c.BehaviorClose == "WRONG CODE" {
				t.Errorf("case %s: close is %s", id, c.BehaviorClose)
			}
		}
	}
	t.Logf("verdicts: %v", verdicts)
	require.GreaterOrEqual(t, verdicts["OK"], 240)
}
