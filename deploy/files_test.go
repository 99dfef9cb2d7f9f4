package deploy_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/tapecast/tapecast/internal/config"
)

type composeFile struct {
	Services map[string]service
	Volumes  map[string]any
}

type service struct {
	Image       string
	User        string
	Restart     string
	ReadOnly    bool     `yaml:"read_only"`
	CapDrop     []string `yaml:"cap_drop"`
	Command     []string
	Ports       []string
	Volumes     []string
	Healthcheck struct{ Test []string }
	Logging     any
	Deploy      struct {
		Replicas  int
		Resources struct{ Limits struct{ Memory string } }
	}
}

func compose(t *testing.T) composeFile {
	t.Helper()
	var c composeFile
	readYAML(t, "../docker-compose.yml", &c)
	return c
}

// The house of the compose file: what every service keeps to.
func TestEveryServiceKeepsToTheHouse(t *testing.T) {
	pinned := regexp.MustCompile(`:v?\d+\.\d+(\.\d+)?(-alpine)?$`)
	for name, s := range compose(t).Services {
		once := name == "topics"
		for _, p := range s.Ports {
			require.True(t, strings.HasPrefix(p, "127.0.0.1:"), "%s: port %s is not kept to loopback", name, p)
		}
		require.NotEmpty(t, s.Deploy.Resources.Limits.Memory, "%s has no memory limit", name)
		require.Equal(t, []string{"ALL"}, s.CapDrop, name)
		require.NotNil(t, s.Logging, "%s: its log has no bound", name)
		if once {
			require.Equal(t, "no", s.Restart)
		} else {
			require.Equal(t, "unless-stopped", s.Restart, name)
			require.NotEmpty(t, s.Healthcheck.Test, "%s has no health check", name)
		}
		if strings.HasPrefix(s.Image, "tapecast:") {
			require.True(t, s.ReadOnly, name)
			continue
		}
		require.Regexp(t, pinned, s.Image, "%s: not pinned", name)
		if name != "kafka" && name != "registry" { // they write into their own folders
			require.True(t, s.ReadOnly, "%s: its root file system can be written", name)
		}
	}
}

// The image is built from what .dockerignore lets through: all that the
// program is made of.
func TestTheImageGetsAllOfTheProgram(t *testing.T) {
	text, err := os.ReadFile("../.dockerignore")
	require.NoError(t, err)
	cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if .Main}}{{$.ImportPath}}{{end}}{{end}}", "./cmd/tapecast")
	cmd.Dir = ".."
	out, err := cmd.Output()
	require.NoError(t, err)
	for _, pkg := range strings.Fields(string(out)) {
		rel := strings.TrimPrefix(pkg, "github.com/tapecast/tapecast/")
		top, _, _ := strings.Cut(rel, "/")
		require.Contains(t, string(text), "\n!"+top+"\n", "%s is left out of the image's build", pkg)
		require.NotContains(t, string(text), "\n"+rel+"\n", "%s is left out of the image's build", pkg)
	}
}

// Who follows README.md, docs/QUICKSTART.md and docs/CLIENTS.md has a clean
// `git status` afterwards.
func TestWhatTheDocsLeaveInAClone(t *testing.T) {
	if out, err := exec.Command("git", "-C", "..", "rev-parse", "--is-inside-work-tree").CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: no git, or no clone: %s", out)
	}
	left := []string{
		"tapecast-data/registry/schemas",                                          // make run
		"bin/tapecast",                                                            // make build
		"tapecast",                                                                // go build ./cmd/tapecast
		"node_modules/ws/package.json", "clients/js/node_modules/ws/package.json", // npm install ws
		"clients/js/tapecast-0.1.0.tgz", // npm pack
	}
	for _, file := range left {
		require.NoError(t, exec.Command("git", "-C", "..", "check-ignore", "-q", "--no-index", file).Run(), "%s is not ignored", file)
	}
	for _, file := range []string{"cmd/tapecast/main.go", "clients/js/package.json", "README.md"} {
		require.Error(t, exec.Command("git", "-C", "..", "check-ignore", "-q", "--no-index", file).Run(), "%s is ignored", file)
	}
}

func TestThereIsMoreThanOneOfWhatCanFail(t *testing.T) {
	s := compose(t).Services
	require.Equal(t, 2, s["gateway"].Deploy.Replicas)
	require.Equal(t, 2, s["fanout"].Deploy.Replicas)
}

func TestMountedFilesAreThere(t *testing.T) {
	c := compose(t)
	for name, s := range c.Services {
		for _, v := range s.Volumes {
			host, _, _ := strings.Cut(v, ":")
			if !strings.HasPrefix(host, ".") {
				require.Contains(t, c.Volumes, host, name)
				continue
			}
			require.True(t, strings.HasSuffix(v, ":ro"), "%s: %s can be written", name, v)
			_, err := os.Stat(filepath.Join("..", host))
			require.NoError(t, err, name)
		}
	}
}

func TestTheRolesTakeTheirConfiguration(t *testing.T) {
	for _, role := range []string{config.RoleIngest, config.RoleFanout, config.RoleGateway} {
		l, err := config.Load(config.Input{Role: role, File: "tapecast.yaml"})
		require.NoError(t, err)
		require.Contains(t, compose(t).Services[role].Command, role)
		// The health check asks the admin listener of this very role.
		port := map[string]string{
			config.RoleIngest: l.Ingest.AdminListen, config.RoleFanout: l.Fanout.AdminListen, config.RoleGateway: l.Gateway.AdminListen,
		}[role]
		_, port, _ = strings.Cut(port, ":")
		check := compose(t).Services[role].Healthcheck.Test
		require.True(t, strings.HasSuffix(check[len(check)-1], ":"+port), "%s: %v", role, check)
	}
}

func TestThePlanAndTheAllowListNameTheSameTopics(t *testing.T) {
	plan, err := config.LoadPlan("topics.yaml")
	require.NoError(t, err)
	l, err := config.Load(config.Input{Role: config.RoleGateway, File: "tapecast.yaml"})
	require.NoError(t, err)
	allowed := map[string]config.Topic{}
	for _, r := range l.Topics {
		allowed[r.Topic] = r
	}
	require.Len(t, allowed, len(plan.Topics))
	for _, p := range plan.Topics {
		r, ok := allowed[p.Name]
		require.True(t, ok, p.Name)
		require.Equal(t, r.Format == "" || r.Format == "avro", p.Schema != "", "%s: a schema is for Avro", p.Name)
		require.NotEmpty(t, p.Config["retention.ms"], p.Name)
		if p.Schema != "" {
			_, err := os.Stat(p.Schema)
			require.NoError(t, err)
		}
	}
	for _, s := range plan.Schemas {
		_, err := os.Stat(s.File)
		require.NoError(t, err)
	}
}

func TestEveryAlertHasARunbookAndATest(t *testing.T) {
	text, err := os.ReadFile("../docs/OPERATIONS.md")
	require.NoError(t, err)
	tests, err := os.ReadFile("prometheus/rules_test.yml")
	require.NoError(t, err)
	var n int
	for _, g := range rules(t) {
		for _, r := range g.Rules {
			if r.Alert == "" {
				continue
			}
			n++
			require.Contains(t, string(text), "\n### "+r.Alert+"\n", "docs/OPERATIONS.md has no paragraph")
			require.Equal(t, "docs/OPERATIONS.md#"+strings.ToLower(r.Alert), r.Annotations["runbook"])
			require.Contains(t, []string{"page", "ticket"}, r.Labels["severity"], r.Alert)
			fires := regexp.MustCompile(`alertname: ` + r.Alert + `\n\s+exp_alerts:\n`)
			require.Regexp(t, fires, string(tests), "no test shows %s firing", r.Alert)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^### (Tapecast\w+)$`).FindAllStringSubmatch(string(text), -1) {
		n--
		require.Contains(t, string(tests), m[1]+",", "docs/OPERATIONS.md tells of an alert that is not there")
	}
	require.Zero(t, n)
}

func TestDashboardsAreWhole(t *testing.T) {
	var source struct {
		Datasources []struct{ UID, Type, URL string }
	}
	readYAML(t, "grafana/provisioning/datasources/prometheus.yml", &source)
	require.Len(t, source.Datasources, 1)
	for file, d := range dashboards(t) {
		require.NotEmpty(t, d.UID, file)
		ids, taken := map[int]bool{}, map[[2]int]string{}
		for _, p := range d.Panels {
			require.False(t, ids[p.ID], "%s: panel id %d stands twice", file, p.ID)
			ids[p.ID] = true
			require.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24, p.Title)
			for x := range p.GridPos.W {
				for y := range p.GridPos.H {
					at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
					require.Empty(t, taken[at], "%s lies on it", p.Title)
					taken[at] = p.Title
				}
			}
			if p.Type == "row" {
				continue
			}
			require.NotEmpty(t, p.Targets, p.Title)
			for _, q := range p.Targets {
				require.Equal(t, source.Datasources[0].UID, q.Datasource.UID, p.Title)
			}
		}
	}
}

// promtool finds Prometheus's own checker.
func promtool(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("TAPECAST_TEST_REQUIRE_PROMTOOL") != "" {
			t.Fatal(err)
		}
		t.Skip("promtool is not installed (apt-get install prometheus)")
	}
	return path
}

func TestPromtoolTakesTheRules(t *testing.T) {
	tool := promtool(t)
	for _, args := range [][]string{
		{"check", "config", "prometheus/prometheus.yml"},
		{"test", "rules", "prometheus/rules_test.yml"},
	} {
		out, err := exec.Command(tool, args...).CombinedOutput()
		require.NoError(t, err, "promtool %v: %s", args, out)
	}
}

func TestPromtoolTakesTheQueriesOfTheDashboards(t *testing.T) {
	tool := promtool(t)
	type rule struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	var all []rule
	queries, _ := queries(t)
	for i, q := range queries {
		all = append(all, rule{fmt.Sprintf("query:%d", i), q.expr})
	}
	text, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboards", "rules": all}}})
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "queries.yml")
	require.NoError(t, os.WriteFile(file, text, 0o600))
	out, err := exec.Command(tool, "check", "rules", file).CombinedOutput()
	require.NoError(t, err, "%s", out)
}
