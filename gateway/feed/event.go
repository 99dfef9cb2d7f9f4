package feed

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/tapecast/tapecast/internal/stream"
	"github.com/tapecast/tapecast/schemas"
)

// Event is one event with its shared frames: immutable, encoded once, when the
// first session needs a form. See Frame. Nobody may change what its slices
// hold. An Event may be kept as long as somebody needs it; its bytes are
// counted in the budget of the tape (or the replayed block) that holds it.
type Event struct {
	Offset   int64
	Time     int64  // ms
	Accepted int64  // us, 0 = not known
	Key      []byte // nil = none
	Value    []byte // as in Kafka; nil = tombstone

	// static after construction
	src   *source
	used  *atomic.Int64 // the budget that its bytes count in
	seq   int64         // its place on the tape: one more than the event's before it
	stamp int64         // when it was put on the tape, in ms of the feed's clock

	have atomic.Uint32 // which of text, binary and poison are set: they never change after

	mu      sync.Mutex
	gone    bool                    // guarded by mu: its bytes are no longer counted
	encoded int64                   // guarded by mu: when a first frame was made, us; 0 = not yet
	text    []byte                  // guarded by mu until haveText
	binary  []byte                  // guarded by mu until haveBinary
	poison  [2]*schemas.PoisonError // by Form; guarded by mu until its have bit
}

const (
	haveText = 1 << iota
	haveBinary
	poisonText
	poisonBinary
)

// eventBytes is what an Event costs beyond its key and its value, with its
// places in the rings and its share of the index by key.
const eventBytes = int64(unsafe.Sizeof(Event{})) + 80

// Form of an encoded event.
type Form uint8

// The forms.
const (
	FormText   Form = iota // a WebSocket text frame, header included, of one JSON object
	FormBinary             // a WebSocket binary frame, header included (tapecast.avro)
)

// errSchemaAway is the transient error of Frame.
var errSchemaAway = errors.New("the schema of the record is being fetched")

// Frame returns the shared bytes of a form. The JSON text alone is
// JSON(frame). It never waits for the registry. Errors: *schemas.PoisonError
// (for ever: report a gap), or a transient one (the schema is not known yet,
// or the registry is away: wait; the wake of every open Sub of the topic is
// called when it is worth trying again, about every second).
//
// FormText: {"topic","partition","key","data","offset","ts"} in this order;
// partition only if it is not 0, key only if there is one ("key_base64"
// instead if it is not UTF-8).
//
// FormBinary: the payload is a 4-byte big-endian length, a JSON header
// {"topic","partition","key","offset","ts","schema"} of that length, and the
// record's Avro body without its 5-byte wire header. Formats other than "avro"
// have no "schema" and the whole value as the body; a tombstone has
// "tombstone":true and no body.
func (e *Event) Frame(f Form) ([]byte, error) {
	have := e.have.Load()
	switch {
	case f == FormText && have&haveText != 0:
		return e.text, nil
	case f == FormBinary && have&haveBinary != 0:
		return e.binary, nil
	case have&(poisonText<<f) != 0:
		return nil, e.poison[f]
	}
	return e.encode(f)
}

// encode makes the frame, once.
func (e *Event) encode(f Form) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	have := e.have.Load()
	switch { // another session may have been first
	case f == FormText && have&haveText != 0:
		return e.text, nil
	case f == FormBinary && have&haveBinary != 0:
		return e.binary, nil
	case have&(poisonText<<f) != 0:
		return nil, e.poison[f]
	}
	var b []byte
	var err error
	if f == FormBinary {
		b, err = e.src.binaryFrame(e)
	} else {
		b, err = e.src.textFrame(e)
	}
	if p, ok := errors.AsType[*schemas.PoisonError](err); ok {
		e.poison[f] = p
		e.have.Or(poisonText << f)
		e.src.counts.poison.Inc()
		return nil, p
	}
	if err != nil {
		return nil, err
	}
	if e.encoded == 0 {
		e.encoded = time.Now().UnixMicro()
	}
	bit := uint32(haveText)
	if f == FormBinary {
		e.binary, bit = b, haveBinary
	} else {
		e.text = b
	}
	e.have.Or(bit)
	e.src.counts.encoded[f].Inc()
	if !e.gone && e.used != nil {
		e.used.Add(int64(len(b)))
	}
	return b, nil
}

// Own returns a copy with memory of its own, for who keeps it: an event that was
// replayed is a piece of all that one fetch brought, and would keep that. The
// copy's bytes, frames included, count in no budget here.
func (e *Event) Own() *Event {
	own := &Event{Offset: e.Offset, Time: e.Time, Accepted: e.Accepted, src: e.src}
	both := append(append(make([]byte, 0, len(e.Key)+len(e.Value)), e.Key...), e.Value...)
	if k := len(e.Key); e.Key != nil {
		own.Key = both[:k:k]
	}
	if e.Value != nil {
		own.Value = both[len(e.Key):]
	}
	return own
}

// size is what the event costs as long as no frame was made.
func (e *Event) size() int64 { return eventBytes + int64(len(e.Key)+len(e.Value)) }

// release takes the event's bytes, frames included, out of the budget.
func (e *Event) release() (n int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		return 0
	}
	e.gone = true
	n = e.size() + int64(len(e.text)+len(e.binary))
	if e.used != nil {
		e.used.Add(-n)
	}
	return n
}

// makeEvents makes events of records, counted in used. With own the bytes are
// copied into one block of memory: the records alias a read buffer. They stay
// together, as they came together and leave together.
func makeEvents(src *source, used *atomic.Int64, recs []stream.Record, stamp int64, own bool) []Event {
	evs := make([]Event, len(recs))
	var arena []byte
	if own {
		n := 0
		for i := range recs {
			n += len(recs[i].Key) + len(recs[i].Value)
		}
		arena = make([]byte, 0, n)
	}
	keep := func(b []byte) []byte {
		if !own || b == nil {
			return b
		}
		at := len(arena)
		arena = append(arena, b...)
		return arena[at:len(arena):len(arena)]
	}
	var size int64
	for i := range recs {
		r, e := &recs[i], &evs[i]
		e.Offset, e.Time, e.Accepted = r.Offset, r.Time, r.Accepted
		e.Key, e.Value = keep(r.Key), keep(r.Value)
		e.src, e.used, e.stamp = src, used, stamp
		size += e.size()
	}
	used.Add(size)
	return evs
}
