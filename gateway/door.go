package gateway

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tapecast/tapecast/internal/protocol"
)

// door decides who comes in: origins, how many, from where.
type door struct {
	// static after construction
	origins       []string
	anyOrigin     bool
	requireOrigin bool
	trusted       []netip.Prefix
	maxSessions   int
	maxPerIP      int
	metrics       *metrics
	leaveAny      func() // leave, where addresses are not counted

	mu    sync.Mutex
	open  int                // guarded by mu
	perIP map[netip.Addr]int // guarded by mu; only with maxPerIP
	shut  *closedDoor        // guarded by mu; nil = open
}

// closedDoor is why nobody comes in.
type closedDoor struct {
	reason string // of the metric
	answer protocol.Error
}

var (
	// startingDoor: a proxy that prefers who has the fewest sessions would send
	// everybody to a node that cannot serve yet; refused, they go to another one.
	startingDoor = &closedDoor{"starting", protocol.Error{Code: protocol.CodeUnavailable, Message: "this node is not ready yet; try another"}}
	drainingDoor = &closedDoor{"drain", protocol.Error{Code: protocol.CodeDraining, Message: "this node takes no sessions now; try another"}}
)

// origin tells whether a request's origin is allowed, and which it is ("" = none).
func (d *door) origin(r *http.Request) (origin string, ok bool) {
	values := r.Header.Values("Origin")
	if len(values) == 0 {
		return "", !d.requireOrigin
	}
	if len(values) > 1 {
		return "", false
	}
	origin = values[0]
	n := normalOrigin(origin)
	return origin, d.anyOrigin || n != "" && (slices.Contains(d.origins, n) || n == ownOrigin(r))
}

// ownOrigin is the origin that the request came to. The scheme is the
// connection's own, or what a TLS-terminating proxy says it was: a page cannot
// make a browser send that header here.
func ownOrigin(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	} else if p, _, _ := strings.Cut(r.Header.Get("X-Forwarded-Proto"), ","); p != "" {
		scheme = strings.TrimSpace(p)
	}
	return normalOrigin(scheme + "://" + r.Host)
}

// normalOrigin writes an http or https origin in one way: lower case, without
// the default port. "" = not such an origin.
func normalOrigin(origin string) string {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return ""
	}
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	switch scheme {
	case "http":
		host = strings.TrimSuffix(host, ":80")
	case "https":
		host = strings.TrimSuffix(host, ":443")
	default:
		return ""
	}
	return scheme + "://" + host
}

// address finds the client's address: the connection's, or, behind trusted
// proxies, the last one in X-Forwarded-For that is none of them.
func (d *door) address(r *http.Request) netip.Addr {
	addr := parseAddr(r.RemoteAddr)
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && d.trusts(addr); i-- {
		next := parseAddr(strings.TrimSpace(hops[i]))
		if !next.IsValid() {
			break
		}
		addr = next
	}
	return addr
}

func (d *door) trusts(a netip.Addr) bool {
	return slices.ContainsFunc(d.trusted, func(p netip.Prefix) bool { return p.Contains(a) })
}

func parseAddr(s string) netip.Addr {
	if host, _, err := net.SplitHostPort(s); err == nil {
		s = host
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap()
}

// enter counts a session in, or says why it stays out. leave must follow.
func (d *door) enter(addr netip.Addr) (refusal string, err *protocol.Error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.shut != nil:
		return d.shut.reason, &d.shut.answer
	case d.open >= d.maxSessions:
		return "sessions", &protocol.Error{Code: protocol.CodeTooManyConns, Message: "this node is full; try another"}
	case d.maxPerIP > 0 && d.perIP[addr] >= d.maxPerIP:
		return "address", &protocol.Error{Code: protocol.CodeTooManyConns, Message: "too many sessions from this address"}
	}
	d.open++
	if d.maxPerIP > 0 {
		d.perIP[addr]++
	}
	return "", nil
}

func (d *door) leave(addr netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open--
	if d.maxPerIP > 0 {
		if d.perIP[addr]--; d.perIP[addr] <= 0 {
			delete(d.perIP, addr)
		}
	}
}

// set closes the door, or opens it (nil).
func (d *door) set(shut *closedDoor) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut = shut
}

// closed tells why nobody comes in; nil = they do.
func (d *door) closed() *closedDoor {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.shut
}

// admit does all checks of a streaming request and answers it where they
// fail. leave must be called when ok.
func (d *door) admit(w http.ResponseWriter, r *http.Request) (leave func(), ok bool) {
	if !d.admitOrigin(w, r) {
		return nil, false
	}
	addr := d.address(r)
	if refusal, err := d.enter(addr); err != nil {
		d.metrics.refused.of(refusal).Inc()
		status := err.Code.Status()
		if refusal == "address" {
			status = http.StatusTooManyRequests
		}
		writeError(w, err, status)
		return nil, false
	}
	if d.maxPerIP == 0 { // who leaves is the same as anybody
		return d.leaveAny, true
	}
	return func() { d.leave(addr) }, true
}

// admitOrigin checks the origin, and lets a page of an allowed one read the answer.
func (d *door) admitOrigin(w http.ResponseWriter, r *http.Request) bool {
	w.Header().Add("Vary", "Origin")
	origin, ok := d.origin(r)
	if !ok {
		d.metrics.refused.of("origin").Inc()
		writeError(w, &protocol.Error{Code: protocol.CodeOrigin, Message: "pages of this origin may not connect here"}, http.StatusForbidden)
		return false
	}
	if origin != "" {
		w.Header().Set("Access-Control-Allow-Origin", origin)
	}
	return true
}

// writeError answers with an error frame as the body.
func writeError(w http.ResponseWriter, err *protocol.Error, status int) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if err.Code.Retry() {
		h.Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
	}
	w.WriteHeader(status)
	_, _ = w.Write(append(err.Frame(), '\n'))
}

const retryAfter = 2 * time.Second
