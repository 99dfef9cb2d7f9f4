package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"golang.org/x/sync/errgroup"
)

// Sender writes single records to partitions, and nobody waits for the verdicts:
// who sends goes on at once, and is told by the goroutine that reads the broker's
// answer. What is sent together to partitions of one leader leaves in one request.
// What it saves is wake-ups: a record costs none until its answer comes.
//
// Send waits for no answer and no connection, and tries nothing twice. What it
// cannot send at once it hands back. A partition whose followers are slow is named
// in the answer as late, and the others as written; where the broker is silent, what
// shares a request shares its fate. Whoever is in doubt writes alone: [Client.Append].
//
// What it does wait for is that the system takes the bytes, in the goroutine that
// calls Send, and at most twice SendTimeout: then the write fails, and the line is
// closed. In practice that is a copy: a line is taken only when its last request was
// answered, so all that was written to it has been read and the socket's buffer is
// empty, and a request is SendBytes of values and some 200 bytes for each. If that
// is more than the buffer of a young connection takes, the rest waits for the
// system at the other end, round trips, but not for the broker to read it.
//
// Guards: a leader has few lines, a line carries one request of few bytes, and a
// request is answered within SendTimeout or has failed.
type Sender struct {
	// static after NewSender
	client  *Client
	settled func()

	mu    sync.Mutex
	group *errgroup.Group      // guarded by mu; nil = not running
	ctx   context.Context      // guarded by mu; Run's, for the lines it owns
	to    map[int32]*sendLines // guarded by mu; by leader
}

// Outgoing is one record to send.
type Outgoing struct {
	Topic     string
	Partition int32
	Value     []byte // to be left as it is until Done
	// Done is called once, by another goroutine, with what became of the record;
	// nil = written. It must not wait.
	Done func(error)
}

const (
	// SendBytes is what a call of Send may carry, bytes of values.
	SendBytes = 64 << 10
	// SendTimeout is how long a request may take until the broker is silent. Its
	// records may be written all the same, also later.
	SendTimeout = time.Second
	// sendWait is how long a leader may wait for followers until it answers which
	// of a request's partitions are late: well before SendTimeout. They are in its
	// log by then, so who writes them alone makes doubles.
	sendWait = SendTimeout / 2
	// sendLimit is how many lines a leader has.
	sendLimit = 4
	// sendAgain is how long a leader that could not be connected to is left alone.
	sendAgain = 100 * time.Millisecond
)

// sendLines are those to one leader.
type sendLines struct {
	free   []*sendLine // that carry nothing; the one that was used last at the end
	count  int         // all of them, and the one that is being made
	making bool
}

// sendLine is a line with a goroutine that reads its answers.
type sendLine struct {
	*line
	leader int32

	// guarded by the sender's mu
	items       []Outgoing // on their way; nil = none
	correlation int32
	sent        time.Time
	broken      bool
}

// NewSender makes a sender. settled is called after the Done of all records of an
// answer: what they gave rise to can be sent together then. Run it.
func (c *Client) NewSender(settled func()) *Sender {
	return &Sender{client: c, settled: settled, to: map[int32]*sendLines{}}
}

// Run keeps the lines until ctx ends; what is on its way then fails. Before and
// after it nothing is sent. It may be called once.
func (s *Sender) Run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	s.mu.Lock()
	if s.ctx != nil {
		s.mu.Unlock()
		return errors.New("the sender runs already")
	}
	s.group, s.ctx = g, gctx
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.group = nil
	s.mu.Unlock()
	return g.Wait()
}

// Send sends what it can at once, and returns the rest: its leader is not known,
// or has no line that is free. Their Done is not called. It keeps recs.
func (s *Sender) Send(recs []Outgoing) (rest []Outgoing) {
	for len(recs) > 0 {
		leader, known := s.client.knownLeader(recs[0].Topic, recs[0].Partition)
		mine, others := s.client.ledBy(leader, known, recs)
		if !known || !s.ship(leader, mine) {
			rest = append(rest, mine...)
		}
		recs = others
	}
	return rest
}

// ledBy picks the records whose leader is the first one's.
func (c *Client) ledBy(leader int32, known bool, recs []Outgoing) (mine, others []Outgoing) {
	for i := range recs {
		l, ok := c.knownLeader(recs[i].Topic, recs[i].Partition)
		switch same := ok == known && l == leader; {
		case same && len(others) == 0:
			mine = recs[: i+1 : i+1] // nearly always all
		case same:
			mine = append(mine, recs[i])
		default:
			others = append(others, recs[i])
		}
	}
	return mine, others
}

// ship sends one request; false: it could not.
func (s *Sender) ship(leader int32, items []Outgoing) bool {
	l := s.take(leader)
	if l == nil {
		return false
	}
	memory := buffers.take()
	defer buffers.give(memory)
	correlation := s.client.correlation.Add(1)
	f := newFrame(memory, keyProduce, produceVersion, false, correlation, s.client.id)
	appendProduced(f, items)
	*memory = f.bytes()
	if !s.load(l, items, correlation) {
		return false
	}
	if _, err := l.Write(*memory); err != nil {
		_ = l.Close() // who reads from it settles what it carries
	}
	return true
}

// appendProduced writes what is produced: a batch for each record.
func appendProduced(f *frame, items []Outgoing) {
	size := 0
	for i := range items {
		size += len(items[i].Value) + batchHeader + 256 + 32
	}
	appendProduceHead(f, sendWait)
	f.b = grow(f.b, size)
	f.array(len(items))
	now := time.Now().UnixMilli()
	for i := range items {
		f.string(items[i].Topic)
		f.array(1)
		f.int32(items[i].Partition)
		appendSingle(f, items[i].Value, now)
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

// take takes a free line to a leader. None: one is made, if there may be more.
func (s *Sender) take(leader int32) *sendLine {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.group == nil {
		return nil
	}
	to := s.to[leader]
	if to == nil {
		to = &sendLines{}
		s.to[leader] = to
	}
	if n := len(to.free); n > 0 {
		l := to.free[n-1]
		to.free = slices.Delete(to.free, n-1, n)
		return l
	}
	if to.count < sendLimit && !to.making {
		to.making = true
		to.count++
		ctx := s.ctx
		s.group.Go(func() error { s.serve(ctx, leader); return nil })
	}
	return nil
}

// load says what a line that was taken carries; false: it broke meanwhile.
func (s *Sender) load(l *sendLine, items []Outgoing, correlation int32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.items, l.correlation, l.sent = items, correlation, time.Now()
	if l.broken {
		l.items = nil
	}
	return !l.broken
}

// free gives back a line that carries nothing.
func (s *Sender) free(l *sendLine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.items, l.used = nil, time.Now()
	to := s.to[l.leader]
	to.free = append(to.free, l)
}

// serve is the life of a line.
func (s *Sender) serve(ctx context.Context, leader int32) {
	conn, err := s.client.lines.take(ctx, leader)
	if err != nil {
		s.client.log.Debug("no line to send on", "broker", leader, "error", err)
		sleep(ctx, sendAgain)
	}
	s.mu.Lock()
	s.to[leader].making = false
	if err != nil {
		s.to[leader].count--
	}
	s.mu.Unlock()
	if err != nil {
		return
	}
	defer conn.Close() //nolint:errcheck // it is at its end
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	conn.used = time.Now()
	l := &sendLine{line: conn, leader: leader}
	if err = s.extend(l); err == nil {
		s.free(l)
	}
	for err == nil {
		err = s.next(l)
	}
	s.broke(ctx, l, err)
}

// next reads one answer and settles what it is about. An error is the line's end.
func (s *Sender) next(l *sendLine) error {
	if err := s.await(l); err != nil {
		return err
	}
	s.mu.Lock()
	items, x := l.items, exchange{correlation: l.correlation, limit: maxAnswer, pooled: true}
	s.mu.Unlock()
	if items == nil {
		return errors.New("kafka answered what nobody had asked")
	}
	if err := x.receive(l); err != nil {
		return err
	}
	errs := make([]error, len(items))
	err := readProducedOf(&answer{b: *x.buf}, items, errs)
	buffers.give(x.buf)
	if err != nil {
		return err
	}
	for i := range items {
		items[i].Done(s.verdict(&items[i], errs[i]))
	}
	s.free(l)
	s.settled()
	return nil
}

// await waits until an answer begins. What it read so far stays in the buffer.
func (s *Sender) await(l *sendLine) error {
	for {
		head, err := l.in.Peek(4)
		switch {
		case err == nil && l.in.Buffered() < 4+int(binary.BigEndian.Uint32(head)):
			return s.extend(l) // for the rest
		case err == nil || !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		}
		if err := s.extend(l); err != nil {
			return err
		}
	}
}

// extend sets a line's deadlines, or says that its time is over. It looks at the
// line every SendTimeout, so that a request need not set a timer of its own.
func (s *Sender) extend(l *sendLine) error {
	now := time.Now()
	s.mu.Lock()
	late := now.Add(SendTimeout)
	carries := l.items != nil
	if carries {
		late = l.sent.Add(SendTimeout)
	}
	s.mu.Unlock()
	switch {
	case carries && !late.After(now):
		return fmt.Errorf("no answer within %s: %w", SendTimeout, context.DeadlineExceeded)
	case !carries && !l.good(now):
		return errors.New("the line is not used, or its login ends")
	}
	return l.limit(late)
}

// limit sets the deadlines. That of writes is later: who writes must not meet one
// that is about to be set anew.
func (l *sendLine) limit(read time.Time) error {
	return errors.Join(l.SetReadDeadline(read), l.SetWriteDeadline(read.Add(SendTimeout)))
}

// broke is the end of a line: what it carried fails.
func (s *Sender) broke(ctx context.Context, l *sendLine, err error) {
	s.mu.Lock()
	items := l.items
	l.items, l.broken = nil, true
	to := s.to[l.leader]
	to.count--
	to.free = slices.DeleteFunc(to.free, func(o *sendLine) bool { return o == l })
	s.mu.Unlock()
	if items == nil {
		return
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	} else {
		s.client.lines.drop(l.addr)
	}
	for i := range items {
		items[i].Done(s.verdict(&items[i], fmt.Errorf("ask broker %d at %s: %w", l.leader, l.addr, err)))
	}
	s.settled()
}

// verdict is what became of a record, in the caller's words. A leader that has
// moved, or is not reached, is looked up again by who writes next.
func (s *Sender) verdict(o *Outgoing, err error) error {
	switch {
	case err == nil:
		return nil
	case isCode(err, kafka.MessageSizeTooLarge, kafka.RecordListTooLarge):
		err = fmt.Errorf("%w: %w", ErrRecordTooLarge, err)
	case movedOn(err), unreached(err):
		s.client.forget(o.Topic)
	}
	return fmt.Errorf("send to topic %s partition %d: %w", o.Topic, o.Partition, err)
}

// readProducedOf gives records their errors. One that the answer does not name
// has the error of an answer that is too short.
func readProducedOf(a *answer, items []Outgoing, errs []error) error {
	for i := range errs {
		errs[i] = errShort
	}
	for n := a.array(6); n > 0 && a.err == nil; n-- {
		topic := a.take(int(max(a.int16(), 0)))
		for m := a.array(30); m > 0 && a.err == nil; m-- {
			p := readProducedPartition(a)
			for i := range items {
				if items[i].Partition == p.partition && items[i].Topic == string(topic) {
					errs[i] = p.err
				}
			}
		}
	}
	return a.done("produce")
}
