package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/stream"
	"github.com/tapecast/tapecast/schemas"
)

// subscriber is one gateway that wants a topic.
type subscriber struct {
	Node        string `json:"node"`
	Incarnation string `json:"incarnation"`
	All         bool   `json:"all_keys"`
	Keys        int    `json:"keys"` // single keys wanted
}

func (s subscriber) wants() string {
	switch {
	case s.All && s.Keys > 0:
		return "all keys, and " + plural(int64(s.Keys), "key") + " by name"
	case s.All:
		return "all keys"
	}
	return plural(int64(s.Keys), "key")
}

const interestRead = 1 << 20 // bytes of one read of the interest log

// subscribers folds the interest log as it stands now. The lease cannot be
// judged from here (it counts from when a record is seen), so a gateway that
// was killed is listed until somebody ends it, seconds later.
func subscribers(ctx context.Context, client *broker.Client, topic string) ([]subscriber, error) {
	bounds, err := interestBounds(ctx, client)
	if err != nil || bounds.End == 0 {
		return []subscriber{}, err
	}
	var state interest.State
	r := client.NewReader(interest.Topic, stream.TopicID{}, 0)
	defer r.Close()
	for next := bounds.Start; next < bounds.End; {
		span, err := r.Read(ctx, next, interestRead, time.Second)
		if err != nil {
			return nil, fmt.Errorf("read the interest log at %d: %w", next, err)
		}
		for _, rec := range span.Records {
			ir, err := interest.Decode(rec.Key, rec.Value)
			state.Apply(stream.InterestPos{Offset: rec.Offset}, ir, err == nil, time.Now())
		}
		if span.To <= next {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			continue
		}
		next = span.To
	}
	return fold(&state, topic), nil
}

// interestBounds returns no bounds where there is no interest log yet.
func interestBounds(ctx context.Context, client *broker.Client) (broker.Bounds, error) {
	topics, err := client.Topics(ctx, interest.Topic)
	if err != nil || len(topics) == 0 {
		return broker.Bounds{}, err
	}
	bounds, err := client.Bounds(ctx, interest.Topic, []int32{0})
	if err != nil {
		return broker.Bounds{}, fmt.Errorf("ask for the bounds of the interest log: %w", err)
	}
	return bounds[0], nil
}

func fold(state *interest.State, topic string) []subscriber {
	out := []subscriber{}
	state.All(func(inc *interest.Incarnation) bool {
		if !inc.Alive() {
			return true
		}
		s := subscriber{Node: inc.Node, Incarnation: inc.Name}
		inc.Wants(func(w interest.Want) bool {
			if w.Feed == topic && w.All {
				s.All = true
			} else if w.Feed == topic {
				s.Keys++
			}
			return true
		})
		if s.All || s.Keys > 0 {
			out = append(out, s)
		}
		return true
	})
	slices.SortFunc(out, func(a, b subscriber) int {
		return strings.Compare(a.Node+" "+a.Incarnation, b.Node+" "+b.Incarnation)
	})
	return out
}

// schemaVersion is the registry's newest entry for a topic.
type schemaVersion struct {
	Subject string `json:"subject"`
	Version int    `json:"version"`
	ID      uint32 `json:"id"`
}

const (
	registryTimeout = 3 * time.Second
	registryAnswer  = 1 << 20 // bytes
)

// latestSchema asks the registry for the version number, which the cache of
// schemas.Registry has no use for.
func latestSchema(ctx context.Context, base, topic string) (*schemaVersion, error) {
	if base == "" {
		return nil, errors.New("no registry is named (--registry)")
	}
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	subject := schemas.Subject(topic)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet,
		strings.TrimSuffix(base, "/")+"/subjects/"+url.PathEscape(subject)+"/versions/latest", http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/vnd.schemaregistry.v1+json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the registry does not answer: %w", err)
	}
	defer func() { _ = res.Body.Close() }() // read to its end or given up
	body, err := io.ReadAll(io.LimitReader(res.Body, registryAnswer))
	if err != nil {
		return nil, fmt.Errorf("the registry's answer: %w", err)
	}
	switch {
	case res.StatusCode == http.StatusNotFound:
		return nil, errNoSubject
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("the registry answers %s", res.Status)
	}
	v := &schemaVersion{Subject: subject}
	if err := json.Unmarshal(body, v); err != nil {
		return nil, fmt.Errorf("the registry's answer: %w", err)
	}
	return v, nil
}
