// Package schemas owns Avro: the .avsc files of tapecast, the registry client,
// the transcoder from Avro to JSON and back, and (in schemas/registry) the
// embedded registry. It is the only importer of goavro.
package schemas

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
)

// Codec is one compiled Avro schema. Safe for concurrent use; immutable.
type Codec struct{}

// Compile parses and compiles a schema, refusing those that can amplify
// (recursion, zero-size items, too deep, too long names, too many fields).
func Compile(schema string) (*Codec, error) { panic("not built") }

// Schema is the canonical text.
func (c *Codec) Schema() string { panic("not built") }

// AppendJSON appends the JSON of one Avro body (no wire header) to dst, in
// schema order, standard JSON. The whole body must be consumed.
func (c *Codec) AppendJSON(dst, avro []byte) ([]byte, error) { panic("not built") }

// AppendAvro encodes one JSON value. An error is a *ValueError that names the field.
func (c *Codec) AppendAvro(dst, json []byte) ([]byte, error) { panic("not built") }

// ValueError says where a value does not fit its schema.
type ValueError struct {
	Path   string // e.g. "bid_size", "legs[2].px"
	Reason string
}

func (e *ValueError) Error() string { return e.Path + ": " + e.Reason }

// RegistryOptions of a client of Confluent's REST API.
type RegistryOptions struct {
	URL        string            // fixed base, e.g. http://127.0.0.1:8081 or http://host/apis/ccompat/v7
	Transport  http.RoundTripper // nil = a default without redirects and proxies
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Registry is a caching client: one flight per id, a negative cache, size and
// time limits, no redirects. Known ids go on while the registry is away.
type Registry struct{}

// NewRegistry makes a client; it asks nothing yet.
func NewRegistry(o RegistryOptions) (*Registry, error) { panic("not built") }

// Codec returns the codec of a schema id. Errors: ErrUnknownSchema (final for a
// while), or transient ones (Transient tells).
func (r *Registry) Codec(ctx context.Context, id uint32) (*Codec, error) { panic("not built") }

// Cached is Codec without any waiting.
func (r *Registry) Cached(id uint32) (*Codec, bool) { panic("not built") }

// Latest returns the newest version of a subject. ErrUnknownSubject if there is none.
func (r *Registry) Latest(ctx context.Context, subject string) (id uint32, c *Codec, err error) {
	panic("not built")
}

// Register registers a schema under a subject (idempotent) and returns its id.
func (r *Registry) Register(ctx context.Context, subject, schema string) (id uint32, err error) {
	panic("not built")
}

// Ping asks whether the registry answers.
func (r *Registry) Ping(ctx context.Context) error { panic("not built") }

// Transient tells whether the same call may succeed later.
func Transient(err error) bool { panic("not built") }

// Subject names the subject of a topic's values, as Confluent's default strategy does.
func Subject(topic string) string { return topic + "-value" }

// WireHeader is the length of Confluent's wire header: magic byte 0, 4-byte id.
const WireHeader = 5

// SplitWire splits a value in Confluent's wire format.
func SplitWire(value []byte) (id uint32, body []byte, ok bool) {
	if len(value) < WireHeader || value[0] != 0 {
		return 0, nil, false
	}
	return uint32(value[1])<<24 | uint32(value[2])<<16 | uint32(value[3])<<8 | uint32(value[4]), value[WireHeader:], true
}

// AppendWireHeader appends Confluent's wire header.
func AppendWireHeader(dst []byte, id uint32) []byte {
	return append(dst, 0, byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

// Decoder turns the values of one feed into JSON by the feed's format
// ("avro", "json", "string", "bytes", "avro:FILE", see catalog.Rule).
type Decoder struct{}

// NewDecoder makes the decoder of a format. registry may be nil for formats that need none.
func NewDecoder(format string, registry *Registry) (*Decoder, error) { panic("not built") }

// AppendJSON appends the JSON of a record's value; nil value (tombstone) gives
// null. Errors: *PoisonError (the record can never be read), or a transient
// error (registry away and the id not known): ask again later.
func (d *Decoder) AppendJSON(ctx context.Context, dst, value []byte) ([]byte, error) {
	panic("not built")
}

// PoisonError says why a record can never be read.
type PoisonError struct{ Reason string }

func (e *PoisonError) Error() string { return "undecodable record: " + e.Reason }
