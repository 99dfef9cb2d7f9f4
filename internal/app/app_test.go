package app

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var quiet = slog.New(slog.DiscardHandler)

// journal notes what happened in which order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(s string) { j.mu.Lock(); j.lines = append(j.lines, s); j.mu.Unlock() }

func (j *journal) part(name string, drain time.Duration) part {
	return part{name, func(ctx context.Context) error {
		<-ctx.Done()
		time.Sleep(drain)
		j.add(name)
		return ctx.Err()
	}}
}

func TestStagesStopInReverseEachAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		err := runStages(ctx, quiet, stageStop, func() { j.add("stopping") },
			[]part{j.part("floor", 0)}, []part{j.part("feed", time.Second), j.part("fanout", 2*time.Second)}, []part{j.part("gateway", 5*time.Second)})
		require.NoError(t, err)
		require.Equal(t, []string{"stopping", "gateway", "feed", "fanout", "floor"}, j.lines)
	})
}

func TestAPartThatFailsStopsAllAndIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		boom := errors.New("boom")
		bad := part{"bad", func(context.Context) error { time.Sleep(time.Second); return boom }}
		err := runStages(t.Context(), quiet, stageStop, func() {}, []part{j.part("floor", 0)}, []part{bad, j.part("good", 0)})
		require.ErrorIs(t, err, boom)
		require.ErrorContains(t, err, "bad: boom")
		require.Equal(t, []string{"good", "floor"}, j.lines)

		silent := part{"silent", func(context.Context) error { return nil }}
		err = runStages(t.Context(), quiet, stageStop, func() {}, []part{silent})
		require.ErrorContains(t, err, "silent: ended before it was told to")
	})
}

func TestAPartThatDoesNotStopIsNamedAndLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		release := make(chan struct{})
		stuck := part{"stuck", func(context.Context) error { <-release; return nil }}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := runStages(ctx, quiet, stageStop, func() {}, []part{j.part("floor", 0)}, []part{stuck})
		require.ErrorContains(t, err, "[stuck] did not stop within 30s")
		require.Equal(t, []string{"floor"}, j.lines)
		close(release)
	})
}

func TestReadyzNamesWhatIsMissing(t *testing.T) {
	away := errors.New("connection refused")
	answer := away
	h := &health{checks: []check{{"kafka", func() error { return answer }}, {"feed", func() error { return nil }}}}
	mux := http.NewServeMux()
	h.register(mux, true)
	get := func(path string) (int, readiness) {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
		var r readiness
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &r))
		return w.Code, r
	}
	code, r := get("/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Equal(t, readiness{false, map[string]string{"kafka": "connection refused"}}, r)
	code, _ = get("/healthz")
	require.Equal(t, http.StatusOK, code)

	public := http.NewServeMux()
	h.register(public, false)
	w := httptest.NewRecorder()
	public.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", http.NoBody))
	require.Contains(t, w.Body.String(), `"kafka"`)
	require.NotContains(t, w.Body.String(), "refused", "reasons name addresses")

	answer = nil
	code, r = get("/readyz")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, readiness{Ready: true}, r)

	h.stop()
	code, r = get("/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, r.Missing, "process")
}

func TestProbesFollowTheirDependency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		err := errors.New("away")
		set := func(e error) { mu.Lock(); err = e; mu.Unlock() }
		ask := func(context.Context) error { mu.Lock(); defer mu.Unlock(); return err }
		always, once := newProbe("kafka", false, quiet, ask), newProbe("registry", true, quiet, ask)
		require.ErrorIs(t, always.ready(), errNotAsked)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = always.run(ctx) })
		wg.Go(func() { _ = once.run(ctx) })
		synctest.Wait()
		require.EqualError(t, always.ready(), "away")
		set(nil)
		time.Sleep(probeFirst + time.Millisecond)
		require.NoError(t, always.ready())
		require.NoError(t, once.ready())
		set(errors.New("away again"))
		time.Sleep(probeEvery + time.Millisecond)
		require.EqualError(t, always.ready(), "away again")
		require.NoError(t, once.ready(), "known schemas go on")
		cancel()
		wg.Wait()
	})
}

func TestOnlyTheOwnHostIsServed(t *testing.T) {
	for _, c := range []struct {
		header, listen string
		want           bool
	}{
		{"localhost:8080", "127.0.0.1", true}, {"127.0.0.1:8080", "127.0.0.1", true}, {"[::1]:8080", "127.0.0.1", true},
		{"LOCALHOST.", "127.0.0.1", true}, {"a.localhost:1", "127.0.0.1", true}, {"127.9.9.9", "127.0.0.1", true},
		{"evil.example:8080", "127.0.0.1", false}, {"", "127.0.0.1", false}, {"localhost.evil.example", "127.0.0.1", false},
		{"192.168.1.5:8080", "127.0.0.1", false}, {"notlocalhost", "127.0.0.1", false}, {"127.0.0.1.evil.example", "127.0.0.1", false},
		{"192.168.1.5:8080", "192.168.1.5", true}, {"evil.example", "192.168.1.5", false},
		{"192.168.1.5:8080", "0.0.0.0", true}, {"my-host:8080", "0.0.0.0", true}, {"evil.example", "0.0.0.0", false}, {"evil.example", "", false},
		{"dev.test:80", "dev.test", true},
	} {
		require.Equal(t, c.want, hostAllowed(c.header, c.listen, "my-host"), "%q on %q", c.header, c.listen)
	}
	h := guardHost("127.0.0.1:8080", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "http://evil.example/", http.NoBody)
	h.ServeHTTP(w, r)
	require.Equal(t, http.StatusMisdirectedRequest, w.Code)
}

func TestATakenPortNamesAddressAndFlag(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	_, err = listen("the gateway listener", ln.Addr().String(), "--listen")
	var le *ListenError
	require.ErrorAs(t, err, &le)
	require.ErrorContains(t, err, ln.Addr().String()+" is taken by another process")
	require.ErrorContains(t, err, "--listen")
}

func TestServersStopGracefully(t *testing.T) {
	ln, err := listen("test", "127.0.0.1:0", "--listen")
	require.NoError(t, err)
	entered, release := make(chan struct{}), make(chan struct{})
	s := newServer("test", ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		_, _ = io.WriteString(w, "done")
	}), quiet)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx) }()
	answer := make(chan string, 1)
	go func() {
		res, err := http.Get("http://" + ln.Addr().String())
		if err != nil {
			answer <- err.Error()
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		answer <- string(b)
	}()
	<-entered
	cancel()
	close(release)
	require.Equal(t, "done", <-answer, "a running request is finished")
	require.NoError(t, <-ended)
}

func TestAdminServesMetricsAndProfilesPublicDoesNot(t *testing.T) {
	h := &health{}
	admin := adminMux(h, newMetrics("v1"), quiet)
	public := (&base{health: h}).public()
	code := func(m http.Handler, path string) int {
		w := httptest.NewRecorder()
		m.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
		return w.Code
	}
	for _, path := range []string{"/metrics", "/debug/pprof/"} {
		require.Equal(t, http.StatusOK, code(admin, path), path)
		require.Equal(t, http.StatusNotFound, code(public, path), path)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		require.True(t, slices.Contains([]int{200}, code(admin, path)))
		require.Equal(t, http.StatusOK, code(public, path))
	}
}

func TestNodeNamesFitKafka(t *testing.T) {
	require.Equal(t, "gw-1", nodeName("gw-1"))
	require.Regexp(t, `^[a-zA-Z0-9._-]+$`, nodeName(""))
}
