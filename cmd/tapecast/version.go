package main

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
)

// Set at build time with -ldflags "-X main.version=v1.2.3 -X main.commit=... -X main.date=...".
var (
	version = ""
	commit  = ""
	date    = ""
)

// buildInfo is what is known of this build.
type buildInfo struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Date     string `json:"date,omitempty"`
	Modified bool   `json:"modified,omitempty"` // built from a work tree with changes
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// readBuild takes the linker's words first, then what the Go tool noted.
func readBuild() buildInfo {
	b := buildInfo{Version: version, Commit: commit, Date: date, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if ok {
		if b.Version == "" && info.Main.Version != "" && info.Main.Version != "(devel)" {
			b.Version = info.Main.Version
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.Commit = first(b.Commit, s.Value)
			case "vcs.time":
				b.Date = first(b.Date, s.Value)
			case "vcs.modified":
				b.Modified = s.Value == "true"
			}
		}
	}
	b.Version = first(b.Version, "devel")
	return b
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func runVersion(_ context.Context, sys system, args []string) error {
	fs := newFlags("version [--json]", "Print version and build.", "tapecast version", "tapecast version --json")
	asJSON := fs.Bool("json", false, "print one JSON object")
	rest, err := fs.parse(sys, args)
	if err != nil {
		return err
	}
	if err := noArgs(rest); err != nil {
		return err
	}
	b := readBuild()
	if *asJSON {
		return json.NewEncoder(sys.out).Encode(b)
	}
	line := "tapecast " + b.Version
	if b.Commit != "" {
		line += " (" + b.Commit[:min(12, len(b.Commit))]
		if b.Modified {
			line += ", modified"
		}
		if b.Date != "" {
			line += ", " + b.Date
		}
		line += ")"
	}
	_, err = fmt.Fprintf(sys.out, "%s %s %s\n", line, b.Go, b.Platform)
	return err
}
