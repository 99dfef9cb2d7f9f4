package broker

import (
	"context"
	"fmt"
	"slices"
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

// fetched is one partition's answer. Records and buf are the caller's to give back.
type fetched struct {
	start, high, stable int64
	aborted             []abortedTxn
	records             []byte
	bytes               int
	buf                 *[]byte
}

// abortedTxn is a transaction whose records count as not written.
type abortedTxn struct{ producer, first int64 }

// fetch asks a leader once for records of one partition.
func (c *Client) fetch(ctx context.Context, q fetchAsk) (fetched, error) {
	a, err := c.ask(ctx, request{
		key: keyFetch, version: q.version, flexible: true, to: q.leader,
		wait: q.maxWait, slack: dataTimeout, again: true, limit: q.maxBytes + maxBatchBytes, pooled: true,
		body: func(f *frame) {
			f.int32(-1) // a consumer
			f.int32(int32(q.maxWait.Milliseconds()))
			f.int32(1) // answer as soon as there is a byte
			// The partition's limit counts. This one is larger, because kfake
			// forgets the aborted transactions when it is reached.
			f.int32(int32(q.maxBytes + maxBatchBytes))
			f.int8(q.isolation)
			f.int32(0)  // no session
			f.int32(-1) // and none to begin
			f.compactArray(1)
			if q.version >= fetchByID {
				f.raw(q.id[:])
			} else {
				f.compactString(q.topic)
			}
			f.compactArray(1)
			f.int32(q.partition)
			f.int32(-1) // any leader epoch
			f.int64(q.from)
			f.int32(-1)
			f.int64(-1)
			f.int32(int32(q.maxBytes))
			f.tags()
			f.tags()
			f.compactArray(0) // forgotten topics
			f.compactString("")
			f.tags()
		},
	})
	if err != nil {
		return fetched{}, err
	}
	out, err := readFetched(a, q)
	if err != nil {
		giveBuffer(a.buf)
		return fetched{}, err
	}
	out.buf = a.buf
	return out, nil
}

func readFetched(a *answer, q fetchAsk) (fetched, error) {
	out := fetched{start: -1, high: -1, stable: -1, bytes: len(a.b)}
	a.int32() // throttle
	err := code(a.int16())
	a.int32() // session
	found := false
	for n := a.compactArray(3); n > 0 && a.err == nil; n-- {
		if q.version >= fetchByID {
			a.take(16)
		} else {
			a.compactString()
		}
		for m := a.compactArray(35); m > 0 && a.err == nil; m-- {
			partition := a.int32()
			if e := code(a.int16()); e != nil {
				err = e
			}
			out.high, out.stable, out.start = a.int64(), a.int64(), a.int64()
			for k := a.compactArray(17); k > 0; k-- {
				t := abortedTxn{producer: a.int64(), first: a.int64()}
				a.tags()
				out.aborted = append(out.aborted, t)
			}
			a.int32() // preferred replica
			out.records = a.compactBytes()
			a.tags()
			found = found || partition == q.partition
		}
		a.tags()
	}
	switch {
	case a.err != nil:
		return out, a.done("fetch")
	case err != nil:
		return out, err
	case !found:
		return out, fmt.Errorf("fetch: %w", errShort)
	}
	slices.SortFunc(out.aborted, func(a, b abortedTxn) int { return int(min(max(a.first-b.first, -1), 1)) })
	return out, nil
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
