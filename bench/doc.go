// Command bench measures the real gateway, and the ways before it, beside the
// raw socket and beside other servers, on the same work, in one run:
//
//	go run . [-work S1,S3] [-servers floor@50,tapecast@50,centrifuge@50] [-for 6s] [-rounds 3]
//	go run . -list                   the works
//	go run . -compare                the last two runs of the history
//	go run . scale [-clients 1e6]    how large a deployment gets
//	go run . docs FILE...            fill in the tables of documents
//
// The main figure is CPU-s/M: user plus system seconds of the server's process
// per million messages that clients counted. Wall clock rates and latencies of
// a busy machine mean little, and CPU of two runs is not to be compared: ratios
// within a round are, and so every work that has a floor is measured beside it.
//
// The servers: floor writes prebuilt frames to bare descriptors and does
// nothing else. tapecast is gateway.Service over feed.Feed as `tapecast
// gateway` runs them, metrics on, with Kafka: this process holds a kfake
// broker and writes what a fan-out would write. The others are published to
// within their own process. name@T = messages may wait T ms to leave together.
// hop and direct run the product's binary, a process for each role.
//
// A work in a file of its own joins with register, see job. docs/PERFORMANCE.md
// tells what the figures mean.
package main
