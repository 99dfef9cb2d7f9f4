package stacktest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/client"
)

const page = "../../docs/QUICKSTART.md"

// step is one block of commands of the page.
type step struct{ name, script string }

var block = regexp.MustCompile("(?s)(?:<!-- tour: ([a-z-]+) -->\n)?```sh\n(.*?)```")

// steps reads the page. Every block of commands has a name.
func steps(t *testing.T) []step {
	t.Helper()
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	var out []step
	for _, m := range block.FindAllStringSubmatch(string(text), -1) {
		require.NotEmpty(t, m[1], "a block of %s is not part of the tour: %s", page, m[2])
		out = append(out, step{m[1], m[2]})
	}
	return out
}

// tour is one run over the page.
type tour struct {
	*stack
	watch    *watch
	began    time.Time       // of up
	took     []string        // by step
	position client.Position // where a client stood before the stack went down
	figures  []string
}

func (tr *tour) figure(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	tr.figures = append(tr.figures, line)
	tr.t.Log(line)
}

// checks say what each block's output has to show, by the block's name.
func (tr *tour) checks() map[string]func(out string) {
	return map[string]func(string){
		"up": tr.up, "look": tr.look, "sub": tr.sub, "sse": tr.sse,
		"publish-java": nil, "publish-kcat": nil, "publish-http": tr.published, "replay": tr.replay,
		"kill-gateway": tr.gatewayKilled, "kill-fanout": tr.pause("a fan-out killed"),
		"heal": tr.pause("both back"), "rolling": tr.pause("rolling restart"), "registry": tr.pause("registry away for a minute"),
		"scale": tr.scale, "inside": tr.inside, "down": tr.down, "up-again": tr.upAgain, "away": tr.away,
	}
}

func TestEveryStepOfTheTourIsChecked(t *testing.T) {
	checks := (&tour{}).checks()
	for _, s := range steps(t) {
		require.Contains(t, checks, s.name)
		delete(checks, s.name)
	}
	require.Empty(t, checks, "the page has no such step")
}

func TestTour(t *testing.T) {
	if os.Getenv("TAPECAST_TEST_STACK") == "" {
		t.Skip("needs Docker and about 7 minutes: make test-stack")
	}
	tr := &tour{stack: newStack(t)}
	began := time.Now()
	tr.must(20*time.Minute, "docker compose build -q")
	tr.figure("image built in %s, %s", time.Since(began).Round(time.Second),
		strings.TrimSpace(tr.must(time.Minute, `docker image inspect -f '{{.Size}} bytes' tapecast:${TAPECAST_VERSION:-dev}`)))
	tr.prepare()
	checks := tr.checks()
	for _, s := range steps(t) {
		if s.name == "publish-kcat" {
			if _, err := exec.LookPath("kcat"); err != nil {
				tr.figure("kcat is not installed: that step was left out")
				continue
			}
		}
		if s.name == "down" {
			tr.badDays()
		}
		if s.name == "away" {
			tr.otherSettings()
		}
		began := time.Now()
		out, err := tr.run(10*time.Minute, s.script)
		require.NoError(t, err, "step %s", s.name)
		if check := checks[s.name]; check != nil {
			check(out)
		}
		tr.took = append(tr.took, fmt.Sprintf("%s %.0f", s.name, time.Since(began).Seconds()))
	}
	tr.figure("seconds by step, with its checks: %s", strings.Join(tr.took, ", "))
	t.Logf("the figures:\n%s", strings.Join(tr.figures, "\n"))
}

// prepare starts the clients and their clock: they dial before there is anything to dial.
func (tr *tour) prepare() {
	tr.watch, tr.began = startWatch(tr.t, tr.http, client.Live()), time.Now()
}

func (tr *tour) up(string) {
	tr.figure("healthy %.1f s after up began", time.Since(tr.began).Seconds())
	tr.figure("first frame at a client %.1f s after up began", tr.watch.firstEvent().Sub(tr.began).Seconds())
	tr.watch.spread()
	out := tr.must(time.Minute, `docker compose ps -a --format '{{.Service}} {{.State}} {{.Health}} {{.ExitCode}}'`)
	require.Equal(tr.t, 2, strings.Count(out, "gateway running healthy"), out)
	require.Equal(tr.t, 2, strings.Count(out, "fanout running healthy"), out)
	require.Contains(tr.t, out, "topics exited  0")
	require.NotContains(tr.t, out, "unhealthy")
	tr.must(time.Minute, "docker compose exec -T prometheus promtool check rules /etc/prometheus/rules.yml")
}

func (tr *tour) look(out string) {
	for _, topic := range []string{"notes", "price", "quotes", "trades"} {
		require.Contains(tr.t, out, `"name":"`+topic+`"`)
	}
}

func (tr *tour) sub(out string) {
	require.Equal(tr.t, 3, strings.Count(out, `"topic":"quotes"`), out)
	// The page, and its WebSocket from its own origin but from no other one.
	resp := tr.get("http://"+tr.http+"/", "")
	require.Equal(tr.t, http.StatusOK, resp.StatusCode)
	require.Contains(tr.t, resp.Header.Get("Content-Security-Policy"), "default-src 'none'")
	require.Equal(tr.t, http.StatusSwitchingProtocols, tr.get("http://"+tr.http+"/ws", "http://"+tr.http).StatusCode)
	require.Equal(tr.t, http.StatusForbidden, tr.get("http://"+tr.http+"/ws", "http://elsewhere.example").StatusCode)
}

// get asks once; with an origin it asks for a WebSocket.
func (tr *tour) get(url, origin string) *http.Response {
	tr.t.Helper()
	ctx, cancel := context.WithTimeout(tr.t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(tr.t, err)
	if origin != "" {
		req.Header = http.Header{
			"Origin": {origin}, "Connection": {"Upgrade"}, "Upgrade": {"websocket"},
			"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
		}
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(tr.t, err)
	require.NoError(tr.t, resp.Body.Close())
	return resp
}

func (tr *tour) sse(out string) {
	require.Contains(tr.t, out, "event: subscribed\n")
	require.Contains(tr.t, out, "\nid: ")
	require.Contains(tr.t, out, `data: {"topic":"price"`)
}

func (tr *tour) published(out string) {
	require.Equal(tr.t, 2, strings.Count(out, `{"offsets":[{"partition":`), out)
}

func (tr *tour) replay(out string) {
	for _, from := range []string{"java", "kcat", "curl"} {
		if _, err := exec.LookPath("kcat"); from == "kcat" && err != nil {
			continue
		}
		require.Equal(tr.t, 1, strings.Count(out, `{"from":"`+from+`"}`), out)
	}
}

// settles is how long clients are watched after something was broken: a fan-out's
// session (6 s), the wait before a bypass and a gateway's drain are over by then.
const settles = 8 * time.Second

// pause checks that all clients go on, and reports how long they waited.
func (tr *tour) pause(what string) func(string) {
	return func(string) {
		time.Sleep(settles)
		longest, median := tr.watch.flows()
		tr.figure("%s: longest pause of any of %d clients %.2f s, of the median client %.2f s; %d reconnected",
			what, watchers, longest.Seconds(), median.Seconds(), tr.watch.reconnected())
	}
}

func (tr *tour) gatewayKilled(string) {
	time.Sleep(settles)
	longest, median := tr.watch.flows()
	moved := tr.watch.reconnected()
	require.NotZero(tr.t, moved, "nobody was connected to it")
	tr.figure("a gateway killed: %d of %d clients went to the other one; longest pause %.2f s, of the median client %.2f s",
		moved, watchers, longest.Seconds(), median.Seconds())
}

func (tr *tour) scale(string) {
	tr.awaits("nginx knows four gateways", "docker compose exec -T nginx cat /tmp/upstreams.conf", func(out string) bool {
		gateways, _, _ := strings.Cut(out, "upstream ingest")
		return strings.Count(gateways, "server ") == 4
	})
	tr.pause("scaled to 4 gateways and 3 fan-outs")("")
	tr.figure("memory with %d clients and 500 events a second:\n%s", watchers, tr.memory())
}

func (tr *tour) inside(out string) {
	require.Contains(tr.t, out, "version 1 of quotes-value")
	require.Contains(tr.t, out, "tapecast.DeliveryBatch")
	tr.awaits("Prometheus scrapes everybody", "curl -s 'http://127.0.0.1:9090/api/v1/query?query=sum(up)'", func(out string) bool {
		return strings.Contains(out, `"10"`) // 4 gateways, 3 fan-outs, ingest, market, itself
	})
	tr.must(time.Minute, "curl -sf http://127.0.0.1:3000/api/health")
}

func (tr *tour) down(string) {
	tr.must(time.Minute, `test -z "$(docker compose ps -aq)"`)
}

func (tr *tour) upAgain(out string) {
	tr.replay(out)
	// The position of before resolves: what was written since follows it without a hole.
	w := startWatch(tr.t, tr.http, client.At(tr.position))
	w.flows()
	require.Greater(tr.t, w.stop().Next[0], tr.position.Next[0])
	// So do the schemas: records of before are decoded.
	first := tr.must(time.Minute, "bin/tapecast sub quotes --url http://127.0.0.1:8080 --from earliest --count 1")
	var frame struct {
		Data struct{ Symbol string }
	}
	require.NoError(tr.t, json.Unmarshal([]byte(first), &frame), first)
	require.NotEmpty(tr.t, frame.Data.Symbol)
}

func (tr *tour) away(string) {
	tr.must(time.Minute, `test -z "$(docker volume ls -q --filter label=com.docker.compose.project=`+project+`)"`)
}
