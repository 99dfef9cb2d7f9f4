package jsontext_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/jsontext"
)

// TestStringEnd holds StringEnd to a walk by single bytes.
func TestStringEnd(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		b := []byte(`"`)
		for range random.IntN(24) {
			b = append(b, `"\\\abc`[random.IntN(7)])
		}
		for i := range b { // also where no string begins
			if got, want := jsontext.StringEnd(b, i), endByBytes(b, i); got != want {
				t.Fatalf("%q from %d: %d, want %d", b, i, got, want)
			}
		}
	}
}

// endByBytes is StringEnd as plain as can be.
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

// TestManyEscapes ends one long string of escapes. Where each of them costs a
// look at all that follow, this takes minutes.
func TestManyEscapes(t *testing.T) {
	for _, escape := range []string{`\n`, `\"`, `\\`} {
		long := `"` + strings.Repeat(escape, 2<<20) + `"`
		require.Equal(t, len(long), jsontext.StringEnd([]byte(long+`,"next"`), 0))
		require.Equal(t, -1, jsontext.StringEnd([]byte(long[:len(long)-1]), 0), "no end")
		require.True(t, jsontext.TooDeep([]byte(long+`[[`), 1))
	}
}

func TestTooDeep(t *testing.T) {
	for text, deep := range map[string]bool{
		"": false, "[[1]]": false, "[[[": true, `{"a":{"b":[]}}`: true, "[][][]": false, "]][[[[[": true,
		`["[[["]`: false, `["\"[[["]`: false, `["\\",[[1]]]`: true, `"[[[`: false,
	} {
		require.Equal(t, deep, jsontext.TooDeep([]byte(text), 2), text)
	}
}

func TestSkipSpace(t *testing.T) {
	require.Equal(t, 5, jsontext.SkipSpace([]byte(" \n\t\r x"), 0))
	require.Equal(t, 2, jsontext.SkipSpace([]byte("x "), 1))
	require.Equal(t, 0, jsontext.SkipSpace([]byte("\v"), 0))
}
