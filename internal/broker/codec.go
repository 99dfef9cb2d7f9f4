package broker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/tapecast/tapecast/internal/snap"
)

// Compression codecs of a record batch, as its attributes number them.
const (
	codecNone   = 0
	codecGzip   = 1
	codecSnappy = 2
	codecLZ4    = 3
	codecZstd   = 4
)

// maxBatchPlain bounds what one batch may decompress to, whoever wrote it.
const maxBatchPlain = 64 << 20

func codecOf(name string) (int16, error) {
	switch name {
	case "", "snappy":
		return codecSnappy, nil
	case "none":
		return codecNone, nil
	case "gzip":
		return codecGzip, nil
	case "zstd":
		return codecZstd, nil
	}
	return 0, fmt.Errorf("compression %q is not one of snappy, none, gzip, zstd", name)
}

// xerialMagic begins what Java's SnappyOutputStream writes: snappy blocks,
// each behind its length.
var xerialMagic = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

const xerialHeader = 16

// decompress returns the records of a batch in dst's capacity if it is
// enough, and never more than limit bytes.
func decompress(dst, src []byte, codec int16, limit int) (out []byte, err error) {
	switch codec {
	case codecSnappy:
		if bytes.HasPrefix(src, xerialMagic) {
			out, err = unXerial(dst[:0], src, limit)
		} else {
			out, err = snap.Decode(dst, src, limit)
		}
		if errors.Is(err, snap.ErrTooLarge) {
			err = errPlain(limit)
		}
	case codecGzip:
		out, err = gunzip(dst[:0], src, limit)
	case codecLZ4:
		out, err = unLZ4(dst[:0], src, limit)
	case codecZstd:
		out, err = unZstd(dst[:0], src, limit)
	default:
		err = fmt.Errorf("unknown compression %d", codec)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: decompress: %w", ErrCorrupt, err)
	}
	return out, nil
}

func errPlain(limit int) error {
	return fmt.Errorf("the batch decompresses to more than %d bytes", limit)
}

func unXerial(dst, src []byte, limit int) ([]byte, error) {
	if len(src) < xerialHeader {
		return nil, snap.ErrCorrupt
	}
	for src = src[xerialHeader:]; len(src) > 0; {
		if len(src) < 4 {
			return nil, snap.ErrCorrupt
		}
		size := int(binary.BigEndian.Uint32(src))
		if src = src[4:]; size > len(src) {
			return nil, snap.ErrCorrupt
		}
		n, err := snap.DecodedLen(src[:size])
		if err != nil {
			return nil, err
		}
		if len(dst)+n > limit {
			return nil, snap.ErrTooLarge
		}
		dst = grow(dst, n)
		if _, err := snap.Decode(dst[len(dst):len(dst):len(dst)+n], src[:size], n); err != nil {
			return nil, err
		}
		dst, src = dst[:len(dst)+n], src[size:]
	}
	return dst, nil
}

// grow makes room for n more bytes.
func grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	next := make([]byte, len(b), max(2*cap(b), len(b)+n))
	copy(next, b)
	return next
}

// drain reads r to its end behind dst.
func drain(dst []byte, r io.Reader, limit int) ([]byte, error) {
	for {
		dst = grow(dst, 4<<10)
		n, err := r.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		if len(dst) > limit {
			return nil, errPlain(limit)
		}
		if errors.Is(err, io.EOF) {
			return dst, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

type gzipReader struct {
	src bytes.Reader
	gz  gzip.Reader
}

var gzipReaders = sync.Pool{New: func() any { return new(gzipReader) }}

func gunzip(dst, src []byte, limit int) ([]byte, error) {
	r, _ := gzipReaders.Get().(*gzipReader)
	defer gzipReaders.Put(r)
	r.src.Reset(src)
	if err := r.gz.Reset(&r.src); err != nil {
		return nil, err
	}
	return drain(dst, &r.gz, limit)
}

type lz4Reader struct {
	src bytes.Reader
	lz  *lz4.Reader
}

var lz4Readers = sync.Pool{New: func() any { return &lz4Reader{lz: lz4.NewReader(nil)} }}

func unLZ4(dst, src []byte, limit int) ([]byte, error) {
	r, _ := lz4Readers.Get().(*lz4Reader)
	defer lz4Readers.Put(r)
	r.src.Reset(src)
	r.lz.Reset(&r.src)
	return drain(dst, r.lz, limit)
}

// One decoder serves everybody: DecodeAll takes a free one of its own.
var zstdReader = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxBatchPlain), zstd.WithDecoderConcurrency(0))
	if err != nil {
		panic(err) // constant options
	}
	return d
})

func unZstd(dst, src []byte, limit int) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(src); err != nil {
		return nil, err
	}
	if h.HasFCS && h.FrameContentSize > uint64(limit) {
		return nil, errPlain(limit)
	}
	out, err := zstdReader().DecodeAll(src, dst)
	if err == nil && len(out) > limit {
		return nil, errPlain(limit)
	}
	return out, err
}

var zstdWriter = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(2), zstd.WithWindowSize(1<<20))
	if err != nil {
		panic(err) // constant options
	}
	return e
})

var gzipWriters = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}

// compress appends src, compressed, to dst.
func compress(dst, src []byte, codec int16) ([]byte, error) {
	switch codec {
	case codecSnappy:
		dst = grow(dst, snap.MaxEncodedLen(len(src)))
		out := snap.Encode(dst[len(dst):cap(dst)], src)
		return dst[:len(dst)+len(out)], nil
	case codecGzip:
		w, _ := gzipWriters.Get().(*gzip.Writer)
		defer gzipWriters.Put(w)
		buf := bytes.NewBuffer(dst)
		w.Reset(buf)
		if _, err := w.Write(src); err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
		return buf.Bytes(), nil
	case codecZstd:
		return zstdWriter().EncodeAll(src, dst), nil
	}
	return append(dst, src...), nil
}
