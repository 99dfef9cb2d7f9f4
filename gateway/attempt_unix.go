//go:build unix

package gateway

import (
	"errors"
	"syscall"

	"github.com/tapecast/tapecast/internal/rawio"
)

// canAttempt tells whether sockets can be written to without waiting.
const canAttempt = true

// attempt is a write that does not wait. It is used again and again, by one
// goroutine.
type attempt struct {
	p   []byte
	n   int
	err error
	fn  func(fd uintptr) bool
}

func (a *attempt) init() {
	a.fn = func(fd uintptr) bool {
		a.n, a.err = rawio.Write(fd, a.p)
		return true
	}
}

// write writes as much of p as the socket takes now.
func (a *attempt) write(raw syscall.RawConn, p []byte) (int, error) {
	a.p, a.n, a.err = p, 0, nil
	err := raw.Write(a.fn)
	a.p = nil
	switch {
	case err != nil:
		return 0, err
	case errors.Is(a.err, syscall.EAGAIN):
		return 0, nil
	case a.err != nil:
		return 0, a.err
	}
	return a.n, nil
}

// block writes as much of a block as the socket takes now.
func (a *attempt) block(raw syscall.RawConn, b *block) (n int, err error) {
	head := b.buf[b.head:]
	if len(head) > 0 {
		if n, err = a.write(raw, head); err != nil || n < len(head) {
			return n, err
		}
	}
	if len(b.tail) > 0 {
		var m int
		m, err = a.write(raw, b.tail)
		n += m
	}
	return n, err
}
