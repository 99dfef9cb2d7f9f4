// Package config is the configuration of the production roles: one schema for
// ingest, fanout and gateway, read from flags, the environment and a YAML file,
// in this order of precedence, over built-in defaults.
//
// Every key is one row of one table (see keys.go). Its flag, its environment
// variable, its place in the file and its line in docs/CONFIGURATION.md follow
// from that row. All mistakes of all sources are reported at once, each with
// where it stands and what is expected. The package does no I/O but reading
// the file and has no goroutines.
package config

import (
	"net/netip"
	"time"
)

// Config is everything a production role can be told. Sizes are in bytes.
type Config struct {
	Kafka    Kafka
	Registry Registry
	Topics   []Topic
	Log      Log
	Ingest   Ingest
	Fanout   Fanout
	Gateway  Gateway
}

// Kafka says where the cluster is.
type Kafka struct {
	Brokers  []string // host:port of bootstrap brokers
	ClientID string
	TLS      bool
	TLSCA    string // PEM files
	TLSCert  string
	TLSKey   string
	// SASL
	Mechanism    string // none, plain, scram-sha-256, scram-sha-512
	Username     string
	PasswordFile string
	Replicas     int // of the topics that tapecast makes for itself; 0 = the cluster's default
}

// Registry says where the schema registry is.
type Registry struct {
	URL string // "" = none
}

// Topic is one rule of the allow-list; the first rule that matches decides.
type Topic struct {
	Topic  string // a Kafka topic's name, or a pattern with * and ?
	Name   string // what clients call it; "" = the Kafka name
	Format string // "avro", "json", "string", "bytes", "avro:FILE"
	Deny   bool
}

// Log says what is logged and how.
type Log struct {
	Level  string // debug, info, warn, error
	Format string // text, json
}

// Ingest is the section of the ingest role.
type Ingest struct {
	Listen      string
	AdminListen string
	MaxBody     int64
	MaxEvent    int64
	MaxBuffered int64
	Compression string
	Timeout     time.Duration
	Origins     []string
}

// Fanout is the section of the fanout role.
type Fanout struct {
	AdminListen string
	Group       string
	Instance    string
	Session     time.Duration
	QueueBytes  int64
	Linger      time.Duration
}

// Gateway is the section of the gateway role.
type Gateway struct {
	Listen        string
	AdminListen   string
	Node          string
	Lease         time.Duration
	TapeBytes     int64
	ReplayBytes   int64
	ReplayRate    int64
	BypassRate    int64
	Linger        time.Duration
	Origins       []string
	RequireOrigin bool
	Proxies       []netip.Prefix
	MaxSessions   int
	MaxPerIP      int
	MaxSubs       int
	MaxPartitions int
	MaxCommand    int64
	CommandRate   float64
	CommandBurst  int
	MaxLag        time.Duration
	SnapshotKeys  int
	SnapshotBytes int64
	AllSnapshots  int64
	Hold          time.Duration
	Holds         []TopicHold
	Silence       time.Duration
	Heartbeat     time.Duration
	Ping          time.Duration
	Drain         time.Duration
	WriteTimeout  time.Duration
}

// TopicHold is how long events of some topics wait after a write.
type TopicHold struct {
	Topic string // as clients name it; a pattern with * and ?
	Hold  time.Duration
}

// The roles that a configuration is for, and the default addresses.
const (
	RoleIngest  = "ingest"
	RoleFanout  = "fanout"
	RoleGateway = "gateway"

	DefaultKafka    = "127.0.0.1:9092"
	DefaultRegistry = "http://127.0.0.1:8081"
	DefaultListen   = "127.0.0.1:8080"
	DefaultGroup    = "tapecast.fanout"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

// Default is the configuration that nobody touched. It allows no topic.
func Default() *Config {
	return &Config{
		Kafka:    Kafka{Brokers: []string{DefaultKafka}, ClientID: "tapecast", Mechanism: "none"},
		Registry: Registry{URL: DefaultRegistry},
		Log:      Log{Level: "info", Format: "text"},
		Ingest: Ingest{
			Listen: DefaultListen, AdminListen: "127.0.0.1:8091",
			MaxBody: 8 * mib, MaxEvent: 64 * kib, MaxBuffered: 64 * mib, Compression: "snappy", Timeout: 10 * time.Second,
		},
		Fanout: Fanout{
			AdminListen: "127.0.0.1:8092", Group: DefaultGroup,
			Session: 6 * time.Second, QueueBytes: 16 * mib,
		},
		Gateway: Gateway{
			Listen: DefaultListen, AdminListen: "127.0.0.1:8093",
			Lease: 10 * time.Second, TapeBytes: 256 * mib, ReplayBytes: 128 * mib,
			ReplayRate: 64 * mib, BypassRate: 16 * mib, Linger: 5 * time.Second,
			MaxSessions: 20000, MaxSubs: 256, MaxPartitions: 8192, MaxCommand: 64 * kib, CommandRate: 20, CommandBurst: 256,
			SnapshotKeys: 100_000, SnapshotBytes: 32 * mib, AllSnapshots: 256 * mib, Hold: 10 * time.Millisecond, Silence: 2 * time.Second,
			Heartbeat: 5 * time.Second, Ping: 30 * time.Second, Drain: 8 * time.Second, WriteTimeout: 30 * time.Second,
		},
	}
}
