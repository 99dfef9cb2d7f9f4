package app

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/schemas"
)

type fakeLatest struct {
	err   map[string]error
	asked []string
}

func (f *fakeLatest) Latest(_ context.Context, subject string) (uint32, *schemas.Codec, error) {
	f.asked = append(f.asked, subject)
	return 1, nil, f.err[subject]
}

type fakeTopics []catalog.Feed

func (f *fakeTopics) Feeds() []catalog.Feed { return *f }

// TestWarmth fetches the schema of each Avro topic once, and is not done while
// the registry is away.
func TestWarmth(t *testing.T) {
	reg := &fakeLatest{err: map[string]error{
		"bare-value": schemas.ErrUnknownSubject, "trades-value": context.DeadlineExceeded,
	}}
	feeds := &fakeTopics{{Topic: broker.Topic{Name: "notes"}, Format: catalog.FormatJSON}, {Topic: broker.Topic{Name: "bare"}, Format: catalog.FormatAvro}, {Topic: broker.Topic{Name: "trades"}, Format: catalog.FormatAvro}}
	w := &warmth{registry: reg, topics: feeds, warm: map[string]bool{}}
	require.ErrorIs(t, w.ask(t.Context()), context.DeadlineExceeded)
	require.Equal(t, []string{"bare-value", "trades-value"}, reg.asked)

	reg.err, reg.asked = nil, nil
	require.NoError(t, w.ask(t.Context()))
	require.Equal(t, []string{"trades-value"}, reg.asked)

	*feeds = append(*feeds, catalog.Feed{Topic: broker.Topic{Name: "quotes"}, Format: catalog.FormatAvro})
	reg.err, reg.asked = map[string]error{"quotes-value": errors.New("it does not compile")}, nil
	require.NoError(t, w.ask(t.Context()), "an unusable schema is poison, not a reason to take nobody")
	require.Equal(t, []string{"quotes-value"}, reg.asked)
}
