package schemas

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestStringEnd holds stringEnd to a walk by single bytes.
func TestStringEnd(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		b := []byte(`"`)
		for range random.IntN(24) {
			b = append(b, `"\\\abc`[random.IntN(7)])
		}
		for i := range b { // also where no string begins
			if got, want := stringEnd(b, i), endByBytes(b, i); got != want {
				t.Fatalf("%q from %d: %d, want %d", b, i, got, want)
			}
		}
	}
}

// endByBytes is stringEnd as plain as can be.
func endByBytes(b []byte, i int) int {
	for i++; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return -1
}

// TestManyEscapes reads and writes values that are one long string of escapes.
// Where each of them costs a look at all that follow, this takes minutes.
func TestManyEscapes(t *testing.T) {
	codec, err := Compile(`"string"`)
	require.NoError(t, err)
	for _, escape := range []string{`\n`, `\"`, `\\`} {
		long := `"` + strings.Repeat(escape, MaxJSON/2-8) + `"`
		require.Equal(t, len(long), stringEnd([]byte(long+`,"next"`), 0))
		require.Equal(t, -1, stringEnd([]byte(long[:len(long)-1]), 0), "no end")

		out, err := appendCompact(nil, []byte(`{ "a" : `+long+` }`))
		require.NoError(t, err)
		require.True(t, `{"a":`+long+`}` == string(out), escape) // not Equal: it would print them

		body, err := codec.AppendAvro(nil, []byte(long))
		require.NoError(t, err)
		out, err = codec.AppendJSON(nil, body)
		require.NoError(t, err)
		require.True(t, long == string(out), escape)

		_, err = appendCompact(nil, []byte(`[`+long))
		require.ErrorContains(t, err, "not JSON")
	}
}
