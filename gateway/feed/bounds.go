package feed

import (
	"context"
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
	bounds map[int32]broker.Bounds // shared: nobody may change it
	err    error
}

func newAsker(spawn func(func(context.Context)), ask func(context.Context, string, stream.TopicID, []int32) (map[int32]broker.Bounds, error)) *asker {
	return &asker{spawn: spawn, ask: ask, open: map[asked]*questions{}}
}

// bounds asks for the bounds of a topic's first n partitions, or waits for
// somebody's question that begins from now on. Nobody may change the answer.
func (a *asker) bounds(ctx context.Context, topic string, id stream.TopicID, n int) (map[int32]broker.Bounds, error) {
	q := a.join(asked{topic, id, n})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-q.done:
		return q.bounds, q.err
	}
}

// join returns the question to wait for.
func (a *asker) join(what asked) *question {
	a.mu.Lock()
	defer a.mu.Unlock()
	qs := a.open[what]
	if qs == nil {
		qs = &questions{now: newQuestion()}
		a.open[what] = qs
		a.spawn(func(ctx context.Context) { a.run(ctx, what, qs) })
		return qs.now
	}
	if qs.next == nil {
		qs.next = newQuestion()
	}
	return qs.next
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
		a.mu.Lock()
		q = qs.next
		qs.now, qs.next = q, nil
		if q == nil {
			delete(a.open, what)
		}
		a.mu.Unlock()
	}
}
