package registry_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/schemas/registry"
)

const v1 = "application/vnd.schemaregistry.v1+json"

// served is a registry whose handler is called directly.
type served struct {
	t   testing.TB
	dir string
	*registry.Server
}

func open(t testing.TB, dir string) served {
	t.Helper()
	s, err := registry.Open(dir, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return served{t, dir, s}
}

func (s served) raw(method, path, contentType, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w
}

// want sends a request and compares the whole answer.
func (s served) want(method, path, body string, status int, answer string) {
	s.t.Helper()
	w := s.raw(method, path, v1, body)
	require.Equal(s.t, answer, w.Body.String(), "%s %s", method, path)
	require.Equal(s.t, status, w.Code, "%s %s", method, path)
	require.Equal(s.t, v1, w.Header().Get("Content-Type"))
}

// with makes the body of a registration.
func with(schema string) string {
	b, err := json.Marshal(map[string]any{"schema": schema, "schemaType": "AVRO", "references": []any{}})
	if err != nil {
		panic(err)
	}
	return string(b)
}

func fail(code int, message string) string {
	b, err := json.Marshal(struct {
		Code    int    `json:"error_code"`
		Message string `json:"message"`
	}{code, message})
	if err != nil {
		panic(err)
	}
	return string(b)
}

const (
	point   = `{"type":"record","name":"P","fields":[{"name":"x","type":"int"}]}`
	pointXY = `{"type":"record","name":"P","fields":[{"name":"x","type":"int"},{"name":"y","type":"int","default":0}]}`
	pointY  = `{"type":"record","name":"P","fields":[{"name":"x","type":"int"},{"name":"y","type":"int"}]}`
)

func TestShapes(t *testing.T) {
	s := open(t, t.TempDir())
	s.want("GET", "/", "", 200, `{}`)
	s.want("GET", "/subjects", "", 200, `[]`)
	s.want("GET", "/schemas/types", "", 200, `["AVRO"]`)
	s.want("GET", "/mode", "", 200, `{"mode":"READWRITE"}`)
	s.want("POST", "/subjects/price-value/versions", with(" { \"type\" : \"long\" } "), 200, `{"id":1}`)
	s.want("POST", "/subjects/price-value/versions", with(`"long"`), 200, `{"id":1}`)
	s.want("POST", "/subjects/a%2Fb/versions", `{"schema":"\"long\""}`, 200, `{"id":1}`)
	s.want("POST", "/subjects/p/versions?normalize=true", with(point), 200, `{"id":2}`)
	s.want("POST", "/subjects/p/versions", with(pointXY), 200, `{"id":3}`)

	s.want("GET", "/subjects", "", 200, `["a/b","p","price-value"]`)
	s.want("GET", "/subjects?subjectPrefix=p", "", 200, `["p","price-value"]`)
	s.want("GET", "/subjects/p/versions", "", 200, `[1,2]`)
	quoted := func(text string) string { b, _ := json.Marshal(text); return string(b) }
	s.want("GET", "/subjects/p/versions/1", "", 200, `{"subject":"p","version":1,"id":2,"schema":`+quoted(point)+`}`)
	s.want("GET", "/subjects/p/versions/latest", "", 200, `{"subject":"p","version":2,"id":3,"schema":`+quoted(pointXY)+`}`)
	s.want("GET", "/subjects/p/versions/-1", "", 200, `{"subject":"p","version":2,"id":3,"schema":`+quoted(pointXY)+`}`)
	s.want("GET", "/subjects/p/versions/1/schema", "", 200, point)
	s.want("GET", "/subjects/p/versions/1/referencedby", "", 200, `[]`)
	s.want("POST", "/subjects/p", with(point), 200, `{"subject":"p","version":1,"id":2,"schema":`+quoted(point)+`}`)
	s.want("GET", "/schemas/ids/1", "", 200, `{"schema":"{\"type\":\"long\"}"}`)
	s.want("GET", "/schemas/ids/2?fetchMaxId=false&subject=p", "", 200, `{"schema":`+quoted(point)+`}`)
	s.want("GET", "/schemas/ids/2/schema", "", 200, point)
	s.want("GET", "/schemas/ids/1/versions", "", 200, `[{"subject":"a/b","version":1},{"subject":"price-value","version":1}]`)
	s.want("GET", "/schemas/ids/1/subjects", "", 200, `["a/b","price-value"]`)
}

func TestErrors(t *testing.T) {
	s := open(t, t.TempDir())
	s.want("POST", "/subjects/p/versions", with(point), 200, `{"id":1}`)
	invalidVersion := `The specified version 'x' is not a valid version id. Allowed values are between [1, 2^31-1] and the string "latest"`
	s.want("GET", "/subjects/q/versions", "", 404, fail(40401, "Subject 'q' not found."))
	s.want("GET", "/subjects/q/versions/1", "", 404, fail(40401, "Subject 'q' not found."))
	s.want("GET", "/subjects/q/versions/latest", "", 404, fail(40401, "Subject 'q' not found."))
	s.want("POST", "/subjects/q", with(point), 404, fail(40401, "Subject 'q' not found."))
	s.want("DELETE", "/subjects/q", "", 404, fail(40401, "Subject 'q' not found."))
	s.want("GET", "/subjects/p/versions/2", "", 404, fail(40402, "Version 2 not found."))
	s.want("DELETE", "/subjects/p/versions/2", "", 404, fail(40402, "Version 2 not found."))
	s.want("GET", "/subjects/p/versions/x", "", 422, fail(42202, invalidVersion))
	s.want("GET", "/subjects/p/versions/0/schema", "", 422, fail(42202, strings.Replace(invalidVersion, "'x'", "'0'", 1)))
	s.want("POST", "/subjects/p", with(pointY), 404, fail(40403, "Schema not found"))
	for _, id := range []string{"2", "0", "-1", "x", "4294967297"} {
		s.want("GET", "/schemas/ids/"+id, "", 404, fail(40403, "Schema "+id+" not found"))
	}
	s.want("POST", "/subjects/q/versions", `{"schema":""}`, 422, fail(42201, "Empty schema"))
	s.want("POST", "/subjects/q/versions", `{"schema":"x","schemaType":"JSON"}`, 422, fail(42201, "Invalid schema type JSON, only AVRO is supported"))
	s.want("POST", "/subjects/q/versions", `{"schema":"\"int\"","references":[{}]}`, 422, fail(42201, "Invalid schema: references are not supported"))
	s.want("POST", "/subjects/q/versions", `{"schema":"\"int\"","id":5}`, 422, fail(42205, "The registry is not in import mode"))
	s.want("POST", "/subjects/q/versions", `{`, 400, fail(400, "The request's body is not the JSON that was expected"))
	s.want("POST", "/subjects/%00/versions", with(point), 422, fail(42208, "The specified subject is not a valid subject name"))
	for schema, why := range map[string]string{
		`{"type":"nope"}`:                         "unknown type",
		`{"type":"array","items":"null"}`:         "without a size",
		strings.Replace(pointXY, `:0`, `:"a"`, 1): "has a default that does not fit",
	} {
		w := s.raw("POST", "/subjects/q/versions", v1, with(schema))
		require.Equal(t, 422, w.Code)
		require.Contains(t, w.Body.String(), `"error_code":42201,"message":"Invalid schema: `)
		require.Contains(t, w.Body.String(), why)
	}
	s.want("GET", "/nonsense", "", 404, fail(404, "HTTP 404 Not Found"))
	s.want("PATCH", "/subjects", "", 404, fail(404, "HTTP 404 Not Found"))
}

// A page in a browser can send these types to another site without being asked.
func TestForeignContentTypesAreRefused(t *testing.T) {
	s := open(t, t.TempDir())
	for _, ct := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"} {
		require.Equal(t, http.StatusUnsupportedMediaType, s.raw("POST", "/subjects/p/versions", ct, with(point)).Code, ct)
		require.Equal(t, http.StatusUnsupportedMediaType, s.raw("PUT", "/config", ct, `{"compatibility":"NONE"}`).Code, ct)
	}
	for _, ct := range []string{v1, "application/json", "application/vnd.schemaregistry+json; charset=utf-8", "application/octet-stream"} {
		require.Equal(t, http.StatusOK, s.raw("POST", "/subjects/p/versions", ct, with(point)).Code, ct)
	}
}

func TestBodiesAreBounded(t *testing.T) {
	s := open(t, t.TempDir())
	w := s.raw("POST", "/subjects/p/versions", v1, with(`"int"`+strings.Repeat(" ", 3<<20)))
	require.Equal(t, http.StatusRequestEntityTooLarge, w.Code)
	w = s.raw("POST", "/subjects/"+strings.Repeat("s", 600)+"/versions", v1, with(point))
	require.Equal(t, http.StatusUnprocessableEntity, w.Code)
}

func TestCompatibilityLevels(t *testing.T) {
	s := open(t, t.TempDir())
	s.want("GET", "/config", "", 200, `{"compatibilityLevel":"BACKWARD"}`)
	s.want("POST", "/subjects/p/versions", with(point), 200, `{"id":1}`)
	s.want("GET", "/config/p", "", 404, fail(40408, "Subject 'p' does not have subject-level compatibility configured"))
	s.want("GET", "/config/p?defaultToGlobal=true", "", 200, `{"compatibilityLevel":"BACKWARD"}`)

	refused := `Schema being registered is incompatible with an earlier schema for subject "p", details: ` +
		`[the new schema cannot read data of version 1: /y: the reader's field has no default and is missing in the writer's record]`
	s.want("POST", "/subjects/p/versions", with(pointY), 409, fail(409, refused))
	s.want("POST", "/compatibility/subjects/p/versions/latest", with(pointY), 200, `{"is_compatible":false}`)
	s.want("POST", "/compatibility/subjects/p/versions/1?verbose=true", with(pointY), 200,
		`{"is_compatible":false,"messages":["the new schema cannot read data of version 1: /y: the reader's field has no default and is missing in the writer's record"]}`)
	s.want("POST", "/compatibility/subjects/p/versions", with(pointXY), 200, `{"is_compatible":true}`)
	s.want("POST", "/compatibility/subjects/none/versions", with(pointXY), 200, `{"is_compatible":true}`)
	s.want("POST", "/compatibility/subjects/none/versions/latest", with(pointXY), 404, fail(40401, "Subject 'none' not found."))

	s.want("PUT", "/config/p", `{"compatibility":"forward"}`, 200, `{"compatibility":"FORWARD"}`)
	s.want("GET", "/config/p", "", 200, `{"compatibilityLevel":"FORWARD"}`)
	s.want("POST", "/subjects/p/versions", with(pointY), 200, `{"id":2}`)
	s.want("DELETE", "/config/p", "", 200, `{"compatibilityLevel":"FORWARD"}`)
	s.want("DELETE", "/config/p", "", 404, fail(40408, "Subject 'p' does not have subject-level compatibility configured"))

	s.want("PUT", "/config", `{"compatibility":"NONE"}`, 200, `{"compatibility":"NONE"}`)
	s.want("POST", "/subjects/p/versions", with(`"string"`), 200, `{"id":3}`)
	s.want("DELETE", "/config", "", 200, `{"compatibilityLevel":"NONE"}`)
	s.want("GET", "/config", "", 200, `{"compatibilityLevel":"BACKWARD"}`)
	w := s.raw("PUT", "/config", v1, `{"compatibility":"SIDEWARD"}`)
	require.Equal(t, 422, w.Code)
	require.Contains(t, w.Body.String(), `"error_code":42203`)
}

func TestTransitiveLevelsLookAtAllVersions(t *testing.T) {
	register := func(level string) int {
		s := open(t, t.TempDir())
		s.want("PUT", "/config", `{"compatibility":"NONE"}`, 200, `{"compatibility":"NONE"}`)
		s.want("POST", "/subjects/p/versions", with(`"string"`), 200, `{"id":1}`)
		s.want("POST", "/subjects/p/versions", with(`"int"`), 200, `{"id":2}`)
		s.want("PUT", "/config", `{"compatibility":"`+level+`"}`, 200, `{"compatibility":"`+level+`"}`)
		return s.raw("POST", "/subjects/p/versions", v1, with(`"long"`)).Code
	}
	for level, status := range map[string]int{
		"NONE": 200, "BACKWARD": 200, "BACKWARD_TRANSITIVE": 409, "FORWARD": 409, "FORWARD_TRANSITIVE": 409, "FULL": 409, "FULL_TRANSITIVE": 409,
	} {
		require.Equal(t, status, register(level), level)
	}
}

func TestDeleting(t *testing.T) {
	s := open(t, t.TempDir())
	s.want("POST", "/subjects/p/versions", with(point), 200, `{"id":1}`)
	s.want("POST", "/subjects/p/versions", with(pointXY), 200, `{"id":2}`)
	s.want("DELETE", "/subjects/p/versions/1?permanent=true", "", 404, fail(40407, "Subject 'p' Version 1 was not deleted first before being permanently deleted"))
	s.want("DELETE", "/subjects/p/versions/1", "", 200, `1`)
	s.want("DELETE", "/subjects/p/versions/1", "", 404, fail(40406, "Subject 'p' Version 1 was soft deleted.Set permanent=true to delete permanently"))
	s.want("GET", "/subjects/p/versions", "", 200, `[2]`)
	s.want("GET", "/subjects/p/versions?deleted=true", "", 200, `[1,2]`)
	s.want("GET", "/subjects/p/versions/1", "", 404, fail(40402, "Version 1 not found."))
	require.Equal(t, 200, s.raw("GET", "/subjects/p/versions/1?deleted=true", "", "").Code)
	require.Equal(t, 200, s.raw("GET", "/schemas/ids/1", "", "").Code)
	s.want("DELETE", "/subjects/p/versions/1?permanent=true", "", 200, `1`)
	s.want("GET", "/subjects/p/versions?deleted=true", "", 200, `[2]`)

	s.want("DELETE", "/subjects/p?permanent=true", "", 404, fail(40405, "Subject 'p' was not deleted first before being permanently deleted"))
	s.want("DELETE", "/subjects/p", "", 200, `[2]`)
	s.want("DELETE", "/subjects/p", "", 404, fail(40404, "Subject 'p' was soft deleted.Set permanent=true to delete permanently"))
	s.want("GET", "/subjects", "", 200, `[]`)
	s.want("GET", "/subjects?deleted=true", "", 200, `["p"]`)
	s.want("POST", "/subjects/p/versions", with(pointXY), 200, `{"id":2}`)
	s.want("GET", "/subjects/p/versions", "", 200, `[3]`)
	s.want("DELETE", "/subjects/p/versions/latest", "", 200, `3`)
	s.want("DELETE", "/subjects/p/versions/latest", "", 404, fail(40401, "Subject 'p' not found."))
	s.want("DELETE", "/subjects/p?permanent=true", "", 200, `[2,3]`)
	s.want("GET", "/subjects?deleted=true", "", 200, `[]`)
	require.Equal(t, 200, s.raw("GET", "/schemas/ids/2", "", "").Code, "data that was written stays readable")
}

func TestEverythingSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	s.want("POST", "/subjects/p/versions", with(point), 200, `{"id":1}`)
	s.want("POST", "/subjects/p/versions", with(pointXY), 200, `{"id":2}`)
	s.want("POST", "/subjects/q/versions", with(point), 200, `{"id":1}`)
	s.want("PUT", "/config/p", `{"compatibility":"FULL"}`, 200, `{"compatibility":"FULL"}`)
	s.want("PUT", "/config", `{"compatibility":"NONE"}`, 200, `{"compatibility":"NONE"}`)
	s.want("DELETE", "/subjects/p/versions/1", "", 200, `1`)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	s.want("POST", "/subjects/z/versions", with(`"long"`), 500, fail(50001, "Error in the backend data store"))
	s.want("GET", "/subjects/p/versions", "", 200, `[2]`)

	s = open(t, dir)
	s.want("GET", "/subjects/p/versions", "", 200, `[2]`)
	s.want("GET", "/subjects/p/versions?deleted=true", "", 200, `[1,2]`)
	s.want("GET", "/config/p", "", 200, `{"compatibilityLevel":"FULL"}`)
	s.want("GET", "/config", "", 200, `{"compatibilityLevel":"NONE"}`)
	s.want("POST", "/subjects/q/versions", with(point), 200, `{"id":1}`)
	s.want("POST", "/subjects/q/versions", with(`"long"`), 200, `{"id":3}`)
}

// The log may end anywhere in its last line: what was answered is there, the
// rest is not, and writing goes on.
func TestTornLastLine(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	s.want("POST", "/subjects/p/versions", with(point), 200, `{"id":1}`)
	require.NoError(t, s.Close())
	file := filepath.Join(dir, "schemas.log")
	first, err := os.ReadFile(file)
	require.NoError(t, err)
	s = open(t, dir)
	s.want("POST", "/subjects/p/versions", with(pointXY), 200, `{"id":2}`)
	require.NoError(t, s.Close())
	both, err := os.ReadFile(file)
	require.NoError(t, err)

	for cut := len(first); cut < len(both); cut += 7 {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "schemas.log"), both[:cut], 0o600))
		s := open(t, dir)
		s.want("GET", "/subjects/p/versions", "", 200, `[1]`)
		s.want("POST", "/subjects/p/versions", with(pointXY), 200, `{"id":2}`)
		require.NoError(t, s.Close())
		now, err := os.ReadFile(filepath.Join(dir, "schemas.log"))
		require.NoError(t, err)
		require.Equal(t, string(both), string(now))
	}

	zeros := append(append([]byte(nil), first...), make([]byte, 100)...) // what a lost power supply leaves
	require.NoError(t, os.WriteFile(file, zeros, 0o600))
	open(t, dir).want("GET", "/subjects/p/versions", "", 200, `[1]`)
}

func TestDamageIsNotPassedOver(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	s.want("POST", "/subjects/p/versions", with(point), 200, `{"id":1}`)
	s.want("POST", "/subjects/p/versions", with(pointXY), 200, `{"id":2}`)
	require.NoError(t, s.Close())
	file := filepath.Join(dir, "schemas.log")
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	b[40] ^= 1
	require.NoError(t, os.WriteFile(file, b, 0o600))
	_, err = registry.Open(dir, nil)
	require.ErrorContains(t, err, "line 1 is damaged: wrong checksum")
	after, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, b, after)
}

func TestOneProcessAtATime(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	_, err := registry.Open(dir, nil)
	require.ErrorContains(t, err, "in use by another process")
	require.NoError(t, s.Close())
	open(t, dir)
}

func TestRegisteringAtOnceGivesOneID(t *testing.T) {
	s := open(t, t.TempDir())
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			w := s.raw("POST", fmt.Sprintf("/subjects/s%d/versions", i%4), v1, with(point))
			if w.Body.String() != `{"id":1}` {
				t.Errorf("answer %s", w.Body)
			}
			s.raw("GET", "/subjects", "", "")
		})
	}
	wg.Wait()
	s.want("GET", "/subjects/s0/versions", "", 200, `[1]`)
}
