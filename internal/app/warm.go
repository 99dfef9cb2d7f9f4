package app

import (
	"context"
	"fmt"

	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/schemas"
)

// maxWarm is of how many topics the schemas are fetched ahead.
const maxWarm = 1000

// latest is what warmth needs of a schemas.Registry.
type latest interface {
	Latest(ctx context.Context, subject string) (id uint32, c *schemas.Codec, err error)
}

// topics is what it needs of a catalog.Catalog.
type topics interface {
	Feeds() []catalog.Feed
}

// warmth has a gateway know the newest schemas of its topics before anybody
// asks for them: when the registry goes away, and clients come over from another
// gateway, it can serve them.
type warmth struct {
	registry latest
	topics   topics

	warm map[string]bool // by Kafka topic; owned by ask
}

// ask fetches what is not there yet, once. A topic without a schema is none that is missing.
func (w *warmth) ask(ctx context.Context) error {
	for _, f := range w.topics.Feeds() {
		if f.Format != catalog.FormatAvro || w.warm[f.Topic.Name] || len(w.warm) >= maxWarm {
			continue
		}
		if _, _, err := w.registry.Latest(ctx, schemas.Subject(f.Topic.Name)); schemas.Transient(err) {
			return fmt.Errorf("the schema of topic %q: %w", f.Topic.Name, err)
		}
		w.warm[f.Topic.Name] = true
	}
	return nil
}

// warmUp makes it a condition of a gateway's being ready that it has the schemas.
func (b *base) warmUp(reg *schemas.Registry) {
	if reg == nil {
		return
	}
	w := &warmth{registry: reg, topics: b.catalog, warm: map[string]bool{}}
	p := newProbe("schemas", true, b.log, func(ctx context.Context) error {
		if b.catalog.Synced().IsZero() {
			if err := b.catalog.Refresh(ctx); err != nil {
				return err
			}
		}
		return w.ask(ctx)
	})
	b.health.checks = append(b.health.checks, p.check())
	b.floor = append(b.floor, p.part())
}
