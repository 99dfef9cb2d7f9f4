package config

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write docs/CONFIGURATION.md")

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "t.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestPrecedenceIsFlagEnvironmentFileDefault(t *testing.T) {
	path := file(t, `
topics: [quotes]
gateway:
  tape_bytes: 1MiB
  lease: 20s
  heartbeat: 3s
`)
	in := Input{
		Role: RoleGateway, File: path,
		Environ: []string{"HOME=/x", "TAPECAST_GATEWAY_TAPE_BYTES=2MiB", "TAPECAST_GATEWAY_LEASE=30s", "TAPECAST_TEST_ANYTHING=1"},
		Flags:   map[string]string{"tape-bytes": "3MiB"},
	}
	l, err := Load(in)
	require.NoError(t, err)
	require.Equal(t, int64(3<<20), l.Gateway.TapeBytes)
	require.Equal(t, 30*time.Second, l.Gateway.Lease)
	require.Equal(t, 3*time.Second, l.Gateway.Heartbeat)
	require.Equal(t, 30*time.Second, l.Gateway.Ping)
	require.Equal(t, Source{"flag", "--tape-bytes"}, l.Source("gateway.tape_bytes"))
	require.Equal(t, Source{"environment", "TAPECAST_GATEWAY_LEASE"}, l.Source("gateway.lease"))
	require.Equal(t, Source{"file", path + ":6"}, l.Source("gateway.heartbeat"))
	require.Equal(t, "default", l.Source("gateway.ping").Kind)
}

func TestTheFileCanBeNamedByTheEnvironment(t *testing.T) {
	path := file(t, "topics: [quotes]\nkafka: {brokers: [a:1, b:2]}\n")
	l, err := Load(Input{Role: RoleFanout, Environ: []string{"TAPECAST_CONFIG=" + path}})
	require.NoError(t, err)
	require.Equal(t, []string{"a:1", "b:2"}, l.Kafka.Brokers)
}

func TestAllMistakesAreReportedAtOnceWithTheirPlaces(t *testing.T) {
	path := file(t, `topics:
  - {topic: quotes, nam: fx}
  - {topic: "q*", name: fx}
  - topic: trades
    deny: maybe
gateway:
  tape_byte: 1MiB
  lease: soon
  max_sessions: [1]
  drain:
  lease: 5s
gatway:
  listen: x
kafka: nothing
log: {level: loud}
`)
	_, err := Load(Input{
		Role: RoleGateway, File: path,
		Environ: []string{"TAPECAST_GATEWAY_TAPE_BITES=1", "TAPECAST_GATEWAY_PING=1"},
		Flags:   map[string]string{"listen": "8080"},
	})
	var problems Problems
	require.ErrorAs(t, err, &problems)
	want := []string{
		":2: unknown key topics[0].nam; did you mean name?",
		":3: topics[1]: gives a name to a pattern",
		`:5: topics[2].deny: "maybe" is neither true nor false; expected true or false`,
		":7: unknown key gateway.tape_byte; did you mean gateway.tape_bytes?",
		`:8: gateway.lease: "soon" is not a duration; expected a duration such as 500ms or 10s, from 1s to 10m`,
		":9: gateway.max_sessions: is a list; expected a whole number from 1 to 10000000",
		":10: gateway.drain: has no value; expected a duration",
		":11: gateway.lease is already set on line 8",
		":12: unknown key gatway; did you mean gateway?",
		":14: kafka is not a mapping of keys to values",
		`:15: log.level: "loud" is none of the known words; expected one of debug, info, warn, error`,
		`environment: TAPECAST_GATEWAY_PING: "1" is not a duration`,
		"environment: unknown variable TAPECAST_GATEWAY_TAPE_BITES; did you mean TAPECAST_GATEWAY_TAPE_BYTES?",
		`--listen: "8080" is not host:port; expected host:port`,
	}
	require.Len(t, problems, len(want), "%s", err)
	for i, w := range want {
		got := strings.TrimPrefix(problems[i], path)
		require.True(t, strings.HasPrefix(got, w), "problem %d is %q, expected %q", i, got, w)
	}
}

func TestYAMLSyntaxErrorsNameTheLine(t *testing.T) {
	path := file(t, "kafka:\n  brokers: [a:1\nlog: {}\n")
	_, err := Load(Input{Role: RoleFanout, File: path})
	require.ErrorContains(t, err, path+":")
	require.NotContains(t, err.Error(), "yaml: line")
}

func TestEmptySectionsAndFilesAreFine(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "---\n", "gateway:\n  # all commented out\n"} {
		_, err := Load(Input{Role: RoleGateway, File: file(t, text), Flags: map[string]string{"topics": "*"}})
		require.NoError(t, err, "%q", text)
	}
	_, err := Load(Input{Role: RoleGateway, File: file(t, "log: {}\n---\nlog: {}\n"), Flags: map[string]string{"topics": "*"}})
	require.ErrorContains(t, err, "more than one YAML document")
}

func TestARoleWithoutTopicsSaysWhatToDo(t *testing.T) {
	_, err := Load(Input{Role: RoleGateway})
	require.ErrorContains(t, err, "--topics quotes,trades")
	_, err = Load(Input{Role: RoleGateway, Flags: map[string]string{"topics": "quotes", "registry": ""}})
	require.ErrorContains(t, err, "registry.url")
	_, err = Load(Input{Role: RoleGateway, Flags: map[string]string{"topics": "quotes:json", "registry": ""}})
	require.NoError(t, err)
}

func TestSettingsMustFitEachOther(t *testing.T) {
	_, err := Load(Input{Role: RoleIngest, Flags: map[string]string{"topics": "*", "max-body": "32MiB"}})
	require.ErrorContains(t, err, "ingest.max_buffered: 64MiB is less than 4 times ingest.max_body (32MiB)")
}

func TestTopicsInTheirShortForm(t *testing.T) {
	l, err := Load(Input{Role: RoleGateway, Environ: []string{"TAPECAST_TOPICS=!secret-*, fx=quotes, m-*:json, old:avro:/etc/old.avsc"}})
	require.NoError(t, err)
	require.Equal(t, []Topic{
		{Topic: "secret-*", Deny: true}, {Topic: "quotes", Name: "fx"},
		{Topic: "m-*", Format: "json"}, {Topic: "old", Format: "avro:/etc/old.avsc"},
	}, l.Topics)
	for text, want := range map[string]string{
		"a b": "cannot be a topic", "x=*": "only an exact topic", "a:xml": "unknown format", "=a:avro:": "unknown format", "!": "names no topic",
	} {
		_, err := Load(Input{Role: RoleGateway, Flags: map[string]string{"topics": text}})
		require.ErrorContains(t, err, want, "%q", text)
	}
}

func TestPrintedConfigurationReadsBack(t *testing.T) {
	in := Input{Role: RoleGateway, Flags: map[string]string{
		"topics": "fx=quotes:json,!secret-*", "kafka": "a:1,b:2", "origins": "https://a.example,http://b.example:8080",
		"tape-bytes": "3MiB", "drain": "90s", "require-origin": "true", "command-rate": "0.5", "trusted-proxies": "10.1.2.3/8,::1",
	}}
	l, err := Load(in)
	require.NoError(t, err)
	var b strings.Builder
	require.NoError(t, l.Print(&b, ""))
	again, err := Load(Input{Role: RoleGateway, File: file(t, b.String())})
	require.NoError(t, err, "%s", b.String())
	require.Equal(t, l.Config, again.Config)
	require.Contains(t, b.String(), `drain: 1m30s  # --drain`)
}

func TestEveryKeyHasOneVariableAndOneFlagOfItsOwn(t *testing.T) {
	env := map[string]string{EnvFile: "the file"}
	for _, k := range Default().keys() {
		require.Empty(t, env[k.env()], "%s", k.path)
		env[k.env()] = k.path
		require.NotEmpty(t, k.doc)
	}
	for _, role := range []string{RoleIngest, RoleFanout, RoleGateway} {
		seen := map[string]bool{"config": true, "print-config": true}
		for _, f := range Flags(role) {
			require.False(t, seen[f.Name], "%s --%s", role, f.Name)
			seen[f.Name] = true
		}
	}
}

func TestDefaultsAreValid(t *testing.T) {
	for _, k := range Default().keys() {
		require.NoError(t, k.value.Set(k.value.String()), "%s", k.path)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "17": 17, "1B": 1, "64KiB": 64 << 10, "256 MiB": 256 << 20, "1GiB": 1 << 30, "2TiB": 2 << 40, "5MB": 5e6, "1kB": 1000,
	} {
		got, err := ParseBytes(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "MiB", "-1", "1.5MiB", "1 apples", "9999999TiB", "1Mib"} {
		_, err := ParseBytes(text)
		require.Error(t, err, text)
	}
	require.Equal(t, "1536KiB", FormatBytes(1536<<10))
	require.Equal(t, "1000B", FormatBytes(1000))
}

func TestDurationsAreWrittenShort(t *testing.T) {
	for want, d := range map[string]time.Duration{"0s": 0, "10m": 10 * time.Minute, "1h": time.Hour, "1m30s": 90 * time.Second, "10s": 10 * time.Second, "1h0m1s": time.Hour + time.Second} {
		require.Equal(t, want, FormatDuration(d))
	}
}

func TestNearest(t *testing.T) {
	known := []string{"gateway", "ingest", "fanout", "pub", "sub"}
	for word, want := range map[string]string{"gatway": "gateway", "fan-out": "fanout", "ignest": "ingest", "sbu": "sub", "xyzzyxyzzy": "", "": ""} {
		require.Equal(t, want, Nearest(word, known), word)
	}
}

func TestDocumentationMatchesTheTable(t *testing.T) {
	const path = "../../docs/CONFIGURATION.md"
	want := Markdown()
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(want), 0o600))
	}
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, want, string(got), "run: go test ./internal/config -update")
}

func TestExampleFilesLoad(t *testing.T) {
	files, err := filepath.Glob("../../docs/examples/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		for _, role := range []string{RoleIngest, RoleFanout, RoleGateway} {
			_, err := Load(Input{Role: role, File: f})
			require.NoError(t, err, "%s as %s", f, role)
		}
	}
}
