package schemas

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/linkedin/goavro/v2"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/schemas/internal/avsc"
)

// subjectCodec is one schema under test: ours and goavro's.
type subjectCodec struct {
	schema *avsc.Schema
	ours   *Codec
	theirs *goavro.Codec
}

func newSubjectCodec(t testing.TB, text string) subjectCodec {
	t.Helper()
	s, err := avsc.Parse(text)
	require.NoError(t, err, text)
	ours, err := Compile(text)
	require.NoError(t, err, text)
	goavroLock.Lock()
	defer goavroLock.Unlock()
	theirs, err := goavro.NewCodec(s.Canonical())
	require.NoError(t, err, text)
	return subjectCodec{s, ours, theirs}
}

// checkDecode holds AppendJSON to goavro: what we accept goavro accepts, with
// the same values; what goavro alone accepts breaks a bound that goavro lacks.
func (c subjectCodec) checkDecode(t testing.TB, body []byte) []byte {
	t.Helper()
	text, err := c.ours.AppendJSON([]byte("x"), body)
	native, rest, theirErr := c.theirs.NativeFromBinary(body)
	if err != nil {
		require.Equal(t, "x", string(text))
		if theirErr == nil && len(rest) == 0 {
			strict := errors.Is(err, errVarint) || errors.Is(err, errInt) || errors.Is(err, errBlock) ||
				errors.Is(err, errDecimal) || errors.Is(err, errDepth) || errors.Is(err, errTooBig)
			require.True(t, strict, "goavro reads %x of %s, we say %v", body, c.ours.text, err)
		}
		return nil
	}
	text = text[1:]
	require.True(t, json.Valid(text), "%q", text)
	require.True(t, utf8.Valid(text))
	require.NotContains(t, string(text), "<")
	if theirErr != nil && isDuplicateKey(theirErr) {
		return nil
	}
	require.NoError(t, theirErr, "%x of %s", body, c.ours.text)
	require.Empty(t, rest)
	decoded, err := decodeJSON(text)
	require.NoError(t, err)
	require.NoError(t, same(c.schema, native, decoded), "%s\n%s\n%x", c.ours.text, text, body)
	return text
}

func TestAppendJSONAgreesWithGoavro(t *testing.T) {
	for seed := range uint64(3000) {
		g := newGenerator(seed)
		c := newSubjectCodec(t, g.schema(4))
		for range 4 {
			body, err := c.theirs.BinaryFromNative(nil, g.native(c.schema))
			require.NoError(t, err)
			require.NotNil(t, c.checkDecode(t, body), "%s: %x", c.ours.text, body)
			for range 4 { // damaged ones
				bad := append([]byte(nil), body...)
				for range 1 + g.IntN(3) {
					if len(bad) > 0 {
						bad[g.IntN(len(bad))] ^= 1 << g.IntN(8)
					}
				}
				c.checkDecode(t, bad[:g.IntN(len(bad)+1)])
				c.checkDecode(t, bad)
			}
		}
	}
}

func TestAppendAvroAgreesWithGoavro(t *testing.T) {
	for seed := range uint64(3000) {
		g := newGenerator(seed)
		g.finite = true
		c := newSubjectCodec(t, g.schema(4))
		native := g.native(c.schema)
		body, err := c.theirs.BinaryFromNative(nil, native)
		require.NoError(t, err)
		text, err := c.ours.AppendJSON(nil, body)
		require.NoError(t, err)

		again, err := c.ours.AppendAvro([]byte("x"), text)
		require.NoError(t, err, "%s\n%s", c.ours.text, text)
		require.Equal(t, "x", string(again[:1]))
		got, rest, err := c.theirs.NativeFromBinary(again[1:])
		require.NoError(t, err)
		require.Empty(t, rest)
		require.Equal(t, native, got, "%s\n%s", c.ours.text, text)

		avroJSON, err := c.theirs.TextualFromNative(nil, native)
		require.NoError(t, err)
		again, err = c.ours.AppendAvroJSON(nil, avroJSON)
		require.NoError(t, err, "%s\n%s", c.ours.text, avroJSON)
		got, _, err = c.theirs.NativeFromBinary(again)
		require.NoError(t, err)
		require.Equal(t, native, got, "%s\n%s", c.ours.text, avroJSON)
	}
}

func isDuplicateKey(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if strings.Contains(err.Error(), "duplicate key") {
			return true
		}
	}
	return false
}
