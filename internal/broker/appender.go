package broker

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
)

// Appender lets many writers of single records share their requests: what is
// written to partitions of one leader at the same moment leaves together. It
// has no goroutine: the writer that completes a group sends it for all.
//
// A writer that is about to write says so with Announce, as early as it knows,
// and the group waits for it. So every Announce is followed soon by an Append
// with announced = true, or by Withdraw; nothing that waits may come between.
//
// What shares a request shares its fate where the broker is silent. A writer
// that is in doubt writes alone: [Client.Append].
type Appender struct {
	client *Client

	mu     sync.Mutex
	coming int                    // guarded by mu; announced, not yet here
	open   map[int32]*appendGroup // guarded by mu; by leader
}

const (
	// gatherFor is how long a group may wait for writers that keep being announced.
	gatherFor = 300 * time.Microsecond
	// gatherStuck is how long a group waits for anybody at all.
	gatherStuck = 5 * time.Millisecond
	// gatherBytes bounds a shared request.
	gatherBytes = 8 << 20
	// gatherTimeout is how long a shared request may take.
	gatherTimeout = 2 * time.Second
)

// appendGroup is what will leave together.
type appendGroup struct {
	leader int32
	begun  time.Time
	bytes  int
	items  []*appending
}

// appending is one record on its way.
type appending struct {
	topic     string
	partition int32
	value     []byte
	group     *appendGroup
	send      bool          // set before done is closed: whoever waits here sends the group
	done      chan struct{} // closed when err is set, or send
	err       error
}

// NewAppender makes an appender.
func (c *Client) NewAppender() *Appender {
	return &Appender{client: c, open: map[int32]*appendGroup{}}
}

// Announce says that an Append will come now.
func (a *Appender) Announce() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.coming++
}

// Withdraw takes an Announce back.
func (a *Appender) Withdraw() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.arrivedLocked(nil)
}

// arrivedLocked counts one that was announced. When it was the last, all groups
// leave: the caller's own by its hand, the others by one of their waiters'.
func (a *Appender) arrivedLocked(own *appendGroup) {
	if a.coming--; a.coming > 0 {
		return
	}
	a.coming = 0
	for leader, g := range a.open {
		if g != own {
			delete(a.open, leader)
			g.items[0].send = true
			close(g.items[0].done)
		}
	}
}

// Append writes one record as a batch of its own to one partition, as
// [Client.Append] does, in a request that others may share. value is read until
// Append returns nil, and may be read later after an error.
func (a *Appender) Append(ctx context.Context, topic string, partition int32, value []byte, announced bool) error {
	leader, _, err := a.client.leader(ctx, topic, partition)
	if err != nil {
		if announced {
			a.Withdraw()
		}
		return fmt.Errorf("append to topic %s partition %d: %w", topic, partition, err)
	}
	it := &appending{topic: topic, partition: partition, value: value, done: make(chan struct{})}
	send := a.join(it, leader, announced)
	if !send {
		if send, err = a.wait(ctx, it); err != nil {
			return fmt.Errorf("append to topic %s partition %d: %w", topic, partition, err)
		}
	}
	if send {
		a.client.appendTogether(ctx, it.group)
	}
	return a.verdict(ctx, it)
}

// wait waits until an item has its verdict, or its group is the caller's to
// send. An error: the caller's context has ended first.
func (a *Appender) wait(ctx context.Context, it *appending) (send bool, err error) {
	stuck := time.NewTimer(gatherStuck)
	defer stuck.Stop()
	for {
		select {
		case <-it.done:
			return it.send, nil
		case <-stuck.C:
			// Somebody was announced who does not come: a writer that was held
			// up, or a mistake. Nobody waits for it any longer.
			if a.seize(it) {
				return true, nil
			}
		case <-ctx.Done():
			if a.leave(it) {
				return true, nil
			}
			return false, ctx.Err()
		}
	}
}

// seize takes a group that is still open away from the others that wait in it.
func (a *Appender) seize(it *appending) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	g := it.group
	if a.open[g.leader] != g {
		return false
	}
	delete(a.open, g.leader)
	a.coming = 0
	return true
}

// join adds an item to its leader's group, and tells whether the caller has to
// send the group.
func (a *Appender) join(it *appending, leader int32, announced bool) (send bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	g := a.open[leader]
	if g == nil {
		g = &appendGroup{leader: leader, begun: time.Now()}
		a.open[leader] = g
	}
	it.group = g
	g.items = append(g.items, it)
	g.bytes += len(it.value)
	if announced {
		a.arrivedLocked(g)
	}
	if a.coming > 0 && g.bytes < gatherBytes && time.Since(g.begun) < gatherFor {
		return false
	}
	delete(a.open, leader)
	return true
}

// leave gives up waiting for an item. It takes it out of a group that was not
// sent; true: it is the caller's to send the group, for the others' sake.
func (a *Appender) leave(it *appending) (send bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	g := it.group
	if a.open[g.leader] != g {
		return it.send
	}
	g.items = slices.DeleteFunc(g.items, func(o *appending) bool { return o == it })
	if len(g.items) == 0 {
		delete(a.open, g.leader)
	}
	return false
}

// verdict is what became of an item. A leader that has moved has refused it:
// the writer tries again alone.
func (a *Appender) verdict(ctx context.Context, it *appending) error {
	err := it.err
	switch {
	case err == nil:
		return nil
	case movedOn(err):
		a.client.forget(it.topic)
		_, err := a.client.Append(ctx, it.topic, it.partition, []AppendRecord{{Value: it.value}})
		return err
	case unreached(err):
		a.client.forget(it.topic)
	case isCode(err, kafka.MessageSizeTooLarge, kafka.RecordListTooLarge):
		err = fmt.Errorf("%w: %w", ErrRecordTooLarge, err)
	}
	return fmt.Errorf("append to topic %s partition %d: %w", it.topic, it.partition, err)
}

// appendTogether sends a group and gives every item its verdict. It does not
// end with the caller's context: the others' items are in the request too.
func (c *Client) appendTogether(ctx context.Context, g *appendGroup) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), gatherTimeout)
	defer cancel()
	a, err := c.ask(ctx, request{
		key: keyProduce, version: 8, to: g.leader, wait: produceWait, slack: dataTimeout, records: true,
		body: func(f *frame) {
			f.nullString("") // no transaction
			f.int16(-1)      // all in-sync replicas
			f.int32(int32(produceWait.Milliseconds()))
			f.b = grow(f.b, g.bytes+len(g.items)*(batchHeader+256+32))
			f.array(len(g.items))
			now := time.Now().UnixMilli()
			for _, it := range g.items {
				f.string(it.topic)
				f.array(1)
				f.int32(it.partition)
				appendSingle(f, it.value, now)
			}
		},
	})
	if err == nil {
		err = readProducedOf(a, g.items)
	}
	for _, it := range g.items {
		if err != nil {
			it.err = err
		}
		if !it.send {
			close(it.done)
		}
	}
}

// appendSingle writes a batch of one record, behind its size, straight into a
// request: values are copied once.
func appendSingle(f *frame, value []byte, now int64) {
	start := len(f.b)
	f.b = append(f.b, make([]byte, 4+batchHeader)...)
	w := batchWriter{records: f.b}
	w.add(&plainRecord{value: value}, 0, 0)
	f.b = w.records
	binary.BigEndian.PutUint32(f.b[start:], uint32(len(f.b)-start-4))
	sealBatch(f.b[start+4:], 1, now, now, codecNone, noProducer)
}

// readProducedOf gives items their errors. An item that the answer does not
// name has the error of an answer that is too short.
func readProducedOf(a *answer, items []*appending) error {
	for _, it := range items {
		it.err = errShort
	}
	for n := a.array(6); n > 0 && a.err == nil; n-- {
		topic := a.take(int(max(a.int16(), 0)))
		for m := a.array(30); m > 0 && a.err == nil; m-- {
			p := readProducedPartition(a)
			for _, it := range items {
				if it.partition == p.partition && it.topic == string(topic) {
					it.err = p.err
				}
			}
		}
	}
	return a.done("produce")
}
