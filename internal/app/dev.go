package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tapecast/tapecast/fanout"
	"github.com/tapecast/tapecast/ingest"
	"github.com/tapecast/tapecast/internal/config"
	"github.com/tapecast/tapecast/internal/embedded"
	"github.com/tapecast/tapecast/internal/market"
	"github.com/tapecast/tapecast/schemas/registry"
	"github.com/tapecast/tapecast/web"
)

// DevOptions of the development process. Addresses are host:port; port 0 takes a free one.
type DevOptions struct {
	Env

	Listen         string        // pages, WebSocket, HTTP, metrics
	KafkaListen    string        // of the embedded broker
	RegistryListen string        // of the embedded registry
	AdminListen    string        // with pprof; "" = none
	DataDir        string        // of what is embedded
	NoDemo         bool          // make the demo topics, but no market
	Hold           time.Duration // how long events wait after a write, to leave together; 0 = the gateway's default, negative = not at all

	Kafka    []string // brokers of a real cluster instead of the embedded one
	Registry string   // URL of a real registry instead of the embedded one
	Origins  []string // other web origins that may connect

	// Ready is called once, when everything stands.
	Ready func(DevInfo)
	// Waiting is called once when it takes long, with what is missing and why.
	Waiting func(missing map[string]string)
}

// DevInfo says where everything is.
type DevInfo struct {
	HTTP          string // http://host:port
	Kafka         string // host:port,...
	Registry      string // URL
	Admin         string // http://host:port, "" = none
	DataDir       string // "" = nothing is embedded
	EmbeddedKafka bool
	Demo          bool
	Open          []string // listen addresses that other machines can reach
}

// Dev is the development process.
type Dev struct {
	*base
	o      DevOptions
	info   DevInfo
	stages [][]part
	close  []func() error // in reverse, after everything has stopped
}

const roleDev = "dev"

// devWaiting is when Waiting is called.
const devWaiting = 3 * time.Second

// NewDev binds every port, then starts what is embedded. Its errors name the
// address or directory that is taken and the flag that chooses another.
func NewDev(o DevOptions) (*Dev, error) {
	d := &Dev{base: newBase(roleDev, devConfig(o), o.Env), o: o}
	if err := d.build(); err != nil {
		return nil, errors.Join(d.abandon(err), d.release())
	}
	return d, nil
}

// devConfig is the production configuration that dev runs its rooms with.
func devConfig(o DevOptions) *config.Config {
	c := config.Default()
	c.Topics = []config.Topic{{Topic: "*"}}
	c.Kafka.ClientID = "tapecast-dev"
	c.Gateway.Node = "dev"
	c.Gateway.TapeBytes = 64 << 20
	c.Gateway.ReplayBytes = 64 << 20
	c.Gateway.Drain = time.Second
	if o.Hold != 0 {
		c.Gateway.Hold = max(o.Hold, 0)
	}
	c.Gateway.Origins, c.Ingest.Origins = o.Origins, o.Origins
	if len(o.Kafka) > 0 {
		c.Kafka.Brokers = o.Kafka
	} else {
		c.Fanout.Instance = "dev" // alone on its broker: a restart takes its partitions over at once
	}
	return c
}

func (d *Dev) build() error {
	o := &d.o
	ln, err := d.listen("the HTTP listener", o.Listen, "--listen")
	if err != nil {
		return err
	}
	d.info.HTTP = "http://" + reachable(ln)
	var regLn net.Listener
	if o.Registry == "" {
		if regLn, err = d.listen("the embedded registry", o.RegistryListen, "--registry-listen"); err != nil {
			return err
		}
	}
	if o.AdminListen != "" {
		if err := d.admin(o.AdminListen); err != nil {
			return err
		}
		d.info.Admin = "http://" + d.adminAddr
	}
	if err := d.startKafka(); err != nil {
		return err
	}
	if err := d.startRegistry(regLn); err != nil {
		return err
	}
	if err := d.cluster(); err != nil {
		return err
	}
	return d.rooms(ln)
}

// startKafka starts the embedded broker, unless there is a real one.
func (d *Dev) startKafka() error {
	if len(d.o.Kafka) > 0 {
		d.info.Kafka = strings.Join(d.o.Kafka, ",")
		return nil
	}
	if err := portFree(d.o.KafkaListen); err != nil {
		return err
	}
	b, err := embedded.Start(embedded.Options{
		Listen: d.o.KafkaListen, DataDir: filepath.Join(d.o.DataDir, "kafka"), Logger: d.log,
	})
	if err != nil {
		return embeddedError(err, d.o)
	}
	d.close = append(d.close, b.Close)
	d.dial = b.Dial
	d.cfg.Kafka.Brokers = []string{b.Addr()}
	d.info.Kafka, d.info.EmbeddedKafka, d.info.DataDir = b.Addr(), true, d.o.DataDir
	return nil
}

// reachable is a listener's address as one would type it on this machine.
func reachable(ln net.Listener) string {
	a, ok := ln.Addr().(*net.TCPAddr)
	if !ok || !a.IP.IsUnspecified() {
		return ln.Addr().String()
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(a.Port))
}

// portFree asks before the broker reads its data, which can take a second.
func portFree(addr string) error {
	ln, err := listen("the embedded broker", addr, "--kafka-listen")
	if err != nil {
		return err
	}
	return ln.Close()
}

// embeddedError names the flag that helps.
func embeddedError(err error, o DevOptions) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return &ListenError{"the embedded broker", o.KafkaListen, "--kafka-listen", err}
	}
	if strings.Contains(err.Error(), "in use") {
		return fmt.Errorf("%w; is another tapecast dev running? Choose another directory with --data-dir", err)
	}
	return err
}

// startRegistry serves the embedded registry, unless there is a real one.
func (d *Dev) startRegistry(ln net.Listener) error {
	if ln == nil {
		d.cfg.Registry.URL, d.info.Registry = d.o.Registry, d.o.Registry
		return nil
	}
	dir := filepath.Join(d.o.DataDir, "registry")
	reg, err := registry.Open(dir, d.log)
	if err != nil {
		return embeddedError(fmt.Errorf("the embedded registry: %w", err), d.o)
	}
	d.close = append(d.close, reg.Close)
	url := "http://" + reachable(ln)
	d.cfg.Registry.URL, d.info.Registry, d.info.DataDir = url, url, d.o.DataDir
	d.floor = append(d.floor, newServer("registry server", ln, guardHost(d.o.RegistryListen, reg.Handler()), d.log).part())
	return nil
}

// rooms makes the three rooms and the public server over them.
func (d *Dev) rooms(ln net.Listener) error {
	reg, err := d.registry()
	if err != nil {
		return err
	}
	in, err := ingest.New(d.ingestOptions(reg))
	if err != nil {
		return fmt.Errorf("ingest: %w", err)
	}
	caster, err := fanout.New(d.fanoutOptions())
	if err != nil {
		return fmt.Errorf("fanout: %w", err)
	}
	d.health.checks = append(d.health.checks, check{"fanout", caster.Ready})
	tapes, gate, err := d.gatewayRooms(reg)
	if err != nil {
		return err
	}
	mux := d.public()
	in.Register(mux)
	gate.Register(mux)
	mux.Handle("GET /metrics", metricsHandler(d.metrics, d.log))
	gate.RegisterAdmin(mux) // on loopback, behind guardHost
	mux.Handle("GET /", web.Handler(web.Parts{Feed: true, Operator: true}))
	server := newServer("http server", ln, guardHost(d.o.Listen, mux), d.log)
	var run *market.Options
	if !d.o.NoDemo {
		run = &market.Options{Client: d.client, Registry: reg, Logger: d.log}
	}
	d.stages = [][]part{
		d.floor,
		{d.catalogPart()},
		{{"ingest", in.Run}, {"fanout", caster.Run}, {"feed", tapes.Run}},
		{server.part()},
		{{"gateway", gate.Run}},
		{d.demo(reg, run), {"announce", d.announce}},
	}
	return nil
}

// Info says where everything is, also before Run.
func (d *Dev) Info() DevInfo {
	i := d.info
	i.Demo = !d.o.NoDemo
	for _, ln := range d.lns {
		if a := ln.Addr().String(); !isLoopback(a) {
			i.Open = append(i.Open, a)
		}
	}
	return i
}

// Run runs everything until ctx ends, then stops it in order.
func (d *Dev) Run(ctx context.Context) error {
	err := d.run(ctx, d.stages...)
	return errors.Join(err, d.release())
}

// release closes what is embedded, the last first.
func (d *Dev) release() error {
	var errs []error
	for i := len(d.close) - 1; i >= 0; i-- {
		errs = append(errs, d.close[i]())
	}
	d.close = nil
	return errors.Join(errs...)
}

// announce tells when everything stands.
func (d *Dev) announce(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(devWaiting)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-late:
			if d.o.Waiting != nil {
				d.o.Waiting(d.health.missing())
			}
		case <-tick.C:
			if len(d.health.missing()) > 0 {
				continue
			}
			if d.o.Ready != nil {
				d.o.Ready(d.Info())
			}
			<-ctx.Done()
			return nil
		}
	}
}
