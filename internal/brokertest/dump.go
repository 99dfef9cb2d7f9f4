package brokertest

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// dumper is run by Java's source launcher.
//
//go:embed Dump.java
var dumper []byte

// Dump is what a topic holds, as Kafka's own Java consumer reads it
// (read_committed). It shares no code with anything under test.
type Dump struct {
	TopicID    string // as Kafka prints it
	Start, End map[int32]int64
	Records    map[int32][]DumpRecord // ascending offsets
}

// DumpRecord is one committed record.
type DumpRecord struct {
	Offset     int64
	Timestamp  int64 // milliseconds since the Unix epoch
	Key, Value []byte
}

// maxDumpField bounds what a damaged stream can ask for.
const maxDumpField = 64 << 20

// DumpTopic reads a whole topic with Kafka's Java consumer. It takes seconds
// and a JVM of at most 512 MiB.
func DumpTopic(ctx context.Context, addrs []string, topic string) (*Dump, error) {
	libs, err := fetch()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "tapecast-dump-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	file := filepath.Join(dir, "Dump.java")
	if err := os.WriteFile(file, dumper, 0o600); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	// What Java itself has to warn of would go to standard output, which is the dump's.
	args := (&node{libs: libs}).java("-Xlog:disable", "-Xlog:all=warning:stderr", file, strings.Join(addrs, ","), topic)
	cmd := exec.CommandContext(ctx, "java", args...) //nolint:gosec // our own arguments
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	d, err := readDump(bufio.NewReaderSize(out, 1<<16))
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		cancel() // it writes what nobody reads; one that ends has to say why yet
	}
	if err = errors.Join(err, cmd.Wait()); err != nil {
		return nil, fmt.Errorf("dump of %s by Kafka's consumer: %w\n%s", topic, err, tail(stderr.String(), 20))
	}
	return d, nil
}

func readDump(r *bufio.Reader) (*Dump, error) {
	d := &Dump{Start: map[int32]int64{}, End: map[int32]int64{}, Records: map[int32][]DumpRecord{}}
	for {
		kind, err := r.ReadByte()
		if err != nil {
			return nil, err
		}
		switch kind {
		case 'E':
			return d, nil
		case 'T':
			var id [16]byte
			if _, err := io.ReadFull(r, id[:]); err != nil {
				return nil, err
			}
			d.TopicID = base64.RawURLEncoding.EncodeToString(id[:])
		case 'P':
			var p struct {
				Partition  int32
				Start, End int64
			}
			if err := binary.Read(r, binary.BigEndian, &p); err != nil {
				return nil, err
			}
			d.Start[p.Partition], d.End[p.Partition] = p.Start, p.End
		case 'R':
			if err := d.record(r); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("dump: %q is no record", kind)
		}
	}
}

func (d *Dump) record(r io.Reader) error {
	var head [20]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	p := int32(binary.BigEndian.Uint32(head[:])) //nolint:gosec // a partition
	rec := DumpRecord{
		Offset:    int64(binary.BigEndian.Uint64(head[4:])),  //nolint:gosec // an offset
		Timestamp: int64(binary.BigEndian.Uint64(head[12:])), //nolint:gosec // a time
	}
	var err error
	if rec.Key, err = field(r); err != nil {
		return err
	}
	if rec.Value, err = field(r); err != nil {
		return err
	}
	d.Records[p] = append(d.Records[p], rec)
	return nil
}

func field(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int32(binary.BigEndian.Uint32(head[:])) //nolint:gosec // -1 is null
	switch {
	case n == -1:
		return nil, nil
	case n < 0 || n > maxDumpField:
		return nil, errors.New("dump: a field of an impossible length")
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}
