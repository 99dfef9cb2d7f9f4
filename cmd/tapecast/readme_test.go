package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/app"
)

var (
	shellLine = regexp.MustCompile(`(?m)^(?:\$ )?(?:echo .* \| |go run \./cmd/)?tapecast ([a-z].*)$`)
	link      = regexp.MustCompile(`\]\(([^)#:]+)\)`)
)

// words splits a command line as a shell does, as far as the README goes.
func words(line string) []string {
	line, _, _ = strings.Cut(line, "  #")
	var out []string
	for _, w := range strings.Fields(line) {
		out = append(out, strings.Trim(w, "'"))
	}
	return out
}

func TestCommandLinesOfTheREADMEAreUnderstood(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, blocks, _ := strings.Cut(string(text), "## Two commands")
	var seen int
	for i, block := range strings.Split(blocks, "```") {
		if i%2 == 0 {
			continue // prose
		}
		for _, m := range shellLine.FindAllStringSubmatch(block, -1) {
			code, _, msg := call(t, nil, append(words(m[1]), "--help")...) // flags before --help are parsed first
			require.Zero(t, code, "%s: %s", m[0], msg)
			seen++
		}
	}
	require.Greater(t, seen, 10)
}

func TestLinksOfTheREADMELeadSomewhere(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	for _, m := range link.FindAllStringSubmatch(string(text), -1) {
		_, err := os.Stat(filepath.Join("../..", m[1]))
		require.NoError(t, err)
	}
}

func TestTheBannerOfTheREADMEIsTheRealOne(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	i := app.DevInfo{HTTP: "http://127.0.0.1:8080", Kafka: "127.0.0.1:9092", Registry: "http://127.0.0.1:8081", DataDir: "./tapecast-data", EmbeddedKafka: true, Demo: true}
	head, tries, _ := strings.Cut(banner(i, false), "\nTry,")
	require.Contains(t, string(text), head)
	for line := range strings.Lines(tries) {
		line = strings.TrimSpace(line)
		if m := shellLine.FindStringSubmatch(line); m != nil {
			code, _, msg := call(t, nil, append(words(m[1]), "--help")...)
			require.Zero(t, code, "%s: %s", line, msg)
		}
	}
}

var curlOfREADME = regexp.MustCompile(`(?m)^\$ (curl .*)$`)

// TestTheConversationsOfTheREADME has every curl of the README, and the
// shortest WebSocket conversation, with a dev process: what comes back has the
// fields that are printed there.
func TestTheConversationsOfTheREADME(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("SKIPPED: curl is not there")
	}
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	d := startDev(t, "--data-dir", t.TempDir()) // with the market: something always comes
	ran := 0
	for _, block := range strings.Split(string(text), "```") {
		m := curlOfREADME.FindStringSubmatch(block)
		if m == nil {
			continue
		}
		ran++
		var printed []string // the lines of the answer
		for line := range strings.Lines(block) {
			if strings.HasPrefix(line, "{") {
				printed = append(printed, line)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := exec.CommandContext(ctx, "sh", "-c", "exec "+strings.ReplaceAll(m[1], "http://127.0.0.1:8080", d.http))
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		for _, want := range printed {
			require.True(t, lines.Scan(), "%s says less than the README", m[1])
			requireShape(t, want, lines.Text())
		}
		cancel()
		_ = cmd.Wait() // it was cancelled
	}
	require.Equal(t, 2, ran)

	_, conversation, ok := strings.Cut(string(text), "$ wscat -c ws://127.0.0.1:8080/ws\n")
	require.True(t, ok)
	conversation, _, _ = strings.Cut(conversation, "```")
	ws, res, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(d.http, "http")+"/ws", nil)
	require.NoError(t, err)
	defer res.Body.Close()
	defer ws.Close()
	for line := range strings.Lines(conversation) {
		if command, ok := strings.CutPrefix(line, "> "); ok {
			require.NoError(t, ws.WriteMessage(websocket.TextMessage, []byte(command)))
			continue
		}
		require.NoError(t, ws.SetReadDeadline(time.Now().Add(time.Minute)))
		_, got, err := ws.ReadMessage()
		require.NoError(t, err)
		requireShape(t, strings.TrimPrefix(line, "< "), string(got))
	}
}

// requireShape compares two JSON texts by their fields and kinds.
func requireShape(t *testing.T, want, got string) {
	t.Helper()
	var w, g any
	require.NoError(t, json.Unmarshal([]byte(want), &w), want)
	require.NoError(t, json.Unmarshal([]byte(got), &g), got)
	require.Equal(t, shape(w), shape(g), "%s is not as %s", got, want)
}
