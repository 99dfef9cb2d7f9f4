package schemas

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	maxAnswer       = 1 << 20 // bytes of a registry's answer
	requestTimeout  = 2 * time.Second
	maxRequests     = 8 // at once
	contentType     = "application/vnd.schemaregistry.v1+json"
	maxErrorMessage = 512
)

// errAnswer says that something else than a registry may have answered.
var errAnswer = &transientError{errors.New("the answer is not the JSON that was expected")}

// wire speaks HTTP with the registry: one fixed base address, no redirects, no
// proxies, bounded answers. Safe for concurrent use.
type wire struct {
	base           string // without user info and trailing slash
	user, password string // never logged, never in an error
	client         *http.Client
	slots          chan struct{} // holds a token per request under way
}

func newWire(address string, transport http.RoundTripper) (*wire, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("registry address is not a URL") // the parser's error would quote the password
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("registry address %q: want http://host:port or https://host:port", u.Redacted())
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("registry address %q: has a query or a fragment", u.Redacted())
	}
	w := &wire{slots: make(chan struct{}, maxRequests)}
	if u.User != nil {
		w.user = u.User.Username()
		w.password, _ = u.User.Password()
		u.User = nil
	}
	w.base = strings.TrimRight(u.String(), "/")
	if transport == nil {
		transport = &http.Transport{MaxIdleConnsPerHost: maxRequests, IdleConnTimeout: 30 * time.Second, MaxResponseHeaderBytes: 64 << 10}
	}
	w.client = &http.Client{
		Transport:     transport,
		Timeout:       requestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return w, nil
}

// subjectPath is the path of a subject; names that a URL would take for
// something else are refused.
func subjectPath(subject string) (string, error) {
	if subject == "" || subject == "." || subject == ".." || len(subject) > 512 {
		return "", &RejectedError{Status: http.StatusBadRequest, Message: "not a subject name"}
	}
	return "/subjects/" + url.PathEscape(subject), nil
}

// call sends one request and decodes a good answer into out (nil = ignore it).
// Errors are transient ones, or *RejectedError, or *SchemaError for an answer
// that is too large.
func (w *wire) call(ctx context.Context, method, path string, in, out any) error {
	select {
	case w.slots <- struct{}{}:
		defer func() { <-w.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	status, body, err := w.exchange(ctx, method, path, in)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return refusal(status, body)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return errAnswer
	}
	return nil
}

func (w *wire) exchange(ctx context.Context, method, path string, in any) (int, []byte, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return 0, nil, fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, w.base+path, body)
	if err != nil {
		return 0, nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Accept", contentType+", application/json;q=0.9")
	if in != nil {
		req.Header.Set("Content-Type", contentType)
	}
	if w.user != "" || w.password != "" {
		req.SetBasicAuth(w.user, w.password)
	}
	res, err := w.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return 0, nil, ctx.Err()
		}
		return 0, nil, &transientError{err}
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return 0, nil, &transientError{fmt.Errorf("read answer: %w", err)}
	}
	if len(answer) > maxAnswer {
		return 0, nil, &SchemaError{Reason: fmt.Sprintf("the registry's answer exceeds %d bytes", maxAnswer)}
	}
	return res.StatusCode, answer, nil
}

// refusal sorts an answer that is not 200. A 404 without Confluent's error body
// may come from a proxy or from a wrong path, so nothing final follows from it.
func refusal(status int, body []byte) error {
	var e struct {
		Code    int    `json:"error_code"`
		Message string `json:"message"`
	}
	parsed := json.Unmarshal(body, &e) == nil
	if len(e.Message) > maxErrorMessage {
		e.Message = strings.ToValidUTF8(e.Message[:maxErrorMessage], "") + "..."
	}
	switch {
	case status == http.StatusNotFound && parsed && e.Code/100 == http.StatusNotFound:
	case status == http.StatusConflict, status == http.StatusUnprocessableEntity, status == http.StatusBadRequest:
	default:
		return &transientError{fmt.Errorf("status %d: %q", status, e.Message)}
	}
	return &RejectedError{Status: status, Code: e.Code, Message: e.Message}
}

// notFound tells whether the registry says that something is not there.
func notFound(err error) bool {
	var r *RejectedError
	return errors.As(err, &r) && r.Status == http.StatusNotFound
}
