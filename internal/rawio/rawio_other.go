//go:build !unix

package rawio

import "net"

// Conn returns the connection as it is.
func Conn(c net.Conn) net.Conn { return c }

// TCP returns a TCP connection as one.
func TCP(c net.Conn) (tcp *net.TCPConn, ok bool) {
	tcp, ok = c.(*net.TCPConn)
	return tcp, ok
}

// Listener returns the listener as it is.
func Listener(ln net.Listener) net.Listener { return ln }
