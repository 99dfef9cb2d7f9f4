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
	"errors"
	"fmt"
	"strings"

	"github.com/tapecast/tapecast/internal/stream"
)

// Topic is the Kafka topic of the interest log.
const Topic = stream.InternalPrefix + "interest"

// Limits of a record, in bytes. Encode and Decode refuse what is beyond them.
const (
	MaxName = 128      // an incarnation, an id
	MaxFeed = 249      // a topic's or a node's name, as Kafka bounds topic names
	MaxKey  = 64 << 10 // a record key of a feed
)

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

// The two records that a KindGone may end, as its ID.
const (
	GoneLease = "lease"
	GoneEnd   = "end"
)

// Record is one record of the log.
type Record struct {
	Kind        Kind
	Incarnation string // random, one per gateway process run
	// ID of KindAdd and KindEnd1: fresh, written once. Of KindGone: which of
	// the two records is removed, GoneLease (also if empty) or GoneEnd. The end
	// record is best left for ever: it is small, there is one for each process
	// run, and a gateway that slept through it must still find it.
	ID string
	// KindAdd:
	Feed string // Kafka feed topic
	Key  []byte // nil = all keys
	// KindLease:
	Node     string // node name
	Delivery string // delivery topic's name
	LeaseMs  int64  // how long without renewal until anyone may end it
}

// Branches of the union in the Avro schema.
const (
	branchWant = iota
	branchLease
	branchEnd
)

// Encode gives the Kafka key and value (value nil = tombstone). A record that
// Decode would refuse is an error.
func (r Record) Encode() (key, value []byte, err error) {
	if err := checkName("incarnation", r.Incarnation); err != nil {
		return nil, nil, err
	}
	switch r.Kind {
	case KindAdd, KindEnd1:
		if err := checkName("id", r.ID); err != nil {
			return nil, nil, err
		}
		key = []byte(r.Incarnation + "/i/" + r.ID)
	case KindLease:
		key = []byte(r.Incarnation + "/lease")
	case KindEnd:
		key = []byte(r.Incarnation + "/end")
	case KindGone:
		switch r.ID {
		case "", GoneLease:
			key = []byte(r.Incarnation + "/lease")
		case GoneEnd:
			key = []byte(r.Incarnation + "/end")
		default:
			return nil, nil, fmt.Errorf("interest record: id %.40q of a gone record is neither %q nor %q", r.ID, GoneLease, GoneEnd)
		}
	default:
		return nil, nil, fmt.Errorf("interest record: unknown kind %d", r.Kind)
	}
	if err := r.checkValue(); err != nil {
		return nil, nil, err
	}
	return key, r.appendValue(), nil
}

// appendValue writes the Avro value; nil for the kinds that are tombstones.
func (r Record) appendValue() []byte {
	switch r.Kind {
	case KindAdd:
		b := appendLong(make([]byte, 0, len(r.Feed)+len(r.Key)+10), branchWant)
		b = appendString(b, r.Feed)
		if r.Key == nil {
			return appendLong(b, 0)
		}
		return appendString(appendLong(b, 1), string(r.Key))
	case KindLease:
		b := appendLong(make([]byte, 0, len(r.Node)+len(r.Delivery)+16), branchLease)
		b = appendString(appendString(b, r.Node), r.Delivery)
		return appendLong(b, r.LeaseMs)
	case KindEnd:
		return appendString(appendLong(nil, branchEnd), r.Incarnation)
	case KindEnd1, KindGone:
	}
	return nil
}

// checkValue holds the value's fields to their limits, for both directions.
func (r Record) checkValue() error {
	switch r.Kind {
	case KindAdd:
		if len(r.Key) > MaxKey {
			return fmt.Errorf("interest record: key of %d bytes, limit %d", len(r.Key), MaxKey)
		}
		return checkTopic("feed", r.Feed)
	case KindLease:
		if err := checkTopic("node", r.Node); err != nil {
			return err
		}
		if r.LeaseMs <= 0 {
			return fmt.Errorf("interest record: lease_ms %d is not above 0", r.LeaseMs)
		}
		return checkTopic("delivery", r.Delivery)
	case KindEnd1, KindEnd, KindGone:
	}
	return nil
}

// Decode is the inverse of Encode. A record it cannot read is an error that
// names the field; followers count it and go on. The record aliases neither
// key nor value.
func Decode(key, value []byte) (Record, error) {
	r, err := decodeKey(key, value == nil)
	if err != nil {
		return Record{}, err
	}
	if value != nil {
		if err := r.decodeValue(value); err != nil {
			return Record{}, err
		}
	}
	return r, nil
}

func decodeKey(key []byte, tombstone bool) (r Record, err error) {
	if len(key) > 2*MaxName+len("/i/") {
		return r, fmt.Errorf("interest record: kafka key of %d bytes is too long", len(key))
	}
	var what string
	var ok bool
	r.Incarnation, what, ok = strings.Cut(string(key), "/")
	if !ok {
		return r, fmt.Errorf("interest record: kafka key %.40q has no kind", key)
	}
	if err := checkName("incarnation", r.Incarnation); err != nil {
		return r, err
	}
	id, isInterest := strings.CutPrefix(what, "i/")
	switch {
	case isInterest:
		r.Kind, r.ID = KindAdd, id
		if tombstone {
			r.Kind = KindEnd1
		}
		return r, checkName("id", id)
	case what == GoneLease || what == GoneEnd:
		switch {
		case tombstone:
			r.Kind, r.ID = KindGone, what
		case what == GoneLease:
			r.Kind = KindLease
		default:
			r.Kind = KindEnd
		}
		return r, nil
	}
	return r, fmt.Errorf("interest record: kafka key %.40q is of no known kind", key)
}

func (r *Record) decodeValue(value []byte) error {
	a := avroReader{b: value}
	branch := a.long("entry")
	var want int64
	switch r.Kind {
	case KindLease:
		want = branchLease
	case KindEnd:
		want = branchEnd
	default:
		want = branchWant
	}
	if a.err == nil && branch != want {
		return fmt.Errorf("interest record: entry: union branch %d under a key that asks for %d", branch, want)
	}
	switch want {
	case branchWant:
		r.Feed = string(a.bytes("feed", MaxFeed))
		switch n := a.long("key"); {
		case n == 1:
			r.Key = append([]byte{}, a.bytes("key", MaxKey)...)
		case n != 0 && a.err == nil:
			return fmt.Errorf("interest record: key: union branch %d", n)
		}
	case branchLease:
		r.Node = string(a.bytes("node", MaxFeed))
		r.Delivery = string(a.bytes("delivery", MaxFeed))
		r.LeaseMs = a.long("lease_ms")
	case branchEnd:
		if inc := a.bytes("incarnation", MaxName); a.err == nil && string(inc) != r.Incarnation {
			return errors.New("interest record: incarnation differs from the key's")
		}
	}
	if a.err != nil {
		return a.err
	}
	if len(a.b) != 0 {
		return fmt.Errorf("interest record: %d bytes after the value", len(a.b))
	}
	return r.checkValue()
}

// checkName holds incarnations and ids to what a Kafka topic's name may hold:
// an incarnation is part of one, and a slash would break the record's key.
func checkName(field, s string) error { return check(field, s, MaxName) }

func checkTopic(field, s string) error { return check(field, s, MaxFeed) }

func check(field, s string, limit int) error {
	if s == "" || len(s) > limit {
		return fmt.Errorf("interest record: %s of %d bytes, must be 1 to %d", field, len(s), limit)
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return fmt.Errorf("interest record: %s %.40q holds a character beyond a-z A-Z 0-9 . _ -", field, s)
		}
	}
	return nil
}
