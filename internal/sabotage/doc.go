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
)
