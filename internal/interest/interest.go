// Package interest is the interest log: which gateway node wants what. It is
// one compacted Kafka topic with one partition. The package owns the records'
// form and their folding into a state; it has no goroutines and does no I/O.
//
// Records, by key (all values Avro, schemas/tapecast.Interest.avsc):
//
//	<incarnation>/i/<id>   an interest: node wants topic T or key K of T; null value ends that one id
//	<incarnation>/lease    the incarnation lives: written at birth and renewed
//	<incarnation>/end      the incarnation has ended, for ever
package interest

import (
	"github.com/tapecast/tapecast/internal/stream"
)

// Topic is the Kafka topic of the interest log.
const Topic = stream.InternalPrefix + "interest"

// Kind tells the records of the log apart.
type Kind uint8

// The kinds of record.
const (
	KindAdd   Kind = iota + 1 // an interest
	KindEnd1                  // ends one interest id (tombstone)
	KindLease                 // the incarnation lives
	KindEnd                   // the incarnation has ended
	KindGone                  // tombstone of a lease or an end record: nothing is left of the incarnation
)

// Record is one record of the log.
type Record struct {
	Kind        Kind
	Incarnation string // random, one per gateway process run
	ID          string // KindAdd, KindEnd1: fresh, written once
	// KindAdd:
	Feed string // Kafka feed topic
	Key  []byte // nil = all keys
	// KindLease:
	Node     string // node name
	Delivery string // delivery topic's name
	LeaseMs  int64  // how long without renewal until anyone may end it
}

// Encode gives the Kafka key and value (value nil = tombstone).
func (r Record) Encode() (key, value []byte, err error) { panic("not built") }

// Decode is the inverse of Encode. A record it cannot read is an error that
// names the field; followers count it and go on.
func Decode(key, value []byte) (Record, error) { panic("not built") }
