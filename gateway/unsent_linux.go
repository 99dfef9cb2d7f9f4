package gateway

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// unsent is how many bytes the kernel holds that the client's has not
// acknowledged; 0 also where that is not known. From any goroutine.
func unsent(conn net.Conn) int64 {
	tcp, ok := beneath(conn).(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	_ = raw.Control(func(fd uintptr) { // an error: it is closed
		if v, err := unix.IoctlGetInt(int(fd), unix.TIOCOUTQ); err == nil { //nolint:gosec // a descriptor
			n = v
		}
	})
	return int64(n)
}
