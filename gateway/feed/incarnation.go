package feed

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/delivery"
	ilog "github.com/tapecast/tapecast/internal/interest"
	"github.com/tapecast/tapecast/internal/interestlog"
	"github.com/tapecast/tapecast/internal/stream"
)

// incarnation is one life of this node: its interests and its delivery topic
// belong to it. It ends once; a node that goes on takes another.
type incarnation struct {
	seq        uint64
	id         string
	log        stream.TopicID // of the interest log
	delivery   string
	deliveryID stream.TopicID
}

// Why an incarnation ended.
var (
	errLeaseLost    = errors.New("the lease could not be renewed")
	errDeliveryGone = errors.New("the delivery topic is gone")
	errEnded        = errors.New("the incarnation was ended by another")
	errLogChanged   = errors.New("the interest topic was made again")
)

const (
	deliveryRetention = 10 * time.Minute
	deliveryBytes     = 256 << 20
	// farewell bounds what is done for an incarnation that has ended.
	farewell = 5 * time.Second
)

// cluster is what the incarnation needs of a broker.Client.
type cluster interface {
	CreateTopic(ctx context.Context, s broker.TopicSpec) (t broker.Topic, created bool, err error)
	DeleteTopic(ctx context.Context, name string) error
	Topics(ctx context.Context, names ...string) ([]broker.Topic, error)
	Append(ctx context.Context, topic string, partition int32, recs []broker.AppendRecord) (base int64, err error)
}

// life keeps this node alive in the interest log: one incarnation after the other.
type life struct {
	// static after construction
	node     string
	lease    time.Duration
	replicas int // of the delivery topic; 0 = the broker's default
	cluster  cluster
	ensure   func(ctx context.Context) (stream.TopicID, error)
	open     func(topic string, id stream.TopicID) reader
	book     *book
	deliver  func(inc *incarnation, payload []byte)
	log      *slog.Logger
	counts   *lifeCounts

	mu      sync.Mutex
	current *incarnation // guarded by mu; nil = none
	last    uint64       // guarded by mu; seq of the latest
	renewed time.Time    // guarded by mu; when the last renewal that was acked was sent
	problem error        // guarded by mu; why there is none
}

// run lives until ctx ends, then takes its leave. Its only error says that
// life cannot begin: the interest topic is unfit.
func (l *life) run(ctx context.Context) error {
	back := newBackoff(100*time.Millisecond, 5*time.Second)
	var last *incarnation
	for seq := uint64(1); ; seq++ {
		inc, err := l.begin(ctx, seq)
		if err == nil {
			began := time.Now()
			err = l.live(ctx, inc, last)
			last = inc
			if time.Since(began) > l.lease {
				back.reset()
			}
		}
		l.set(nil, err)
		if ctx.Err() != nil {
			break
		}
		if unfit, ok := errors.AsType[*interestlog.UnfitError](err); ok && last == nil {
			return fmt.Errorf("feed: %w", unfit)
		}
		l.log.Warn("a new incarnation begins", "err", err, "node", l.node)
		if back.wait(ctx) != nil {
			break
		}
	}
	if last != nil {
		fctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		l.leave(fctx, last)
	}
	return nil
}

func (l *life) set(inc *incarnation, problem error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current, l.problem = inc, problem
	if inc == nil {
		l.renewed = time.Time{}
		return
	}
	l.last = inc.seq
}

// seq is the number of the latest incarnation; 0 = there was none.
func (l *life) seq() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// incarnation is the present one; nil = none.
func (l *life) incarnation() *incarnation {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current
}

// ready tells what is missing.
func (l *life) ready() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.current == nil && l.problem != nil:
		return fmt.Errorf("no incarnation: %w", l.problem)
	case l.current == nil:
		return errors.New("no incarnation yet")
	case l.renewed.IsZero():
		return errors.New("the lease is not written yet")
	case time.Since(l.renewed) > l.lease:
		return errLeaseLost
	}
	return nil
}

// age tells how old the lease is; 0 = there is none.
func (l *life) age() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.renewed.IsZero() {
		return 0
	}
	return time.Since(l.renewed)
}

// begin makes a new incarnation's identity and delivery topic.
func (l *life) begin(ctx context.Context, seq uint64) (*incarnation, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var random [10]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, fmt.Errorf("incarnation id: %w", err)
	}
	inc := &incarnation{seq: seq, id: hex.EncodeToString(random[:])}
	inc.delivery = delivery.TopicName(l.node, inc.id)
	var err error
	if inc.log, err = l.ensure(ctx); err != nil {
		return nil, err
	}
	t, created, err := l.cluster.CreateTopic(ctx, broker.TopicSpec{Name: inc.delivery, Partitions: 1, Replicas: l.replicas, Config: map[string]string{
		"cleanup.policy":  "delete",
		"retention.ms":    fmt.Sprint(deliveryRetention.Milliseconds()),
		"retention.bytes": fmt.Sprint(deliveryBytes),
	}})
	if err != nil {
		if created {
			l.remove(ctx, inc) // no lease ever names it
		}
		return nil, fmt.Errorf("create delivery topic %s: %w", inc.delivery, err)
	}
	inc.deliveryID = t.ID
	return inc, nil
}

// live runs one incarnation to its end, and says why it ended. last is the one
// before it, which is ended in the log and removed.
func (l *life) live(ctx context.Context, inc, last *incarnation) error {
	l.counts.incarnations.Inc()
	l.log.Info("incarnation begins", "node", l.node, "incarnation", inc.id, "delivery_topic", inc.delivery)
	l.set(inc, nil)
	l.book.renew(inc.seq)
	g, gctx := errgroup.WithContext(ctx)
	w := &writer{life: l, inc: inc, ended: last, born: make(chan int64, 1)}
	g.Go(func() error { return w.loop(gctx) })
	g.Go(func() error { return l.deliveryLoop(gctx, inc) })
	g.Go(func() error {
		select {
		case <-gctx.Done():
			return nil
		case at := <-w.born:
			return l.watchLoop(gctx, inc, at)
		}
	})
	if last != nil {
		g.Go(func() error {
			l.remove(gctx, last)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// remove deletes the delivery topic of an incarnation that has ended. What it
// leaves behind, retention and the fan-outs remove.
func (l *life) remove(ctx context.Context, inc *incarnation) {
	tctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	if err := l.cluster.DeleteTopic(tctx, inc.delivery); err != nil && ctx.Err() == nil {
		l.log.Warn("delivery topic was not deleted", "topic", inc.delivery, "err", err)
	}
}

// leave ends an incarnation: its end record, tombstones for what it wrote, and
// its delivery topic. The end record itself stays: it must outlive them.
func (l *life) leave(ctx context.Context, inc *incarnation) {
	recs := []ilog.Record{{Kind: ilog.KindEnd, Incarnation: inc.id}}
	for _, id := range l.book.known() {
		recs = append(recs, ilog.Record{Kind: ilog.KindEnd1, Incarnation: inc.id, ID: id})
	}
	recs = append(recs, ilog.Record{Kind: ilog.KindGone, Incarnation: inc.id, ID: ilog.GoneLease})
	for len(recs) > 0 {
		n := min(len(recs), maxWrite)
		if _, err := l.append(ctx, recs[:n]); err != nil {
			l.log.Warn("incarnation was not ended, its lease will", "incarnation", inc.id, "err", err)
			break
		}
		recs = recs[n:]
	}
	l.remove(ctx, inc)
	l.log.Info("incarnation ended", "incarnation", inc.id)
}

// append writes records to the interest log, as one batch.
func (l *life) append(ctx context.Context, recs []ilog.Record) (base int64, err error) {
	out := make([]broker.AppendRecord, len(recs))
	for i, r := range recs {
		if out[i].Key, out[i].Value, err = r.Encode(); err != nil {
			return 0, err
		}
	}
	return l.cluster.Append(ctx, ilog.Topic, 0, out)
}

// deliveryLoop hands on what the fan-outs write for this incarnation.
func (l *life) deliveryLoop(ctx context.Context, inc *incarnation) error {
	r := l.open(inc.delivery, inc.deliveryID)
	defer r.Close()
	gone := func(ctx context.Context) error { return l.gone(ctx, inc.delivery, inc.deliveryID, errDeliveryGone) }
	return l.follow(ctx, r, 0, gone, nil, func(rec *stream.Record) error {
		l.deliver(inc, rec.Value)
		return nil
	})
}

// watchLoop looks for the end record of this incarnation.
func (l *life) watchLoop(ctx context.Context, inc *incarnation, from int64) error {
	end, _, err := ilog.Record{Kind: ilog.KindEnd, Incarnation: inc.id}.Encode()
	if err != nil {
		return err
	}
	r := l.open(ilog.Topic, inc.log)
	defer r.Close()
	gone := func(ctx context.Context) error { return l.gone(ctx, ilog.Topic, inc.log, errLogChanged) }
	// A log that has shrunk has lost interests, and its offsets mean other
	// records from now on: it is another log, whatever its id.
	return l.follow(ctx, r, from, gone, errLogChanged, func(rec *stream.Record) error {
		if rec.Value != nil && bytes.Equal(rec.Key, end) {
			return errEnded
		}
		return nil
	})
}

// gone asks metadata whether a topic is really gone, or another: a broker may
// not know yet of a topic that was just made. It returns err if so, and nil if
// nobody could say: the next read that fails asks again.
func (l *life) gone(ctx context.Context, name string, id stream.TopicID, err error) error {
	ts, askErr := l.cluster.Topics(ctx, name)
	if askErr == nil && (len(ts) != 1 || ts[0].ID != id) {
		return err
	}
	return nil
}

const (
	followBytes = 4 << 20
	followWait  = 500 * time.Millisecond
)

// follow hands every record from an offset on to fn, until fn or ctx says no.
// What retention has removed is passed over: coverage makes it a gap. A topic
// that ends before what was read is begun anew, or the error shrunk.
func (l *life) follow(ctx context.Context, r reader, from int64, gone func(context.Context) error, shrunk error, fn func(*stream.Record) error) error {
	back := newBackoff(20*time.Millisecond, time.Second)
	for ctx.Err() == nil {
		span, err := r.Read(ctx, from, followBytes, followWait)
		if err != nil {
			if ctx.Err() != nil {
				continue
			}
			if oor, ok := errors.AsType[*stream.OutOfRangeError](err); ok {
				l.counts.jumps.Inc()
				if from > oor.End && shrunk != nil {
					return shrunk
				}
				from = oor.Start
			}
			if errors.Is(err, stream.ErrTopicChanged) || errors.Is(err, stream.ErrUnknownTopic) {
				if err := gone(ctx); err != nil {
					return err
				}
			}
			l.counts.readErrors.Inc()
			_ = back.wait(ctx) // fails with ctx, which ends the loop
			continue
		}
		back.reset()
		for i := range span.Records {
			if err := fn(&span.Records[i]); err != nil {
				return err
			}
		}
		from = max(from, span.To)
	}
	return nil
}
