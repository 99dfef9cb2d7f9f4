// Package rawio reads and writes sockets that do not block without telling the
// runtime's scheduler.
//
// Package syscall tells it before and after each call, as the call could block.
// The first time that it is told so after all of the process has slept, the
// runtime wakes its monitor, which then looks around every 20 us, fifty times
// and more: for a process that wakes some hundred times a second to write for
// some milliseconds that was a twelfth of all its CPU. A call that cannot block
// needs none of that.
//
// Guarantees: the same bytes and errors as package syscall's calls. A call takes
// what the kernel takes for it, mostly some 10 us, and the garbage collector may
// have to wait that long for its goroutine; calls of more than 64 kB go to
// package syscall. Elsewhere than on Linux, and under the race detector, which learns
// from package syscall who writes before whom reads, all do. The package starts
// no goroutines.
package rawio
