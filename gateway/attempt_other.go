//go:build !unix

package gateway

import (
	"errors"
	"syscall"
)

// canAttempt tells whether sockets can be written to without waiting.
const canAttempt = false

type attempt struct{}

func (*attempt) init() {}

func (*attempt) write(syscall.RawConn, []byte) (int, error) { return 0, errors.ErrUnsupported }

func (*attempt) block(syscall.RawConn, *block) (int, error) { return 0, errors.ErrUnsupported }
