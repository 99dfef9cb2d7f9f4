package schemas

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/jsontext"
)

// TestManyEscapes reads and writes values that are one long string of escapes.
// Where each of them costs a look at all that follow, this takes minutes.
func TestManyEscapes(t *testing.T) {
	codec, err := Compile(`"string"`)
	require.NoError(t, err)
	for _, escape := range []string{`\n`, `\"`, `\\`} {
		long := `"` + strings.Repeat(escape, MaxJSON/2-8) + `"`
		require.Equal(t, len(long), jsontext.StringEnd([]byte(long+`,"next"`), 0))
		require.Equal(t, -1, jsontext.StringEnd([]byte(long[:len(long)-1]), 0), "no end")

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
