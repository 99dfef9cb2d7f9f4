package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

var _ = command("resume-client", resumeMain)

// wish is what a process of resuming clients does.
type wish struct {
	addr     string
	topic    string
	key      string // "" = all
	from, to int    // its sessions
	live     bool   // they follow what comes, and their latencies are kept
	ranges   int    // session i begins at offset + i%ranges*step ...
	step     int64
	offset   int64
	count    int64 // ... and is done when it has the event of offset+count-1
	until    bool  // it says that this is its end
}

// reader is a session: it checks that offsets come one after the other.
type reader struct {
	fd    int
	next  int64 // the offset that has to come; with a key: at least
	last  int64 // done at this offset
	done  bool
	rest  []byte // of a frame that is not whole yet
	whole bool   // every offset comes
}

// resumers are many sessions in one epoll set.
type resumers struct {
	w        wish
	epoll    int
	sessions []reader
	hist     map[int]int64
	total    int64 // data frames
	done     int
	frames   int
}

// resumeMain connects its sessions and obeys: "go" has them subscribe and reads
// until each is done; "live" reads for a second at a time until "mark".
func resumeMain(args []string) error {
	fs := flag.NewFlagSet("resume-client", flag.ExitOnError)
	var w wish
	fs.StringVar(&w.addr, "addr", "", "")
	fs.StringVar(&w.topic, "topic", feedTopic, "")
	fs.StringVar(&w.key, "key", "", "")
	fs.IntVar(&w.from, "from", 0, "")
	fs.IntVar(&w.to, "to", 1, "")
	fs.BoolVar(&w.live, "live", false, "")
	fs.IntVar(&w.ranges, "ranges", 1, "")
	fs.Int64Var(&w.step, "step", 0, "")
	fs.Int64Var(&w.offset, "offset", 0, "")
	fs.Int64Var(&w.count, "count", 0, "")
	fs.BoolVar(&w.until, "until", false, "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	r := &resumers{w: w, hist: map[int]int64{}}
	if err := r.connect(); err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(usage{}); err != nil {
		return err
	}
	if w.live {
		// These measure, and would be on machines of their own: the storm's clients
		// are not to delay them. Who may not ask for that measures both. Linux gives
		// a priority to the thread that asks for it, so this one reads.
		runtime.LockOSThread()
		_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, -10)
		return r.follow()
	}
	return obey(func(line string, u *usage) error {
		if line != "go" {
			return nil
		}
		began := time.Now()
		if err := r.resume(); err != nil {
			return err
		}
		u.Count, u.Max = r.total, time.Since(began).Milliseconds()
		return nil
	})
}

func (r *resumers) connect() (err error) {
	if r.epoll, err = syscall.EpollCreate1(0); err != nil {
		return err
	}
	for i := r.w.from; i < r.w.to; i++ {
		fd, err := dial("resume", r.w.addr, work{}, i)
		if err != nil {
			return fmt.Errorf("session %d: %w", i, err)
		}
		at := r.w.offset + int64(i%max(r.w.ranges, 1))*r.w.step
		r.sessions = append(r.sessions, reader{fd: fd, next: at, last: at + r.w.count - 1, whole: r.w.key == ""})
		ev := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd), Pad: int32(i - r.w.from)}
		if err := syscall.EpollCtl(r.epoll, syscall.EPOLL_CTL_ADD, fd, &ev); err != nil {
			return err
		}
	}
	return nil
}

// subscribe sends a session's one command.
func (r *resumers) subscribe(s *reader) error {
	cmd := map[string]any{"cmd": "sub", "id": 1, "topic": r.w.topic}
	if r.w.key != "" {
		cmd["key"] = r.w.key
	}
	if !r.w.live {
		cmd["from"] = map[string]any{"offset": s.next}
		if r.w.until {
			cmd["until"] = map[string]any{"offset": s.last + 1}
		}
	}
	text, err := json.Marshal(cmd)
	if err != nil {
		return err
	}
	_, err = syscall.Write(s.fd, clientFrame(nil, string(text)))
	return err
}

// patience bounds a storm.
const patience = 3 * time.Minute

// resume subscribes all and reads until all have what they missed.
func (r *resumers) resume() error {
	r.total, r.done = 0, 0
	for i := range r.sessions {
		if err := r.subscribe(&r.sessions[i]); err != nil {
			return err
		}
	}
	end := time.Now().Add(patience)
	buf := make([]byte, 256<<10)
	for r.done < len(r.sessions) {
		if time.Now().After(end) {
			return fmt.Errorf("%d of %d sessions have what they missed after %v", r.done, len(r.sessions), patience)
		}
		if err := r.pass(buf); err != nil {
			return err
		}
	}
	return nil
}

// pass reads what is there.
func (r *resumers) pass(buf []byte) error {
	var events [256]syscall.EpollEvent
	n, err := syscall.EpollWait(r.epoll, events[:], 100)
	if err != nil && err != syscall.EINTR {
		return err
	}
	for i := range max(n, 0) {
		s := &r.sessions[events[i].Pad]
		k := copy(buf, s.rest)
		n, err := syscall.Read(s.fd, buf[k:])
		switch {
		case n > 0:
		case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINTR):
			continue
		default:
			return fmt.Errorf("a session was closed: %w", cmp.Or(err, io.EOF))
		}
		rest, err := r.take(s, buf[:k+n])
		if err != nil {
			return err
		}
		s.rest = append(s.rest[:0], rest...)
	}
	return nil
}

var (
	dataStart = []byte(`{"topic":`)
	offsetKey = []byte(`,"offset":`)
	errorText = []byte(`{"event":"error"`)
	gapText   = []byte(`{"event":"gap"`)
)

// take takes the whole frames of b and returns what is left.
func (r *resumers) take(s *reader, b []byte) ([]byte, error) {
	for len(b) >= 4 {
		head, n := 2, int(b[1])
		switch n {
		case 126:
			head, n = 4, int(binary.BigEndian.Uint16(b[2:]))
		case 127:
			return nil, errors.New("a frame of more than 64 KiB")
		}
		if len(b) < head+n {
			break
		}
		body := b[head : head+n]
		b = b[head+n:]
		switch {
		case bytes.HasPrefix(body, dataStart):
			if err := r.data(s, body); err != nil {
				return nil, err
			}
		case bytes.HasPrefix(body, errorText), bytes.HasPrefix(body, gapText):
			return nil, fmt.Errorf("%s", body)
		}
	}
	return b, nil
}

// data takes an event.
func (r *resumers) data(s *reader, body []byte) error {
	r.total++
	if r.w.live {
		if r.frames++; r.frames%8 == 0 {
			r.sample(body)
		}
		return nil
	}
	at := bytes.LastIndex(body, offsetKey)
	if at < 0 {
		return fmt.Errorf("no offset in %s", body)
	}
	var offset int64
	for _, c := range body[at+len(offsetKey):] {
		if c < '0' || c > '9' {
			break
		}
		offset = 10*offset + int64(c-'0')
	}
	if offset < s.next || s.whole && offset != s.next {
		return fmt.Errorf("offset %d came where %d was to", offset, s.next)
	}
	s.next = offset + 1
	if !s.done && (offset >= s.last || !s.whole && s.last-offset < keys) {
		s.done = true
		r.done++
	}
	return nil
}

// sample keeps an event's latency.
func (r *resumers) sample(body []byte) {
	i := bytes.IndexByte(body, mark)
	if i < 0 || i+17 > len(body) {
		return
	}
	if us, err := strconv.ParseInt(string(body[i+1:i+17]), 10, 64); err == nil {
		r.hist[bucket(time.Now().UnixMicro()-us)]++
	}
}

// follow reads live, and answers every line with what came since the last one.
func (r *resumers) follow() error {
	for i := range r.sessions {
		if err := r.subscribe(&r.sessions[i]); err != nil {
			return err
		}
	}
	var asked atomic.Int64
	go func() {
		for buf := make([]byte, 64); ; {
			n, err := os.Stdin.Read(buf)
			if err != nil {
				os.Exit(0)
			}
			asked.Add(int64(bytes.Count(buf[:n], []byte{'\n'})))
		}
	}()
	buf := make([]byte, 256<<10)
	out := json.NewEncoder(os.Stdout)
	for {
		if err := r.pass(buf); err != nil {
			return err
		}
		for ; asked.Load() > 0; asked.Add(-1) {
			if err := out.Encode(usage{Count: r.total, Hist: r.hist}); err != nil {
				return err
			}
			r.total, r.hist = 0, map[int]int64{}
		}
	}
}
