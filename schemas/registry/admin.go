package registry

import (
	"fmt"
	"net/http"
	"strings"
)

// deleteSubject deletes all versions, softly at first, then for good.
func (s *Server) deleteSubject(r *http.Request) (any, error) {
	name, err := subjectName(r)
	if err != nil {
		return nil, err
	}
	permanent := flag(r, "permanent")
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.state.subjects[name]
	switch {
	case sub.latest(true) == nil:
		return nil, noSubject(name)
	case permanent && sub.latest(false) != nil:
		return nil, &apiError{http.StatusNotFound, 40405, fmt.Sprintf("Subject '%s' was not deleted first before being permanently deleted", name)}
	case !permanent && sub.latest(false) == nil:
		return nil, &apiError{http.StatusNotFound, 40404, fmt.Sprintf("Subject '%s' was soft deleted.Set permanent=true to delete permanently", name)}
	}
	gone := numbers(sub.live(permanent))
	for _, n := range gone {
		if err := s.commit(event{Op: opDelete, Subject: name, Version: n, Permanent: permanent}); err != nil {
			return nil, errStore
		}
	}
	return gone, nil
}

func (s *Server) deleteVersion(r *http.Request) (any, error) {
	permanent := flag(r, "permanent")
	s.mu.Lock()
	defer s.mu.Unlock()
	name, v, err := s.findVersion(r, true)
	if err != nil {
		return nil, err
	}
	if number, _ := versionNumber(r); number < 0 && !permanent {
		if v = s.state.subjects[name].latest(false); v == nil {
			return nil, noSubject(name)
		}
	}
	n := v.number
	switch {
	case permanent && !v.deleted:
		return nil, &apiError{http.StatusNotFound, 40407, fmt.Sprintf("Subject '%s' Version %d was not deleted first before being permanently deleted", name, n)}
	case !permanent && v.deleted:
		return nil, &apiError{http.StatusNotFound, 40406, fmt.Sprintf("Subject '%s' Version %d was soft deleted.Set permanent=true to delete permanently", name, n)}
	}
	if err := s.commit(event{Op: opDelete, Subject: name, Version: n, Permanent: permanent}); err != nil {
		return nil, errStore
	}
	return n, nil
}

// levelSubject is the subject of a /config path; "" = the global level.
func levelSubject(r *http.Request) (string, error) {
	if r.PathValue("subject") == "" {
		return "", nil
	}
	return subjectName(r)
}

func noLevel(name string) error {
	return &apiError{http.StatusNotFound, 40408, fmt.Sprintf("Subject '%s' does not have subject-level compatibility configured", name)}
}

func (s *Server) getLevel(r *http.Request) (any, error) {
	name, err := levelSubject(r)
	if err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	sub := s.state.subjects[name]
	if name != "" && !flag(r, "defaultToGlobal") && (sub == nil || sub.level == "") {
		return nil, noLevel(name)
	}
	return map[string]string{"compatibilityLevel": s.state.levelOf(sub)}, nil
}

func (s *Server) putLevel(r *http.Request) (any, error) {
	name, err := levelSubject(r)
	if err != nil {
		return nil, err
	}
	var q struct {
		Compatibility string `json:"compatibility"`
	}
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	level := strings.ToUpper(q.Compatibility)
	if !validLevel(level) {
		return nil, &apiError{http.StatusUnprocessableEntity, 42203, "Invalid compatibility level. Valid values are none, backward, forward, full, " +
			"backward_transitive, forward_transitive, and full_transitive"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if name != "" {
		if err := s.state.room(s.state.subjects[name], 0); err != nil {
			return nil, err
		}
	}
	if !s.hasLevel(name, level) {
		if err := s.commit(event{Op: opLevel, Subject: name, Level: level}); err != nil {
			return nil, errStore
		}
	}
	return map[string]string{"compatibility": level}, nil
}

// hasLevel tells that setting a level would change nothing. The caller holds mu.
func (s *Server) hasLevel(name, level string) bool {
	if name == "" {
		return s.state.level == level
	}
	sub := s.state.subjects[name]
	return sub != nil && sub.level == level
}

func (s *Server) deleteLevel(r *http.Request) (any, error) {
	name, err := levelSubject(r)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.state.subjects[name]
	if name != "" && (sub == nil || sub.level == "") {
		return nil, noLevel(name)
	}
	was := s.state.levelOf(sub)
	if err := s.commit(event{Op: opLevel, Subject: name}); err != nil {
		return nil, errStore
	}
	return map[string]string{"compatibilityLevel": was}, nil
}

// compatibility is the answer of a test; messages only if asked for.
type compatibility struct {
	OK       bool     `json:"is_compatible"`
	Messages []string `json:"messages,omitempty"`
}

func (s *Server) testVersion(r *http.Request) (any, error) {
	c, err := readCandidate(r)
	if err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	name, v, err := s.findVersion(r, false)
	if err != nil {
		return nil, err
	}
	level := s.state.levelOf(s.state.subjects[name])
	return verdict(r, s.state.incompatibleWith([]version{*v}, c.parsed, level)), nil
}

func (s *Server) testAll(r *http.Request) (any, error) {
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
	return verdict(r, s.state.incompatible(sub, c.parsed, s.state.levelOf(sub))), nil
}

func verdict(r *http.Request, why []string) compatibility {
	v := compatibility{OK: len(why) == 0}
	if flag(r, "verbose") {
		v.Messages = why
	}
	return v
}
