package schemas

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// How long answers are believed.
const (
	unknownFor    = time.Minute            // an id that the registry does not know, or that cannot be used
	noSubjectFor  = time.Second            // the same of a subject, which may change any moment
	latestFor     = 2 * time.Second        // the newest version of a subject
	backoffFirst  = 100 * time.Millisecond // after a transient failure, doubled each time
	backoffLast   = 2 * time.Second
	maxRemembered = 10_000 // failures and subjects
)

// Names of the operations, for metrics.
const (
	opByID     = "schema"
	opLatest   = "latest"
	opRegister = "register"
	opPing     = "ping"
)

// RegistryOptions of a client of Confluent's REST API.
type RegistryOptions struct {
	URL        string            // fixed base, e.g. http://127.0.0.1:8081 or http://user:password@host/apis/ccompat/v7
	Transport  http.RoundTripper // nil = a default without redirects and proxies
	Logger     *slog.Logger      // nil = discard
	Registerer prometheus.Registerer
}

// Registry is a caching client: one flight per id, a negative cache, size and
// time limits (1 MiB and 2 s an answer, 8 requests at once), no redirects.
// Known ids and subjects go on while the registry is away. It starts no
// goroutines: a caller that finds a flight under way waits for it, and takes
// it over if the one who flew gave up.
type Registry struct {
	wire    *wire // static
	logger  *slog.Logger
	metrics *metrics
	codecs  codecCache // has its own lock

	mu       sync.Mutex
	flights  map[string]chan struct{}   // closed when the flight ends; guarded by mu
	failures map[string]*failure        // guarded by mu
	subjects map[string]*subjectVersion // guarded by mu
}

// failure is a remembered error.
type failure struct {
	err     error
	until   time.Time
	backoff time.Duration
}

// subjectVersion is the newest version of a subject as last seen.
type subjectVersion struct {
	id    uint32
	codec *Codec
	until time.Time // asked again after that, but used on while the registry is away
}

// NewRegistry makes a client; it asks nothing yet.
func NewRegistry(o RegistryOptions) (*Registry, error) {
	w, err := newWire(o.URL, o.Transport)
	if err != nil {
		return nil, err
	}
	logger := o.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Registry{
		wire: w, logger: logger, metrics: newMetrics(o.Registerer),
		flights:  make(map[string]chan struct{}),
		failures: make(map[string]*failure),
		subjects: make(map[string]*subjectVersion),
	}, nil
}

// Cached is Codec without any waiting.
func (r *Registry) Cached(id uint32) (*Codec, bool) { return r.codecs.get(id) }

// Codec returns the codec of a schema id. Errors: ErrUnknownSchema and
// *SchemaError (final for a minute), or transient ones (Transient tells).
func (r *Registry) Codec(ctx context.Context, id uint32) (*Codec, error) {
	if c, ok := r.codecs.get(id); ok {
		return c, nil
	}
	key := "id " + strconv.FormatUint(uint64(id), 10)
	var codec *Codec
	err := r.once(ctx, key, unknownFor, func() bool {
		var ok bool
		codec, ok = r.codecs.get(id)
		return ok
	}, func() error {
		var err error
		codec, err = r.fetch(ctx, id)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("schema %d: %w", id, err)
	}
	return codec, nil
}

func (r *Registry) fetch(ctx context.Context, id uint32) (*Codec, error) {
	var answer schemaAnswer
	err := r.call(ctx, opByID, http.MethodGet, "/schemas/ids/"+strconv.FormatUint(uint64(id), 10), nil, &answer)
	if notFound(err) {
		return nil, ErrUnknownSchema
	}
	if err != nil {
		return nil, err
	}
	if answer.Schema == "" {
		return nil, errAnswer
	}
	c, err := answer.compile()
	if err != nil {
		return nil, err
	}
	r.keep(id, c)
	return c, nil
}

func (r *Registry) keep(id uint32, c *Codec) {
	r.codecs.put(id, c)
	entries, bytes := r.codecs.size()
	r.metrics.entries.Set(float64(entries))
	r.metrics.bytes.Set(float64(bytes))
}

// schemaAnswer is what the registry says of a schema.
type schemaAnswer struct {
	ID         uint32 `json:"id"`
	Schema     string `json:"schema"`
	SchemaType string `json:"schemaType"` // absent = AVRO
	References []struct {
		Name string `json:"name"`
	} `json:"references"`
}

func (a *schemaAnswer) compile() (*Codec, error) {
	if a.SchemaType != "" && a.SchemaType != "AVRO" {
		return nil, &SchemaError{Reason: fmt.Sprintf("its type is %q, only AVRO is supported", truncate(a.SchemaType))}
	}
	if len(a.References) > 0 {
		return nil, &SchemaError{Reason: "it refers to other schemas, which is not supported"}
	}
	c, err := Compile(a.Schema)
	if err != nil {
		return nil, &SchemaError{Reason: err.Error()}
	}
	return c, nil
}

func truncate(s string) string {
	if len(s) > 64 {
		return s[:64]
	}
	return s
}

// Latest returns the newest version of a subject, at most 2 s old, or older
// while the registry is away. ErrUnknownSubject if there is none.
func (r *Registry) Latest(ctx context.Context, subject string) (id uint32, c *Codec, err error) {
	if v, fresh := r.lastSeen(subject); fresh {
		return v.id, v.codec, nil
	}
	var got *subjectVersion
	err = r.once(ctx, "subject "+subject, noSubjectFor, func() bool {
		var fresh bool
		got, fresh = r.lastSeen(subject)
		return fresh
	}, func() error {
		var err error
		got, err = r.fetchLatest(ctx, subject)
		return err
	})
	if err == nil {
		return got.id, got.codec, nil
	}
	if v, _ := r.lastSeen(subject); v != nil && Transient(err) && ctx.Err() == nil {
		return v.id, v.codec, nil
	}
	return 0, nil, fmt.Errorf("subject %q: %w", truncate(subject), err)
}

func (r *Registry) lastSeen(subject string) (v *subjectVersion, fresh bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v = r.subjects[subject]
	return v, v != nil && time.Now().Before(v.until)
}

func (r *Registry) fetchLatest(ctx context.Context, subject string) (*subjectVersion, error) {
	path, err := subjectPath(subject)
	if err != nil {
		return nil, err
	}
	var answer schemaAnswer
	err = r.call(ctx, opLatest, http.MethodGet, path+"/versions/latest", nil, &answer)
	if notFound(err) {
		r.forget(subject)
		return nil, ErrUnknownSubject
	}
	if err != nil {
		return nil, err
	}
	if answer.ID == 0 || answer.Schema == "" {
		return nil, errAnswer
	}
	codec, ok := r.codecs.get(answer.ID)
	if !ok {
		if codec, err = answer.compile(); err != nil {
			return nil, err
		}
		r.keep(answer.ID, codec)
	}
	v := &subjectVersion{id: answer.ID, codec: codec, until: time.Now().Add(latestFor)}
	r.mu.Lock()
	defer r.mu.Unlock()
	makeRoom(r.subjects)
	r.subjects[subject] = v
	return v, nil
}

func (r *Registry) forget(subject string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.subjects, subject)
}

// makeRoom drops any entry of a map that is full: everything in it can be asked again.
func makeRoom[V any](m map[string]V) {
	for k := range m {
		if len(m) < maxRemembered {
			return
		}
		delete(m, k)
	}
}

// Register registers a schema under a subject (idempotent) and returns its id.
// Errors: *RejectedError (incompatible, invalid), or transient ones.
func (r *Registry) Register(ctx context.Context, subject, schema string) (id uint32, err error) {
	path, err := subjectPath(subject)
	if err != nil {
		return 0, err
	}
	var answer struct {
		ID uint32 `json:"id"`
	}
	request := map[string]string{"schema": schema}
	if err := r.call(ctx, opRegister, http.MethodPost, path+"/versions", request, &answer); err != nil {
		return 0, fmt.Errorf("register schema of subject %q: %w", truncate(subject), err)
	}
	if answer.ID == 0 {
		return 0, fmt.Errorf("register schema of subject %q: %w", truncate(subject), errAnswer)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.subjects, subject)
	delete(r.failures, "subject "+subject)
	delete(r.failures, "id "+strconv.FormatUint(uint64(answer.ID), 10))
	return answer.ID, nil
}

// Ping asks whether the registry answers.
func (r *Registry) Ping(ctx context.Context) error {
	if err := r.call(ctx, opPing, http.MethodGet, "/schemas/types", nil, nil); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	return nil
}

// call is the wire's call, counted.
func (r *Registry) call(ctx context.Context, op, method, path string, in, out any) error {
	start := time.Now()
	err := r.wire.call(ctx, method, path, in, out)
	outcome := outcomeOK
	switch {
	case err == nil:
	case Transient(err):
		outcome = outcomeTransient
	default:
		outcome = outcomeRefused
	}
	r.metrics.requests[op][outcome].Inc()
	r.metrics.seconds.Observe(time.Since(start).Seconds())
	return err
}

// once lets one caller at a time fly for a key, unless there is a result
// already or a remembered failure. The others wait. finalFor is how long a
// failure is remembered that another attempt would meet again.
func (r *Registry) once(ctx context.Context, key string, finalFor time.Duration, have func() bool, fly func() error) error {
	for {
		done, err := r.begin(key)
		if err != nil {
			r.metrics.lookups[lookupNegative].Inc()
			return err
		}
		if done == nil {
			return r.flight(key, finalFor, have, fly)
		}
		select {
		case <-done: // look again: a result, a failure, or the flight is free
			if have() {
				r.metrics.lookups[lookupHit].Inc()
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// begin returns a remembered failure, or the flight to wait for, or neither:
// then the caller flies.
func (r *Registry) begin(key string) (done <-chan struct{}, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.failures[key]; f != nil && time.Now().Before(f.until) {
		return nil, f.err
	}
	if c, ok := r.flights[key]; ok {
		return c, nil
	}
	r.flights[key] = make(chan struct{})
	return nil, nil
}

func (r *Registry) flight(key string, finalFor time.Duration, have func() bool, fly func() error) (err error) {
	defer func() { r.land(key, finalFor, err) }()
	if have() { // another flight ended just before this one began
		r.metrics.lookups[lookupHit].Inc()
		return nil
	}
	r.metrics.lookups[lookupMiss].Inc()
	return fly()
}

// land ends a flight and remembers how it failed.
func (r *Registry) land(key string, finalFor time.Duration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.flights[key])
	delete(r.flights, key)
	old := r.failures[key]
	if err == nil {
		delete(r.failures, key)
		return
	}
	if gaveUp(err) {
		return // it proves nothing about the registry
	}
	f := &failure{err: err}
	switch {
	case !Transient(err):
		f.until = time.Now().Add(finalFor)
		r.logger.Debug("registry has no usable schema", "key", truncate(key), "error", err)
	default:
		f.backoff = backoffFirst
		if old != nil && old.backoff > 0 {
			f.backoff = min(2*old.backoff, backoffLast)
		}
		f.until = time.Now().Add(f.backoff)
		r.logger.Warn("registry does not answer", "key", truncate(key), "error", err, "retry_in", f.backoff)
	}
	makeRoom(r.failures)
	r.failures[key] = f
}
