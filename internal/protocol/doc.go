// Package protocol is the client protocol in Go: what docs/PROTOCOL.md says,
// as values. It parses commands, positions and cursors, and encodes control
// frames, error words and close codes.
//
// Everything it parses comes from strangers: sizes, depths and counts are
// bounded before anything is allocated for them, and no input is echoed but
// the id of a command, which is a checked JSON number or string. The package
// has no goroutines and does no I/O.
package protocol

// Limits of a command. They bound what a client can make the server hold.
const (
	MaxDepth     = 8       // nesting of a command's JSON
	MaxID        = 64      // bytes of an id as it came
	MaxTopic     = 249     // bytes of a topic name, as in Kafka
	MaxKeys      = 10_000  // keys of one subscription
	MaxKey       = 4 << 10 // bytes of one key
	MaxLast      = 10_000  // events of from {"last": N}
	MaxPositions = 10_000  // partitions of one position
	MaxCursor    = 64 << 10
)

// Subprotocols of the WebSocket endpoint.
const (
	SubprotocolJSON  = "tapecast.json"       // one text frame holds one frame; also without any subprotocol
	SubprotocolBatch = "tapecast.json.batch" // one text frame holds newline-joined frames
	SubprotocolAvro  = "tapecast.avro"       // data as binary frames, control as text
)
