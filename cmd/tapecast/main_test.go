package main

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/app"
	"github.com/tapecast/tapecast/internal/app/publish"
)

func call(t *testing.T, environ []string, args ...string) (code int, out, err string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), system{in: strings.NewReader(""), out: &o, err: &e, environ: environ}, args)
	return code, o.String(), e.String()
}

func TestExitCodesAndHints(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		want string // in what is printed
	}{
		{nil, 2, "tapecast dev"},
		{[]string{"help"}, 0, "Commands:"},
		{[]string{"help", "pub"}, 0, "--on-error"},
		{[]string{"gatway"}, 2, "did you mean gateway?"},
		{[]string{"xyzzyxyzzy"}, 2, `unknown command "xyzzyxyzzy"` + "\n"},
		{[]string{"dev", "--lisen", "x"}, 2, "unknown flag --lisen; did you mean --listen?"},
		{[]string{"dev", "--listen"}, 2, "--listen needs a value"},
		{[]string{"dev", "--listen", "8080"}, 2, `--listen: "8080" is not host:port`},
		{[]string{"dev", "--kafka", "a:1", "--kafka-listen", "b:2"}, 2, "--kafka replaces"},
		{[]string{"dev", "--registry", "ftp://x"}, 2, "is not an http:// or https:// URL"},
		{[]string{"dev", "--origins", "example.org"}, 2, "--origins"},
		{[]string{"dev", "now"}, 2, "takes no arguments, but got now"},
		{[]string{"pub"}, 2, "TOPIC is missing"},
		{[]string{"pub", "t", "--speed", "fast"}, 2, "expected 1, 10x, 0.5x or max"},
		{[]string{"pub", "t", "--speed", "1"}, 2, "name their field with --time"},
		{[]string{"pub", "t", "--on-error", "ignore"}, 2, "expected stop or skip"},
		{[]string{"pub", "t", "--envelope", "--key", "k"}, 2, "leave --key and --time away"},
		{[]string{"pub", "t", "--kafka", "localhost"}, 2, `--kafka: "localhost" is not host:port`},
		{[]string{"pub", "t", "--partitions", "x"}, 2, `invalid value "x" for --partitions`},
		{[]string{"topics", "lst"}, 2, "did you mean list?"},
		{[]string{"topics", "create"}, 2, "NAME is missing"},
		{[]string{"topics", "create", "tapecast.x"}, 2, "tapecast's own"},
		{[]string{"topics", "create", "bad name"}, 2, `"bad name" cannot name a topic`},
		{[]string{"pub", "tapecast.interest"}, 2, "tapecast's own"},
		{[]string{"pub", "__consumer_offsets"}, 2, "Kafka's"},
		{[]string{"pub", "_schemas"}, 2, "the registry's"},
		{[]string{"pub", "quotes/../x"}, 2, "cannot name a topic"},
		{[]string{"topics", "create", "x", "--config", "retention.ms"}, 2, "expected KEY=VALUE"},
		{[]string{"gateway"}, 2, "no topic is allowed yet"},
		{[]string{"gateway", "--tape-bytes", "lots"}, 2, "expected a size such as"},
		{[]string{"config", "gatway"}, 2, "is no role"},
		{[]string{"config", "fanout", "--topics", "*"}, 0, "queue_bytes: 16MiB"},
		{[]string{"gateway", "--topics", "*", "--print-config", "--node", "gw-7"}, 0, `node: "gw-7"  # --node`},
		{[]string{"version"}, 0, "tapecast "},
		{[]string{"version", "--json"}, 0, `"go":"go`},
		{[]string{"--version"}, 0, "tapecast "},
	} {
		code, out, err := call(t, nil, c.args...)
		require.Equal(t, c.code, code, "%v: %s%s", c.args, out, err)
		require.Contains(t, out+err, c.want, "%v", c.args)
		if c.code == 0 {
			require.Empty(t, err, "%v", c.args)
		} else {
			require.Empty(t, out, "%v", c.args)
		}
	}
}

func TestEveryCommandHasHelp(t *testing.T) {
	for _, c := range commands() {
		code, out, err := call(t, nil, c.name, "--help")
		require.Zero(t, code, c.name)
		require.Empty(t, err, c.name)
		require.Contains(t, out, "Usage:\n  tapecast "+c.name, c.name)
	}
}

func TestTheEnvironmentIsChecked(t *testing.T) {
	code, _, err := call(t, []string{"TAPECAST_GATEWAY_TAPEBYTES=1"}, "gateway", "--topics", "*")
	require.Equal(t, 2, code)
	require.Contains(t, err, "did you mean TAPECAST_GATEWAY_TAPE_BYTES?")

	code, _, err = call(t, []string{"TAPECAST_KAFKA_BROKERS=nowhere"}, "topics")
	require.Equal(t, 2, code)
	require.Contains(t, err, "TAPECAST_KAFKA_BROKERS")
}

func TestAClusterThatIsAwayIsNamedWithWhatToDo(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := ln.Addr().String()
	require.NoError(t, ln.Close())
	for _, args := range [][]string{{"topics"}, {"pub", "t"}} {
		code, _, msg := call(t, []string{"TAPECAST_KAFKA_BROKERS=" + addr}, args...)
		require.Equal(t, 1, code)
		require.Contains(t, msg, "no Kafka broker answers at "+addr)
		require.Contains(t, msg, "tapecast dev")
	}
}

func TestATakenPortEndsARoleWithOneError(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	code, _, msg := call(t, nil, "ingest", "--topics", "*", "--admin-listen", "127.0.0.1:0", "--listen", ln.Addr().String())
	require.Equal(t, 1, code)
	require.Contains(t, msg, ln.Addr().String()+" is taken by another process; stop that one, or choose another address with --listen")
}

func TestFlagsMayStandAnywhere(t *testing.T) {
	fs := newFlags("x", "x")
	key := fs.String("key", "", "")
	skip := fs.Bool("skip", false, "")
	rest, err := fs.parse(system{}, []string{"a", "--key", "k", "-", "--skip", "b", "--", "--c", "d"})
	require.NoError(t, err)
	require.Equal(t, []string{"a", "-", "b", "--c", "d"}, rest)
	require.Equal(t, "k", *key)
	require.True(t, *skip)
	require.True(t, fs.given("key"))
}

func TestSpeeds(t *testing.T) {
	for s, want := range map[string]float64{"max": 0, "1": 1, "10x": 10, "0.5x": 0.5} {
		got, err := parseSpeed(s)
		require.NoError(t, err)
		require.InDelta(t, want, got, 0)
	}
	for _, s := range []string{"", "0", "-1x", "NaN", "x", "1e300"} {
		_, err := parseSpeed(s)
		require.Error(t, err, s)
	}
}

func TestThePublishReport(t *testing.T) {
	var out, msg bytes.Buffer
	r := newPubReport(system{out: &out, err: &msg}, "quotes")
	s := publish.Stats{Sent: 20000, Skipped: 1, Elapsed: 2 * time.Second, Offsets: map[int32]publish.Range{1: {First: 3, Last: 9}, 0: {First: 0, Last: 19992}}}
	require.NoError(t, r.end(s, nil))
	require.Equal(t, "20,000 rows published to quotes in 2.0 s (10,000/s), 1 bad row skipped\n"+
		"  partition 0: offsets 0 to 19992\n  partition 1: offsets 3 to 9\n", out.String())
	require.Empty(t, msg.String())
}

func TestTheBannerNamesEverything(t *testing.T) {
	i := app.DevInfo{HTTP: "http://127.0.0.1:8080", Kafka: "127.0.0.1:9092", Registry: "http://127.0.0.1:8081", DataDir: "./tapecast-data", EmbeddedKafka: true, Demo: true}
	text := banner(i, false)
	for _, want := range []string{"embedded development broker, not for production", "http://127.0.0.1:8080/", "ws://127.0.0.1:8080/ws", "curl -N", "wscat", "tapecast sub", "tapecast pub", "kcat"} {
		require.Contains(t, text, want)
	}
	require.NotContains(t, text, "\x1b")
	i.HTTP, i.Kafka = "http://127.0.0.1:1", "127.0.0.1:2"
	text = banner(i, false)
	require.Contains(t, text, "--url ws://127.0.0.1:1/ws")
	require.Contains(t, text, "tapecast pub price --kafka 127.0.0.1:2")
}

func TestNumbersAreGrouped(t *testing.T) {
	for want, n := range map[string]int64{"0": 0, "999": 999, "1,000": 1000, "20,000": 20000, "1,234,567": 1234567, "-1,000": -1000, "-999": -999} {
		require.Equal(t, want, group(n))
	}
}
