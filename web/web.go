// Package web is the console: a page on which one sees the topics of a gateway
// live and replayed, and, where its operator looks, how the pipeline does, what
// the sessions do and what happened to an event. It is embedded as it is, with
// no build step and no request to anywhere else. What it shows are text nodes
// only, under a strict content security policy.
package web

import (
	"embed"
	"encoding/json"
	"io/fs"
	"net/http"

	"github.com/tapecast/tapecast/clients/js"
)

//go:embed static
var files embed.FS

// policy lets the page load itself and talk to the server it came from.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Parts says which parts of the console its viewer may see. It decides what is
// offered, not what is allowed: that is up to what the listener serves.
type Parts struct {
	Feed     bool `json:"feed"`     // the listener serves /ws and /v1/topics
	Operator bool `json:"operator"` // the listener serves /metrics and /v1/admin
}

// Handler serves the page at / and its files beside it. It answers GET and
// HEAD, and 404 for anything else that it does not have.
func Handler(p Parts) http.Handler {
	static, err := fs.Sub(files, "static")
	if err != nil { // "static" is embedded above
		panic(err)
	}
	parts, err := json.Marshal(p)
	if err != nil { // two booleans
		panic(err)
	}
	serve := http.FileServerFS(static)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache")
		if r.URL.Path == "/console.json" {
			h.Set("Content-Type", "application/json")
			_, _ = w.Write(parts)
			return
		}
		if r.URL.Path == "/tapecast.js" {
			h.Set("Content-Type", "text/javascript; charset=utf-8")
			_, _ = w.Write(js.Module)
			return
		}
		serve.ServeHTTP(w, r)
	})
}
