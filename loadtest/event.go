package loadtest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
)

// Schema is the Avro schema of the events that the load test writes.
const Schema = `{"type":"record","name":"LoadEvent","namespace":"tapecast.loadtest","fields":[` +
	`{"name":"producer","type":"long"},{"name":"seq","type":"long"},{"name":"sent_us","type":"long"},{"name":"pad","type":"string"}]}`

// event is one event of a load test.
type event struct {
	Producer int64  `json:"producer"`
	Seq      int64  `json:"seq"`
	SentUs   int64  `json:"sent_us"`
	Pad      string `json:"pad"`
}

// appendAvro appends the Avro body. It is written out here, away from
// tapecast's own codec, so that the two are held against each other.
func (e *event) appendAvro(dst []byte) []byte {
	dst = binary.AppendVarint(dst, e.Producer)
	dst = binary.AppendVarint(dst, e.Seq)
	dst = binary.AppendVarint(dst, e.SentUs)
	dst = binary.AppendVarint(dst, int64(len(e.Pad)))
	return append(dst, e.Pad...)
}

// parseAvro is the inverse of appendAvro.
func (e *event) parseAvro(b []byte) error {
	for _, f := range []*int64{&e.Producer, &e.Seq, &e.SentUs} {
		v, n := binary.Varint(b)
		if n <= 0 {
			return errors.New("event is cut short")
		}
		*f, b = v, b[n:]
	}
	l, n := binary.Varint(b)
	if n <= 0 || l != int64(len(b)-n) {
		return fmt.Errorf("pad says %d bytes, %d are left", l, len(b)-n)
	}
	e.Pad = string(b[n:])
	return nil
}

// parseJSON reads the event as a client gets it.
func (e *event) parseJSON(b []byte) error {
	if err := json.Unmarshal(b, e); err != nil {
		return fmt.Errorf("event is not the load test's: %w", err)
	}
	return nil
}

// digest is a 64-bit hash of all that the event says, and of its key.
func (e *event) digest(key string) uint64 {
	h := fnv.New64a()
	var b [24]byte
	binary.BigEndian.PutUint64(b[0:], uint64(e.Producer))
	binary.BigEndian.PutUint64(b[8:], uint64(e.Seq))
	binary.BigEndian.PutUint64(b[16:], uint64(e.SentUs))
	_, _ = h.Write(b[:])
	_, _ = h.Write([]byte(e.Pad))
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(key))
	return h.Sum64()
}
