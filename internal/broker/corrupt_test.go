package broker

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestACorruptBatchSaysWhatItSpans(t *testing.T) {
	good := encode(t, 10, codecSnappy, some(5)...)
	next := encode(t, 17, codecNone, some(3)...) // 15 and 16 were compacted away
	bad := bytes.Clone(good)
	bad[len(bad)-1] ^= 1
	lost := bytes.Clone(good)
	binary.BigEndian.PutUint32(lost[offsetLastDelta:], 1<<30)
	for name, tt := range map[string]struct {
		records  []byte
		from, to int64
		stable   int64
	}{
		"its own header":            {bad, 10, 15, 100},
		"asked from its middle":     {bad, 12, 15, 100},
		"the next batch knows":      {slices.Concat(bad, next), 10, 17, 100},
		"its header makes no sense": {lost, 10, 11, 100},
		"but the next one's does":   {slices.Concat(lost, next), 10, 17, 100},
		"not committed yet":         {bad, 10, 13, 13},
	} {
		_, _, err := walkAll(tt.records, tt.from, tt.stable)
		var corrupt *CorruptError
		require.ErrorAs(t, err, &corrupt, name)
		require.ErrorIs(t, err, ErrCorrupt, name)
		require.Equal(t, tt.from, corrupt.From, name)
		require.Equal(t, tt.to, corrupt.To, name)
	}
}
