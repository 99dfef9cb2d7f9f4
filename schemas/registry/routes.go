package registry

import (
	"net/http"
	"strconv"
	"strings"
)

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for pattern, e := range map[string]endpoint{
		"GET /{$}":                                                  s.getRoot,
		"GET /subjects":                                             s.getSubjects,
		"POST /subjects/{subject}":                                  s.lookup,
		"DELETE /subjects/{subject}":                                s.deleteSubject,
		"GET /subjects/{subject}/versions":                          s.getVersions,
		"POST /subjects/{subject}/versions":                         s.postVersion,
		"GET /subjects/{subject}/versions/{version}":                s.getVersion,
		"DELETE /subjects/{subject}/versions/{version}":             s.deleteVersion,
		"GET /subjects/{subject}/versions/{version}/schema":         s.getVersionText,
		"GET /subjects/{subject}/versions/{version}/referencedby":   s.getReferencedBy,
		"GET /schemas/types":                                        s.getTypes,
		"GET /schemas/ids/{id}":                                     s.getSchema,
		"GET /schemas/ids/{id}/schema":                              s.getSchemaText,
		"GET /schemas/ids/{id}/versions":                            s.getSchemaVersions,
		"GET /schemas/ids/{id}/subjects":                            s.getSchemaSubjects,
		"GET /config":                                               s.getLevel,
		"PUT /config":                                               s.putLevel,
		"DELETE /config":                                            s.deleteLevel,
		"GET /config/{subject}":                                     s.getLevel,
		"PUT /config/{subject}":                                     s.putLevel,
		"DELETE /config/{subject}":                                  s.deleteLevel,
		"POST /compatibility/subjects/{subject}/versions":           s.testAll,
		"POST /compatibility/subjects/{subject}/versions/{version}": s.testVersion,
		"GET /mode":                                                 s.getMode,
		"GET /mode/{subject}":                                       s.getMode,
		"/":                                                         s.notFound,
	} {
		mux.Handle(pattern, e)
	}
	return mux
}

func (s *Server) getRoot(*http.Request) (any, error) { return struct{}{}, nil }

func (s *Server) getTypes(*http.Request) (any, error) { return []string{"AVRO"}, nil }

func (s *Server) getMode(*http.Request) (any, error) {
	return map[string]string{"mode": "READWRITE"}, nil
}

func (s *Server) notFound(*http.Request) (any, error) {
	return nil, &apiError{http.StatusNotFound, http.StatusNotFound, "HTTP 404 Not Found"}
}

func (s *Server) getSubjects(r *http.Request) (any, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	prefix := r.URL.Query().Get("subjectPrefix")
	out := []string{}
	for _, name := range s.state.names(flag(r, "deleted")) {
		if strings.HasPrefix(name, prefix) {
			out = append(out, name)
		}
	}
	return out, nil
}

// schemaRequest is the body of a registration, a lookup or a test.
type schemaRequest struct {
	Schema     string `json:"schema"`
	SchemaType string `json:"schemaType"`
	References []any  `json:"references"`
	Version    int    `json:"version"`
	ID         int    `json:"id"`
}

func readCandidate(r *http.Request) (*candidate, error) {
	var q schemaRequest
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	unprocessable := func(code int, message string) error {
		return &apiError{http.StatusUnprocessableEntity, code, message}
	}
	switch {
	case q.SchemaType != "" && q.SchemaType != "AVRO":
		return nil, unprocessable(42201, "Invalid schema type "+shorten(q.SchemaType)+", only AVRO is supported")
	case len(q.References) > 0:
		return nil, unprocessable(42201, "Invalid schema: references are not supported")
	case q.Schema == "":
		return nil, unprocessable(42201, "Empty schema")
	case q.ID > 0:
		return nil, unprocessable(42205, "The registry is not in import mode")
	}
	c, err := newCandidate(q.Schema)
	if err != nil {
		return nil, invalidSchema(err)
	}
	return c, nil
}

func (s *Server) postVersion(r *http.Request) (any, error) {
	name, err := subjectName(r)
	if err != nil {
		return nil, err
	}
	c, err := readCandidate(r)
	if err != nil {
		return nil, err
	}
	id, err := s.register(name, c)
	if err != nil {
		return nil, err
	}
	return map[string]uint32{"id": id}, nil
}

// versionAnswer describes a version of a subject.
type versionAnswer struct {
	Subject string `json:"subject"`
	Version int    `json:"version"`
	ID      uint32 `json:"id"`
	Schema  string `json:"schema"`
}

func (s *Server) lookup(r *http.Request) (any, error) {
	name, err := subjectName(r)
	if err != nil {
		return nil, err
	}
	c, err := readCandidate(r)
	if err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	sub := s.state.subjects[name]
	if sub.latest(flag(r, "deleted")) == nil {
		return nil, noSubject(name)
	}
	id, known := s.state.byDigest[c.digest]
	v := sub.withID(id, flag(r, "deleted"))
	if !known || v == nil {
		return nil, errNoSchema
	}
	return versionAnswer{name, v.number, id, s.state.schemas[id].text}, nil
}

func (s *Server) getVersions(r *http.Request) (any, error) {
	name, err := subjectName(r)
	if err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	versions := s.state.subjects[name].live(flag(r, "deleted"))
	if len(versions) == 0 {
		return nil, noSubject(name)
	}
	return numbers(versions), nil
}

func numbers(versions []version) []int {
	out := make([]int, 0, len(versions))
	for _, v := range versions {
		out = append(out, v.number)
	}
	return out
}

// findVersion finds what the path names. The caller holds mu.
func (s *Server) findVersion(r *http.Request, deleted bool) (name string, v *version, err error) {
	if name, err = subjectName(r); err != nil {
		return "", nil, err
	}
	number, err := versionNumber(r)
	if err != nil {
		return "", nil, err
	}
	sub := s.state.subjects[name]
	if sub.latest(deleted) == nil {
		return "", nil, noSubject(name)
	}
	if number < 0 {
		return name, sub.latest(deleted), nil
	}
	if v = sub.number(number, deleted); v == nil {
		return "", nil, noVersion(number)
	}
	return name, v, nil
}

func (s *Server) getVersion(r *http.Request) (any, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	name, v, err := s.findVersion(r, flag(r, "deleted"))
	if err != nil {
		return nil, err
	}
	return versionAnswer{name, v.number, v.id, s.state.schemas[v.id].text}, nil
}

func (s *Server) getVersionText(r *http.Request) (any, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, v, err := s.findVersion(r, flag(r, "deleted"))
	if err != nil {
		return nil, err
	}
	return raw(s.state.schemas[v.id].text), nil
}

func (s *Server) getReferencedBy(r *http.Request) (any, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if _, _, err := s.findVersion(r, false); err != nil {
		return nil, err
	}
	return []int{}, nil
}

// findSchema finds the schema whose id the path names. The caller holds mu.
func (s *Server) findSchema(r *http.Request) (uint32, *entry, error) {
	text := r.PathValue("id")
	id, err := strconv.ParseUint(text, 10, 32)
	e := s.state.schemas[uint32(id)]
	if err != nil || e == nil {
		return 0, nil, noSchemaID(shorten(text))
	}
	return uint32(id), e, nil
}

func (s *Server) getSchema(r *http.Request) (any, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, e, err := s.findSchema(r)
	if err != nil {
		return nil, err
	}
	return map[string]string{"schema": e.text}, nil
}

func (s *Server) getSchemaText(r *http.Request) (any, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, e, err := s.findSchema(r)
	if err != nil {
		return nil, err
	}
	return raw(e.text), nil
}

type subjectVersion struct {
	Subject string `json:"subject"`
	Version int    `json:"version"`
}

// uses lists where a schema is used.
func (s *Server) uses(r *http.Request) ([]subjectVersion, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	id, _, err := s.findSchema(r)
	if err != nil {
		return nil, err
	}
	out := []subjectVersion{}
	deleted := flag(r, "deleted")
	for _, name := range s.state.names(deleted) {
		for _, v := range s.state.subjects[name].live(deleted) {
			if v.id == id {
				out = append(out, subjectVersion{name, v.number})
			}
		}
	}
	return out, nil
}

func (s *Server) getSchemaVersions(r *http.Request) (any, error) { return s.uses(r) }

func (s *Server) getSchemaSubjects(r *http.Request) (any, error) {
	uses, err := s.uses(r)
	if err != nil {
		return nil, err
	}
	out := []string{}
	for _, u := range uses {
		if len(out) == 0 || out[len(out)-1] != u.Subject {
			out = append(out, u.Subject)
		}
	}
	return out, nil
}
