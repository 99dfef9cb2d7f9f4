// Package registry is the embedded schema registry: Confluent's REST API for
// Avro over one append-only log file, so that ids survive restarts. It serves
// development and small set-ups; it is one process without replication.
//
// What it does not do: references between schemas, other schema languages,
// import mode, contexts. It refuses schemas that schemas.Compile refuses.
package registry

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"

	"github.com/tapecast/tapecast/schemas"
	"github.com/tapecast/tapecast/schemas/internal/avsc"
)

// Bounds of what the registry holds.
const (
	maxSubjects = 10_000
	maxVersions = 10_000    // of one subject
	maxText     = 256 << 20 // bytes of all schemas
	maxSubject  = 512       // bytes of a subject's name
	maxBody     = 2 << 20   // bytes of a request
)

// Server holds the registry's state. Safe for concurrent use.
type Server struct {
	logger  *slog.Logger // static
	handler http.Handler // static

	mu    sync.RWMutex
	log   *logFile // guarded by mu
	state *state   // guarded by mu; changed by apply only
}

// Open reads the registry's log in dir, which is made if it is not there. A
// last line that was not written whole is cut off and reported; any other
// damage is an error. The directory belongs to one process at a time.
func Open(dir string, log *slog.Logger) (*Server, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{logger: log, state: newState()}
	f, err := openLog(dir, log, s.state.apply)
	if err != nil {
		return nil, fmt.Errorf("open schema registry in %s: %w", dir, err)
	}
	s.log = f
	s.handler = s.routes()
	log.Info("schema registry open", "schemas", len(s.state.schemas), "subjects", len(s.state.subjects))
	return s, nil
}

// Handler serves the REST API. Time limits are the caller's.
func (s *Server) Handler() http.Handler { return s.handler }

// Close closes the log. Requests that write fail afterwards.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.close()
}

// commit makes a change durable, then visible. The caller holds mu and has
// checked that the change applies.
func (s *Server) commit(e event) error {
	if err := s.log.append(e); err != nil {
		s.logger.Error("schema registry cannot write", "error", err)
		return err
	}
	return s.state.apply(e)
}

// candidate is a schema that a request brings.
type candidate struct {
	text   string // without white space
	parsed *avsc.Schema
	digest [sha256.Size]byte // of the normal form
}

func newCandidate(text string) (*candidate, error) {
	c, err := schemas.Compile(text)
	if err == nil {
		err = c.CheckDefaults()
	}
	if err != nil {
		return nil, err
	}
	return parseCandidate(c.Schema())
}

func parseCandidate(text string) (*candidate, error) {
	p, err := avsc.Parse(text)
	if err != nil {
		return nil, err
	}
	return &candidate{text: text, parsed: p, digest: sha256.Sum256([]byte(p.Normal()))}, nil
}

// register finds or makes the version of a subject that has the schema.
func (s *Server) register(name string, c *candidate) (id uint32, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.state
	id, known := st.byDigest[c.digest]
	sub := st.subjects[name]
	if v := sub.withID(id, false); known && v != nil {
		return id, nil
	}
	if why := st.incompatible(sub, c.parsed, st.levelOf(sub)); len(why) > 0 {
		return 0, errIncompatible(name, why)
	}
	e := event{Op: opRegister, Subject: name, Version: sub.next(), ID: id}
	if !known {
		e.ID, e.Schema = st.lastID+1, c.text
	}
	if err := st.room(sub, len(e.Schema)); err != nil {
		return 0, err
	}
	if err := s.commit(e); err != nil {
		return 0, errStore
	}
	return e.ID, nil
}

var (
	errStore = &apiError{http.StatusInternalServerError, 50001, "Error in the backend data store"}
	errFull  = &apiError{http.StatusInternalServerError, 50001, "The registry is full"}
)

func (st *state) room(sub *subject, text int) error {
	if sub == nil && len(st.subjects) >= maxSubjects || sub != nil && len(sub.versions) >= maxVersions || st.bytes+text > maxText {
		return errFull
	}
	return nil
}

var errNotOpen = errors.New("the registry is closed")
