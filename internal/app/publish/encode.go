package publish

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/config"
	"github.com/tapecast/tapecast/schemas"
)

// encoder turns rows into records. It is owned by the reading goroutine.
type encoder struct {
	codec    Codec
	id       uint32
	shape    *shape
	key      string // --key, "" = none
	time     string // --time, "" = none
	envelope bool
	clock    clock
	fill     []field // what --time fills
	buf      []byte
	avro     []byte

	// of the CSV input that is being read
	header []string
	types  []cellType
	drop   []bool // columns that are only key or time
	keyCol int    // -1 = none
	timCol int    // -1 = none
}

func newEncoder(o *Options) (*encoder, error) {
	s, err := parseShape(o.Codec.Schema())
	if err != nil {
		return nil, err
	}
	return &encoder{
		codec: o.Codec, id: o.SchemaID, shape: s, key: o.Key, time: o.Time, envelope: o.Envelope,
		fill: s.timeFields(),
	}, nil
}

// encode makes the record of a row. The record does not alias the row.
func (e *encoder) encode(r row) (broker.ProduceRecord, error) {
	rec := broker.ProduceRecord{Partition: -1}
	var value []byte
	var err error
	switch {
	case r.cells != nil:
		value, err = e.fromCSV(r, &rec)
	case e.envelope:
		value, err = e.fromEnvelope(r.text, &rec)
	default:
		value, err = e.fromJSON(r.text, &rec)
	}
	if err != nil {
		return rec, err
	}
	if value == nil {
		return rec, nil // a tombstone
	}
	e.avro = schemas.AppendWireHeader(e.avro[:0], e.id)
	if e.avro, err = e.codec.AppendAvro(e.avro, value); err != nil {
		return rec, err
	}
	rec.Value = bytes.Clone(e.avro)
	return rec, nil
}

// fromJSON takes the row as the value.
func (e *encoder) fromJSON(text []byte, rec *broker.ProduceRecord) ([]byte, error) {
	if e.key == "" && e.time == "" {
		return text, nil
	}
	var obj map[string]json.RawMessage
	if err := json.Unmarshal(text, &obj); err != nil || obj == nil {
		return nil, errors.New("the row is no JSON object, so it has no field for --key or --time (--envelope takes {\"key\",\"value\",\"ts\"})")
	}
	changed := false
	if e.key != "" {
		key, err := keyOf(obj[e.key], e.key)
		if err != nil {
			return nil, err
		}
		rec.Key = key
	}
	if e.time != "" {
		raw, ok := obj[e.time]
		if !ok {
			return nil, fmt.Errorf("the row has no field %s, which --time names", e.time)
		}
		t, err := e.clock.parse(unquote(raw))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.time, err)
		}
		rec.Time = t
		changed = e.setTime(obj, t)
	}
	for _, name := range []string{e.key, e.time} {
		if _, known := e.shape.field(name); !known && name != "" {
			delete(obj, name) // it was only there for its flag
			changed = true
		}
	}
	if !changed {
		return text, nil
	}
	return json.Marshal(obj)
}

// setTime puts the time into the fields that hold it, in their own unit.
func (e *encoder) setTime(obj map[string]json.RawMessage, t time.Time) (changed bool) {
	set := func(f field) {
		u, ok := f.typ.timestamp()
		if !ok {
			return
		}
		if want := strconv.FormatInt(in(t, u), 10); string(obj[f.name]) != want {
			obj[f.name] = json.RawMessage(want)
			changed = true
		}
	}
	own, _ := e.shape.field(e.time)
	set(own)
	for _, f := range e.fill {
		if _, has := obj[f.name]; !has {
			set(f)
		}
	}
	return changed
}

// fromEnvelope takes {"key":...,"value":...,"ts":...}.
func (e *encoder) fromEnvelope(text []byte, rec *broker.ProduceRecord) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	var env struct {
		Key   json.RawMessage `json:"key"`
		Value json.RawMessage `json:"value"`
		TS    json.RawMessage `json:"ts"`
	}
	if err := dec.Decode(&env); err != nil {
		return nil, fmt.Errorf(`the row is no envelope {"key":...,"value":...,"ts":...}: %w`, err)
	}
	if env.Value == nil {
		return nil, errors.New("the envelope has no value")
	}
	if env.Key != nil && string(env.Key) != "null" {
		key, err := keyOf(env.Key, "key")
		if err != nil {
			return nil, err
		}
		rec.Key = key
	}
	if env.TS != nil && string(env.TS) != "null" {
		t, err := e.clock.parse(unquote(env.TS))
		if err != nil {
			return nil, fmt.Errorf("ts: %w", err)
		}
		rec.Time = t
	}
	if string(env.Value) == "null" && e.shape.root.kind != "null" && rec.Key != nil && !e.nullable() {
		return nil, nil
	}
	return env.Value, nil
}

// nullable tells whether null is a value of the schema, not a tombstone.
func (e *encoder) nullable() bool {
	return slices.ContainsFunc(e.shape.root.branches, func(b cellType) bool { return b.kind == "null" })
}

// keyOf is a JSON scalar as a record key: a string's bytes, a number's or boolean's text.
func keyOf(raw json.RawMessage, name string) ([]byte, error) {
	switch {
	case len(raw) == 0, string(raw) == "null":
		return nil, fmt.Errorf("the row has no %s to be its key", name)
	case raw[0] == '{', raw[0] == '[':
		return nil, fmt.Errorf("%s is no text or number and cannot be a key", name)
	}
	return []byte(unquote(raw)), nil
}

// unquote gives a JSON string's text, and everything else as it stands.
func unquote(raw json.RawMessage) string {
	var s string
	if len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}

// begin looks at a CSV header: every column must be a field, or the key or the time.
func (e *encoder) begin(header []string) error {
	if e.envelope {
		return errors.New("--envelope is for NDJSON; a CSV file has columns (--key, --time)")
	}
	e.header, e.types, e.drop, e.keyCol, e.timCol = header, nil, nil, -1, -1
	for i, name := range header {
		if slices.Index(header, name) != i {
			return fmt.Errorf("the header names column %s twice", name)
		}
		f, known := e.shape.field(name)
		if !e.shape.record && name == "value" {
			f, known = field{name, e.shape.root}, true
		}
		if name == e.key {
			e.keyCol = i
		}
		if name == e.time {
			e.timCol = i
		}
		if !known && name != e.key && name != e.time {
			return e.unknownColumn(name)
		}
		e.types = append(e.types, f.typ)
		e.drop = append(e.drop, !known)
	}
	if e.key != "" && e.keyCol < 0 {
		return fmt.Errorf("there is no column %s, which --key names%s", e.key, config.DidYouMean(e.key, header))
	}
	if e.time != "" && e.timCol < 0 {
		return fmt.Errorf("there is no column %s, which --time names%s", e.time, config.DidYouMean(e.time, header))
	}
	return nil
}

func (e *encoder) unknownColumn(name string) error {
	if !e.shape.record {
		return fmt.Errorf("column %s: the schema is a plain %s, so the column must be called value", name, e.shape.root.kind)
	}
	return fmt.Errorf("column %s is no field of the schema, which has %s (name it with --time or --key if it is the time or the key)",
		name, strings.Join(e.shape.names(), ", "))
}

// fromCSV writes the cells as the JSON of the value.
func (e *encoder) fromCSV(r row, rec *broker.ProduceRecord) ([]byte, error) {
	if e.keyCol >= 0 {
		if !utf8.ValidString(r.cells[e.keyCol]) {
			return nil, fmt.Errorf("%s: the key is not UTF-8", e.key)
		}
		rec.Key = []byte(r.cells[e.keyCol])
	}
	if e.timCol >= 0 {
		t, err := e.clock.parse(r.cells[e.timCol])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.time, err)
		}
		rec.Time = t
	}
	if !e.shape.record {
		i := slices.Index(e.header, "value")
		if i < 0 {
			return nil, errors.New("there is no column value")
		}
		return e.types[i].appendCell(nil, r.cells[i])
	}
	return e.object(r, rec.Time)
}

func (e *encoder) object(r row, t time.Time) ([]byte, error) {
	b := e.buf[:0]
	b = append(b, '{')
	var err error
	for i, cell := range r.cells {
		if e.drop[i] {
			continue
		}
		b = appendName(b, e.header[i])
		if u, ok := e.types[i].timestamp(); ok && i == e.timCol {
			b = strconv.AppendInt(b, in(t, u), 10)
			continue
		}
		if b, err = e.types[i].appendCell(b, cell); err != nil {
			return nil, fmt.Errorf("%s: %w", e.header[i], err)
		}
	}
	if e.timCol >= 0 {
		for _, f := range e.fill {
			if !slices.Contains(e.header, f.name) {
				u, _ := f.typ.timestamp()
				b = strconv.AppendInt(appendName(b, f.name), in(t, u), 10)
			}
		}
	}
	b = append(b, '}')
	e.buf = b
	return b, nil
}

// appendName appends a field's name (Avro's alphabet: nothing to escape) and its colon.
func appendName(b []byte, name string) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(b, '"')
	b = append(b, name...)
	return append(b, '"', ':')
}
