package registry

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
)

// logName is the registry's one file. A line is the CRC-32C of the rest in
// hex, a blank, and a change as JSON.
const logName = "schemas.log"

const (
	maxLine = 8 << 20 // bytes of a line: a schema's text, escaped at worst
	maxLog  = 1 << 30 // bytes of the file
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// logFile appends changes. Not safe for concurrent use.
type logFile struct {
	f    *os.File
	size int64 // of the lines that are known to be whole
	bad  error // set when the file's end is unknown: nothing is written any more
}

// openLog opens the log and hands every change in it to apply.
func openLog(dir string, logger *slog.Logger, apply func(event) error) (*logFile, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, logName), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	l := &logFile{f: f}
	if err := l.start(dir, logger, apply); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

func (l *logFile) start(dir string, logger *slog.Logger, apply func(event) error) error {
	if err := lockFile(l.f); err != nil {
		return fmt.Errorf("in use by another process: %w", err)
	}
	if err := l.replay(apply); err != nil {
		return err
	}
	end, err := l.f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if end > l.size {
		logger.Warn("schema registry's last line was not written whole and is cut off", "bytes", end-l.size, "file", logName)
		if err := l.cut(); err != nil {
			return err
		}
	}
	return syncDir(dir)
}

// replay reads all whole lines. What follows the last of them is a torn write
// and never was answered with success; a bad line before others is damage.
func (l *logFile) replay(apply func(event) error) error {
	r := bufio.NewReaderSize(l.f, 64<<10)
	for number := 1; ; number++ {
		line, err := readLine(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read line %d: %w", number, err)
		}
		var e event
		if err := parseLine(line, &e); err != nil {
			if _, peek := r.Peek(1); errors.Is(peek, io.EOF) {
				return nil
			}
			return fmt.Errorf("line %d is damaged: %w", number, err)
		}
		if err := apply(e); err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		l.size += int64(len(line))
	}
}

// readLine returns a line with its end; io.EOF also for one without an end.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if line = append(line, part...); len(line) > maxLine {
			return nil, fmt.Errorf("more than %d bytes", maxLine)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

func parseLine(line []byte, e *event) error {
	var sum uint32
	head, rest, ok := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
	if _, err := fmt.Sscanf(string(head), "%08x", &sum); err != nil || !ok || len(head) != 8 {
		return errors.New("no checksum")
	}
	if crc32.Checksum(rest, castagnoli) != sum {
		return errors.New("wrong checksum")
	}
	return json.Unmarshal(rest, e)
}

// append writes a change and waits until it is on disk. After an error the
// file holds what it held before, or nothing is written any more.
func (l *logFile) append(e event) error {
	if l.bad != nil {
		return l.bad
	}
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	line := append(fmt.Appendf(nil, "%08x ", crc32.Checksum(body, castagnoli)), body...)
	line = append(line, '\n')
	if len(line) > maxLine || l.size+int64(len(line)) > maxLog {
		return fmt.Errorf("no room for a change of %d bytes after %d", len(line), l.size)
	}
	_, err = l.f.WriteAt(line, l.size)
	if err == nil {
		err = l.f.Sync()
	}
	if err != nil {
		if cut := l.cut(); cut != nil {
			l.bad = fmt.Errorf("the log's end is unknown: %w", errors.Join(err, cut))
			return l.bad
		}
		return err
	}
	l.size += int64(len(line))
	return nil
}

// cut removes what is behind the last whole line.
func (l *logFile) cut() error {
	if err := l.f.Truncate(l.size); err != nil {
		return err
	}
	return l.f.Sync()
}

func (l *logFile) close() error {
	if errors.Is(l.bad, errNotOpen) {
		return nil
	}
	l.bad = errNotOpen
	return l.f.Close()
}
