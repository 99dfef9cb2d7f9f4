package meddler

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestKinds sends a handshake and messages of both forms through each kind of
// meddler, cut into pieces anywhere.
func TestKinds(t *testing.T) {
	event := func(p, o int, text string) string {
		return fmt.Sprintf(`{"topic":"t","partition":%d,"data":"v1%s","offset":%d}`, p, text, o)
	}
	long := strings.Repeat("x", 70<<10)
	beat := `{"event":"heartbeat","offset":3}`
	a, b, c, d := event(0, 1, ""), event(1, 1, long), event(0, 2, strings.Repeat("y", 300)), event(1, 2, "")
	both := func(lines ...string) string { return strings.Join(lines, "\n") }
	in := []string{a, beat, both(b, beat, c), d}
	for kind, want := range map[Kind][]string{ // the second event and the fourth
		Removed: {a, beat, both(beat, c)},
		Doubled: {a, beat, both(b, b, beat, c), d, d},
		Swapped: {a, beat, both(beat, c), d, b},
		Altered: {a, beat, both(strings.Replace(b, "v1", "v2", 1), beat, c), strings.Replace(d, "v1", "v2", 1)},
	} {
		t.Run(string(kind), func(t *testing.T) {
			m := New(kind, 2)
			got := messages(t, through(t, m, in))
			require.Equal(t, want, got)
			require.Positive(t, m.Done())
		})
	}
}

// through is what a client reads of these messages, after the handshake.
func through(t *testing.T, m *Meddler, in []string) string {
	t.Helper()
	const hello = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
	stream := []byte(hello)
	for _, text := range in {
		stream = append(appendHead(stream, len(text)), text...)
	}
	stream = append(stream, 0x89, 1, 'p') // a ping
	near, far := net.Pipe()
	go func() {
		rng := rand.New(rand.NewPCG(1, 1))
		for len(stream) > 0 {
			n := min(len(stream), 1+rng.IntN(5000))
			_, _ = far.Write(stream[:n])
			stream = stream[n:]
		}
		_ = far.Close()
	}()
	out, err := io.ReadAll(m.Conn(near))
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(out), hello))
	require.True(t, strings.HasSuffix(string(out), "\x89\x01p"))
	return string(out[len(hello) : len(out)-3])
}

func messages(t *testing.T, stream string) (out []string) {
	t.Helper()
	for len(stream) > 0 {
		head, size, ok := frame([]byte(stream))
		require.True(t, ok)
		out = append(out, stream[head:head+size])
		stream = stream[head+size:]
	}
	return out
}
