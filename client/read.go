package client

import (
	"context"
	"errors"
	"iter"
	"maps"
)

// Next returns the next frame, in order. It waits; ctx ends the wait. After the
// subscription's end it returns the error that ended it: ErrEnd, ErrClosed,
// ErrOverflow, or an *Error of the gateway.
func (s *Subscription) Next(ctx context.Context) (Frame, error) {
	f, err := s.take(ctx)
	if err == nil {
		s.mu.Lock()
		s.hand(&f)
		s.mu.Unlock()
	}
	return f, err
}

// take is Next without moving the caller's position.
func (s *Subscription) take(ctx context.Context) (Frame, error) {
	for {
		f, ok, err := s.poll()
		if ok || err != nil {
			return f, err
		}
		select {
		case <-s.more:
		case <-ctx.Done():
			return Frame{}, ctx.Err()
		}
	}
}

// poll takes the oldest frame, if there is one.
func (s *Subscription) poll() (f Frame, ok bool, err error) {
	s.mu.Lock()
	if s.q.len() == 0 {
		defer s.mu.Unlock()
		return Frame{}, false, s.err
	}
	f = s.q.pop()
	if s.q.bytes <= s.limit/2 {
		s.stalled = 0
	}
	wake := s.resume()
	s.mu.Unlock()
	signal(s.room)
	if wake {
		s.c.kick()
	}
	return f, true, nil
}

// hand moves the position that the caller holds; s.mu is held.
func (s *Subscription) hand(f *Frame) {
	move := func(p int32, next int64) {
		if s.handed != nil && next > s.handed[p] {
			s.handed[p] = next
		}
	}
	switch f.Kind {
	case KindData:
		if !f.Snapshot && !f.Latest {
			move(f.Partition, f.Offset+1)
		}
	case KindGap:
		if f.Cause != "epoch" {
			move(f.Partition, f.GapTo)
		}
	case KindSubscribed:
		if s.handed == nil && s.t.snapshot {
			s.handedIn = f.Epoch
			return // it has no position before live
		}
		if s.handed == nil || f.Resume == "reset" || f.Epoch != s.handedIn {
			s.handed = map[int32]int64{}
		}
		s.handedIn = f.Epoch
		for p, o := range f.From {
			s.handed[p] = max(s.handed[p], o) // also those at 0
		}
	case KindReset:
		s.handed, s.handedIn = map[int32]int64{}, f.Epoch
		maps.Copy(s.handed, f.From)
	case KindLive, KindEnd, KindHeartbeat:
		if s.handed == nil {
			s.handed = map[int32]int64{}
		}
		for p, o := range f.LiveAt {
			move(p, o)
		}
	}
}

// Position returns where the caller stands after what Next has returned: hand
// it to [At] to go on there later, here or anywhere. It has no offsets before
// the first acknowledgement (with mode snapshot: before the first live).
func (s *Subscription) Position() Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Position{Epoch: s.handedIn, Next: maps.Clone(s.handed)}
}

// Positions is Position in two values.
func (s *Subscription) Positions() (next map[int32]int64, epoch string) {
	p := s.Position()
	return p.Next, p.Epoch
}

// Buffered is how many frames Next can return without waiting.
func (s *Subscription) Buffered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.q.len()
}

// Err is the error that ended the subscription, nil while it lives.
func (s *Subscription) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// quiet tells whether an iteration ends without an error.
func quiet(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, ErrEnd) || errors.Is(err, ErrClosed)
}

// Frames iterates over Next. It ends without an error when the subscription's
// end is reached, when it is closed, or when ctx ends.
func (s *Subscription) Frames(ctx context.Context) iter.Seq2[Frame, error] {
	return func(yield func(Frame, error) bool) {
		for {
			f, err := s.Next(ctx)
			if err != nil {
				if !quiet(ctx, err) {
					yield(Frame{}, err)
				}
				return
			}
			if !yield(f, nil) {
				return
			}
		}
	}
}

// Chan is Next as a channel, for select. It is closed when the subscription
// ends, see Err, or when ctx ends; the goroutine behind it ends then as well,
// and Client.Close waits for it. The channel holds no frame; Position moves a
// moment after a frame was received, never before.
func (s *Subscription) Chan(ctx context.Context) <-chan Frame {
	out := make(chan Frame)
	s.c.forwards.Add(1)
	go func() { // owned by the client: Close waits for it
		defer s.c.forwards.Done()
		defer close(out)
		for {
			f, err := s.take(ctx)
			if err != nil {
				return
			}
			select {
			case out <- f:
				s.mu.Lock()
				s.hand(&f)
				s.mu.Unlock()
			case <-ctx.Done():
				return
			case <-s.c.done:
				return
			}
		}
	}()
	return out
}

// Event is a data frame with its value decoded.
type Event[T any] struct {
	Frame
	Data T // zero for a tombstone
}

// Missing is the error by which [Events] reports a gap or a reset. The
// iteration goes on after it.
type Missing struct{ Frame }

func (m *Missing) Error() string {
	return "events are missing: " + string(m.Raw)
}

// Events iterates over the decoded events of a subscription. A gap or a reset
// comes as a *Missing error, a value that does not decode as its decoder's
// error; the loop may go on after both. The error that ends the subscription
// comes last.
func Events[T any](ctx context.Context, s *Subscription) iter.Seq2[Event[T], error] {
	return func(yield func(Event[T], error) bool) {
		for f, err := range s.Frames(ctx) {
			e := Event[T]{Frame: f}
			switch {
			case err != nil:
			case f.Kind == KindGap, f.Kind == KindReset, f.Kind == KindSubscribed && f.Resume == "reset":
				err = &Missing{f}
			case f.Kind != KindData:
				continue
			default:
				err = f.Decode(&e.Data)
			}
			if !yield(e, err) {
				return
			}
		}
	}
}
