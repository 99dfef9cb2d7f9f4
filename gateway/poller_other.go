//go:build !linux

package gateway

import (
	"errors"
	"syscall"
)

// poller is an epoll set, which there is on Linux only.
type poller struct{}

func newPoller() (*poller, error) { return nil, errors.ErrUnsupported }

func (*poller) add(syscall.RawConn, uint64) error { return errors.ErrUnsupported }
func (*poller) arm(syscall.RawConn, uint64) error { return errors.ErrUnsupported }
func (*poller) remove(syscall.RawConn)            {}
func (*poller) wait(t []uint64) ([]uint64, error) { return t, errors.ErrUnsupported }
func (*poller) stop()                             {}
func (*poller) close()                            {}

// glance is a read that does not wait, which there is on Linux only.
type glance struct{}

func (*glance) init() {}

func (*glance) read(syscall.RawConn, []byte) (int, error) { return 0, errors.ErrUnsupported }
