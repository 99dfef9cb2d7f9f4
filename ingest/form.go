package ingest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/schemas"
)

const (
	// formAge is how long the newest schema of a subject is believed to be that.
	formAge = time.Second
	// formSpacing is the least time between two questions for one subject, so
	// that bad events cannot flood the registry.
	formSpacing = 100 * time.Millisecond
	// formWait bounds a question to the registry.
	formWait = 3 * time.Second
	// maxForms bounds the cache; beyond it the cache starts anew.
	maxForms = 4096
	// maxSchemaFile bounds a schema file, in bytes.
	maxSchemaFile = 1 << 20
)

// form is how values of one feed are made from JSON. Immutable.
type form struct {
	format string         // as in catalog.Rule; every "avro:FILE" is FormatAvroFile
	id     uint32         // the schema's, with FormatAvro
	codec  *schemas.Codec // with FormatAvro and FormatAvroFile
	tagged bool           // values come in Avro's own JSON encoding
}

// append encodes one value that is not null.
func (f form) append(dst, raw []byte) ([]byte, error) {
	switch {
	case f.tagged:
		return f.codec.AppendAvroJSON(schemas.AppendWireHeader(dst, f.id), raw)
	case f.format == catalog.FormatAvro:
		return f.codec.AppendAvro(schemas.AppendWireHeader(dst, f.id), raw)
	case f.format == catalog.FormatAvroFile:
		return f.codec.AppendAvro(dst, raw)
	case f.format == catalog.FormatJSON:
		return append(dst, raw...), nil
	case f.format == catalog.FormatString:
		if raw[0] != '"' {
			return dst, &schemas.ValueError{Reason: "is " + kindOf(raw) + ", want a string"}
		}
		return append(dst, unquote(raw)...), nil
	}
	return appendBase64(dst, raw)
}

// appendBase64 appends the bytes that a JSON string holds in base64.
func appendBase64(dst, raw []byte) ([]byte, error) {
	if raw[0] != '"' {
		return dst, &schemas.ValueError{Reason: "is " + kindOf(raw) + ", want a string in base64"}
	}
	out, err := base64.StdEncoding.AppendDecode(dst, bytes.TrimRight(unquote(raw), "\r\n"))
	if err != nil {
		return dst, &schemas.ValueError{Reason: "is not base64"}
	}
	return out, nil
}

// forms caches the forms of feeds. Safe for concurrent use.
type forms struct {
	registry *schemas.Registry // nil = there is none
	flight   singleflight.Group

	mu    sync.Mutex
	known map[string]knownForm // guarded by mu; by Kafka topic, files by format
}

type knownForm struct {
	form
	at time.Time // when it was asked for
}

func newForms(r *schemas.Registry) *forms {
	return &forms{registry: r, known: make(map[string]knownForm)}
}

// get returns the form of a feed's values. The registry away, the last known
// schema goes on.
func (fs *forms) get(ctx context.Context, f catalog.Feed) (form, *problem) {
	switch {
	case f.Format == catalog.FormatAvro:
	case strings.HasPrefix(f.Format, catalog.FormatAvroFile):
		return fs.file(f.Format)
	default:
		return form{format: f.Format}, nil
	}
	k, ok := fs.lookup(f.Topic.Name)
	if ok && time.Since(k.at) < formAge {
		return k.form, nil
	}
	fresh, err := fs.latest(ctx, f.Topic.Name)
	switch {
	case err == nil:
		return fresh, nil
	case ok && schemas.Transient(err):
		return k.form, nil
	}
	return form{}, registryProblem(f, err)
}

// newer asks for the newest form after one that did not fit. False = there is
// no other.
func (fs *forms) newer(ctx context.Context, f catalog.Feed, old form) (form, bool) {
	if old.format != catalog.FormatAvro {
		return old, false
	}
	k, ok := fs.lookup(f.Topic.Name)
	if ok && time.Since(k.at) < formSpacing {
		return k.form, k.id != old.id
	}
	fresh, err := fs.latest(ctx, f.Topic.Name)
	return fresh, err == nil && fresh.id != old.id
}

func (fs *forms) lookup(key string) (knownForm, bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	k, ok := fs.known[key]
	return k, ok
}

func (fs *forms) store(key string, k knownForm) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if len(fs.known) >= maxForms {
		clear(fs.known)
	}
	fs.known[key] = k
}

// latest asks the registry, once for all who ask at the same time. The
// question outlives the one who asked first, but not formWait.
func (fs *forms) latest(ctx context.Context, topic string) (form, error) {
	if fs.registry == nil {
		return form{}, errNoRegistry
	}
	v, err, _ := fs.flight.Do(topic, func() (any, error) {
		at := time.Now()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), formWait)
		defer cancel()
		id, codec, err := fs.registry.Latest(ctx, schemas.Subject(topic))
		if err != nil {
			return form{}, err
		}
		f := form{format: catalog.FormatAvro, id: id, codec: codec}
		fs.store(topic, knownForm{form: f, at: at})
		return f, nil
	})
	if err != nil {
		return form{}, err
	}
	return v.(form), nil
}

// file returns the form of "avro:FILE". The file is read once.
func (fs *forms) file(format string) (form, *problem) {
	if k, ok := fs.lookup(format); ok {
		return k.form, nil
	}
	text, err := readSchema(strings.TrimPrefix(format, catalog.FormatAvroFile))
	if err == nil {
		var codec *schemas.Codec
		if codec, err = schemas.Compile(text); err == nil {
			f := form{format: catalog.FormatAvroFile, codec: codec}
			fs.store(format, knownForm{form: f})
			return f, nil
		}
	}
	return form{}, &problem{Status: http.StatusUnprocessableEntity, Code: codeNoSchema, Message: "the schema that is configured for the topic cannot be read"}
}

func readSchema(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSchemaFile+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxSchemaFile {
		return "", fmt.Errorf("%s: more than %d bytes", path, maxSchemaFile)
	}
	return string(b), nil
}

var errNoRegistry = errors.New("no schema registry is configured")

func registryProblem(f catalog.Feed, err error) *problem {
	if schemas.Transient(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return unavailable("the schema registry does not answer")
	}
	p := &problem{Status: http.StatusUnprocessableEntity, Code: codeNoSchema}
	switch {
	case errors.Is(err, schemas.ErrUnknownSubject):
		p.Message = fmt.Sprintf("no schema is registered under the subject %q", schemas.Subject(f.Topic.Name))
	case errors.Is(err, errNoRegistry):
		p.Message = err.Error()
	default:
		p.Message = "the topic's schema cannot be used"
	}
	return p
}

// jsonString reads a trimmed JSON string.
func jsonString(raw []byte) (string, bool) {
	var s string
	if raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return "", false
	}
	return s, true
}
