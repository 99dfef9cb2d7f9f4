//go:build unix && (!linux || race)

package rawio

import "syscall"

func read(fd uintptr, p []byte) (int, error) { return syscall.Read(int(fd), p) } //nolint:gosec // a descriptor

func write(fd uintptr, p []byte) (int, error) { return syscall.Write(int(fd), p) } //nolint:gosec // a descriptor
