package feed

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/stream"
)

// asker shares questions for the bounds of logs: ten thousand sessions that
// come back at once ask about twice. An answer is fresh for all who get it: who
// asks while a question is under way waits for the next one.
type asker struct {
	// static after construction
	spawn func(fn func(ctx context.Context))
	ask   func(ctx context.Context, topic string, id stream.TopicID, partitions []int32) (map[int32]broker.Bounds, error)

	mu   sync.Mutex
	open map[asked]*questions // guarded by mu: those with a question under way
}

// asked is what is asked for: the first n partitions of a topic.
type asked struct {
	topic string
	id    stream.TopicID
	n     int
}

// questions are the one under way and the one that comes behind it; nil = nobody wants it.
type questions struct{ now, next *question }

// question is one that some wait for. Its answer is set when done is closed.
type question struct {
	done   chan struct{}
	then   []func(bounds map[int32]broker.Bounds, err error) // guarded by the asker's mu until it is asked: called after done
	bounds map[int32]broker.Bounds                           // shared: nobody may change it
	err    error
}

func newAsker(spawn func(func(context.Context)), ask func(context.Context, string, stream.TopicID, []int32) (map[int32]broker.Bounds, error)) *asker {
	return &asker{spawn: spawn, ask: ask, open: map[asked]*questions{}}
}

// bounds asks for the bounds of a topic's first n partitions, or waits for
// somebody's question that begins from now on. Nobody may change the answer.
func (a *asker) bounds(ctx context.Context, topic string, id stream.TopicID, n int) (map[int32]broker.Bounds, error) {
	q := a.join(asked{topic, id, n}, nil)
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-q.done:
		return q.bounds, q.err
	}
}

// AskBounds is Bounds without waiting: then is called, once, from any goroutine,
// and must not wait. It is the caller's to know whether the sub is open still.
func (s *Sub) AskBounds(then func(map[int32]broker.Bounds, error)) {
	topic, refresh := s.topic.name, s.feed.refresh
	s.feed.env.asker.join(asked{topic, s.Epoch(), len(s.Partitions())}, func(b map[int32]broker.Bounds, err error) {
		if errors.Is(err, stream.ErrTopicChanged) {
			refresh()
		}
		then(b, err)
	})
}

// join returns the question to wait for. then is called with its answer by
// whoever asks, and must not wait; it may be nil.
func (a *asker) join(what asked, then func(map[int32]broker.Bounds, error)) *question {
	a.mu.Lock()
	defer a.mu.Unlock()
	var q *question
	qs := a.open[what]
	switch {
	case qs == nil:
		q = newQuestion()
		qs = &questions{now: q}
		a.open[what] = qs
		defer a.spawn(func(ctx context.Context) { a.run(ctx, what, qs) })
	case qs.next == nil:
		q = newQuestion()
		qs.next = q
	default:
		q = qs.next
	}
	if then != nil {
		q.then = append(q.then, then)
	}
	return q
}

func newQuestion() *question { return &question{done: make(chan struct{})} }

// askTime bounds one question.
const askTime = 10 * time.Second

// run asks until nobody waits.
func (a *asker) run(ctx context.Context, what asked, qs *questions) {
	for q := qs.now; q != nil; {
		tctx, cancel := context.WithTimeout(ctx, askTime)
		q.bounds, q.err = a.ask(tctx, what.topic, what.id, firstIDs(what.n))
		cancel()
		close(q.done)
		for _, then := range q.then {
			then(q.bounds, q.err)
		}
		a.mu.Lock()
		q = qs.next
		qs.now, qs.next = q, nil
		if q == nil {
			delete(a.open, what)
		}
		a.mu.Unlock()
	}
}
