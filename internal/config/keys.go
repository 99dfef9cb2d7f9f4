package config

import (
	"strings"
	"time"
)

// EnvPrefix begins every environment variable of tapecast.
const EnvPrefix = "TAPECAST_"

// EnvFile is the environment variable that names the configuration file.
const EnvFile = EnvPrefix + "CONFIG"

// envTest begins the variables of tapecast's own tests, which no role reads.
const envTest = EnvPrefix + "TEST_"

// key is one row of the table of settings.
type key struct {
	path  string // "gateway.tape_bytes"
	doc   string // one sentence, without a full stop
	value value
}

// env is the key's one environment variable.
func (k key) env() string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(k.path, ".", "_"))
}

// section is the first word of the path.
func (k key) section() string {
	s, _, _ := strings.Cut(k.path, ".")
	return s
}

// flag is the key's flag in a role, "" if the role does not have it: a role's
// own keys lose their section.
func (k key) flag(role string) string {
	switch k.path {
	case "kafka.brokers":
		return "kafka"
	case "registry.url":
		return "registry"
	}
	sec, rest, _ := strings.Cut(k.path, ".")
	switch sec {
	case role:
		return strings.ReplaceAll(rest, "_", "-")
	case RoleIngest, RoleFanout, RoleGateway:
		return ""
	}
	return strings.NewReplacer(".", "-", "_", "-").Replace(k.path)
}

// keys is the table of settings over c, in the order in which they are documented.
func (c *Config) keys() []key {
	return append(append(append(c.commonKeys(), c.ingestKeys()...), c.fanoutKeys()...), c.gatewayKeys()...)
}

func (c *Config) commonKeys() []key {
	return []key{
		{"kafka.brokers", "bootstrap brokers of the Kafka cluster",
			stringsValue{&c.Kafka.Brokers, "host:port, or several", CheckBroker}},
		{"kafka.client_id", "how this process names itself to Kafka",
			stringValue{&c.Kafka.ClientID, "letters, digits, dots, dashes and underscores", checkKafkaName}},
		{"kafka.tls", "speak TLS to the brokers", boolValue{&c.Kafka.TLS}},
		{"kafka.tls_ca", "PEM file with the roots that brokers are checked by; empty = the system's", stringValue{&c.Kafka.TLSCA, "a file", checkAny}},
		{"kafka.tls_cert", "PEM file with this client's certificate; empty = none", stringValue{&c.Kafka.TLSCert, "a file", checkAny}},
		{"kafka.tls_key", "PEM file with its key", stringValue{&c.Kafka.TLSKey, "a file", checkAny}},
		{"kafka.sasl_mechanism", "how to log in", enumValue{&c.Kafka.Mechanism, []string{"none", "plain", "scram-sha-256", "scram-sha-512"}}},
		{"kafka.sasl_username", "user that logs in", stringValue{&c.Kafka.Username, "a name", checkAny}},
		{"kafka.sasl_password_file", "file with the password, so that it stands in no process list and no configuration",
			stringValue{&c.Kafka.PasswordFile, "a file", checkAny}},
		{"kafka.replicas", "replicas of the topics that tapecast makes for itself; 0 = the cluster's default", intValue{&c.Kafka.Replicas, 0, 100}},
		{"registry.url", "base URL of the schema registry (Confluent's REST API); empty when no topic needs one",
			stringValue{&c.Registry.URL, "a URL such as http://registry:8081, or nothing", func(s string) error {
				if s == "" {
					return nil
				}
				return CheckURL(s)
			}}},
		{"topics", "the allow-list: which Kafka topics can be written and subscribed; the first rule that matches decides, and what no rule matches does not exist for clients",
			rulesValue{&c.Topics}},
		{"log.level", "the least level that is logged", enumValue{&c.Log.Level, []string{"debug", "info", "warn", "error"}}},
		{"log.format", "one line of text or one JSON object for each message", enumValue{&c.Log.Format, []string{"text", "json"}}},
	}
}

const wantAddr = "host:port"

// checkAny takes every text: what a file's name or a user is, others decide.
func checkAny(string) error { return nil }

func addr(p *string) value { return stringValue{p, wantAddr, checkAddr} }

func originsValue(p *[]string) value {
	return stringsValue{p, "scheme://host[:port], several, or *", checkOrigin}
}

func (c *Config) ingestKeys() []key {
	i := &c.Ingest
	return []key{
		{"ingest.listen", "where producers post events", addr(&i.Listen)},
		{"ingest.admin_listen", "where metrics, health and pprof are served; keep it private", addr(&i.AdminListen)},
		{"ingest.max_body", "largest request that is not streamed", bytesValue{&i.MaxBody, kib, gib}},
		{"ingest.max_event", "largest encoded event", bytesValue{&i.MaxEvent, 64, 16 * mib}},
		{"ingest.max_buffered", "bytes that may wait for Kafka, over all requests", bytesValue{&i.MaxBuffered, mib, 64 * gib}},
		{"ingest.compression", "compression of the batches in feed topics",
			enumValue{&i.Compression, []string{"snappy", "gzip", "zstd", "none"}}},
		{"ingest.timeout", "how long a request waits for Kafka's verdict", durationValue{&i.Timeout, 100 * time.Millisecond, 10 * time.Minute}},
		{"ingest.origins", "web origins whose pages may post besides those of the own origin", originsValue(&i.Origins)},
	}
}

func (c *Config) fanoutKeys() []key {
	f := &c.Fanout
	return []key{
		{"fanout.admin_listen", "where metrics, health and pprof are served; keep it private", addr(&f.AdminListen)},
		{"fanout.group", "consumer group that shares the partitions", stringValue{&f.Group, "letters, digits, dots, dashes and underscores",
			func(s string) error {
				if err := checkNotEmpty(s); err != nil {
					return err
				}
				return checkKafkaName(s)
			}}},
		{"fanout.instance", "static member name: an instance that restarts under the same name within the session costs no rebalance; empty = random",
			stringValue{&f.Instance, "letters, digits, dots, dashes and underscores", checkKafkaName}},
		{"fanout.session", "how long a silent instance keeps its partitions (Kafka's least is 6s)",
			durationValue{&f.Session, time.Second, 5 * time.Minute}},
		{"fanout.queue_bytes", "bytes queued for one gateway before it is cut and left to read by itself",
			bytesValue{&f.QueueBytes, 4 * mib, 4 * gib}},
		{"fanout.linger", "how long deliveries are gathered; 0s = by the number of gateways",
			durationValue{&f.Linger, 0, time.Second}},
	}
}

func (c *Config) gatewayKeys() []key {
	g := &c.Gateway
	return []key{
		{"gateway.listen", "where clients connect: WebSocket, SSE, NDJSON", addr(&g.Listen)},
		{"gateway.admin_listen", "where metrics, health and pprof are served; keep it private", addr(&g.AdminListen)},
		{"gateway.node", "name of this gateway in topic names, logs and metrics; empty = the host's name",
			stringValue{&g.Node, "letters, digits, dots, dashes and underscores", checkKafkaName}},
		{"gateway.lease", "how long others take this gateway for alive without news", durationValue{&g.Lease, time.Second, 10 * time.Minute}},
		{"gateway.tape_bytes", "memory for the latest events, all topics together", bytesValue{&g.TapeBytes, mib, 1 << 40}},
		{"gateway.replay_bytes", "memory for replayed blocks, shared by all sessions", bytesValue{&g.ReplayBytes, mib, 1 << 40}},
		{"gateway.replay_rate", "bytes a second read from Kafka for replays", bytesValue{&g.ReplayRate, 64 * kib, 1 << 40}},
		{"gateway.bypass_rate", "bytes a second read from Kafka while the fan-out tier is away", bytesValue{&g.BypassRate, 64 * kib, 1 << 40}},
		{"gateway.linger", "how long an interest lives on after its last subscription", durationValue{&g.Linger, time.Millisecond, 10 * time.Minute}},
		{"gateway.origins", "web origins that may connect besides the gateway's own; * = any",
			originsValue(&g.Origins)},
		{"gateway.require_origin", "refuse requests without an Origin header (all that is no browser)", boolValue{&g.RequireOrigin}},
		{"gateway.trusted_proxies", "networks whose X-Forwarded-For is believed for max_per_ip", prefixesValue{&g.Proxies}},
		{"gateway.max_sessions", "connections at once", intValue{&g.MaxSessions, 1, 10_000_000}},
		{"gateway.max_per_ip", "connections at once from one address; 0 = no limit", intValue{&g.MaxPerIP, 0, 10_000_000}},
		{"gateway.max_subs", "subscriptions of one connection", intValue{&g.MaxSubs, 1, 1_000_000}},
		{"gateway.max_partitions", "partitions that the subscriptions of one connection follow", intValue{&g.MaxPartitions, 1, 10_000_000}},
		{"gateway.max_command", "largest command of a client", bytesValue{&g.MaxCommand, 256, 16 * mib}},
		{"gateway.command_rate", "commands a second of one connection, sustained", floatValue{&g.CommandRate, 0.01, 1e6}},
		{"gateway.command_burst", "commands of one connection at once", intValue{&g.CommandBurst, 1, 1_000_000}},
		{"gateway.max_lag", "a live subscription that is behind for longer ends its connection; 0s = no limit", durationValue{&g.MaxLag, 0, 24 * time.Hour}},
		{"gateway.snapshot_keys", "keys of one snapshot", intValue{&g.SnapshotKeys, 1, 100_000_000}},
		{"gateway.snapshot_bytes", "memory of one snapshot", bytesValue{&g.SnapshotBytes, kib, 1 << 40}},
		{"gateway.all_snapshots_bytes", "memory of all snapshots that are being made", bytesValue{&g.AllSnapshots, kib, 1 << 40}},
		{"gateway.hold", "how long events wait after a write, to leave together; 0s = not at all", durationValue{&g.Hold, 0, maxHold}},
		{"gateway.holds", "topics whose events wait another time than gateway.hold, such as trade.*=0s and screen.*=50ms; the first that fits counts", holdsValue{&g.Holds}},
		{"gateway.silence", "how long a partition may go unconfirmed by the fan-out until it is read from Kafka", durationValue{&g.Silence, 100 * time.Millisecond, time.Minute}},
		{"gateway.heartbeat", "how often a client is told how far it is covered", durationValue{&g.Heartbeat, 100 * time.Millisecond, 10 * time.Minute}},
		{"gateway.ping", "how often a connection is probed", durationValue{&g.Ping, time.Second, 10 * time.Minute}},
		{"gateway.drain", "clients of a gateway that stops come back spread over this time at most, a millisecond for each", durationValue{&g.Drain, time.Millisecond, 10 * time.Minute}},
		{"gateway.write_timeout", "a socket that takes nothing for that long is closed", durationValue{&g.WriteTimeout, time.Second, time.Hour}},
	}
}
