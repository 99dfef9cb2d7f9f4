package schemas

import (
	"context"
	"errors"
	"fmt"
)

// What a registry may answer that callers tell apart.
var (
	// ErrUnknownSchema says that the registry has no schema with the id. It is
	// remembered for a minute.
	ErrUnknownSchema = errors.New("unknown schema id")
	// ErrUnknownSubject says that the registry has no such subject or no version of it.
	ErrUnknownSubject = errors.New("unknown subject")
)

// SchemaError says that the registry has the schema but tapecast cannot use
// it: another language than Avro, references, or bounds exceeded. It stays so.
type SchemaError struct {
	Reason string
}

// Error is the reason.
func (e *SchemaError) Error() string { return "unusable schema: " + e.Reason }

// RejectedError is a refusal by the registry that the same request would meet
// again: an incompatible schema, an invalid one, a bad name.
type RejectedError struct {
	Status  int    // of HTTP
	Code    int    // of the registry, e.g. 409 or 42201; 0 = none
	Message string // at most 512 bytes
}

// Error is the registry's message with its codes.
func (e *RejectedError) Error() string {
	return fmt.Sprintf("registry refuses (status %d, code %d): %s", e.Status, e.Code, e.Message)
}

// transientError is a failure that another attempt may not meet.
type transientError struct{ err error }

func (e *transientError) Error() string { return "registry: " + e.err.Error() }
func (e *transientError) Unwrap() error { return e.err }

// gaveUp tells that the caller's context ended, not the registry failed.
func gaveUp(err error) bool {
	var t *transientError
	return !errors.As(err, &t) && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded))
}

// Transient tells whether the same call may succeed later: the registry was
// away, slow or broken, or the caller's context ended.
func Transient(err error) bool {
	var t *transientError
	return errors.As(err, &t) || gaveUp(err)
}
