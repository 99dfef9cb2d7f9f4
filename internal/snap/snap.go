// Package snap is the only importer of golang/snappy: raw snappy blocks, the
// form that Kafka's batches and tapecast's delivery batches hold.
//
// golang/snappy allocates what a block declares before it looks at the rest,
// so six bytes can ask for 4 GiB. Decode here checks the declared length first:
// against the caller's cap, and against what snappy could make of the input.
package snap

import (
	"errors"
	"fmt"

	"github.com/golang/snappy"
)

// Errors of Decode. Test with errors.Is.
var (
	// ErrTooLarge says that a block declares more than the caller allows.
	ErrTooLarge = errors.New("snappy block declares more than is allowed")
	// ErrCorrupt says that the input is no snappy block.
	ErrCorrupt = errors.New("corrupt snappy block")
)

// Encode returns src as one snappy block, written into dst's capacity where it
// is enough and into new memory where not. The two must not overlap. src may
// be up to 4 GiB.
func Encode(dst, src []byte) []byte { return snappy.Encode(dst[:cap(dst)], src) }

// MaxEncodedLen returns the capacity with which Encode of n bytes never
// allocates, or -1 when n is too large for a block.
func MaxEncodedLen(n int) int { return snappy.MaxEncodedLen(n) }

// DecodedLen returns the length in bytes that the block declares, after a
// check that the block could make as much. It allocates nothing.
func DecodedLen(src []byte) (int, error) {
	n, err := snappy.DecodedLen(src)
	if err != nil {
		return 0, ErrCorrupt
	}
	// No element makes more than 64 bytes of 3, so a larger claim is a lie
	// that needs no buffer to be found out.
	if uint64(n)*3 > uint64(len(src))*64 {
		return 0, fmt.Errorf("%w: %d bytes cannot hold %d", ErrCorrupt, len(src), n)
	}
	return n, nil
}

// Decode returns the content of one block, written into dst's capacity where
// it is enough and into new memory where not. A block that declares more than
// limit bytes is ErrTooLarge, and anything else that is no block is ErrCorrupt;
// both are found before memory is taken for them.
func Decode(dst, src []byte, limit int) ([]byte, error) {
	n, err := DecodedLen(src)
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrTooLarge, n, limit)
	}
	out, err := snappy.Decode(dst[:cap(dst)], src)
	if err != nil {
		return nil, ErrCorrupt
	}
	return out, nil
}
