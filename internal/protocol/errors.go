package protocol

import "net/http"

// Code is the stable word of an error. The list is closed.
type Code string

// The error words.
const (
	CodeBadJSON       Code = "bad_json"               // the command is not one JSON object
	CodeInvalid       Code = "invalid"                // a field is missing, of the wrong type or out of bounds
	CodeUnknown       Code = "unknown_command"        // cmd names no command
	CodeBinary        Code = "binary"                 // commands are text
	CodeUnknownTopic  Code = "unknown_topic"          // no such topic, or not allowed
	CodeTopicGone     Code = "topic_gone"             // the topic ceased to be a feed while subscribed
	CodeForbidden     Code = "forbidden"              // the client may not do that
	CodeOverlap       Code = "overlap"                // another subscription of this connection has some of these keys
	CodeDuplicateID   Code = "duplicate_id"           // another subscription of this connection has this id
	CodeNotSubscribed Code = "not_subscribed"         // unsub of nothing
	CodeTooManySubs   Code = "too_many_subscriptions" // over the connection's limit
	CodeTooManyConns  Code = "too_many_connections"   // over the node's or the address's limit
	CodeRate          Code = "rate_limited"           // commands come too fast
	CodeTooLarge      Code = "too_large"              // a snapshot does not fit the server's limit
	CodeBusy          Code = "busy"                   // no room now
	CodeUnavailable   Code = "unavailable"            // positions cannot be asked for now
	CodeDraining      Code = "drain"                  // the node goes down
	CodeOrigin        Code = "origin"                 // the page's origin is not allowed
	CodeInternal      Code = "internal"               // a fault of the server
)

// verdict of a code: may the same succeed later, and what HTTP says of it.
type verdict struct {
	retry  bool
	status int
}

var verdicts = map[Code]verdict{
	CodeBadJSON:       {false, http.StatusBadRequest},
	CodeInvalid:       {false, http.StatusBadRequest},
	CodeUnknown:       {false, http.StatusBadRequest},
	CodeBinary:        {false, http.StatusBadRequest},
	CodeUnknownTopic:  {false, http.StatusNotFound},
	CodeTopicGone:     {false, http.StatusGone},
	CodeForbidden:     {false, http.StatusForbidden},
	CodeOverlap:       {false, http.StatusConflict},
	CodeDuplicateID:   {false, http.StatusConflict},
	CodeNotSubscribed: {false, http.StatusNotFound},
	CodeTooManySubs:   {false, http.StatusTooManyRequests},
	CodeTooManyConns:  {true, http.StatusServiceUnavailable},
	CodeRate:          {true, http.StatusTooManyRequests},
	CodeTooLarge:      {false, http.StatusRequestEntityTooLarge},
	CodeBusy:          {true, http.StatusServiceUnavailable},
	CodeUnavailable:   {true, http.StatusServiceUnavailable},
	CodeDraining:      {true, http.StatusServiceUnavailable},
	CodeOrigin:        {false, http.StatusForbidden},
	CodeInternal:      {true, http.StatusInternalServerError},
}

// Codes lists every error word.
func Codes() []Code {
	out := make([]Code, 0, len(verdicts))
	for c := range verdicts {
		out = append(out, c)
	}
	return out
}

// Retry tells whether the same may succeed later.
func (c Code) Retry() bool { return verdicts[c].retry }

// Status is the HTTP status that goes with the code.
func (c Code) Status() int {
	if v, ok := verdicts[c]; ok {
		return v.status
	}
	return http.StatusInternalServerError
}

// Error answers a command. Its message never holds the client's bytes.
type Error struct {
	Code    Code
	ID      ID     // of the command or the subscription; zero = none
	Topic   string // only a topic that exists, or existed
	Field   string // which field is invalid, e.g. "from.offsets"
	Message string
}

func (e *Error) Error() string {
	if e.Field != "" {
		return string(e.Code) + ": " + e.Field + ": " + e.Message
	}
	return string(e.Code) + ": " + e.Message
}

// invalid makes the error of a field.
func invalid(field, message string) *Error {
	return &Error{Code: CodeInvalid, Field: field, Message: message}
}

// CloseCode ends a WebSocket session. 4000-4499, 1001 and 1012 mean: come
// back; 4500-4999 mean: do not, the same would happen again.
type CloseCode uint16

// The close codes that the server sends.
const (
	CloseNormal      CloseCode = 1000
	CloseProtocol    CloseCode = 1002
	CloseBadUTF8     CloseCode = 1007
	CloseTooBig      CloseCode = 1009
	CloseRestart     CloseCode = 1012 // drain: come back, to any node
	CloseSlow        CloseCode = 4000 // too far behind: come back with the position
	CloseTimeout     CloseCode = 4001 // nothing was heard for two pings
	CloseInternalErr CloseCode = 4002 // a fault of the server
	CloseFlood       CloseCode = 4500 // commands went on over the limit
)

// ComesBack tells whether a client should connect again after this close.
func (c CloseCode) ComesBack() bool {
	switch c {
	case 1001, 1006, CloseRestart, 1011, 1013, 1014:
		return true
	}
	return c >= 4000 && c < 4500
}

// Cause of a gap. The list is closed.
type Cause string

// The causes.
const (
	CauseRetention Cause = "retention" // Kafka has deleted it
	CauseEpoch     Cause = "epoch"     // the topic was made again: the rest of the old one
	CauseSlow      Cause = "slow"      // skipped because the client was slow and asked for that
	CausePoison    Cause = "poison"    // a record that cannot be decoded
	CauseRevoked   Cause = "revoked"   // the right to read it was withdrawn
)

// Causes lists every cause of a gap.
func Causes() []Cause {
	return []Cause{CauseRetention, CauseEpoch, CauseSlow, CausePoison, CauseRevoked}
}
