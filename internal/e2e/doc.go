// Package e2e holds the tests of the whole pipeline: as separate processes of
// the real binary, on the embedded broker and on Apache Kafka, with processes
// killed in the middle, and with producers of other code bases. It has no code
// of its own.
package e2e
