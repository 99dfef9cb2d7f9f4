package gateway

import (
	"context"
	"time"

	"github.com/tapecast/tapecast/gateway/feed"
	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
	"github.com/tapecast/tapecast/internal/stream"
)

// feedSource is what the sessions use of a feed.Feed. Tests put one in memory
// in its place.
type feedSource interface {
	Topics() []catalog.Feed
	Open(topic string, keys [][]byte, wake func()) (hold, error)
	Refresh(ctx context.Context) error
}

// hold is one subscription's hold on a topic, see feed.Sub. Its methods are
// called by one goroutine at a time.
type hold interface {
	Close()
	Epoch() stream.TopicID
	Partitions() []int32
	Live() (map[int32]int64, bool)
	Bounds(ctx context.Context) (map[int32]broker.Bounds, error)
	// AskBounds is Bounds for who does not wait: then is called once, from any goroutine.
	AskBounds(then func(map[int32]broker.Bounds, error))
	OffsetsAt(ctx context.Context, t time.Time) (map[int32]int64, error)
	Read(partition int32, cursor int64, maxEvents int) feed.Chunk
	Scan(ctx context.Context, partition int32, from, to int64, fn func(feed.Chunk) bool) (int64, error)
	Head(partition int32) (int64, bool)
	// Held tells what the tape has for the hold, if an offset lies on it.
	Held(partition int32, offset int64) (broker.Bounds, bool)
	Frame(e *feed.Event, form feed.Form) ([]byte, error)
	// Source is equal for holds that read the same tapes; nil = nobody else can.
	Source() any
	// Park ends wakes for what is on the tapes until the next Read.
	Park()
	// Tap reads the tapes of Source, which is not nil.
	Tap(wake func()) tap
}

// realFeed makes a feed.Feed a feedSource.
type realFeed struct{ *feed.Feed }

func (f realFeed) Open(topic string, keys [][]byte, wake func()) (hold, error) {
	s, err := f.Feed.Open(topic, keys, wake)
	if err != nil {
		return nil, err
	}
	return realHold{s}, nil
}

type realHold struct{ *feed.Sub }

func (h realHold) Tap(wake func()) tap { return h.Sub.Tap(wake) }

func (realHold) Frame(e *feed.Event, form feed.Form) ([]byte, error) { return e.Frame(form) }
