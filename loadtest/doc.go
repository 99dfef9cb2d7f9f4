// Package loadtest is the verifier: N subscribers and M producers, resumes at
// random, and a judgement of every client's history against the topic as
// another library (franz-go) reads it.
//
// It counts client-verified deliveries, one per (client, event) pair whose
// partition, offset, order, key and payload digest were checked, and eight
// ways to be wrong (see [Counts]); all of them must be 0. Latency is from the
// producer's clock to the subscriber's, so both run on this machine.
//
// Run owns all goroutines it starts and returns when they have ended. Memory:
// about 24 bytes per delivery and 80 per event.
package loadtest
