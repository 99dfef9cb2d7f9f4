//go:build !unix

package rawio

import "net"

// Conn returns the connection as it is.
func Conn(c net.Conn) net.Conn { return c }
