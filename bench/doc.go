// Command bench measures the real gateway beside the raw socket and beside
// other servers, on the same work, in one run:
//
//	go run . [-work S1,S3] [-servers floor@50,tapecast@50,centrifuge@50] [-for 6s]
//
// Every server is a process of its own, so are the clients. The main figure is
// CPU-s/M: user plus system seconds of the server process per million messages
// that clients counted. Wall clock rates and latencies of a busy machine mean
// little, and CPU of two runs is not to be compared: ratios within a run are.
//
// The servers: floor writes prebuilt frames to bare descriptors and does
// nothing else. tapecast is gateway.Service over feed.Feed as `tapecast
// gateway` runs them, metrics on, with Kafka: this process holds a kfake
// broker and writes what a fan-out would write. centrifuge and naive (a
// WriteMessage per message, gorilla's chat example) are published to within
// their own process. name@T = messages may wait T ms to leave together.
package main
