package ingest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/catalog"
)

const (
	// streamIdle is how long a stream may say nothing. An empty line is a sign
	// of life.
	streamIdle = 2 * time.Minute
	// streamBuffer is what is read at once, and about the size of a chunk.
	streamBuffer = 64 << 10
	// chunkEvents bounds the events that are written at once.
	chunkEvents = 4096
	// lineFactor is how much longer than MaxEvent a line may be: JSON is wider
	// than Avro.
	lineFactor = 4
)

// summary is the answer to a stream: what was written, and why it ended.
type summary struct {
	*problem
	Events  int64      `json:"events"`            // acknowledged
	Unknown int64      `json:"unknown,omitempty"` // may or may not be written
	Line    int64      `json:"line,omitempty"`    // from 1: the first that was not written, or not for certain
	Last    []position `json:"last"`              // the last acknowledged offset of each partition
}

// chunk is a run of lines that is checked and written as one.
type chunk struct {
	data  []byte  // lines without their ends, one after the other
	ends  []int   // of each line in data
	lines []int64 // the number of each line in the stream
	err   error   // why the stream ends after this chunk; io.EOF = well
	bad   *problem
}

// upload is one NDJSON stream. Owned by its request's goroutine.
type upload struct {
	s     *Service
	feed  catalog.Feed
	in    *bufio.Reader
	lease *lease
	alive func() // called before each wait for the sender
	line  int64  // lines read
	sum   summary
	last  map[int32]int64
}

// streamDoor serves an NDJSON upload: chunk after chunk is read, checked and
// written; the next is read when the one before is acked, so Kafka's pace is
// the sender's. It ends at the first line that is wrong.
func (s *Service) streamDoor(w http.ResponseWriter, r *http.Request) {
	feed, p := s.feed(r.Context(), r.PathValue("topic"))
	if p != nil {
		s.writeProblem(w, p, typeJSON, p)
		return
	}
	l := s.budget.lease()
	defer l.release()
	if p := l.grow(r.Context(), streamBuffer); p != nil {
		s.writeProblem(w, p, typeJSON, p)
		return
	}
	rc := http.NewResponseController(w)
	// A stream may be longer than any deadline of the server, but not idle; and
	// the end of the process ends its wait.
	defer func() { _ = rc.SetReadDeadline(time.Time{}) }()
	st := &upload{
		s: s, feed: feed, in: newLineReader(r.Body), lease: l,
		last: make(map[int32]int64),
		alive: func() {
			_ = rc.SetReadDeadline(time.Now().Add(streamIdle))
			if s.gate.ending.Err() != nil {
				_ = rc.SetReadDeadline(time.Unix(1, 0))
			}
		},
	}
	defer context.AfterFunc(s.gate.ending, st.alive)()
	p = st.run(r.Context())
	st.sum.Last = st.lastPositions()
	if p == nil {
		writeJSON(w, http.StatusOK, typeJSON, &st.sum)
		return
	}
	st.sum.problem = p
	s.writeProblem(w, p, typeJSON, &st.sum)
}

func newLineReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, streamBuffer) }

// run reads and writes chunks to the end of the stream.
func (st *upload) run(ctx context.Context) *problem {
	for {
		if st.s.gate.ending.Err() != nil {
			return st.stopAt(st.line+1, 0, unavailable("the process ends"))
		}
		c := st.read(ctx)
		if p := st.write(ctx, c); p != nil {
			return p
		}
		switch {
		case c.bad != nil:
			return st.stopAt(st.line, 0, c.bad)
		case errors.Is(c.err, io.EOF):
			return nil
		case c.err != nil:
			return st.stopAt(st.line+1, 0, st.broken(c.err))
		}
		st.lease.shrink(streamBuffer)
	}
}

// broken is the answer to a stream that broke off.
func (st *upload) broken(err error) *problem {
	if st.s.gate.ending.Err() != nil {
		return unavailable("the process ends")
	}
	return readProblem(err)
}

// read takes one line, waiting for it, and then as many as are there.
func (st *upload) read(ctx context.Context) *chunk {
	c := &chunk{}
	for first := true; first || st.another(c); first = false {
		if first {
			st.alive()
		}
		begin := len(c.data)
		var p *problem
		c.data, p, c.err = st.readLine(ctx, c.data)
		if p != nil {
			c.data, c.bad = c.data[:begin], p
			return c
		}
		// Only the stream's proper end may end a line.
		if c.err != nil && !errors.Is(c.err, io.EOF) {
			c.data = c.data[:begin]
			return c
		}
		st.take(c, begin)
		if c.err != nil {
			return c
		}
	}
	return c
}

// take counts the line that begins at begin, and keeps it if it is not blank.
func (st *upload) take(c *chunk, begin int) {
	line := c.data[begin:]
	if len(line) > 0 || c.err == nil {
		st.line++
	}
	if len(trim(line)) == 0 {
		c.data = c.data[:begin]
		return
	}
	c.ends = append(c.ends, len(c.data))
	c.lines = append(c.lines, st.line)
}

// another tells whether a whole line is there without waiting, and fits.
func (st *upload) another(c *chunk) bool {
	if len(c.ends) >= chunkEvents || len(c.data) >= streamBuffer {
		return false
	}
	b, _ := st.in.Peek(st.in.Buffered())
	return bytes.IndexByte(b, '\n') >= 0
}

// readLine appends the next line, without its end, to dst.
func (st *upload) readLine(ctx context.Context, dst []byte) ([]byte, *problem, error) {
	begin := len(dst)
	most := lineFactor * st.s.o.MaxEvent
	for {
		part, err := st.in.ReadSlice('\n')
		part = bytes.TrimSuffix(part, []byte{'\n'})
		if len(dst)-begin+len(part) > most {
			st.line++
			return dst, tooLarge(fmt.Sprintf("the line is longer than %d bytes", most)), nil
		}
		if p := st.lease.grow(ctx, int64(len(part))); p != nil {
			st.line++
			return dst, p, nil
		}
		dst = append(dst, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return dst, nil, err
		}
	}
}

// write checks and writes a chunk. Of a chunk with a bad line the lines before
// it are written: they would have been, had they come a moment earlier.
func (st *upload) write(ctx context.Context, c *chunk) *problem {
	if len(c.ends) == 0 {
		return nil
	}
	if p := st.lease.grow(ctx, int64(len(c.ends))*eventCost); p != nil {
		return st.stopAt(c.lines[0], 0, p)
	}
	d := &draft{feed: st.feed, accepted: time.Now(), limit: st.s.limits.of(ctx, st.feed)}
	stop := parseLines(c, d)
	var recs []broker.ProduceRecord
	for {
		var p *problem
		if recs, _, p = st.s.records(ctx, d, st.lease); p == nil {
			break
		}
		if len(p.Errors) == 0 {
			return st.stopAt(c.lines[0], 0, p)
		}
		// Mistakes come in order, so that before the first is whole.
		d.events, stop = d.events[:p.Errors[0].Index], p
	}
	if p := st.produce(ctx, c, recs); p != nil {
		return p
	}
	if stop != nil {
		return st.stopAt(c.lines[len(recs)], len(recs), stop)
	}
	return nil
}

// parseLines parses the lines of c into d, up to the first that is bad.
func parseLines(c *chunk, d *draft) *problem {
	begin := 0
	for i, end := range c.ends {
		line := trim(c.data[begin:end:end])
		begin = end
		if err := checkText(line); err != nil {
			return invalid("the line " + err.Error())
		}
		var m mistakes
		e := parseEvent(line, i, &m)
		if len(m.list) > 0 {
			return invalidEvents(m.list)
		}
		d.events = append(d.events, e)
	}
	return nil
}

// stopAt ends the stream at a line, the event of that index in its chunk. Of
// the mistakes only those of that line are told, with the event's index in the
// stream: everything before it was acked.
func (st *upload) stopAt(line int64, index int, p *problem) *problem {
	q := *p
	q.Errors = nil
	for _, e := range p.Errors {
		if e.Index == index {
			e.Index = int(st.sum.Events)
			q.Errors = append(q.Errors, e)
		}
	}
	if len(q.Errors) > 0 {
		q.Message = q.Errors[0].describe()
	}
	st.sum.Line = line
	q.Message = fmt.Sprintf("line %d: %s", line, q.Message)
	return &q
}

// produce writes the records of the first lines of c and counts the verdicts.
func (st *upload) produce(ctx context.Context, c *chunk, recs []broker.ProduceRecord) *problem {
	produced, p := st.s.write(ctx, st.feed, recs)
	acked := 0
	for i, r := range produced {
		switch verdictOf(r.Err) {
		case written:
			acked++
			if have, ok := st.last[r.Partition]; !ok || r.Offset > have {
				st.last[r.Partition] = r.Offset
			}
			continue
		case unknown:
			st.sum.Unknown++
		}
		if st.sum.Line == 0 {
			st.sum.Line = c.lines[i]
		}
	}
	st.sum.Events += int64(acked)
	st.s.metrics.events[doorStream].Add(float64(acked))
	if p != nil && produced == nil {
		st.sum.Line = c.lines[0]
	}
	return p
}

func (st *upload) lastPositions() []position {
	out := make([]position, 0, len(st.last))
	for p, o := range st.last {
		out = append(out, position{Partition: p, Offset: o})
	}
	slices.SortFunc(out, func(a, b position) int { return int(a.Partition) - int(b.Partition) })
	return out
}
