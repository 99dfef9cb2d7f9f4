package main

import (
	"context"

	"github.com/tapecast/tapecast/internal/app"
	"github.com/tapecast/tapecast/internal/config"
)

// role is what the three production commands differ in.
type role struct {
	name     string
	about    string
	examples []string
	start    func(*config.Loaded, app.Env) (app.Runner, error)
}

var (
	roleIngest = role{
		name: config.RoleIngest,
		about: "Take events over HTTP, check them against their topic's schema and write them to Kafka.\n" +
			"Producers that speak Kafka themselves do not need it.",
		examples: []string{
			"tapecast ingest --kafka kafka:9092 --registry http://registry:8081 --topics 'quotes,trades'",
			"tapecast ingest --config /etc/tapecast.yaml --listen 0.0.0.0:8080",
		},
		start: app.NewIngest,
	}
	roleFanout = role{
		name: config.RoleFanout,
		about: "Read the feed topics and write to each gateway what its clients asked for.\n" +
			"Run as many as you like: they share the partitions.",
		examples: []string{
			"tapecast fanout --kafka kafka:9092 --topics 'quotes,trades'",
			"tapecast fanout --config /etc/tapecast.yaml --instance fanout-0",
		},
		start: app.NewFanout,
	}
	roleGateway = role{
		name: config.RoleGateway,
		about: "Serve WebSocket, SSE and NDJSON clients. Any gateway can serve any client;\n" +
			"put several behind a load balancer.",
		examples: []string{
			"tapecast gateway --kafka kafka:9092 --registry http://registry:8081 --topics 'quotes,trades'",
			"tapecast gateway --config /etc/tapecast.yaml --listen 0.0.0.0:8080 --origins https://example.org",
		},
		start: app.NewGateway,
	}
)

// roleFlags defines a role's flags and gathers what stood on the command line.
func roleFlags(fs *flagSet, role string) map[string]string {
	given := map[string]string{}
	for _, f := range config.Flags(role) {
		set := func(s string) error { given[f.Name] = s; return nil }
		if f.Bool {
			fs.BoolFunc(f.Name, f.Doc, set)
		} else {
			fs.Func(f.Name, f.Doc+" `"+f.Word+"`", set)
		}
		fs.Lookup(f.Name).DefValue = f.Default
	}
	return given
}

func roleCommand(r role) func(context.Context, system, []string) error {
	return func(ctx context.Context, sys system, args []string) error {
		fs := newFlags(r.name+" [flags]", r.about+"\n\nEach flag is also a key of the configuration file and an environment variable:\nsee docs/CONFIGURATION.md.",
			r.examples...)
		file := fs.String("config", "", "YAML `FILE` with the configuration")
		show := fs.Bool("print-config", false, "print the effective configuration and where it comes from, and end")
		given := roleFlags(fs, r.name)
		rest, err := fs.parse(sys, args)
		if err != nil {
			return err
		}
		if err := noArgs(rest); err != nil {
			return err
		}
		cfg, err := config.Load(config.Input{Role: r.name, File: *file, Environ: sys.environ, Flags: given})
		if err != nil {
			return err
		}
		if *show {
			return cfg.Print(sys.out, r.name)
		}
		logger, err := app.NewLogger(sys.err, cfg.Log.Level, cfg.Log.Format)
		if err != nil {
			return err
		}
		runner, err := r.start(cfg, app.Env{Logger: logger, Build: readBuild().Version})
		if err != nil {
			return err
		}
		return runner.Run(ctx)
	}
}

func runConfig(_ context.Context, sys system, args []string) error {
	fs := newFlags("config [ingest|fanout|gateway] [--config FILE] [flags]",
		"Print the effective configuration of the production roles and where each setting comes from.\nWith a role, its flags are accepted as well.",
		"tapecast config --config tapecast.yaml", "TAPECAST_GATEWAY_TAPE_BYTES=1GiB tapecast config gateway --topics '*'")
	file := fs.String("config", "", "YAML `FILE` with the configuration")
	roleName := ""
	if len(args) > 0 {
		for _, r := range []role{roleIngest, roleFanout, roleGateway} {
			if args[0] == r.name {
				roleName, args = r.name, args[1:]
				break
			}
		}
	}
	given := map[string]string{}
	if roleName != "" {
		given = roleFlags(fs, roleName)
	}
	rest, err := fs.parse(sys, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usagef("%q is no role: expected ingest, fanout or gateway", rest[0])
	}
	cfg, err := config.Load(config.Input{File: *file, Environ: sys.environ, Role: roleName, Flags: given})
	if err != nil {
		return err
	}
	return cfg.Print(sys.out, roleName)
}
