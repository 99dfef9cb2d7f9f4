package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxHealth is how much of a health answer is read and shown, bytes.
const maxHealth = 16 << 10

// runHealth is `tapecast health`.
func runHealth(ctx context.Context, sys system, args []string) error {
	fs := newFlags("health [URL]",
		"Ask a process whether it is ready, and end with code 0 if it is; else print what is missing and end with code 1.\n"+
			"Without a path, URL means its /readyz; /healthz asks only whether the process lives. It is the health check of\n"+
			"containers that have neither a shell nor curl.",
		"tapecast health", "tapecast health http://127.0.0.1:8093", "tapecast health http://127.0.0.1:8091/healthz --timeout 1s")
	timeout := fs.Duration("timeout", 3*time.Second, "how long the answer may take")
	rest, err := fs.parse(sys, args)
	if err != nil {
		return err
	}
	target := "http://127.0.0.1:8080"
	if len(rest) > 0 {
		if target, err = oneArg(rest, "URL"); err != nil {
			return err
		}
	}
	if target, err = healthURL(target); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	status, body, err := askHealth(ctx, target)
	if err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	if status != http.StatusOK {
		return fmt.Errorf("status %d: %s", status, body)
	}
	_, err = fmt.Fprintln(sys.out, body)
	return err
}

// healthURL completes a URL that names no path.
func healthURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", usagef("%q is not an http:// or https:// URL, such as http://127.0.0.1:8093", s)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/readyz"
	}
	return u.String(), nil
}

func askHealth(ctx context.Context, target string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close() // it was read
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxHealth))
	return resp.StatusCode, strings.TrimSpace(string(text)), err
}
