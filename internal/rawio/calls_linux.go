//go:build linux && !race

package rawio

import (
	"syscall"
	"unsafe"
)

func read(fd uintptr, p []byte) (int, error) { return call(syscall.SYS_READ, fd, p, syscall.Read) }

func write(fd uintptr, p []byte) (int, error) { return call(syscall.SYS_WRITE, fd, p, syscall.Write) }

// call makes a system call; told is the one that tells the scheduler.
func call(number, fd uintptr, p []byte, told func(fd int, p []byte) (int, error)) (int, error) {
	if len(p) == 0 || len(p) > most {
		return told(int(fd), p) //nolint:gosec // a descriptor
	}
	n, _, errno := syscall.RawSyscall(number, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p))) //nolint:gosec // as package syscall does
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil //nolint:gosec // at most len(p)
}
