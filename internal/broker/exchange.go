package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/segmentio/kafka-go/protocol"
)

// Where an exchange goes, beside a broker's id.
const (
	anyBroker  int32 = -1
	controller int32 = -2
)

// Keys of the requests that are written here.
const (
	keyProduce          int16 = 0
	keyFetch            int16 = 1
	keyListOffsets      int16 = 2
	keyMetadata         int16 = 3
	keyOffsetCommit     int16 = 8
	keyOffsetFetch      int16 = 9
	keyFindCoordinator  int16 = 10
	keyJoinGroup        int16 = 11
	keyHeartbeat        int16 = 12
	keyLeaveGroup       int16 = 13
	keySyncGroup        int16 = 14
	keySASLHandshake    int16 = 17
	keyAPIVersions      int16 = 18
	keyCreateTopics     int16 = 19
	keyDeleteTopics     int16 = 20
	keyInitProducerID   int16 = 22
	keyDescribeConfigs  int16 = 32
	keySASLAuthenticate int16 = 36
	keyCreatePartitions int16 = 37
)

// maxAnswer bounds answers that carry no records.
const maxAnswer = 64 << 20

// request is what to ask, of whom.
type request struct {
	key, version int16
	flexible     bool  // the answer has header version 1 as well
	to           int32 // a broker's id, anyBroker, controller
	body         func(*frame)
	wait         time.Duration // what the broker was asked to wait
	slack        time.Duration // what else the answer may take, default requestTimeout
	again        bool          // asking twice does no harm: a broken connection is tried again
	limit        int           // bytes of the answer, default maxAnswer
	pooled       bool          // the answer's memory comes from buffers, and the caller gives it back
	records      bool          // it carries or brings records: it goes to a broker's id, on a line of our own
}

// exchange is one request on one of the transport's connections, or on a line.
// After an error the transport may still have it in use: it is never used twice.
type exchange struct {
	key         int16
	to          int32
	correlation int32
	flexible    bool
	frame       []byte
	limit       int
	pooled      bool
	buf         *[]byte // the answer's body after success
}

var (
	_ protocol.BrokerMessage = (*exchange)(nil)
	_ protocol.RawExchanger  = (*exchange)(nil)
)

// ApiKey implements protocol.Message.
func (x *exchange) ApiKey() protocol.ApiKey { return protocol.ApiKey(x.key) } //nolint:revive // kafka-go's name

// Broker implements protocol.BrokerMessage: the transport finds the connection.
func (x *exchange) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	to := x.to
	if to == controller {
		to = cluster.Controller
		if _, ok := cluster.Brokers[to]; !ok {
			to = anyBroker
		}
	}
	return protocol.Broker{ID: to}, nil
}

// Required implements protocol.RawExchanger.
func (x *exchange) Required(map[protocol.ApiKey]int16) bool { return true }

// RawExchange implements protocol.RawExchanger.
func (x *exchange) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	if _, err := rw.Write(x.frame); err != nil {
		return nil, err
	}
	if err := x.receive(rw); err != nil {
		return nil, err
	}
	return x, nil
}

// receive reads the answer.
func (x *exchange) receive(r io.Reader) error {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	size := int(int32(binary.BigEndian.Uint32(head[:]))) - 4
	if size < 0 || size > x.limit {
		return fmt.Errorf("kafka's answer of %d bytes is beyond the limit of %d", size, x.limit)
	}
	if got := int32(binary.BigEndian.Uint32(head[4:])); got != x.correlation {
		return fmt.Errorf("kafka answered request %d instead of %d", got, x.correlation)
	}
	box := new([]byte)
	if x.pooled {
		box = buffers.take()
	}
	body, err := readBody(r, *box, size)
	if err != nil {
		return err
	}
	*box = body
	x.buf = box
	return nil
}

// buffers holds memory for answers with records and for what they decompress
// to, so that a reader that waits for records holds none.
var buffers = pool[byte]{most: maxPooled}

// maxPooled bounds what one pooled buffer may keep.
const maxPooled = 8 << 20

// pool lends slices, and keeps those that are not too large for who comes next.
type pool[T any] struct {
	slices sync.Pool
	most   int // elements
}

func (p *pool[T]) take() *[]T {
	if b, ok := p.slices.Get().(*[]T); ok {
		return b
	}
	return new([]T)
}

func (p *pool[T]) give(b *[]T) {
	if b != nil && cap(*b) <= p.most {
		*b = (*b)[:0]
		p.slices.Put(b)
	}
}

// readBody reads size bytes. The memory grows with what has come, so that a
// size alone costs nothing.
func readBody(r io.Reader, buf []byte, size int) ([]byte, error) {
	const step = 4 << 20
	if cap(buf) >= size {
		buf = buf[:size]
		_, err := io.ReadFull(r, buf)
		return buf, err
	}
	buf = make([]byte, min(size, step))
	for n := 0; ; {
		if _, err := io.ReadFull(r, buf[n:]); err != nil {
			return nil, err
		}
		if n = len(buf); n == size {
			return buf, nil
		}
		next := make([]byte, min(size, 2*n))
		copy(next, buf)
		buf = next
	}
}

// ask sends a request and returns its answer, past the header. Where asking
// twice does no harm a broken connection is replaced: after a broker's restart
// each pooled connection breaks once.
func (c *Client) ask(ctx context.Context, r request) (*answer, error) {
	const tries, many = 30, 10
	for try := 1; ; try++ {
		a, err := c.askOnce(ctx, r)
		if err == nil || ctx.Err() != nil {
			return a, err
		}
		// The transport has to find the brokers again after a drop, so that
		// comes late: when there are many broken ones, or when one is silent.
		if disconnected(err) && try%many == 0 || errors.Is(err, context.DeadlineExceeded) {
			c.dropIdle()
		}
		if !r.again || !disconnected(err) || try == tries {
			return nil, err
		}
		if !sleep(ctx, time.Duration(try/3)*5*time.Millisecond) {
			return nil, ctx.Err()
		}
	}
}

func (c *Client) askOnce(ctx context.Context, r request) (*answer, error) {
	correlation := c.correlation.Add(1)
	var memory *[]byte
	if r.records {
		memory = buffers.take()
	}
	f := newFrame(memory, r.key, r.version, r.flexible, correlation, c.id)
	r.body(f)
	x := &exchange{
		key: r.key, to: r.to, correlation: correlation, flexible: r.flexible,
		frame: f.bytes(), limit: r.limit, pooled: r.pooled,
	}
	if x.limit == 0 {
		x.limit = maxAnswer
	}
	if r.slack == 0 {
		r.slack = requestTimeout
	}
	var err error
	if r.records {
		err = c.lines.roundTrip(ctx, r.to, x, r.slack+r.wait)
		*memory = x.frame
		buffers.give(memory)
	} else {
		err = c.transported(ctx, x, r.slack+r.wait)
	}
	if err != nil {
		return nil, err
	}
	a := &answer{b: *x.buf, buf: x.buf}
	if x.flexible {
		a.tags()
	}
	return a, nil
}

// transported is an exchange on one of the transport's connections.
func (c *Client) transported(ctx context.Context, x *exchange, wait time.Duration) error {
	// Without a deadline the transport would wait on a frozen broker for ever.
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	_, err := c.transport.RoundTrip(ctx, c.addr, x)
	return err
}

// dropIdle closes the pooled connections, at most once a second.
func (c *Client) dropIdle() {
	now, last := time.Now().UnixNano(), c.lastDrop.Load()
	if now-last > int64(time.Second) && c.lastDrop.CompareAndSwap(last, now) {
		c.transport.CloseIdleConnections()
	}
}

// retry calls f until it succeeds, fails for good, or d is over; the last
// error is returned then.
func retry(ctx context.Context, d time.Duration, f func() error) error {
	return retryIf(ctx, d, Retryable, f)
}

// retryIf is retry of what fails in a way that is worth it.
func retryIf(ctx context.Context, d time.Duration, worth func(error) bool, f func() error) error {
	end := time.Now().Add(d)
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		err := f()
		if err == nil || !worth(err) || ctx.Err() != nil || time.Now().Add(pause).After(end) {
			return err
		}
		if !sleep(ctx, pause) {
			return errors.Join(ctx.Err(), err)
		}
	}
}

// sleep waits for d and tells whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
