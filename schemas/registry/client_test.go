package registry_test

import (
	"encoding/hex"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/pyenv"
	"github.com/tapecast/tapecast/schemas"
)

// A client of another code base registers, looks up, serialises and deletes
// against the embedded registry, and the transcoder reads what it wrote.
func TestConfluentPythonClient(t *testing.T) {
	python := pyenv.Python(t, pyenv.Confluent)
	s := open(t, t.TempDir())
	h := httptest.NewServer(s.Handler())
	defer h.Close()
	out, err := exec.CommandContext(t.Context(), python, "testdata/avro_client.py", h.URL, "../quotes.avsc").CombinedOutput()
	require.NoError(t, err, "%s", out)
	value, err := hex.DecodeString(strings.TrimSpace(string(out)))
	require.NoError(t, err, "%s", out)

	r, err := schemas.NewRegistry(schemas.RegistryOptions{URL: h.URL})
	require.NoError(t, err)
	d, err := schemas.NewDecoder("avro", r)
	require.NoError(t, err)
	text, err := d.AppendJSON(t.Context(), nil, value)
	require.NoError(t, err)
	require.Equal(t, `{"symbol":"EURUSD","bid":1.5,"ask":1.75,"bid_size":1,"ask_size":"1152921504606846976","ts":1546383600071000}`, string(text))
}
