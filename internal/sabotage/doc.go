// Package sabotage takes single safeguards away, so that the proving suite can
// show that it would notice. In every ordinary build Is is the constant false
// and costs nothing; only builds with the tag provebad, which nobody ships, can
// be told otherwise.
package sabotage

// The safeguards that can be taken away.
const (
	AbortedThrough = "aborted records let through"
	NoFill         = "no bypass, gaps are not filled"
	NoFilter       = "no filter by key at the gateway"
	GroupReader    = "the group Reader for the generation loop"
	LateEarliest   = "earliest begins behind the log's first record"

	// Of lanes, sockets that are full and epoll readers.
	LaneAhead  = "a lane takes who is ahead of it for one who is not"
	LaneSync   = "a lane's members do not learn where it stands"
	LaneEarly  = "a lane goes on before it has sent"
	LaneParted = "who leaves a lane is not told to look"
	RestByte   = "a full socket's rest lacks a byte"
	NoUndo     = "what a full socket did not take is not taken back"
	ReaderDrop = "a reader that waits for room drops what it has"
)
