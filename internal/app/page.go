package app

import "net/http"

// page is what a browser sees at /.
func page() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("tapecast dev: WebSocket at /ws, topics at /v1/topics\n"))
	})
}
