package broker

import "encoding/binary"

// murmur2 is the hash with which Java's default partitioner places keys, with
// its seed. A key must land where other producers put it.
func murmur2(key []byte) uint32 {
	const (
		m = 0x5bd1e995
		r = 24
	)
	h := uint32(0x9747b28c) ^ uint32(len(key))
	for ; len(key) >= 4; key = key[4:] {
		k := binary.LittleEndian.Uint32(key) * m
		k ^= k >> r
		k *= m
		h = h*m ^ k
	}
	switch len(key) {
	case 3:
		h ^= uint32(key[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(key[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(key[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	return h ^ h>>15
}

// keyPartition returns the partition of a key among n.
func keyPartition(key []byte, n int) int32 { return int32(murmur2(key) & 0x7fffffff % uint32(n)) }
