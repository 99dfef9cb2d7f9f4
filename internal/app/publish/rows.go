package publish

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// row is one row of an input: NDJSON text, or CSV cells under a header.
type row struct {
	line   int
	text   []byte   // NDJSON; valid until the next row is read
	header []string // CSV
	cells  []string // CSV
}

// rows reads one input. An error that is a *RowError concerns one row: reading
// can go on. io.EOF is the end.
type rows interface {
	next() (row, error)
}

// Formats of an input; "" = by its name, else by its first line.
const (
	FormatCSV    = "csv"
	FormatNDJSON = "ndjson"
)

const (
	readBuffer = 64 << 10
	bom        = "\xef\xbb\xbf"
)

// openRows finds out what an input is, and makes its reader.
func openRows(name, format string, in io.Reader) (rows, error) {
	r := bufio.NewReaderSize(in, readBuffer)
	if b, err := r.Peek(1); err == nil && b[0] == bom[0] { // one byte first: a pipe may bring no more for a long time
		if b, err := r.Peek(len(bom)); err == nil && string(b) == bom {
			_, _ = r.Discard(len(bom))
		}
	}
	if format == "" {
		format = formatByName(name)
	}
	if format == "" {
		format = formatByContent(r)
	}
	if format == FormatCSV {
		return newCSV(name, r)
	}
	return &ndjsonRows{file: name, r: r}, nil
}

func formatByName(name string) string {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".csv":
		return FormatCSV
	case ".ndjson", ".jsonl", ".json":
		return FormatNDJSON
	}
	return ""
}

// formatByContent looks at what has arrived of the first line: a CSV header is
// no JSON value.
func formatByContent(r *bufio.Reader) string {
	_, _ = r.Peek(1) // waits for the first bytes
	head, _ := r.Peek(r.Buffered())
	line, _, _ := bytes.Cut(bytes.TrimLeft(head, " \t\r\n"), []byte("\n"))
	line = bytes.TrimSpace(line)
	if len(line) == 0 || line[0] == '{' || line[0] == '[' || json.Valid(line) {
		return FormatNDJSON
	}
	return FormatCSV
}

type ndjsonRows struct {
	file string
	r    *bufio.Reader
	line int
	buf  []byte
}

func (n *ndjsonRows) next() (row, error) {
	for {
		text, err := n.readLine()
		if err != nil {
			return row{line: n.line}, err
		}
		if text = bytes.TrimSpace(text); len(text) == 0 {
			continue
		}
		if !json.Valid(text) {
			return row{line: n.line}, n.bad(badJSON(text))
		}
		return row{line: n.line, text: text}, nil
	}
}

func (n *ndjsonRows) bad(err error) error { return &RowError{n.file, n.line, err} }

// badJSON says why, with a hint for the two usual reasons.
func badJSON(text []byte) error {
	var v any
	err := json.Unmarshal(text, &v)
	switch string(text) {
	case "[", "{", "[{":
		return errors.New("a row begins here and does not end on this line; each line must be one whole JSON value (jq -c . makes it so)")
	}
	return fmt.Errorf("not JSON: %w", err)
}

// readLine reads one line of at most maxRow bytes; a longer one is skipped and reported.
func (n *ndjsonRows) readLine() ([]byte, error) {
	n.line++
	n.buf = n.buf[:0]
	for {
		part, err := n.r.ReadSlice('\n')
		if len(n.buf)+len(part) <= maxRow {
			n.buf = append(n.buf, part...)
		} else {
			return nil, n.skipLine(err)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(n.buf) > 0:
			return n.buf, nil // the last line without its end
		case err != nil:
			return nil, err
		}
		return n.buf, nil
	}
}

func (n *ndjsonRows) skipLine(err error) error {
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = n.r.ReadSlice('\n')
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return n.bad(fmt.Errorf("longer than %d bytes", maxRow))
}

type csvRows struct {
	file   string
	r      *csv.Reader
	budget *budgetReader
	header []string
}

func newCSV(name string, r *bufio.Reader) (rows, error) {
	b := &budgetReader{r: r}
	c := &csvRows{file: name, budget: b, r: csv.NewReader(b)}
	c.r.ReuseRecord = true
	b.left = maxRow
	header, err := c.r.Read()
	if err != nil {
		if errors.Is(err, io.EOF) {
			return &ndjsonRows{file: name, r: r}, nil // an empty file has no rows of any kind
		}
		return nil, c.explain(err)
	}
	for i, h := range header {
		if h = strings.TrimSpace(h); h == "" {
			return nil, &RowError{name, 1, fmt.Errorf("the header's column %d has no name", i+1)}
		}
		c.header = append(c.header, h)
	}
	return c, nil
}

func (c *csvRows) next() (row, error) {
	c.budget.left = maxRow
	cells, err := c.r.Read()
	if err != nil {
		return row{}, c.explain(err)
	}
	line, _ := c.r.FieldPos(0)
	return row{line: line, header: c.header, cells: cells}, nil
}

func (c *csvRows) explain(err error) error {
	var p *csv.ParseError
	if !errors.As(err, &p) {
		return err
	}
	why := p.Err
	if errors.Is(p.Err, csv.ErrFieldCount) {
		why = fmt.Errorf("has not the %d cells of the header", len(c.header))
	}
	return &RowError{c.file, p.StartLine, why}
}

// budgetReader bounds what one CSV row can read: an unclosed quote would
// otherwise take the rest of the file for a cell.
type budgetReader struct {
	r    io.Reader
	left int
}

var errBudget = fmt.Errorf("a row is longer than %d bytes: is a quote not closed?", maxRow)

func (b *budgetReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errBudget
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
