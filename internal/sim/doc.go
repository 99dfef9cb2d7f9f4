// Package sim simulates the real code of the rooms: fan-outs, feeds and
// gateways, kafka-go and WebSockets included, on a three-broker kfake inside
// testing/synctest over in-memory connections. Seeds draw the faults (requests
// refused, connections cut at any byte or frozen, leaders moved, brokers and
// processes down, delivery topics tampered with, records and topics deleted),
// and every client's history is held against a plain model that another
// library dumps from the brokers. It has no code of its own.
//
//	go test ./internal/sim                       a few seeds
//	TAPECAST_TEST_SIM_SEEDS=1000 go test ./internal/sim
//	TAPECAST_TEST_SIM_SEED=17 go test ./internal/sim  that seed again, shrunk if it fails
//	TAPECAST_TEST_SIM_LONG=1                     each seed as a longer history too
//
// A seed fixes what is done and when, in virtual time; which goroutine runs
// first within one instant is the scheduler's.
package sim
