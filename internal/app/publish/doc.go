// Package publish is `tapecast pub`: it reads NDJSON or CSV rows from files or
// standard input, encodes them by the topic's Avro schema, and writes them to
// Kafka as fast as it takes them, or at their recorded pace.
//
// A row that cannot be published is reported with file and line. Rows keep
// their order. Two goroutines: one reads and encodes rows, the caller's one
// sends them; between them lie at most a few rows.
package publish

import (
	"context"
	"fmt"

	"github.com/tapecast/tapecast/internal/broker"
)

// Codec encodes values; *schemas.Codec is one.
type Codec interface {
	Schema() string
	AppendAvro(dst, json []byte) ([]byte, error)
}

// Producer writes records; *broker.Producer is one.
type Producer interface {
	Produce(ctx context.Context, topic string, recs []broker.ProduceRecord) ([]broker.Produced, error)
}

// RowError says which row could not be published, and why.
type RowError struct {
	File string
	Line int
	Err  error
}

func (e *RowError) Error() string { return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err) }

func (e *RowError) Unwrap() error { return e.Err }

// maxRow bounds one row in bytes.
const maxRow = 1 << 20
