package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/schemas"
)

// named returns the form that a request of the Avro format names by its
// value_schema or value_schema_id. A value_schema is registered.
func (fs *forms) named(ctx context.Context, f catalog.Feed, req *restRequest) (form, *problem) {
	fail := func(code int, message string) (form, *problem) {
		p := unprocessable(message)
		p.restCode = code
		return form{}, p
	}
	if f.Format != catalog.FormatAvro {
		return fail(restInvalid, "the topic's values are not in Confluent's Avro format")
	}
	if fs.registry == nil {
		return form{}, registryProblem(f, errNoRegistry)
	}
	ctx, cancel := context.WithTimeout(ctx, registrationTimeout)
	defer cancel()
	if p := fs.checkKeySchema(ctx, req); p != nil {
		return form{}, p
	}
	id := req.valueID
	var err error
	switch {
	case id != 0:
	case req.valueSchema != "":
		if _, err = schemas.Compile(req.valueSchema); err != nil {
			return fail(restInvalidSchema, "the value schema cannot be used: "+clip(err.Error()))
		}
		if id, err = fs.registry.Register(ctx, schemas.Subject(f.Topic.Name), req.valueSchema); err != nil {
			return form{}, namedProblem(f, err, restInvalidSchema)
		}
	case req.values:
		return fail(restNoValueSchema, "the request has values, but neither value_schema nor value_schema_id")
	default:
		return form{format: catalog.FormatAvro}, nil
	}
	codec, err := fs.registry.Codec(ctx, id)
	if err != nil {
		return form{}, namedProblem(f, err, restSchemaNotFound)
	}
	return form{format: catalog.FormatAvro, id: id, codec: codec, tagged: true}, nil
}

// namedProblem tells a registry that is away from one that refuses.
func namedProblem(f catalog.Feed, err error, refused int) *problem {
	p := registryProblem(f, err)
	p.restCode = restRegistryFailed
	if p.Code == codeNoSchema {
		p.restCode = refused
		p.Message = "the registry refuses the value schema: " + clip(err.Error())
		if refused == restSchemaNotFound {
			p.Status, p.Message = http.StatusNotFound, "there is no schema of this id"
		}
	}
	return p
}

// checkKeySchema takes key schemas that are strings: keys are plain text here.
func (fs *forms) checkKeySchema(ctx context.Context, req *restRequest) *problem {
	text := req.keySchema
	if req.keyID != 0 {
		codec, err := fs.registry.Codec(ctx, req.keyID)
		if err != nil {
			return namedProblem(catalog.Feed{}, err, restSchemaNotFound)
		}
		text = codec.Schema()
	}
	if text == "" || isStringSchema(text) {
		return nil
	}
	p := unprocessable(`keys are plain text here: key_schema must be "string"`)
	p.restCode = restKeySchema
	return p
}

func isStringSchema(text string) bool {
	var v any
	if json.Unmarshal([]byte(text), &v) != nil {
		return false
	}
	if m, ok := v.(map[string]any); ok {
		v = m["type"]
	}
	return v == "string"
}

// verify reads values that came as bytes, as the gateways will: what they
// could not read is not written.
func (fs *forms) verify(ctx context.Context, f catalog.Feed, recs []broker.ProduceRecord) *problem {
	d, err := schemas.NewDecoder(f.Format, fs.registry)
	if err != nil {
		return registryProblem(f, err)
	}
	var m mistakes
	var scratch []byte
	for i := range recs {
		if recs[i].Value == nil {
			continue
		}
		scratch, err = d.AppendJSON(ctx, scratch[:0], recs[i].Value)
		var poison *schemas.PoisonError
		switch {
		case err == nil:
		case errors.As(err, &poison):
			m.add(i, "value", "cannot be read: "+poison.Reason)
		default:
			return registryProblem(f, err)
		}
		if len(m.list) == maxErrors {
			break
		}
	}
	if len(m.list) > 0 {
		return invalidEvents(m.list)
	}
	return nil
}
