package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tapecast/tapecast/internal/rawio"
)

// Bounds of every HTTP server. There is no write timeout: streams are long.
// Slow readers are the rooms' business.
const (
	readHeaderTimeout = 5 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 16 << 10
	shutdownGrace     = 10 * time.Second
)

// ListenError says that an address cannot be listened on, and by which flag
// another one is chosen.
type ListenError struct {
	What, Addr, Flag string
	Err              error
}

func (e *ListenError) Error() string {
	why := e.Err.Error()
	var op *net.OpError
	if errors.As(e.Err, &op) {
		why = op.Err.Error()
	}
	if errors.Is(e.Err, syscall.EADDRINUSE) {
		return fmt.Sprintf("%s: %s is taken by another process; stop that one, or choose another address with %s", e.What, e.Addr, e.Flag)
	}
	return fmt.Sprintf("%s: cannot listen on %s: %s; choose another address with %s", e.What, e.Addr, why, e.Flag)
}

func (e *ListenError) Unwrap() error { return e.Err }

func listen(what, addr, flag string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, &ListenError{what, addr, flag, err}
	}
	return ln, nil
}

// isLoopback tells whether a listen address can be reached from this machine only.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// server is one HTTP server as a part.
type server struct {
	name string
	ln   net.Listener
	http *http.Server
}

func newServer(name string, ln net.Listener, h http.Handler, log *slog.Logger) *server {
	return &server{name: name, ln: ln, http: &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug), // clients' mistakes, mostly
	}}
}

func (s *server) part() part { return part{s.name, s.run} }

// run serves until ctx ends, then lets running requests finish for a while.
func (s *server) run(ctx context.Context) error {
	stopped := make(chan struct{})
	release := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		if s.http.Shutdown(grace) != nil {
			_ = s.http.Close()
		}
	})
	err := s.http.Serve(rawio.Listener(s.ln))
	if !release() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// adminMux serves what only operators may see.
func adminMux(h *health, reg *prometheus.Registry, log *slog.Logger) *http.ServeMux {
	mux := http.NewServeMux()
	h.register(mux, true)
	mux.Handle("GET /metrics", metricsHandler(reg, log))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

func metricsHandler(reg *prometheus.Registry, log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		MaxRequestsInFlight: 4,
	})
}

// guardHost serves only requests whose Host header names this machine. A page
// of another site can make its own name point to 127.0.0.1 (DNS rebinding) and
// then passes for the same origin; its name in the Host header gives it away.
// listen is the configured listen address.
func guardHost(listen string, next http.Handler) http.Handler {
	configured, _, _ := net.SplitHostPort(listen)
	hostname, _ := os.Hostname()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !hostAllowed(r.Host, configured, hostname) {
			http.Error(w, "This development server answers under its own address only. Use http://localhost and its port.",
				http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func hostAllowed(header, configured, hostname string) bool {
	host := header
	if h, _, err := net.SplitHostPort(header); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	if host == "" {
		return false
	}
	ip, err := netip.ParseAddr(host)
	if err == nil && ip.IsLoopback() || host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	listenIP, lerr := netip.ParseAddr(configured)
	if configured == "" || lerr == nil && listenIP.IsUnspecified() {
		// Listening everywhere was asked for: an address cannot be rebound, and the machine's own name is its own.
		return err == nil || strings.EqualFold(host, hostname)
	}
	return strings.EqualFold(host, configured)
}
