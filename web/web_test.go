package web_test

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/web"
)

func get(method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	web.Handler().ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w
}

func TestThePageIsWholeAndStrict(t *testing.T) {
	page := get(http.MethodGet, "/")
	require.Equal(t, 200, page.Code)
	require.Contains(t, page.Header().Get("Content-Security-Policy"), "default-src 'none'")
	require.NotContains(t, page.Header().Get("Content-Security-Policy"), "unsafe")
	for _, ref := range regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(page.Body.String(), -1) {
		require.NotContains(t, ref[1], "//", "a request to elsewhere")
		require.Equal(t, 200, get(http.MethodGet, "/"+ref[1]).Code, ref[1])
	}
	require.NotRegexp(t, ` on[a-z]+=| style=|<script>`, page.Body.String())
}

func TestTheScriptMakesTextNodesOnly(t *testing.T) {
	script := get(http.MethodGet, "/page.js").Body.String()
	for _, word := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "http://", "https://"} {
		require.NotContains(t, script, word)
	}
	require.True(t, strings.Contains(script, "textContent"))
}

func TestNothingElseIsServed(t *testing.T) {
	require.Equal(t, http.StatusNotFound, get(http.MethodGet, "/web.go").Code)
	require.Equal(t, http.StatusNotFound, get(http.MethodGet, "/../web.go").Code)
	require.Equal(t, http.StatusMethodNotAllowed, get(http.MethodPost, "/").Code)
}
