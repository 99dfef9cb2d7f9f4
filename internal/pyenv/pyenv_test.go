package pyenv

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPackagesAreThereWithTheirVersion(t *testing.T) {
	py := Python(t, "websocket-client==1.8.0")
	out, err := exec.Command(py, "-c", "import websocket; print(websocket.__version__)").Output()
	require.NoError(t, err)
	require.Equal(t, "1.8.0\n", string(out))
}

func TestWhatCannotBeHadIsAnErrorWithItsReason(t *testing.T) {
	_, err := environment([]string{"websocket-client"})
	require.ErrorContains(t, err, "has no version")
	t.Setenv("PATH", t.TempDir())
	_, err = environment([]string{"websocket-client==1.8.0"})
	require.ErrorContains(t, err, "python3 is not installed")
}
