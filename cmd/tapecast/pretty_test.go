package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/client"
)

// lines shows frames and returns what stands on the screen, without the status line.
func lines(v *view, frames ...client.Frame) string {
	for i := range frames {
		v.take(&frames[i])
	}
	var b strings.Builder
	v.out = &b
	_ = v.flush(true)
	return b.String()
}

func testView() *view {
	return newView(&strings.Builder{}, nil, "quotes", func() client.State { return client.State{Phase: client.Connected} })
}

func TestPrettyRows(t *testing.T) {
	v := testView()
	out := lines(v,
		client.Frame{Kind: client.KindSubscribed, From: map[int32]int64{0: 5}, LiveAt: map[int32]int64{0: 12}, Resume: "exact"},
		client.Frame{Kind: client.KindData, Key: "EURUSD", Value: []byte(`{"bid":1.0841,"venue":"A B","note":"x","deep":{"a":[1]}}`), Offset: 5, Time: 1546383600078},
		client.Frame{Kind: client.KindGap, GapFrom: 6, GapTo: 9, Cause: "poison"},
		client.Frame{Kind: client.KindData, Key: "USDJPY", Value: []byte(`148.3`), Offset: 9, Time: 1546383600079},
		client.Frame{Kind: client.KindData, Key: "USDJPY", Value: []byte(`null`), Tombstone: true, Offset: 10, Time: 1546383600079})
	require.Contains(t, out, `EURUSD      bid=1.0841 venue="A B" note=x deep={"a":[1]}  0:5`)
	require.Contains(t, out, "-- missing: partition 0, offsets 6 to 8 (poison)")
	require.Contains(t, out, "USDJPY      148.3  0:9")
	require.Contains(t, out, "(deleted)")
	require.Contains(t, v.status(), "quotes | replaying, 1 to go | at 0:11 | lag")
	require.Contains(t, v.status(), "3 events | 3 offsets missing")
	lines(v, client.Frame{Kind: client.KindLive, LiveAt: map[int32]int64{0: 12}})
	require.Contains(t, v.status(), "| live | at 0:12 |")
	v.state = func() client.State { return client.State{Phase: client.Waiting} }
	require.Contains(t, v.status(), "| reconnecting |")
}

func TestPrettyCountsWhatItDoesNotShow(t *testing.T) {
	frames := make([]client.Frame, 1000)
	for i := range frames {
		frames[i] = client.Frame{Kind: client.KindData, Offset: int64(i), Value: []byte("1")}
	}
	out := lines(testView(), frames...)
	require.Equal(t, refreshRows+1, strings.Count(out, "\n"))
	require.Contains(t, out, "... 960 events more")
}

// Keys and values come from strangers.
func TestNothingOfAnEventSteersTheTerminal(t *testing.T) {
	out := lines(testView(), client.Frame{
		Kind: client.KindData, Key: "\x1b]0;title\x07\u202e\u009b31m\nKEY\xff",
		Value: []byte("{\"a\x7f\":\"\\u001b[2J\u009b\",\"b\":\"\u200f\"}"),
	})
	require.Equal(t, 1, strings.Count(out, "\n"))
	for _, r := range strings.TrimSuffix(out, "\n") {
		require.NotContains(t, "\x1b\x07\u202e\u009b\u200f\x7f\n", string(r), "%q", out)
	}
}

func TestSubTellsOfAPositionThatIsNotThere(t *testing.T) {
	d := startDev(t, "--no-demo", "--data-dir", t.TempDir())
	code, out, msg := d.tool(t, "", "sub", "price", "--json", "--from", "99", "--until", "live", "--url", d.http)
	require.Zero(t, code, msg)
	require.Contains(t, out, `"resume":"reset"`)
	code, out, msg = d.tool(t, "", "sub", "price", "--json", "--from", "0", "--until", "live", "--url", d.http)
	require.Zero(t, code, msg)
	require.Empty(t, out)
}

func TestSubPrettyOfADevProcess(t *testing.T) {
	d := startDev(t, "--no-demo", "--data-dir", t.TempDir())
	code, _, msg := d.tool(t, "", "topics", "create", "plain", "--schema", "../../schemas/price.avsc")
	require.Zero(t, code, msg)
	d.knows(t, "plain")
	code, _, msg = d.tool(t, "1\n2\n3\n", "pub", "plain")
	require.Zero(t, code, msg)
	code, out, msg := d.tool(t, "", "sub", "plain", "--pretty", "--from", "earliest", "--count", "2", "--url", d.http)
	require.Zero(t, code, msg)
	require.Equal(t, 2, strings.Count(out, "\n"), out)
	require.Contains(t, out, "0:1\n")
	require.NotContains(t, out, "\x1b")
	require.Contains(t, msg, "2 events; go on with --from 0:2")
	code, _, msg = d.tool(t, "", "sub", "plain", "--pretty", "--json")
	require.Equal(t, exitUsage, code)
	require.Contains(t, msg, "exclude each other")
	code, _, msg = d.tool(t, "", "sub", "nosuch", "--url", d.http)
	require.NotZero(t, code)
	require.Contains(t, msg, "no such topic")
	require.NotContains(t, msg, "go on with", "there is nowhere to go on")
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		code, out, msg := call(t, nil, "completion", shell)
		require.Zero(t, code, msg)
		for _, c := range commands() {
			require.Contains(t, out, c.name, shell)
		}
		if path, err := exec.LookPath(shell); err == nil {
			syntax := exec.Command(path, "-n")
			syntax.Stdin = strings.NewReader(out)
			text, err := syntax.CombinedOutput()
			require.NoError(t, err, "%s: %s", shell, text)
		} else {
			t.Logf("%s is not there: its script's syntax is not checked", shell)
		}
	}
	if bash, err := exec.LookPath("bash"); err == nil {
		_, out, _ := call(t, nil, "completion", "bash")
		try := func(words string) string {
			got, err := exec.Command(bash, "-c", out+"\nCOMP_WORDS=("+words+"); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _tapecast; echo ${COMPREPLY[*]}").CombinedOutput()
			require.NoError(t, err, "%s", got)
			return strings.TrimSpace(string(got))
		}
		require.Equal(t, "sub", try("tapecast su"))
		require.Equal(t, "--pretty", try("tapecast sub quotes --pre"))
		require.Empty(t, try("tapecast sub ''"))
	}
	if fish, err := exec.LookPath("fish"); err == nil {
		_, out, _ := call(t, nil, "completion", "fish")
		file := filepath.Join(t.TempDir(), "tapecast.fish")
		require.NoError(t, os.WriteFile(file, []byte(out), 0o600))
		got, err := exec.Command(fish, "-N", "-c", "source "+file+"; complete -C 'tapecast su'; complete -C 'tapecast sub --pre'").CombinedOutput()
		require.NoError(t, err, "%s", got)
		require.Equal(t, "sub\tsubscribe to a topic and print its events\n--pretty\n", string(got))
	}
	code, _, _ := call(t, nil, "completion", "tcsh")
	require.Equal(t, exitUsage, code)
}
