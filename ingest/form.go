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

	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/schemas"
)

// formWait bounds a question to the registry.
const formWait = 3 * time.Second

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

// forms finds the forms of feeds. Safe for concurrent use. The registry's
// client does the caching, one flight per subject, and goes on with what it
// knows while the registry is away.
type forms struct {
	registry *schemas.Registry // nil = there is none

	mu    sync.Mutex
	files map[string]form // guarded by mu; by "avro:FILE", so the configuration bounds it
}

func newForms(r *schemas.Registry) *forms {
	return &forms{registry: r, files: make(map[string]form)}
}

// get returns the form of a feed's values.
func (fs *forms) get(ctx context.Context, f catalog.Feed) (form, *problem) {
	switch {
	case f.Format == catalog.FormatAvro:
		return fs.latest(ctx, f)
	case strings.HasPrefix(f.Format, catalog.FormatAvroFile):
		return fs.file(f.Format)
	}
	return form{format: f.Format}, nil
}

// newer returns the newest form if it is another than the one that did not fit.
func (fs *forms) newer(ctx context.Context, f catalog.Feed, old form) (form, bool) {
	if f.Format != catalog.FormatAvro {
		return old, false
	}
	fresh, p := fs.latest(ctx, f)
	return fresh, p == nil && fresh.id != old.id
}

// latest asks for the newest schema of a topic.
func (fs *forms) latest(ctx context.Context, f catalog.Feed) (form, *problem) {
	if fs.registry == nil {
		return form{}, registryProblem(f, errNoRegistry)
	}
	ctx, cancel := context.WithTimeout(ctx, formWait)
	defer cancel()
	id, codec, err := fs.registry.Latest(ctx, schemas.Subject(f.Topic.Name))
	if err != nil {
		return form{}, registryProblem(f, err)
	}
	return form{format: catalog.FormatAvro, id: id, codec: codec}, nil
}

// file returns the form of "avro:FILE". The file is read once.
func (fs *forms) file(format string) (form, *problem) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f, ok := fs.files[format]; ok {
		return f, nil
	}
	codec, err := compileFile(strings.TrimPrefix(format, catalog.FormatAvroFile))
	if err != nil {
		return form{}, &problem{
			Status: http.StatusUnprocessableEntity, Code: codeNoSchema,
			Message: "the schema file that is configured for the topic cannot be used",
		}
	}
	f := form{format: catalog.FormatAvroFile, codec: codec}
	fs.files[format] = f
	return f, nil
}

func compileFile(path string) (*schemas.Codec, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, schemas.MaxSchema+1))
	if err != nil {
		return nil, err
	}
	return schemas.Compile(string(b))
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
