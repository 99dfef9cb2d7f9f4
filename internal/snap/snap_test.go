package snap_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	peer "github.com/klauspost/compress/snappy"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/snap"
)

const limit = 4 << 20

// samples are inputs that compress well, badly, and not at all.
func samples() [][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	out := [][]byte{nil, {0}, bytes.Repeat([]byte("a"), 1<<20), []byte("EURUSD 1.14605 1.14643")}
	for _, n := range []int{1, 15, 16, 17, 60, 61, 1 << 10, 64<<10 - 1, 64 << 10, 64<<10 + 1, 300_000} {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.IntN(1 + i%251))
		}
		out = append(out, b)
	}
	return out
}

func TestDecodesWhatItEncodesAndWhatAnotherLibraryEncodes(t *testing.T) {
	for _, in := range samples() {
		ours := snap.Encode(nil, in)
		theirs, err := peer.Decode(nil, ours)
		require.NoError(t, err)
		require.True(t, bytes.Equal(in, theirs))

		for _, block := range [][]byte{ours, peer.Encode(nil, in)} {
			got, err := snap.Decode(nil, block, limit)
			require.NoError(t, err)
			require.True(t, bytes.Equal(in, got))
		}
	}
}

func TestADeclaredLengthIsCheckedBeforeMemoryIsTaken(t *testing.T) {
	lie := append(binary.AppendUvarint(nil, 1<<32-1), 0, 'a')
	_, err := snap.Decode(nil, lie, limit)
	require.ErrorIs(t, err, snap.ErrCorrupt)

	honest := snap.Encode(nil, make([]byte, limit+1))
	_, err = snap.Decode(nil, honest, limit)
	require.ErrorIs(t, err, snap.ErrTooLarge)
	_, err = snap.Decode(nil, honest, limit+1)
	require.NoError(t, err)

	for _, bad := range [][]byte{nil, {0xff}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {5, 0, 'a'}} {
		_, err = snap.Decode(nil, bad, limit)
		require.ErrorIs(t, err, snap.ErrCorrupt)
	}
}

func TestTheCallersBufferIsUsed(t *testing.T) {
	in := bytes.Repeat([]byte("quote "), 500)
	enc, dec := make([]byte, 0, snap.MaxEncodedLen(len(in))), make([]byte, 0, len(in))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		out, err := snap.Decode(dec, snap.Encode(enc, in), limit)
		if err != nil || len(out) != len(in) {
			t.Fatal("round trip failed")
		}
	}))
}

// FuzzDecode holds Decode to another library: both take the same blocks and
// make the same of them.
func FuzzDecode(f *testing.F) {
	for _, in := range samples() {
		if len(in) < 1<<12 {
			f.Add(snap.Encode(nil, in))
		}
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0})
	f.Fuzz(func(t *testing.T, block []byte) {
		n, err := peer.DecodedLen(block)
		if err == nil && n > limit {
			_, err := snap.Decode(nil, block, limit)
			require.Error(t, err)
			return
		}
		want, wantErr := peer.Decode(nil, block)
		got, err := snap.Decode(nil, block, limit)
		require.Equal(t, wantErr == nil, err == nil, "peer: %v, ours: %v", wantErr, err)
		require.True(t, bytes.Equal(want, got))
	})
}

// FuzzEncode holds Encode to another library.
func FuzzEncode(f *testing.F) {
	f.Add([]byte("price price price"))
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := peer.Decode(nil, snap.Encode(nil, in))
		require.NoError(t, err)
		require.True(t, bytes.Equal(in, got))
	})
}
