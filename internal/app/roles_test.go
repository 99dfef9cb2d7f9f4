package app

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/internal/config"
	"github.com/tapecast/tapecast/internal/embedded"
	"github.com/tapecast/tapecast/schemas/registry"
)

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	res, err := http.Get(url)
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(b)
}

func missing(t *testing.T, addr string) map[string]string {
	t.Helper()
	_, body := get(t, "http://"+addr+"/readyz")
	var r readiness
	require.NoError(t, json.Unmarshal([]byte(body), &r), "%s", body)
	require.Equal(t, len(r.Missing) == 0, r.Ready)
	return r.Missing
}

func ready(t *testing.T, addr string) {
	t.Helper()
	require.Eventually(t, func() bool { return len(missing(t, addr)) == 0 }, 60*time.Second, 20*time.Millisecond)
}

// start runs a role; the returned function stops it and gives its error.
func start(t *testing.T, r *Role) func() error {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(cancel)
	return func() error { cancel(); return <-ended }
}

func TestRolesStartWithoutKafkaOrRegistrySayWhatIsMissingAndRecover(t *testing.T) {
	kafkaAddr, registryAddr := brokertest.Addr(t), brokertest.Addr(t)
	cfg := config.Default()
	cfg.Kafka.Brokers = []string{kafkaAddr}
	cfg.Registry.URL = "http://" + registryAddr
	cfg.Topics = []config.Topic{{Topic: "*"}}
	cfg.Gateway.Node, cfg.Gateway.Drain = "gw-1", time.Millisecond
	for _, p := range []*string{&cfg.Ingest.Listen, &cfg.Ingest.AdminListen, &cfg.Fanout.AdminListen, &cfg.Gateway.Listen, &cfg.Gateway.AdminListen} {
		*p = "127.0.0.1:0"
	}
	env := Env{Logger: quiet, Build: "test"}
	in, err := newIngest(cfg, env)
	require.NoError(t, err)
	out, err := newFanout(cfg, env)
	require.NoError(t, err)
	gw, err := newGateway(cfg, env)
	require.NoError(t, err)
	stops := []func() error{start(t, in), start(t, out), start(t, gw)}

	for _, r := range []*Role{in, out, gw} {
		require.Eventually(t, func() bool { return strings.Contains(missing(t, r.AdminAddr())["kafka"], kafkaAddr) }, 60*time.Second, 20*time.Millisecond)
		code, _ := get(t, "http://"+r.AdminAddr()+"/healthz")
		require.Equal(t, http.StatusOK, code, "it lives all the same")
		code, _ = get(t, "http://"+r.AdminAddr()+"/metrics")
		require.Equal(t, http.StatusOK, code)
	}
	require.Contains(t, missing(t, in.Addr()), "registry")
	require.NotContains(t, missing(t, out.AdminAddr()), "registry", "the fan-out decodes nothing")

	b, err := embedded.Start(embedded.Options{Listen: kafkaAddr})
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close()) }()
	require.Eventually(t, func() bool {
		m := missing(t, gw.AdminAddr())
		return len(m) == 2 && m["registry"] != "" && m["sessions"] != ""
	}, 60*time.Second, 20*time.Millisecond)
	code, _ := get(t, "http://"+gw.Addr()+"/ws")
	require.Equal(t, http.StatusServiceUnavailable, code, "no sessions for a gateway that has no schemas yet")
	reg, err := registry.Open(t.TempDir(), quiet)
	require.NoError(t, err)
	defer func() { require.NoError(t, reg.Close()) }()
	ln, err := net.Listen("tcp", registryAddr)
	require.NoError(t, err)
	srv := &httptest.Server{Listener: ln, Config: &http.Server{Handler: reg.Handler(), ReadHeaderTimeout: time.Second}}
	srv.Start()
	defer srv.Close()
	for _, r := range []*Role{in, out, gw} {
		ready(t, r.AdminAddr())
	}
	ready(t, in.Addr())
	ready(t, gw.Addr())
	code, _ = get(t, "http://"+gw.Addr()+"/ws")
	require.Equal(t, http.StatusBadRequest, code, "it is let in, and asks for no upgrade")
	for _, path := range []string{"/metrics", "/debug/pprof/"} {
		code, _ := get(t, "http://"+gw.Addr()+path)
		require.Equal(t, http.StatusNotFound, code, "%s is on the admin listener only", path)
	}
	for i := len(stops) - 1; i >= 0; i-- {
		require.NoError(t, stops[i]())
	}
}
