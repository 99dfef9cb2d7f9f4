package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tapecast/tapecast/fanout"
	"github.com/tapecast/tapecast/gateway"
	"github.com/tapecast/tapecast/gateway/feed"
	"github.com/tapecast/tapecast/ingest"
	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/internal/config"
	"github.com/tapecast/tapecast/internal/inspect"
	"github.com/tapecast/tapecast/schemas"
	"github.com/tapecast/tapecast/web"
)

// Env is what a process gets from main.
type Env struct {
	Logger *slog.Logger
	Build  string // version, for metrics
}

// Runner is a process that is made and holds its ports, ready to run.
type Runner interface {
	// Run serves until ctx ends, then stops gracefully.
	Run(ctx context.Context) error
}

// base is what every role stands on.
type base struct {
	role    string
	cfg     *config.Config
	log     *slog.Logger
	metrics *prometheus.Registry
	health  *health
	client  *broker.Client
	dial    func(ctx context.Context, network, addr string) (net.Conn, error) // to Kafka; nil = over the network
	catalog *catalog.Catalog

	adminAddr string
	adminMux  *http.ServeMux // nil = no admin listener
	lns       []net.Listener // closed by Run's servers, or by abandon
	floor     []part         // what runs longest: probes, admin server
}

// newBase makes the parts that all roles share.
func newBase(role string, cfg *config.Config, env Env) *base {
	b := &base{
		role: role, cfg: cfg, log: env.Logger.With(slog.String("role", role)),
		metrics: newMetrics(env.Build), health: &health{},
	}
	b.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tapecast_ready", Help: "1 = /readyz answers 200.",
	}, b.health.gauge))
	return b
}

// admin binds the admin port and serves it. On a developer's machine, where
// browsers run, it answers under its own name only.
func (b *base) admin(addr string) error {
	ln, err := b.listen("the admin listener", addr, "--admin-listen")
	if err != nil {
		return err
	}
	b.adminAddr = ln.Addr().String()
	b.adminMux = adminMux(b.health, b.metrics, b.log)
	var h http.Handler = b.adminMux
	if b.role == roleDev {
		h = guardHost(addr, h)
	}
	b.floor = append(b.floor, newServer("admin server", ln, h, b.log).part())
	return nil
}

// KafkaSecurity is the part of the configuration that protects connections to Kafka.
func KafkaSecurity(k config.Kafka) broker.Security {
	s := broker.Security{
		TLS: k.TLS, CAFile: k.TLSCA, CertFile: k.TLSCert, KeyFile: k.TLSKey,
		Mechanism: k.Mechanism, Username: k.Username, PasswordFile: k.PasswordFile,
	}
	if s.Mechanism == "none" {
		s.Mechanism = ""
	}
	return s
}

// cluster makes the door to Kafka, and what is known of its topics.
func (b *base) cluster() (err error) {
	b.client, err = broker.New(broker.Options{
		Addrs: b.cfg.Kafka.Brokers, ClientID: b.cfg.Kafka.ClientID, Logger: b.log, Security: KafkaSecurity(b.cfg.Kafka), Dial: b.dial,
	})
	if err != nil {
		return b.abandon(fmt.Errorf("kafka client: %w", err))
	}
	b.catalog, err = catalog.New(catalog.Options{Client: b.client, Rules: rules(b.cfg.Topics), Logger: b.log})
	if err != nil {
		return b.abandon(fmt.Errorf("topics: %w", err))
	}
	b.watch(newProbe("kafka", false, b.log, b.client.Ping))
	b.health.checks = append(b.health.checks, check{"topics", b.catalogReady})
	return nil
}

// watch makes a dependency a condition of being ready, and shows it in the metrics.
func (b *base) watch(p *probe) {
	b.health.checks = append(b.health.checks, p.check())
	b.floor = append(b.floor, p.part())
	b.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "tapecast_dependency_up",
		Help:        "1 = the dependency answered when it was last asked (every 2 s).",
		ConstLabels: prometheus.Labels{"dependency": p.name},
	}, p.up))
}

func newMetrics(build string) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "tapecast_build_info", Help: "Always 1; the label tells the version.",
		ConstLabels: prometheus.Labels{"version": build},
	})
	info.Set(1)
	reg.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

func rules(topics []config.Topic) []catalog.Rule {
	out := make([]catalog.Rule, 0, len(topics))
	for _, t := range topics {
		out = append(out, catalog.Rule{Pattern: t.Topic, Name: t.Name, Format: t.Format, Deny: t.Deny})
	}
	return out
}

func (b *base) listen(what, addr, flag string) (net.Listener, error) {
	ln, err := listen(what, addr, flag)
	if err != nil {
		return nil, b.abandon(err)
	}
	b.lns = append(b.lns, ln)
	return ln, nil
}

// abandon gives the ports back when a later step of New fails.
func (b *base) abandon(err error) error {
	for _, ln := range b.lns {
		_ = ln.Close()
	}
	if b.client != nil {
		b.client.Close()
	}
	return err
}

func (b *base) catalogReady() error {
	if b.catalog.Synced().IsZero() {
		return errors.New("the cluster has not told its topics yet")
	}
	return nil
}

// registry makes the registry's client and its probe. After the first answer
// the registry may go away: known schemas go on.
func (b *base) registry() (*schemas.Registry, error) {
	url := b.cfg.Registry.URL
	if url == "" {
		return nil, nil //nolint:nilnil // no registry is a configuration, not a mistake
	}
	reg, err := schemas.NewRegistry(schemas.RegistryOptions{URL: url, Logger: b.log, Registerer: b.metrics})
	if err != nil {
		return nil, b.abandon(fmt.Errorf("schema registry %s: %w", url, err))
	}
	b.watch(newProbe("registry", true, b.log, reg.Ping))
	return reg, nil
}

func (b *base) catalogPart() part { return part{"catalog", b.catalog.Run} }

// public makes the public server's mux, with health on it.
func (b *base) public() *http.ServeMux {
	mux := http.NewServeMux()
	b.health.register(mux, b.role == roleDev)
	return mux
}

func (b *base) run(ctx context.Context, stages ...[]part) error {
	defer b.client.Close()
	for _, ln := range b.lns {
		addr := ln.Addr().String()
		b.log.Info("listening", slog.String("addr", addr))
		if !isLoopback(addr) {
			b.log.Warn("this address can be reached from other machines, and there is no authentication", slog.String("addr", addr))
		}
	}
	err := runStages(ctx, b.log, stageStop+b.cfg.Gateway.Drain, func() {
		b.log.Info("stopping")
		b.health.stop()
	}, stages...)
	b.log.Info("stopped")
	return err
}

// Role is one production process.
type Role struct {
	*base
	stages [][]part
	listen net.Listener // nil for the fan-out
}

// Run serves until ctx ends, then stops in order.
func (r *Role) Run(ctx context.Context) error { return r.run(ctx, r.stages...) }

// Addr is the public listen address, "" if there is none.
func (r *Role) Addr() string {
	if r.listen == nil {
		return ""
	}
	return r.listen.Addr().String()
}

// AdminAddr is the admin listener's address.
func (r *Role) AdminAddr() string { return r.adminAddr }

// NewIngest makes the ingest process. It stops by finishing the requests that
// run, then what the producer holds.
func NewIngest(l *config.Loaded, env Env) (Runner, error) {
	r, err := newIngest(&l.Config, env)
	return runner(r, err)
}

// runner keeps a nil *Role from becoming a Runner that is not nil.
func runner(r *Role, err error) (Runner, error) {
	if err != nil {
		return nil, err
	}
	return r, nil
}

func newIngest(cfg *config.Config, env Env) (*Role, error) {
	b := newBase(config.RoleIngest, cfg, env)
	if err := b.admin(cfg.Ingest.AdminListen); err != nil {
		return nil, err
	}
	ln, err := b.listen("the ingest listener", cfg.Ingest.Listen, "--listen")
	if err != nil {
		return nil, err
	}
	if err := b.cluster(); err != nil {
		return nil, err
	}
	reg, err := b.registry()
	if err != nil {
		return nil, err
	}
	room, err := ingest.New(b.ingestOptions(reg))
	if err != nil {
		return nil, b.abandon(fmt.Errorf("ingest: %w", err))
	}
	mux := b.public()
	room.Register(mux)
	web := newServer("ingest server", ln, mux, b.log)
	return &Role{b, [][]part{b.floor, {b.catalogPart()}, {{"ingest", room.Run}}, {web.part()}}, ln}, nil
}

func (b *base) ingestOptions(reg *schemas.Registry) ingest.Options {
	i := b.cfg.Ingest
	return ingest.Options{
		Logger: b.log, Registerer: b.metrics, Catalog: b.catalog, Client: b.client, Registry: reg,
		MaxBody: i.MaxBody, MaxEvent: int(i.MaxEvent), MaxBuffered: int(i.MaxBuffered), Compression: i.Compression,
		Timeout: i.Timeout, Origins: i.Origins,
	}
}

// NewFanout makes the fan-out process.
func NewFanout(l *config.Loaded, env Env) (Runner, error) {
	r, err := newFanout(&l.Config, env)
	return runner(r, err)
}

func newFanout(cfg *config.Config, env Env) (*Role, error) {
	b := newBase(config.RoleFanout, cfg, env)
	if err := b.admin(cfg.Fanout.AdminListen); err != nil {
		return nil, err
	}
	if err := b.cluster(); err != nil {
		return nil, err
	}
	room, err := fanout.New(b.fanoutOptions())
	if err != nil {
		return nil, b.abandon(fmt.Errorf("fanout: %w", err))
	}
	b.health.checks = append(b.health.checks, check{"fanout", room.Ready})
	return &Role{b, [][]part{b.floor, {b.catalogPart()}, {{"fanout", room.Run}}}, nil}, nil
}

func (b *base) fanoutOptions() fanout.Options {
	f := b.cfg.Fanout
	return fanout.Options{
		Logger: b.log, Registerer: b.metrics, Catalog: b.catalog, Client: b.client,
		Group: f.Group, Instance: f.Instance, Session: f.Session, QueueBytes: int(f.QueueBytes), Linger: f.Linger,
		Replicas: b.cfg.Kafka.Replicas,
	}
}

// NewGateway makes the gateway process. It stops by sending its clients away,
// then withdraws its interests.
func NewGateway(l *config.Loaded, env Env) (Runner, error) {
	r, err := newGateway(&l.Config, env)
	return runner(r, err)
}

func newGateway(cfg *config.Config, env Env) (*Role, error) {
	b := newBase(config.RoleGateway, cfg, env)
	if err := b.admin(cfg.Gateway.AdminListen); err != nil {
		return nil, err
	}
	ln, err := b.listen("the gateway listener", cfg.Gateway.Listen, "--listen")
	if err != nil {
		return nil, err
	}
	if err := b.cluster(); err != nil {
		return nil, err
	}
	reg, err := b.registry()
	if err != nil {
		return nil, err
	}
	b.warmUp(reg)
	tapes, room, err := b.gatewayRooms(reg)
	if err != nil {
		return nil, err
	}
	mux := b.public()
	room.Register(mux)
	mux.Handle("GET /", web.Handler(web.Parts{Feed: true}))
	room.RegisterAdmin(b.adminMux)
	b.adminMux.Handle("/", web.Handler(web.Parts{Operator: true}))
	server := newServer("gateway server", ln, mux, b.log)
	return &Role{b, [][]part{b.floor, {b.catalogPart()}, {{"feed", tapes.Run}}, {server.part()}, {{"gateway", room.Run}}}, ln}, nil
}

func (b *base) gatewayRooms(reg *schemas.Registry) (*feed.Feed, *gateway.Service, error) {
	g := b.cfg.Gateway
	tapes, err := feed.New(feed.Options{
		Logger: b.log, Registerer: b.metrics, Catalog: b.catalog, Client: b.client, Registry: reg,
		Node: nodeName(g.Node), Lease: g.Lease, TapeBytes: int(g.TapeBytes), ReplayBytes: int(g.ReplayBytes),
		ReplayRate: int(g.ReplayRate), BypassRate: int(g.BypassRate), Linger: g.Linger,
		Silence: g.Silence, Replicas: b.cfg.Kafka.Replicas,
	})
	if err != nil {
		return nil, nil, b.abandon(fmt.Errorf("gateway: %w", err))
	}
	b.health.checks = append(b.health.checks, check{"feed", tapes.Ready})
	needs := slices.Clone(b.health.checks) // also the registry: no sessions for one that has no schemas yet
	room, err := gateway.New(gateway.Options{
		Logger: b.log, Registerer: b.metrics, Feed: tapes,
		Inspector: inspect.New(inspect.Options{Client: b.client, Group: b.cfg.Fanout.Group}),
		Origins:   g.Origins, RequireOrigin: g.RequireOrigin, TrustedProxies: g.Proxies,
		MaxSessions: g.MaxSessions, MaxPerIP: g.MaxPerIP, MaxSubs: g.MaxSubs, MaxPartitions: g.MaxPartitions,
		MaxCommand: int(g.MaxCommand), CommandRate: g.CommandRate, CommandBurst: g.CommandBurst, MaxLag: g.MaxLag,
		SnapshotKeys: g.SnapshotKeys, SnapshotBytes: g.SnapshotBytes, SnapshotsBytes: g.AllSnapshots, Hold: hold(g.Hold), Holds: holds(g.Holds),
		Heartbeat: g.Heartbeat, Ping: g.Ping, Drain: g.Drain, WriteTimeout: g.WriteTimeout,
		Ready: func() error { return firstMissing(needs) },
	})
	if err != nil {
		return nil, nil, b.abandon(fmt.Errorf("gateway: %w", err))
	}
	b.health.checks = append(b.health.checks, check{"sessions", room.Ready})
	return tapes, room, nil
}

// holds are the gateway's own for configured ones.
func holds(hs []config.TopicHold) (out []gateway.TopicHold) {
	for _, h := range hs {
		out = append(out, gateway.TopicHold(h))
	}
	return out
}

// hold is the gateway's word for a configured 0s, which is "none" and not "default".
func hold(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// nodeName is the configured name, or the host's in Kafka's alphabet.
func nodeName(configured string) string {
	if configured != "" {
		return configured
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "gateway"
	}
	clean := []byte(host[:min(len(host), 100)])
	for i, c := range clean {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			clean[i] = '-'
		}
	}
	return string(clean)
}
