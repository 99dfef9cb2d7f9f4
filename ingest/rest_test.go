package ingest

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/schemas"
)

func (b *bench) rest(topic, kind, body string) answer {
	b.t.Helper()
	return b.post("/topics/"+topic, kind, strings.NewReader(body))
}

type restBody struct {
	ErrorCode     int    `json:"error_code"`
	Message       string `json:"message"`
	KeySchemaID   *int   `json:"key_schema_id"`
	ValueSchemaID *int   `json:"value_schema_id"`
	Offsets       []struct {
		Partition *int
		Offset    *int
		ErrorCode *int `json:"error_code"`
		Error     *string
	}
}

func (a answer) rest(t *testing.T) restBody {
	t.Helper()
	var body restBody
	require.NoError(t, json.Unmarshal([]byte(a.text), &body), a.text)
	return body
}

func TestRESTJSON(t *testing.T) {
	b := newBench(t)
	a := b.rest("quotes", typeRESTJSON, `{"records":[{"key":"EURUSD","value":{"bid":1,"bid_size":1}},{"value":null,"partition":1}]}`)
	require.Equal(t, 200, a.status, a.text)
	require.Equal(t, typeREST, a.header.Get("Content-Type"))
	require.JSONEq(t, `{"offsets":[{"partition":0,"offset":0,"error_code":null,"error":null},
		{"partition":1,"offset":1,"error_code":null,"error":null}],"key_schema_id":null,"value_schema_id":1}`, a.text)
	recs := b.producer.all()
	require.Equal(t, "EURUSD", string(recs[0].Key), "plain text, not a JSON string")
	require.JSONEq(t, `{"bid":1,"bid_size":1,"note":null}`, b.decoded(0), "encoded with the topic's schema")
	require.Nil(t, recs[1].Value)

	a = b.rest("json", typeRESTJSON, `{"records":[{"value":{"any":["thing"]}}]}`)
	require.Nil(t, a.rest(t).ValueSchemaID)
	require.Equal(t, `{"any":["thing"]}`, string(b.producer.all()[2].Value))
}

func TestRESTAvro(t *testing.T) {
	b := newBench(t)
	text, err := json.Marshal(strings.Replace(quoteSchema, "Quote", "Other", 1))
	require.NoError(t, err)
	a := b.rest("quotes", typeRESTAvro, `{"key_schema":"\"string\"","value_schema":`+string(text)+`,
		"records":[{"key":"A","value":{"bid":1,"bid_size":2,"note":{"string":"tagged"}}},{"key":"B","value":null}]}`)
	require.Equal(t, 200, a.status, a.text)
	body := a.rest(t)
	require.Equal(t, 2, *body.ValueSchemaID)
	require.Nil(t, body.KeySchemaID)
	require.JSONEq(t, `{"bid":1,"bid_size":2,"note":"tagged"}`, b.decoded(0))
	require.Equal(t, "A", string(b.producer.all()[0].Key))
	require.Nil(t, b.producer.all()[1].Value)

	a = b.rest("quotes", typeRESTAvro, `{"value_schema_id":1,"records":[{"value":{"bid":1,"bid_size":2,"note":null}}]}`)
	require.Equal(t, 200, a.status, a.text)
	id, _, ok := schemas.SplitWire(b.producer.all()[2].Value)
	require.True(t, ok)
	require.Equal(t, uint32(1), id)
	require.Equal(t, 200, b.rest("quotes", typeRESTAvro, `{"records":[{"key":"gone","value":null}]}`).status, "tombstones need no schema")
}

func TestRESTBinary(t *testing.T) {
	b := newBench(t)
	require.Equal(t, 200, b.rest("raw", typeRESTBinary, `{"records":[{"key":"a2V5","value":"AAEC"}]}`).status)
	require.Equal(t, "key", string(b.producer.all()[0].Key))
	require.Equal(t, []byte{0, 1, 2}, b.producer.all()[0].Value)
	require.Equal(t, 200, b.rest("quotes", typeRESTBinary, `{"records":[{"value":"AAAAAAEAAAAAAADwPwIA"}]}`).status)
	require.JSONEq(t, `{"bid":1,"bid_size":1,"note":null}`, b.decoded(1))
	// What no gateway could read is not written.
	for _, value := range []string{"AAEC", "AAAAAAEA", "AAAAAGMA"} {
		a := b.rest("quotes", typeRESTBinary, `{"records":[{"value":"`+value+`"}]}`)
		require.Equal(t, 422, a.status, a.text)
		require.Equal(t, restBadConversion, a.rest(t).ErrorCode)
	}
	require.Len(t, b.producer.all(), 2)
}

func TestRESTErrors(t *testing.T) {
	b := newBench(t)
	for name, tc := range map[string]struct {
		topic, kind, body string
		status, code      int
	}{
		"unknown topic":     {"nope", typeRESTJSON, `{"records":[]}`, 404, restTopicNotFound},
		"internal topic":    {"__consumer_offsets", typeRESTJSON, `{"records":[]}`, 404, restTopicNotFound},
		"media type":        {"json", typeJSON, `{"records":[]}`, 415, 415},
		"no media type":     {"json", "", `{"records":[]}`, 415, 415},
		"syntax":            {"json", typeRESTJSON, `{"records":`, 400, 400},
		"no object":         {"json", typeRESTJSON, `[]`, 422, restInvalid},
		"no records":        {"json", typeRESTJSON, `{}`, 422, restInvalid},
		"empty records":     {"json", typeRESTJSON, `{"records":[]}`, 422, restInvalid},
		"records object":    {"json", typeRESTJSON, `{"records":{}}`, 422, restInvalid},
		"unknown field":     {"json", typeRESTJSON, `{"records":[{"value":1}],"x":1}`, 422, restInvalid},
		"unknown in record": {"json", typeRESTJSON, `{"records":[{"value":1,"timestamp":1}]}`, 422, restInvalid},
		"record scalar":     {"json", typeRESTJSON, `{"records":[1]}`, 422, restInvalid},
		"key object":        {"json", typeRESTJSON, `{"records":[{"key":{},"value":1}]}`, 422, restInvalid},
		"partition":         {"json", typeRESTJSON, `{"records":[{"partition":7,"value":1}]}`, 422, restBadConversion},
		"value":             {"quotes", typeRESTJSON, `{"records":[{"value":{"bid":"x"}}]}`, 422, restBadConversion},
		"no schema":         {"empty", typeRESTJSON, `{"records":[{"value":{}}]}`, 422, restNoValueSchema},
		"no value schema":   {"quotes", typeRESTAvro, `{"records":[{"value":{}}]}`, 422, restNoValueSchema},
		"schema text":       {"quotes", typeRESTAvro, `{"value_schema":7,"records":[{"value":{}}]}`, 422, restInvalid},
		"schema id text":    {"quotes", typeRESTAvro, `{"value_schema_id":"x","records":[{"value":{}}]}`, 422, restInvalid},
		"schema id zero":    {"quotes", typeRESTAvro, `{"value_schema_id":0,"records":[{"value":{}}]}`, 422, restInvalid},
		"invalid schema":    {"quotes", typeRESTAvro, `{"value_schema":"{","records":[{"value":{}}]}`, 422, restInvalidSchema},
		"unknown schema":    {"quotes", typeRESTAvro, `{"value_schema_id":99,"records":[{"value":{}}]}`, 404, restSchemaNotFound},
		"key schema":        {"quotes", typeRESTAvro, `{"key_schema":"\"long\"","value_schema_id":1,"records":[{"key":1,"value":null}]}`, 422, restKeySchema},
		"key schema id":     {"quotes", typeRESTAvro, `{"key_schema_id":1,"value_schema_id":1,"records":[{"key":1,"value":null}]}`, 422, restKeySchema},
		"avro into json":    {"json", typeRESTAvro, `{"value_schema_id":1,"records":[{"value":{}}]}`, 422, restInvalid},
		"base64 value":      {"raw", typeRESTBinary, `{"records":[{"value":"%"}]}`, 422, restBadConversion},
		"base64 key":        {"raw", typeRESTBinary, `{"records":[{"key":"%","value":null}]}`, 422, restInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			a := b.rest(tc.topic, tc.kind, tc.body)
			require.Equal(t, tc.status, a.status, a.text)
			require.Equal(t, tc.code, a.rest(t).ErrorCode, a.text)
			require.NotEmpty(t, a.rest(t).Message)
			require.Equal(t, typeREST, a.header.Get("Content-Type"))
		})
	}
	require.Empty(t, b.producer.all())
	b.registry.mu.Lock()
	b.registry.refuses = true
	b.registry.mu.Unlock()
	a := b.rest("quotes", typeRESTAvro, `{"value_schema":"\"long\"","records":[{"value":1}]}`)
	require.Equal(t, 422, a.status)
	require.Equal(t, restInvalidSchema, a.rest(t).ErrorCode)
	b.registry.set(true)
	a = b.rest("quotes", typeRESTAvro, `{"value_schema_id":98,"records":[{"value":1}]}`)
	require.Equal(t, 503, a.status)
	require.Equal(t, restRegistryFailed, a.rest(t).ErrorCode)
	require.NotEmpty(t, a.header.Get("Retry-After"))
}

func TestRESTPartlyWritten(t *testing.T) {
	b := newBench(t)
	b.producer.judge = func(_, i int, _ broker.ProduceRecord) error {
		if i == 1 {
			return broker.ErrUnknownOutcome
		}
		return nil
	}
	a := b.rest("json", typeRESTJSON, `{"records":[{"value":1},{"value":2}]}`)
	require.Equal(t, 503, a.status, "no success for what is not acked")
	body := a.rest(t)
	require.Equal(t, restKafkaRetriable, body.ErrorCode)
	require.Equal(t, 0, *body.Offsets[0].Offset)
	require.Nil(t, body.Offsets[0].ErrorCode)
	require.Nil(t, body.Offsets[1].Offset)
	require.Equal(t, recordRetriable, *body.Offsets[1].ErrorCode)
	require.Equal(t, codeUnknown, *body.Offsets[1].Error)
}
