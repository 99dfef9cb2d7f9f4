package schemas_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/schemas"
	"github.com/tapecast/tapecast/schemas/registry"
)

// embedded serves the embedded registry under a path prefix.
func embedded(t testing.TB, prefix string) (url string) {
	t.Helper()
	s, err := registry.Open(t.TempDir(), nil)
	require.NoError(t, err)
	h := httptest.NewServer(http.StripPrefix(prefix, s.Handler()))
	t.Cleanup(func() {
		h.Close()
		require.NoError(t, s.Close())
	})
	return h.URL + prefix
}

func newClient(t testing.TB, url string) *schemas.Registry {
	t.Helper()
	r, err := schemas.NewRegistry(schemas.RegistryOptions{URL: url, Registerer: prometheus.NewRegistry()})
	require.NoError(t, err)
	return r
}

// The same against the embedded registry and, where TAPECAST_TEST_REGISTRY
// names one, against another implementation.
func TestClientAgainstRegistries(t *testing.T) {
	urls := map[string]string{"embedded": embedded(t, ""), "embedded under a prefix": embedded(t, "/apis/ccompat/v7")}
	if url := os.Getenv("TAPECAST_TEST_REGISTRY"); url != "" {
		urls["other"] = url
	}
	for name, url := range urls {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			r := newClient(t, url)
			require.NoError(t, r.Ping(ctx))
			subject := fmt.Sprintf("a/b %d-value", time.Now().UnixNano())
			_, _, err := r.Latest(ctx, subject)
			require.ErrorIs(t, err, schemas.ErrUnknownSubject)
			require.False(t, schemas.Transient(err))

			text, _ := schemas.Embedded("quotes")
			id, err := r.Register(ctx, subject, text)
			require.NoError(t, err)
			again, err := r.Register(ctx, subject, text)
			require.NoError(t, err)
			require.Equal(t, id, again)

			latest, c, err := r.Latest(ctx, subject)
			require.NoError(t, err)
			require.Equal(t, id, latest)
			require.Len(t, c.Fields(), 6)

			other := newClient(t, url)
			_, ok := other.Cached(id)
			require.False(t, ok)
			c, err = other.Codec(ctx, id)
			require.NoError(t, err)
			require.Len(t, c.Fields(), 6)
			_, ok = other.Cached(id)
			require.True(t, ok)

			_, err = other.Codec(ctx, 4_000_000)
			require.ErrorIs(t, err, schemas.ErrUnknownSchema)
			require.False(t, schemas.Transient(err))

			var rejected *schemas.RejectedError
			_, err = r.Register(ctx, subject, `{"type":"nonsense"}`)
			require.ErrorAs(t, err, &rejected)
			require.Equal(t, http.StatusUnprocessableEntity, rejected.Status)
		})
	}
}

func TestClientReportsIncompatibleSchema(t *testing.T) {
	r := newClient(t, embedded(t, ""))
	_, err := r.Register(t.Context(), "s", `"long"`)
	require.NoError(t, err)
	_, err = r.Register(t.Context(), "s", `"string"`)
	var rejected *schemas.RejectedError
	require.ErrorAs(t, err, &rejected)
	require.Equal(t, 409, rejected.Code)
	require.Contains(t, rejected.Message, "cannot read")
}

// answering serves one handler and counts the requests.
func answering(t testing.TB, h http.HandlerFunc) (url string, calls *atomic.Int64) {
	t.Helper()
	calls = new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		h(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, calls
}

func TestOneFlightPerID(t *testing.T) {
	release := make(chan struct{})
	url, calls := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		<-release
		fmt.Fprint(w, `{"schema":"\"long\""}`)
	})
	r := newClient(t, url)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			_, err := r.Codec(context.Background(), 1)
			require.NoError(t, err)
		})
	}
	close(release)
	wg.Wait()
	require.EqualValues(t, 1, calls.Load())
}

// A caller that gives up does not take the others down with it.
func TestFlightIsTakenOver(t *testing.T) {
	arrived := make(chan struct{}, 2)
	release := make(chan struct{})
	url, calls := answering(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		select {
		case <-release:
			fmt.Fprint(w, `{"schema":"\"long\""}`)
		case <-r.Context().Done():
		}
	})
	r := newClient(t, url)
	first, giveUp := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := r.Codec(first, 1)
		require.ErrorIs(t, err, context.Canceled)
		require.True(t, schemas.Transient(err))
	})
	<-arrived
	wg.Go(func() {
		_, err := r.Codec(context.Background(), 1)
		require.NoError(t, err)
	})
	giveUp()
	<-arrived
	close(release)
	wg.Wait()
	require.EqualValues(t, 2, calls.Load())
}

// transport answers without a network, so that time can be virtual.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(status int, body string) (*http.Response, error) {
	w := httptest.NewRecorder()
	w.WriteHeader(status)
	w.WriteString(body)
	return w.Result(), nil
}

func virtual(t testing.TB, calls *int, f func() (*http.Response, error)) *schemas.Registry {
	t.Helper()
	r, err := schemas.NewRegistry(schemas.RegistryOptions{URL: "http://registry", Transport: transport(func(*http.Request) (*http.Response, error) {
		*calls++
		return f()
	})})
	require.NoError(t, err)
	return r
}

func TestUnknownIDIsAskedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		r := virtual(t, &calls, func() (*http.Response, error) { return answer(404, `{"error_code":40403,"message":"no"}`) })
		for range 590 {
			_, err := r.Codec(t.Context(), 7)
			require.ErrorIs(t, err, schemas.ErrUnknownSchema)
			time.Sleep(100 * time.Millisecond)
		}
		require.Equal(t, 1, calls)
		time.Sleep(2 * time.Second)
		_, err := r.Codec(t.Context(), 7)
		require.ErrorIs(t, err, schemas.ErrUnknownSchema)
		require.Equal(t, 2, calls)
	})
}

func TestTransientFailuresBackOff(t *testing.T) {
	for name, f := range map[string]func() (*http.Response, error){
		"refused connection": func() (*http.Response, error) { return nil, errors.New("refused") },
		"broken server":      func() (*http.Response, error) { return answer(500, `{"error_code":50001}`) },
		"unauthorized":       func() (*http.Response, error) { return answer(401, ``) },
		"not a registry":     func() (*http.Response, error) { return answer(404, `<html>`) },
		"redirect":           func() (*http.Response, error) { return answer(302, ``) },
		"no schema":          func() (*http.Response, error) { return answer(200, `{}`) },
		"no JSON":            func() (*http.Response, error) { return answer(200, `<html>`) },
		"slow": func() (*http.Response, error) {
			time.Sleep(3 * time.Second)
			return nil, context.DeadlineExceeded
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls, good := 0, false
				r := virtual(t, &calls, func() (*http.Response, error) {
					if good {
						return answer(200, `{"schema":"\"long\""}`)
					}
					return f()
				})
				for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(10 * time.Millisecond) {
					_, err := r.Codec(t.Context(), 7)
					require.Error(t, err)
					require.True(t, schemas.Transient(err), "%v", err)
				}
				require.Greater(t, calls, 10)
				require.Less(t, calls, 40)
				good = true
				time.Sleep(2 * time.Second)
				_, err := r.Codec(t.Context(), 7)
				require.NoError(t, err)
			})
		})
	}
}

func TestKnownGoesOnWhileTheRegistryIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls, away := 0, false
		r := virtual(t, &calls, func() (*http.Response, error) {
			if away {
				return nil, errors.New("refused")
			}
			return answer(200, `{"id":5,"version":1,"schema":"\"long\""}`)
		})
		_, _, err := r.Latest(t.Context(), "s")
		require.NoError(t, err)
		away = true
		for range 100 {
			time.Sleep(time.Second)
			id, c, err := r.Latest(t.Context(), "s")
			require.NoError(t, err)
			require.EqualValues(t, 5, id)
			require.NotNil(t, c)
			_, err = r.Codec(t.Context(), 5)
			require.NoError(t, err)
		}
		_, err = r.Codec(t.Context(), 6)
		require.True(t, schemas.Transient(err))
		require.Error(t, r.Ping(t.Context()))
	})
}

func TestLatestIsAskedAgainAfterTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls, status, body := 0, 404, `{"error_code":40401}`
		r := virtual(t, &calls, func() (*http.Response, error) { return answer(status, body) })
		for range 10 {
			_, _, err := r.Latest(t.Context(), "s")
			require.ErrorIs(t, err, schemas.ErrUnknownSubject)
		}
		require.Equal(t, 1, calls)
		status, body = 200, `{"id":5,"schema":"\"long\""}`
		time.Sleep(time.Second)
		for range 10 {
			_, _, err := r.Latest(t.Context(), "s")
			require.NoError(t, err)
		}
		require.Equal(t, 2, calls)
		body = `{"id":6,"schema":"\"int\""}`
		time.Sleep(2 * time.Second)
		id, _, err := r.Latest(t.Context(), "s")
		require.NoError(t, err)
		require.EqualValues(t, 6, id)
		status, body = 404, `{"error_code":40401}` // deleted
		time.Sleep(2 * time.Second)
		_, _, err = r.Latest(t.Context(), "s")
		require.ErrorIs(t, err, schemas.ErrUnknownSubject)
	})
}

func TestUnusableSchemas(t *testing.T) {
	big, err := json.Marshal(map[string]string{"schema": `"int"`, "pad": strings.Repeat("x", 1<<20)})
	require.NoError(t, err)
	for body, why := range map[string]string{
		`{"schema":"syntax = \"proto3\";","schemaType":"PROTOBUF"}`: `"PROTOBUF", only AVRO`,
		`{"schema":"\"int\"","references":[{"name":"x"}]}`:          "refers to other schemas",
		`{"schema":"{\"type\":\"array\",\"items\":\"null\"}"}`:      "without a size",
		`{"schema":"nope"}`: "not JSON",
		string(big):         "exceeds 1048576 bytes",
	} {
		url, calls := answering(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })
		r := newClient(t, url)
		for range 3 {
			_, err := r.Codec(t.Context(), 1)
			var s *schemas.SchemaError
			require.ErrorAs(t, err, &s)
			require.ErrorContains(t, err, why)
			require.False(t, schemas.Transient(err))
		}
		require.EqualValues(t, 1, calls.Load())
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	elsewhere, calls := answering(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"schema":"\"int\""}`) })
	url, _ := answering(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere, http.StatusFound) })
	_, err := newClient(t, url).Codec(t.Context(), 1)
	require.True(t, schemas.Transient(err))
	require.Zero(t, calls.Load())
}

func TestPasswordIsSentAndNeverTold(t *testing.T) {
	var log bytes.Buffer
	url, _ := answering(t, func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		require.Equal(t, "me", user)
		require.Equal(t, "s3cret", password)
		w.WriteHeader(http.StatusForbidden)
	})
	logger := slog.New(slog.NewTextHandler(&log, nil))
	r, err := schemas.NewRegistry(schemas.RegistryOptions{URL: strings.Replace(url, "http://", "http://me:s3cret@", 1), Logger: logger})
	require.NoError(t, err)
	_, err = r.Codec(t.Context(), 1)
	require.Error(t, err)
	require.NotContains(t, err.Error()+log.String(), "s3cret")
	require.NotEmpty(t, log.String())

	r, err = schemas.NewRegistry(schemas.RegistryOptions{URL: "http://me:s3cret@127.0.0.1:1", Logger: logger})
	require.NoError(t, err)
	_, err = r.Codec(t.Context(), 1)
	require.NotContains(t, err.Error()+log.String(), "s3cret")

	for _, bad := range []string{"", "127.0.0.1:8081", "ftp://me:s3cret@h", "http://", "http://me:s3cret@h/?x=1", "http://me:s3cret@h/%zz", "http://me:s3cret@h:port"} {
		_, err = schemas.NewRegistry(schemas.RegistryOptions{URL: bad})
		require.Error(t, err)
		require.NotContains(t, err.Error(), "s3cret")
	}
}

func TestSubjectsCannotLeaveTheirPath(t *testing.T) {
	var path string
	url, calls := answering(t, func(w http.ResponseWriter, r *http.Request) {
		path = r.URL.EscapedPath()
		fmt.Fprint(w, `{"id":1,"schema":"\"int\""}`)
	})
	r := newClient(t, url+"/base/")
	_, err := r.Register(t.Context(), "../x?y#z", `"int"`)
	require.NoError(t, err)
	require.Equal(t, "/base/subjects/..%2Fx%3Fy%23z/versions", path)
	for _, bad := range []string{"", ".", "..", strings.Repeat("s", 1000)} {
		_, err := r.Register(t.Context(), bad, `"int"`)
		require.Error(t, err)
		_, _, err = r.Latest(t.Context(), bad)
		require.Error(t, err)
	}
	require.EqualValues(t, 1, calls.Load())
}
