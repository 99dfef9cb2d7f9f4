// Package deploy_test holds the files of the local stack to the program: what
// they name exists, and what they promise is tested. It needs no Docker.
package deploy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/tapecast/tapecast/internal/app"
)

// query is one PromQL expression and where it stands.
type query struct{ where, expr string }

// queries are all expressions of the rules and the dashboards. recorded are
// the names that recording rules make.
func queries(t *testing.T) (all []query, recorded []string) {
	t.Helper()
	for _, g := range rules(t) {
		for _, r := range g.Rules {
			all = append(all, query{"rule " + r.Record + r.Alert, r.Expr})
			if r.Record != "" {
				recorded = append(recorded, r.Record)
			}
		}
	}
	for file, d := range dashboards(t) {
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				all = append(all, query{fmt.Sprintf("%s: %q", filepath.Base(file), p.Title), q.Expr})
			}
		}
	}
	return all, recorded
}

type ruleGroup struct {
	Rules []struct {
		Record, Alert, Expr string
		Labels, Annotations map[string]string
	}
}

func rules(t *testing.T) []ruleGroup {
	t.Helper()
	var f struct{ Groups []ruleGroup }
	readYAML(t, "prometheus/rules.yml", &f)
	require.NotEmpty(t, f.Groups)
	return f.Groups
}

type dashboard struct {
	UID, Title string
	Panels     []struct {
		ID         int
		Type       string
		Title      string
		Datasource struct{ UID string }
		GridPos    struct{ X, Y, W, H int }
		Targets    []struct {
			Expr       string
			Datasource struct{ UID string }
		}
	}
}

func dashboards(t *testing.T) map[string]dashboard {
	t.Helper()
	files, err := filepath.Glob("grafana/dashboards/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	out := map[string]dashboard{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		require.NoError(t, err)
		var d dashboard
		require.NoError(t, json.Unmarshal(text, &d), f)
		out[f] = d
	}
	return out
}

func readYAML(t *testing.T, file string, v any) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(text, v), file)
}

// labelValues are a metric's labels and their values, as a process shows them.
type labelValues map[string]map[string]bool

var (
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? `)
	label      = regexp.MustCompile(`([a-zA-Z_]+)="((?:[^"\\]|\\.)*)"`)
)

func parseMetrics(text string) map[string]labelValues {
	out := map[string]labelValues{}
	for line := range strings.Lines(text) {
		m := sampleLine.FindStringSubmatch(line)
		if m == nil || strings.HasPrefix(line, "#") {
			continue
		}
		if out[m[1]] == nil {
			out[m[1]] = labelValues{}
		}
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			if out[m[1]][l[1]] == nil {
				out[m[1]][l[1]] = map[string]bool{}
			}
			out[m[1]][l[1]][l[2]] = true
		}
	}
	return out
}

// runningMetrics runs every room and returns what /metrics then shows.
func runningMetrics(t *testing.T) map[string]labelValues {
	t.Helper()
	ready := make(chan app.DevInfo, 1)
	d, err := app.NewDev(app.DevOptions{
		Env:    app.Env{Logger: slog.New(slog.DiscardHandler), Build: "test"},
		Listen: "127.0.0.1:0", KafkaListen: "127.0.0.1:0", RegistryListen: "127.0.0.1:0", DataDir: t.TempDir(),
		Ready: func(i app.DevInfo) { ready <- i },
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	var info app.DevInfo
	select {
	case info = <-ready:
	case err := <-ended:
		t.Fatalf("ended early: %v", err)
	}
	for { // until the fan-out owns partitions: only then their topics are in its metrics
		resp, err := http.Get(info.HTTP + "/metrics")
		require.NoError(t, err)
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		if m := parseMetrics(string(text)); m["tapecast_fanout_topic_lag_records"] != nil {
			return m
		}
		require.NoError(t, ctx.Err())
	}
}

// builtin are series that Prometheus makes by itself.
var builtin = map[string]labelValues{"up": {}, "ALERTS": {"alertstate": {"firing": true, "pending": true}}}

func TestEveryMetricOfRulesAndDashboardsExists(t *testing.T) {
	have := runningMetrics(t)
	maps.Copy(have, builtin)
	all, recorded := queries(t)
	for _, r := range recorded {
		have[r] = labelValues{}
	}
	jobs := map[string]bool{}
	var prom struct {
		ScrapeConfigs []struct {
			JobName string `yaml:"job_name"`
		} `yaml:"scrape_configs"`
	}
	readYAML(t, "prometheus/prometheus.yml", &prom)
	for _, c := range prom.ScrapeConfigs {
		jobs[c.JobName] = true
	}
	for _, q := range all {
		for _, problem := range unknown(q.expr, have, jobs) {
			t.Errorf("%s: %s\n  %s", q.where, problem, q.expr)
		}
	}
}

func TestUnknownMetricsAreFound(t *testing.T) {
	have := map[string]labelValues{"a_total": {"why": {"x": true}}, "b_bucket": {"le": {"0.5": true}}}
	jobs := map[string]bool{"gateway": true}
	for expr, want := range map[string]string{
		`sum by (job) (rate(a_total{why="x", job="gateway"}[5m] offset 5m)) / clamp_min(sum(b_bucket{le="0.5"}), 1e3) > 2 * 0.5 and on (instance) a_total == 0`: "",
		`rate(c_total[5m])`:                           "metric c_total",
		`a_total + (sum(nope) or vector(0))`:          "metric nope",
		`a_total{why="y"}`:                            `why="y"`,
		`a_total{why=~"x|z"}`:                         `why="z"`,
		`a_total{who="x"}`:                            "label who",
		`sum by (who) (a_total)`:                      "label who",
		`a_total{job="gatway"}`:                       `job="gatway"`,
		`histogram_quantile(0.9, b_bucket{le="0.7"})`: `le="0.7"`,
	} {
		got := strings.Join(unknown(expr, have, jobs), "; ")
		if want == "" {
			require.Empty(t, got, expr)
			continue
		}
		require.Contains(t, got, want, expr)
	}
}

var (
	matchers   = regexp.MustCompile(`([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*)\}`)
	matcher    = regexp.MustCompile(`([a-zA-Z_]+)\s*(=~|!~|!=|=)\s*"([^"]*)"`)
	grouping   = regexp.MustCompile(`\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)`)
	braces     = regexp.MustCompile(`\{[^}]*\}`)
	spans      = regexp.MustCompile(`\[[^\]]*\]|\boffset\s+\w+`)
	identifier = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*\s*\(?`)
	number     = regexp.MustCompile(`\b[0-9][0-9.]*(?:e[0-9]+)?\b`)
	operators  = []string{"and", "or", "unless", "bool", "by", "without", "on", "ignoring"}
)

// unknown names what an expression asks for and nobody has. It is no PromQL
// parser: it knows enough to find names (promtool checks the grammar).
func unknown(expr string, have map[string]labelValues, jobs map[string]bool) (problems []string) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	plain := number.ReplaceAllString(spans.ReplaceAllString(grouping.ReplaceAllString(braces.ReplaceAllString(expr, ""), ""), ""), "")
	labels := map[string]bool{"job": true, "instance": true}
	for _, name := range identifier.FindAllString(plain, -1) {
		if strings.HasSuffix(name, "(") || slices.Contains(operators, strings.TrimSpace(name)) {
			continue
		}
		m, ok := have[strings.TrimSpace(name)]
		if !ok {
			bad("there is no metric %s", name)
		}
		for l := range m {
			labels[l] = true
		}
	}
	for _, m := range matchers.FindAllStringSubmatch(expr, -1) {
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			values := have[m[1]][l[1]]
			if l[1] == "job" {
				values = jobs
			}
			if values == nil {
				bad("%s has no label %s", m[1], l[1])
			}
			for _, v := range strings.Split(l[3], "|") {
				if values != nil && !values[v] {
					bad(`%s has no %s="%s"`, m[1], l[1], v)
				}
			}
		}
	}
	for _, g := range grouping.FindAllStringSubmatch(expr, -1) {
		for _, l := range strings.Split(g[1], ",") {
			if l = strings.TrimSpace(l); l != "" && !labels[l] {
				bad("no metric of it has a label %s", l)
			}
		}
	}
	return problems
}
