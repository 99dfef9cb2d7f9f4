package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const contentType = "application/vnd.schemaregistry.v1+json"

// apiError is an error body of Confluent's API.
type apiError struct {
	status  int
	Code    int    `json:"error_code"`
	Message string `json:"message"`
}

func (e *apiError) Error() string { return e.Message }

func noSubject(name string) error {
	return &apiError{http.StatusNotFound, 40401, fmt.Sprintf("Subject '%s' not found.", name)}
}

func noVersion(v int) error {
	return &apiError{http.StatusNotFound, 40402, fmt.Sprintf("Version %d not found.", v)}
}

func noSchemaID(id string) error {
	return &apiError{http.StatusNotFound, 40403, fmt.Sprintf("Schema %s not found", id)}
}

var errNoSchema = &apiError{http.StatusNotFound, 40403, "Schema not found"}

func invalidSchema(why error) error {
	return &apiError{http.StatusUnprocessableEntity, 42201, "Invalid schema: " + why.Error()}
}

// raw is an answer that is JSON already: a schema's text.
type raw string

// endpoint answers one request with a value for JSON.
type endpoint func(r *http.Request) (any, error)

func (e endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	answer, err := e(r)
	status := http.StatusOK
	if err != nil {
		var a *apiError
		if !errors.As(err, &a) {
			a = &apiError{http.StatusInternalServerError, http.StatusInternalServerError, "Internal Server Error"}
		}
		answer, status = a, a.status
	}
	var body []byte
	if text, ok := answer.(raw); ok {
		body = []byte(text)
	} else if body, err = json.Marshal(answer); err != nil {
		body, status = []byte(`{"error_code":500,"message":"Internal Server Error"}`), http.StatusInternalServerError
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client went away; nothing to do about it
}

// readJSON reads a request's body. Only the content types of JSON pass: a page
// in a browser cannot send those to another site without being asked.
func readJSON(r *http.Request, out any) error {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/json" && media != "application/octet-stream" && !strings.HasPrefix(media, "application/vnd.schemaregistry") {
		return &apiError{http.StatusUnsupportedMediaType, http.StatusUnsupportedMediaType, "HTTP 415 Unsupported Media Type"}
	}
	body, err := io.ReadAll(r.Body)
	var tooBig *http.MaxBytesError
	if errors.As(err, &tooBig) {
		return &apiError{http.StatusRequestEntityTooLarge, http.StatusRequestEntityTooLarge, "HTTP 413 Request Entity Too Large"}
	}
	if err == nil {
		err = json.Unmarshal(body, out)
	}
	if err != nil {
		return &apiError{http.StatusBadRequest, http.StatusBadRequest, "The request's body is not the JSON that was expected"}
	}
	return nil
}

// subjectName takes the subject out of the path.
func subjectName(r *http.Request) (string, error) {
	name := r.PathValue("subject")
	bad := name == "" || len(name) > maxSubject || !utf8.ValidString(name)
	for _, c := range name {
		bad = bad || unicode.IsControl(c)
	}
	if bad {
		return "", &apiError{http.StatusUnprocessableEntity, 42208, "The specified subject is not a valid subject name"}
	}
	return name, nil
}

// versionNumber takes the version out of the path; -1 = the latest.
func versionNumber(r *http.Request) (int, error) {
	text := r.PathValue("version")
	if text == "latest" || text == "-1" {
		return -1, nil
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 1 {
		return 0, &apiError{http.StatusUnprocessableEntity, 42202, fmt.Sprintf(
			"The specified version '%s' is not a valid version id. Allowed values are between [1, 2^31-1] and the string \"latest\"", shorten(text))}
	}
	return int(n), nil
}

func shorten(s string) string {
	if len(s) > 64 {
		s = strings.ToValidUTF8(s[:64], "") + "..."
	}
	return s
}

// flag reads a boolean of the query.
func flag(r *http.Request, name string) bool {
	return strings.EqualFold(r.URL.Query().Get(name), "true")
}
