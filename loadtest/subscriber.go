package loadtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tapecast/tapecast/client"
)

// subscriber is one client that subscribes, loses its connection now and then,
// goes on from the position it holds, and keeps its whole history.
type subscriber struct {
	id     int
	topic  string
	keys   []string // nil = all
	urls   []string
	from   client.From
	every  time.Duration // mean time between two resumes; 0 = none
	rng    *rand.Rand
	parts  map[int32]*history
	epoch  string
	live   bool
	lat    []int64 // microseconds, a reservoir
	latN   int64
	count  *progress
	broken int // violations that the client library noticed
	resume int64
}

// maxLatencies bounds a subscriber's latency reservoir.
const maxLatencies = 4096

func (s *subscriber) wants() map[string]bool {
	if s.keys == nil {
		return nil
	}
	m := make(map[string]bool, len(s.keys))
	for _, k := range s.keys {
		m[k] = true
	}
	return m
}

// run reads until it stands at the ends that `ends` gives once it is closed.
func (s *subscriber) run(ctx context.Context, ends <-chan map[int32]int64) error {
	var goal map[int32]int64
	for first := true; ; first = false {
		if !first && s.epoch != "" {
			s.resume++
			s.count.resumes.Add(1)
		}
		err := s.life(ctx, ends, &goal)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errLifeOver):
		default:
			return fmt.Errorf("subscriber %d: %w", s.id, err)
		}
	}
}

var errLifeOver = errors.New("this connection's life is over")

// life is one client, from its dial until it is cut off at random.
func (s *subscriber) life(ctx context.Context, ends <-chan map[int32]int64, goal *map[int32]int64) error {
	urls := append([]string(nil), s.urls...)
	s.rng.Shuffle(len(urls), func(i, j int) { urls[i], urls[j] = urls[j], urls[i] })
	c, err := client.Dial(ctx, client.Options{URLs: urls})
	if err != nil {
		return err
	}
	defer c.Close()
	from := s.from
	if s.epoch != "" {
		from = client.Offsets(s.positions(), s.epoch)
	}
	sub, err := c.Subscribe(ctx, s.topic, client.SubscribeOptions{Keys: s.keys, From: from})
	if err != nil {
		return err
	}
	var over <-chan time.Time
	if s.every > 0 && *goal == nil {
		over = time.After(s.pause())
	}
	defer func() {
		n, _ := sub.Violations()
		s.broken += n
		s.resume += c.Reconnects()
		s.count.resumes.Add(c.Reconnects())
	}()
	frames := make(chan client.Frame, 256)
	failed := make(chan error, 1)
	rctx, stop := context.WithCancel(ctx)
	defer stop()
	go s.pull(rctx, sub, frames, failed)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			return err
		case <-over:
			if s.rng.IntN(2) == 0 {
				return errLifeOver // a new process would do this: dial again with what it holds
			}
			c.Break() // the library resumes by itself
			over = time.After(s.pause())
		case g := <-ends:
			*goal, ends, over = g, nil, nil
		case f := <-frames:
			if err := s.take(&f); err != nil {
				return err
			}
		}
		if *goal != nil && s.reached(*goal) {
			return nil
		}
	}
}

// pause is how long it is to the next resume.
func (s *subscriber) pause() time.Duration {
	return time.Duration(s.rng.ExpFloat64() * float64(s.every))
}

func (s *subscriber) pull(ctx context.Context, sub *client.Subscription, frames chan<- client.Frame, failed chan<- error) {
	for {
		f, err := sub.Next(ctx)
		if err != nil {
			failed <- err
			return
		}
		select {
		case frames <- f:
		case <-ctx.Done():
			return
		}
	}
}

func (s *subscriber) positions() map[int32]int64 {
	m := make(map[int32]int64, len(s.parts))
	for p, h := range s.parts {
		m[p] = h.end
	}
	return m
}

func (s *subscriber) part(p int32) *history {
	h := s.parts[p]
	if h == nil {
		h = &history{}
		s.parts[p] = h
	}
	return h
}

func (s *subscriber) take(f *client.Frame) error {
	switch f.Kind {
	case client.KindData:
		return s.data(f)
	case client.KindSubscribed:
		return s.acked(f)
	case client.KindGap:
		h := s.part(f.Partition)
		h.gaps = append(h.gaps, span{f.GapFrom, f.GapTo})
		h.end = max(h.end, f.GapTo)
		s.count.gaps.Add(1)
	case client.KindLive, client.KindHeartbeat:
		s.live = s.live || f.Kind == client.KindLive
		for p, o := range f.LiveAt {
			h := s.part(p)
			h.end = max(h.end, o)
		}
	case client.KindReset:
		return fmt.Errorf("topic %s was reset in mid-test", s.topic)
	}
	return nil
}

func (s *subscriber) acked(f *client.Frame) error {
	if s.epoch == "" {
		s.epoch = f.Epoch
		for p, o := range f.From {
			s.parts[p] = &history{start: o, end: o}
		}
		s.count.ready.Add(1)
	}
	if f.Resume != "exact" || f.Epoch != s.epoch {
		return fmt.Errorf("resume is %q, epoch %q (was %q)", f.Resume, f.Epoch, s.epoch)
	}
	s.live = true
	for p, o := range f.LiveAt {
		s.live = s.live && f.From[p] >= o
	}
	return nil
}

func (s *subscriber) data(f *client.Frame) error {
	var e event
	if err := e.parseJSON(f.Value); err != nil {
		return fmt.Errorf("partition %d offset %d: %w", f.Partition, f.Offset, err)
	}
	h := s.part(f.Partition)
	h.seen = append(h.seen, seen{offset: f.Offset, digest: e.digest(f.Key)})
	h.end = max(h.end, f.Offset+1)
	s.count.delivered.Add(1)
	if s.live {
		s.latency(time.Now().UnixMicro() - e.SentUs)
	}
	return nil
}

func (s *subscriber) latency(us int64) {
	s.latN++
	if len(s.lat) < maxLatencies {
		s.lat = append(s.lat, us)
		return
	}
	if i := s.rng.Int64N(s.latN); i < maxLatencies {
		s.lat[i] = us
	}
}

func (s *subscriber) reached(goal map[int32]int64) bool {
	for p, end := range goal {
		if h := s.parts[p]; h == nil || h.end < end {
			return false
		}
	}
	return true
}
