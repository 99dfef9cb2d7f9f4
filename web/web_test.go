package web_test

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/clients/js"
	"github.com/tapecast/tapecast/web"
)

func get(method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	web.Handler(web.Parts{Feed: true}).ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w
}

func TestThePageIsWholeAndStrict(t *testing.T) {
	page := get(http.MethodGet, "/")
	require.Equal(t, 200, page.Code)
	require.Contains(t, page.Header().Get("Content-Security-Policy"), "default-src 'none'")
	require.NotContains(t, page.Header().Get("Content-Security-Policy"), "unsafe")
	for _, ref := range regexp.MustCompile(`(?:src|href)="([^"#]+)"`).FindAllStringSubmatch(page.Body.String(), -1) {
		require.NotContains(t, ref[1], "//", "a request to elsewhere")
		require.Equal(t, 200, get(http.MethodGet, "/"+ref[1]).Code, ref[1])
	}
	require.NotRegexp(t, ` on[a-z]+=| style=|<script>`, page.Body.String())
}

func TestTheScriptsMakeTextNodesOnly(t *testing.T) {
	scripts, err := filepath.Glob("static/*.js")
	require.NoError(t, err)
	require.NotEmpty(t, scripts)
	for _, path := range scripts {
		script := get(http.MethodGet, "/"+filepath.Base(path)).Body.String()
		script = strings.ReplaceAll(script, "http://www.w3.org/2000/svg", "") // a namespace, not a request
		for _, word := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "http://", "https://"} {
			require.NotContains(t, script, word, path)
		}
	}
}

func TestThePageKnowsWhatItsViewerMaySee(t *testing.T) {
	require.JSONEq(t, `{"feed":true,"operator":false}`, get(http.MethodGet, "/console.json").Body.String())
}

// The page is what a phone loads over a slow line.
func TestThePageIsSmall(t *testing.T) {
	const limit = 300_000
	var total int64
	require.NoError(t, filepath.WalkDir("static", func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		total += info.Size()
		return err
	}))
	total += int64(len(js.Module))
	require.Less(t, total, int64(limit))
	t.Logf("the console has %d bytes", total)
}

func TestVendoredCodeHasItsLicence(t *testing.T) {
	require.Contains(t, get(http.MethodGet, "/vendor/uplot/LICENSE").Body.String(), "MIT")
}

func TestNothingElseIsServed(t *testing.T) {
	require.Equal(t, http.StatusNotFound, get(http.MethodGet, "/web.go").Code)
	require.Equal(t, http.StatusNotFound, get(http.MethodGet, "/../web.go").Code)
	require.Equal(t, http.StatusMethodNotAllowed, get(http.MethodPost, "/").Code)
}
