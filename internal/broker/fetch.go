package broker

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/tapecast/tapecast/internal/stream"
)

// Versions of the fetch request: from 13 on it names the topic by its id.
const (
	fetchByName int16 = 12
	fetchByID   int16 = 13
)

// maxBatchBytes bounds a batch on the wire, and so what an answer may hold
// beyond what was asked for: Kafka sends at least one batch, however large.
const maxBatchBytes = 64 << 20

// fetchAsk is what to fetch.
type fetchAsk struct {
	version   int16
	leader    int32
	topic     string
	id        stream.TopicID
	partition int32
	from      int64
	maxBytes  int
	maxWait   time.Duration
	isolation int8
}

// about tells whether an answer's topic is the one that was asked for.
func (q *fetchAsk) about(id stream.TopicID, name []byte) bool {
	if q.version >= fetchByID {
		return q.id == id
	}
	return q.topic == string(name)
}

// fetched is one partition's answer. The records are good until give.
type fetched struct {
	start, high, stable int64
	aborted             []abortedTxn
	records             []byte
	bytes               int
	mem                 *memory
}

// give gives the answer's memory back.
func (f *fetched) give() {
	f.mem.give()
	f.mem = nil
}

// memory is an answer that its partitions share.
type memory struct {
	box   *[]byte
	users atomic.Int32
}

func (m *memory) give() {
	if m != nil && m.users.Add(-1) == 0 {
		buffers.give(m.box)
	}
}

// abortedTxn is a transaction whose records count as not written.
type abortedTxn struct{ producer, first int64 }

// fetch asks a leader once for records of one partition.
func (c *Client) fetch(ctx context.Context, q fetchAsk) (fetched, error) {
	outs, err := c.fetchMany(ctx, []*pull{{ask: q}}, q.maxWait, 1)
	if err != nil {
		return fetched{}, err
	}
	return outs[0].fetched, outs[0].err
}

// fetchedOf is what a request brought one of its partitions.
type fetchedOf struct {
	fetched
	err   error
	found bool // the answer names it
	later bool // it goes back to the queue
}

// fetchMany asks a leader once for records of several partitions, and waits up
// to maxWait until there are enough bytes. All asks are of one leader, version and
// isolation. The error is about the whole request.
func (c *Client) fetchMany(ctx context.Context, ws []*pull, maxWait time.Duration, enough int) ([]fetchedOf, error) {
	q := ws[0].ask
	limit := 0
	for _, w := range ws {
		limit += pullLimit(&w.ask, len(ws))
	}
	a, err := c.ask(ctx, request{
		key: keyFetch, version: q.version, flexible: true, to: q.leader,
		wait: maxWait, slack: dataTimeout, again: true, limit: limit + maxBatchBytes, pooled: true, records: true,
		body: func(f *frame) {
			f.int32(-1) // a consumer
			f.int32(int32(maxWait.Milliseconds()))
			f.int32(int32(enough))
			// The partitions' limits count. This one is larger, because kfake
			// forgets the aborted transactions when it is reached.
			f.int32(int32(limit + maxBatchBytes))
			f.int8(q.isolation)
			f.int32(0)  // no session
			f.int32(-1) // and none to begin
			appendAsks(f, ws)
			f.compactArray(0) // forgotten topics
			f.compactString("")
			f.tags()
		},
	})
	if err != nil {
		return nil, err
	}
	outs, err := readFetched(a, ws)
	if err != nil {
		buffers.give(a.buf)
		return nil, err
	}
	mem := &memory{box: a.buf}
	mem.users.Store(int32(len(outs)))
	for i := range outs {
		outs[i].mem = mem
		if outs[i].err != nil {
			outs[i].give()
		}
	}
	return outs, nil
}

// pullLimit is how many bytes one of n partitions of a request may bring.
func pullLimit(q *fetchAsk, n int) int { return min(q.maxBytes, max(pullBytes/n, pullShare)) }

// appendAsks writes what is asked, topic by topic.
func appendAsks(f *frame, ws []*pull) {
	sameTopic := func(a, b *fetchAsk) bool { return a.id == b.id && a.topic == b.topic }
	topics, all := 0, len(ws)
	for i := range ws {
		if i == 0 || !sameTopic(&ws[i].ask, &ws[i-1].ask) {
			topics++
		}
	}
	f.compactArray(topics)
	for len(ws) > 0 {
		n := 1
		for n < len(ws) && sameTopic(&ws[n].ask, &ws[0].ask) {
			n++
		}
		if q := &ws[0].ask; q.version >= fetchByID {
			f.raw(q.id[:])
		} else {
			f.compactString(q.topic)
		}
		f.compactArray(n)
		for _, w := range ws[:n] {
			f.int32(w.ask.partition)
			f.int32(-1) // any leader epoch
			f.int64(w.ask.from)
			f.int32(-1)
			f.int64(-1)
			f.int32(int32(pullLimit(&w.ask, all)))
			f.tags()
		}
		f.tags()
		ws = ws[n:]
	}
}

// readFetched sorts an answer's partitions by who asked for them. A partition
// that was asked for and is not there is an error of its own.
func readFetched(a *answer, ws []*pull) ([]fetchedOf, error) {
	outs := make([]fetchedOf, len(ws))
	a.int32() // throttle
	whole := code(a.int16())
	a.int32() // session
	next := 0
	for n := a.compactArray(3); n > 0 && a.err == nil; n-- {
		var id stream.TopicID
		var name []byte
		if ws[0].ask.version >= fetchByID {
			copy(id[:], a.take(len(id)))
		} else {
			name = a.compactBytes()
		}
		for m := a.compactArray(35); m > 0 && a.err == nil; m-- {
			partition := a.int32()
			one := readPartition(a)
			// Kafka answers in the order of the question.
			for range ws {
				i := next
				if next++; next == len(ws) {
					next = 0
				}
				if q := &ws[i].ask; q.partition == partition && !outs[i].found && q.about(id, name) {
					outs[i] = one
					break
				}
			}
		}
		a.tags()
	}
	switch {
	case a.err != nil:
		return nil, a.done("fetch")
	case whole != nil:
		return nil, whole
	}
	for i := range outs {
		if !outs[i].found {
			outs[i].err = fmt.Errorf("fetch: %w", errShort)
		}
	}
	return outs, nil
}

func readPartition(a *answer) (out fetchedOf) {
	out.found, out.err = true, code(a.int16())
	out.high, out.stable, out.start = a.int64(), a.int64(), a.int64()
	for k := a.compactArray(17); k > 0; k-- {
		t := abortedTxn{producer: a.int64(), first: a.int64()}
		a.tags()
		out.aborted = append(out.aborted, t)
	}
	slices.SortFunc(out.aborted, func(a, b abortedTxn) int { return int(min(max(a.first-b.first, -1), 1)) })
	a.int32() // preferred replica
	out.records = a.compactBytes()
	out.bytes = len(out.records)
	a.tags()
	return out
}

// fetchVersion returns the version of fetch to use with a broker.
func (c *Client) fetchVersion(ctx context.Context, broker int32) (int16, error) {
	c.mu.Lock()
	v, ok := c.fetchVer[broker]
	c.mu.Unlock()
	if ok {
		return v, nil
	}
	a, err := c.ask(ctx, request{key: keyAPIVersions, to: broker, again: true, slack: lookupTimeout, body: func(*frame) {}})
	if err != nil {
		return 0, fmt.Errorf("ask broker %d for its versions: %w", broker, err)
	}
	if err := code(a.int16()); err != nil {
		return 0, fmt.Errorf("ask broker %d for its versions: %w", broker, err)
	}
	v = -1
	for n := a.array(6); n > 0; n-- {
		key, _, highest := a.int16(), a.int16(), a.int16()
		if key == keyFetch {
			v = min(highest, fetchByID)
		}
	}
	if err := a.done("versions"); err != nil {
		return 0, err
	}
	if v < fetchByName {
		return 0, fmt.Errorf("broker %d is older than Kafka 2.8: %w", broker, kafka.UnsupportedVersion)
	}
	c.mu.Lock()
	c.fetchVer[broker] = v
	c.mu.Unlock()
	return v, nil
}

// forgetVersion makes the next fetch ask again: the broker was replaced.
func (c *Client) forgetVersion(broker int32) {
	c.mu.Lock()
	delete(c.fetchVer, broker)
	c.mu.Unlock()
}
