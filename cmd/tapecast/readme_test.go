package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

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
