package ingest

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
)

// restRequest is a produce request, parsed.
type restRequest struct {
	kind        string
	events      []event
	keySchema   string // text, "" = none
	keyID       uint32 // 0 = none
	valueSchema string
	valueID     uint32
	values      bool // a record has a value that is not null
}

// parseREST reads a produce request.
func parseREST(body []byte, kind string) (*restRequest, *problem) {
	if err := checkText(body); err != nil {
		return nil, invalid("the body " + err.Error())
	}
	if body = trim(body); body[0] != '{' {
		return nil, unprocessable("the body is " + kindOf(body) + ", want an object with records")
	}
	req := &restRequest{kind: kind}
	var records []byte
	var p *problem
	walkObject(body, func(name, raw []byte) {
		ok := true
		switch string(name) {
		case "records":
			records = raw
		case "value_schema":
			req.valueSchema, ok = schemaText(raw)
		case "key_schema":
			req.keySchema, ok = schemaText(raw)
		case "value_schema_id":
			req.valueID, ok = schemaID(raw)
		case "key_schema_id":
			req.keyID, ok = schemaID(raw)
		default:
			p = unprocessable("unrecognized field: " + clip(string(name)))
		}
		if !ok {
			p = unprocessable(string(name) + " is " + kindOf(raw) + ", or has no usable value")
		}
	})
	if p != nil {
		return nil, p
	}
	if len(records) == 0 || records[0] != '[' {
		return nil, unprocessable("records is missing, or is no array")
	}
	if p := req.parseRecords(records); p != nil {
		return nil, p
	}
	return req, nil
}

func (req *restRequest) parseRecords(records []byte) *problem {
	var m mistakes
	tooMany := false
	walkArray(records, func(raw []byte) bool {
		if tooMany = len(req.events) == maxEvents; tooMany {
			return false
		}
		e := parseRecord(raw, len(req.events), req.kind, &m)
		req.values = req.values || !e.tombstone()
		req.events = append(req.events, e)
		return true
	})
	switch {
	case tooMany:
		return tooLarge(fmt.Sprintf("more than %d records in one request", maxEvents))
	case len(m.list) > 0:
		p := invalidEvents(m.list)
		p.Status, p.restCode = http.StatusUnprocessableEntity, restInvalid
		return p
	case len(req.events) == 0:
		return unprocessable("records is empty")
	}
	return nil
}

// parseRecord reads one record. Without a value it is a tombstone, as it is
// for the REST Proxy.
func parseRecord(raw []byte, index int, kind string, m *mistakes) event {
	e := event{ts: -1, partition: -1, value: []byte("null")}
	if raw[0] != '{' {
		m.add(index, "", "is "+kindOf(raw)+", want an object")
		return e
	}
	walkObject(raw, func(name, raw []byte) {
		reason := ""
		switch string(name) {
		case "key":
			e.key, reason = parseKey(raw)
			if kind == typeRESTBinary && e.key != nil && reason == "" {
				e.key, reason = base64Key(raw)
			}
		case "value":
			e.value = raw
		case "partition":
			e.partition, reason = parsePartition(raw)
		default:
			name, reason = []byte(clip(string(name))), "is no field of a record; there are key, value and partition"
		}
		if reason != "" {
			m.add(index, string(name), reason)
		}
	})
	return e
}

func base64Key(raw []byte) (key []byte, reason string) {
	s, ok := jsonString(raw)
	if !ok {
		return nil, "is " + kindOf(raw) + ", want a string in base64"
	}
	key, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, "is not base64"
	}
	return key, ""
}

// schemaText takes a schema as a string that holds its JSON.
func schemaText(raw []byte) (string, bool) {
	if isNull(raw) {
		return "", true
	}
	s, ok := jsonString(raw)
	return s, ok && s != "" && len(s) <= maxSchemaText
}

func schemaID(raw []byte) (uint32, bool) {
	if isNull(raw) {
		return 0, true
	}
	n, err := strconv.ParseUint(string(raw), 10, 31)
	return uint32(n), err == nil && n > 0
}

func unprocessable(message string) *problem {
	p := invalid(message)
	p.Status, p.restCode = http.StatusUnprocessableEntity, restInvalid
	return p
}
