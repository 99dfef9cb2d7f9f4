package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
)

// Stdin is the name of standard input among the files.
const Stdin = "-"

// Options of Run.
type Options struct {
	Topic    string
	Codec    Codec
	SchemaID uint32
	Producer Producer

	Files    []string  // none = standard input
	Stdin    io.Reader // what Stdin stands for
	Format   string    // FormatCSV, FormatNDJSON, "" = recognised
	Key      string    // field that is the key
	Time     string    // field that is the time
	Envelope bool      // NDJSON rows are {"key","value","ts"}
	Speed    float64   // recorded pace times this; 0 = as fast as it goes
	Skip     bool      // go on after a bad row

	// Bad is told of each bad row that is skipped.
	Bad func(error)
	// Progress is called now and then with the counts so far.
	Progress func(Stats)
	// First is called with the time of the first row that has one, before anything is sent.
	First func(time.Time)
}

// Range is what was written to one partition.
type Range struct{ First, Last int64 }

// Stats are the counts of a run.
type Stats struct {
	Sent    int64           // rows that Kafka has
	Skipped int64           // bad rows
	Unknown int64           // rows of which nobody knows (Kafka did not answer)
	Offsets map[int32]Range // by partition
	Elapsed time.Duration
}

// Bounds of what is sent at once. Natural batching: what has arrived goes out.
const (
	batchRows  = 2000
	batchBytes = 512 << 10
	queueRows  = 64
	// flushGrace is how long rows that were read may take after Ctrl-C.
	flushGrace = 10 * time.Second
)

// errInput ends the run: the input itself cannot be read on.
type item struct {
	rec  broker.ProduceRecord
	file string
	line int
	err  error // a *RowError, or what ended the input
}

// Run publishes all rows. It ends with the inputs, with a bad row (unless Skip)
// or with ctx: what was read is still sent then. Stats are right in each case.
func Run(ctx context.Context, o Options) (Stats, error) {
	enc, err := newEncoder(&o)
	if err != nil {
		return Stats{}, err
	}
	items := make(chan item, queueRows) // sent and closed by readAll
	rctx, stop := context.WithCancel(ctx)
	defer stop()
	// readAll ends with rctx or its input. Only a read of a terminal or pipe
	// that never comes back can keep it, and then the process is about to end.
	go readAll(rctx, &o, enc, items)
	s := &sender{o: &o, start: time.Now(), stats: Stats{Offsets: map[int32]Range{}}}
	err = s.run(ctx, items)
	s.stats.Elapsed = time.Since(s.start)
	return s.stats, err
}

// readAll reads and encodes the inputs one after another.
func readAll(ctx context.Context, o *Options, enc *encoder, out chan<- item) {
	defer close(out)
	files := o.Files
	if len(files) == 0 {
		files = []string{Stdin}
	}
	for _, name := range files {
		if !readFile(ctx, o, enc, name, out) {
			return
		}
	}
}

// readFile reads one input; false = it is of no use to go on.
func readFile(ctx context.Context, o *Options, enc *encoder, name string, out chan<- item) bool {
	send := func(it item) bool {
		select {
		case out <- it:
			return true
		case <-ctx.Done():
			return false
		}
	}
	in, display := o.Stdin, "standard input"
	if name != Stdin {
		f, err := os.Open(name)
		if err != nil {
			send(item{err: err})
			return false
		}
		defer func() { _ = f.Close() }() // it was only read
		in, display = f, name
	}
	r, err := openRows(display, o.Format, in)
	if err != nil {
		send(item{err: err})
		return false
	}
	if c, ok := r.(*csvRows); ok {
		if err := enc.begin(c.header); err != nil {
			send(item{err: fmt.Errorf("%s: %w", display, err)})
			return false
		}
	}
	for {
		it, more := readRow(r, enc, display)
		if !more {
			return true
		}
		if !send(it) {
			return false
		}
		var bad *RowError
		if it.err != nil && !errors.As(it.err, &bad) {
			return false
		}
	}
}

func readRow(r rows, enc *encoder, file string) (it item, more bool) {
	row, err := r.next()
	switch {
	case errors.Is(err, io.EOF):
		return it, false
	case err != nil:
		var bad *RowError
		if !errors.As(err, &bad) {
			err = fmt.Errorf("%s: %w", file, err)
		}
		return item{err: err}, true
	}
	rec, err := enc.encode(row)
	if err != nil {
		return item{err: &RowError{file, row.line, err}}, true
	}
	return item{rec: rec, file: file, line: row.line}, true
}

// sender sends batches at the right time. It is owned by Run.
type sender struct {
	o     *Options
	start time.Time
	stats Stats

	batch []item
	bytes int

	origin time.Time // the first row's time
	began  time.Time // when it was due
}

func (s *sender) run(ctx context.Context, items <-chan item) error {
	for {
		it, ok, err := s.take(ctx, items)
		if err != nil || !ok {
			return errors.Join(s.flush(ctx), err)
		}
		if it.err != nil {
			if err := s.bad(ctx, it.err); err != nil {
				return err
			}
			continue
		}
		if err := s.pace(ctx, it.rec.Time); err != nil {
			return errors.Join(s.flush(ctx), err)
		}
		s.batch = append(s.batch, it)
		s.bytes += len(it.rec.Key) + len(it.rec.Value)
		if len(s.batch) >= batchRows || s.bytes >= batchBytes {
			if err := s.flush(ctx); err != nil {
				return err
			}
		}
	}
}

// take gets the next row; before it waits for one, it sends what it has.
func (s *sender) take(ctx context.Context, items <-chan item) (it item, ok bool, err error) {
	if err := ctx.Err(); err != nil {
		return it, false, err
	}
	if len(s.batch) > 0 {
		select {
		case it, ok = <-items:
			return it, ok, nil
		default:
			if err := s.flush(ctx); err != nil {
				return it, false, err
			}
		}
	}
	select {
	case it, ok = <-items:
		return it, ok, nil
	case <-ctx.Done():
		return it, false, ctx.Err()
	}
}

// bad handles a row that cannot be published: what came before it is sent;
// then it ends the run, or is counted and skipped.
func (s *sender) bad(ctx context.Context, err error) error {
	var row *RowError
	if s.o.Skip && errors.As(err, &row) {
		s.stats.Skipped++
		if s.o.Bad != nil {
			s.o.Bad(err)
		}
		return nil
	}
	return errors.Join(s.flush(ctx), err)
}

// pace waits until a row with this time is due.
func (s *sender) pace(ctx context.Context, t time.Time) error {
	if t.IsZero() {
		return nil
	}
	if s.origin.IsZero() {
		s.origin, s.began = t, time.Now()
		if s.o.First != nil {
			s.o.First(t)
		}
	}
	if s.o.Speed <= 0 {
		return nil
	}
	due := s.began.Add(time.Duration(float64(t.Sub(s.origin)) / s.o.Speed))
	if time.Until(due) < time.Millisecond {
		return nil
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// flush sends the batch and takes down where it went. After the end of ctx it
// still has flushGrace.
func (s *sender) flush(ctx context.Context) error {
	if len(s.batch) == 0 {
		return nil
	}
	pctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	release := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(flushGrace, cancel)
		context.AfterFunc(pctx, func() { timer.Stop() })
	})
	defer release()
	recs := make([]broker.ProduceRecord, len(s.batch))
	now := time.Now().UnixMicro()
	for i := range s.batch {
		recs[i] = s.batch[i].rec
		recs[i].Accepted = now
	}
	res, err := s.o.Producer.Produce(pctx, s.o.Topic, recs)
	err = s.verdicts(res, err)
	s.batch, s.bytes = s.batch[:0], 0
	if s.o.Progress != nil {
		st := s.stats
		st.Elapsed = time.Since(s.start)
		s.o.Progress(st)
	}
	return err
}

// verdicts counts what Kafka said of each row.
func (s *sender) verdicts(res []broker.Produced, err error) error {
	if len(res) != len(s.batch) {
		s.stats.Unknown += int64(len(s.batch))
		return fmt.Errorf("publish to %s: %w", s.o.Topic, err)
	}
	var firstErr error
	for i, r := range res {
		if r.Err == nil {
			s.sent(r)
			continue
		}
		row := &RowError{s.batch[i].file, s.batch[i].line, r.Err}
		if errors.Is(r.Err, broker.ErrUnknownOutcome) {
			s.stats.Unknown++
		} else if s.o.Skip && !broker.Retryable(r.Err) && !errors.Is(r.Err, context.Canceled) {
			s.stats.Skipped++
			if s.o.Bad != nil {
				s.o.Bad(row)
			}
			continue
		}
		if firstErr == nil {
			firstErr = row
		}
	}
	return firstErr
}

func (s *sender) sent(r broker.Produced) {
	s.stats.Sent++
	rg, ok := s.stats.Offsets[r.Partition]
	if !ok {
		rg.First = r.Offset
	}
	rg.Last = r.Offset
	s.stats.Offsets[r.Partition] = rg
}
