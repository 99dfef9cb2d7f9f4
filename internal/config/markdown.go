package config

import (
	"fmt"
	"strings"
)

// Markdown is the text of docs/CONFIGURATION.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString(markdownHead)
	section := ""
	for _, k := range Default().keys() {
		if s := k.title(); s != section {
			section = s
			fmt.Fprintf(&b, "\n## %s\n\n| key | flag | environment | default | meaning |\n| --- | --- | --- | --- | --- |\n", s)
		}
		fmt.Fprintf(&b, "| `%s` | %s | `%s` | %s | %s; %s |\n",
			k.path, k.anyFlag(), k.env(), markdownDefault(k), escape(k.doc), escape(k.value.expect()))
	}
	b.WriteString(markdownTail)
	return b.String()
}

// title is the heading under which a key is documented.
func (k key) title() string {
	switch s := k.section(); s {
	case RoleIngest, RoleFanout, RoleGateway:
		return "`" + s + "`: the role `tapecast " + s + "`"
	}
	return "For all roles"
}

// anyFlag is the key's flag in the roles that have it.
func (k key) anyFlag() string {
	for _, role := range []string{RoleGateway, RoleFanout, RoleIngest} {
		if f := k.flag(role); f != "" {
			return "`--" + f + "`"
		}
	}
	return ""
}

func markdownDefault(k key) string {
	if s := k.value.String(); s != "" {
		return "`" + s + "`"
	}
	return "none"
}

func escape(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

const markdownHead = "# Configuration\n\n" +
	"<!-- Made from internal/config by: go test ./internal/config -update -->\n\n" +
	"`tapecast ingest`, `tapecast fanout` and `tapecast gateway` share one configuration. Each key can be set in four\n" +
	"places; the first one that sets it wins:\n\n" +
	"1. a flag: `--tape-bytes 1GiB` (a role's own keys lose their section: `gateway.tape_bytes` is `--tape-bytes` of `tapecast gateway`)\n" +
	"2. an environment variable: `TAPECAST_GATEWAY_TAPE_BYTES=1GiB` (each key has exactly one)\n" +
	"3. the YAML file that `--config FILE` or `TAPECAST_CONFIG` names; all roles can share one file\n" +
	"4. the default\n\n" +
	"A key that does not exist, in the file or as a `TAPECAST_...` variable, is an error, and so is a bad value. All\n" +
	"mistakes are reported at once, each with file and line, and the process ends with code 2. (`TAPECAST_TEST_...`\n" +
	"belongs to the tests and is not looked at.) `tapecast config [ROLE]`, or `--print-config` on a role, prints what is in\n" +
	"effect and where each setting came from; its output is itself a valid file.\n\n" +
	"Sizes are whole numbers with a unit (`B`, `KiB`, `MiB`, `GiB`, `TiB`, `kB`, `MB`, `GB`, `TB`); durations are Go's\n" +
	"(`500ms`, `10s`, `1m30s`). A rate is a size a second.\n"

const markdownTail = "\n## Topics\n\n" +
	"No topic is allowed unless a rule allows it. Rules are tried in order; the first one whose pattern matches the Kafka\n" +
	"topic's name decides. `*` stands for any characters, `?` for one. Topics of tapecast (`tapecast.*`), of Kafka (`__*`) and of\n" +
	"the registry (`_schemas`) are never matched.\n\n" +
	"```yaml\n" +
	"topics:\n" +
	"  - topic: internal-*     # not these\n" +
	"    deny: true\n" +
	"  - topic: quotes-v2      # clients say \"quotes\"\n" +
	"    name: quotes\n" +
	"  - topic: metrics-*      # values are JSON text\n" +
	"    format: json\n" +
	"  - trades                # the short form of {topic: trades}\n" +
	"```\n\n" +
	"| format | a record's value is |\n| --- | --- |\n" +
	"| `avro` (default) | Avro in Confluent's wire format; the schema comes from the registry |\n" +
	"| `avro:FILE` | Avro without a header, by the schema in FILE |\n" +
	"| `json` | JSON text, passed on as it is |\n" +
	"| `string` | UTF-8 text |\n" +
	"| `bytes` | anything; clients get it in base64 |\n\n" +
	"On a flag or in the environment the same rules read `--topics '!internal-*,quotes=quotes-v2,metrics-*:json,trades'`.\n\n" +
	"## Listeners\n\n" +
	"Nothing listens beyond loopback unless you say so. `/healthz` (the process lives) and `/readyz` (it can work; its answer\n" +
	"names what is missing, on the admin listener also why) are on both listeners of a role; `/metrics` and `/debug/pprof/` only on the admin one.\n" +
	"A role that starts while Kafka or the registry is away keeps running, is not ready, and recovers by itself. A registry that\n" +
	"goes away later does not make a role unready: known schemas go on.\n\n" +
	"The first SIGTERM or SIGINT stops a role in order: a gateway sends its clients away first, an ingest finishes its requests,\n" +
	"then what stands below them ends. A second signal cuts that short. Exit codes: 0 stopped cleanly, 1 failed, 2 a mistake in the\n" +
	"command line or the configuration.\n\n" +
	"Examples: [a production file](examples/tapecast.yaml), [a small one](examples/small.yaml).\n"
