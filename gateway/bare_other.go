//go:build !linux

package gateway

import (
	"errors"
	"net"
	"syscall"
)

// takeOver makes a connection a bare one, which there is on Linux only.
func takeOver(*net.TCPConn) (net.Conn, syscall.RawConn, error) {
	return nil, nil, errors.ErrUnsupported
}
