package gateway

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tcpPair is a connection over loopback, from both sides. far is closed with the
// test, near is the test's to close.
func tcpPair(t *testing.T) (far, near net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	far, err = net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = far.Close() })
	near, err = l.Accept()
	require.NoError(t, err)
	return far, near
}

// TestWhatACutClientDidNotTakeIsForgotten cuts a client off that does not read:
// its connection is reset, over TLS too, so that the kernel keeps nothing for it.
func TestWhatACutClientDidNotTakeIsForgotten(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	server.Close()
	trust := server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	trust.ServerName = "example.com"
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			far, near := tcpPair(t)
			conn := near
			if secure {
				shaken := make(chan error, 1)
				go func() { shaken <- tls.Client(far, trust).Handshake() }()
				c := tls.Server(near, &tls.Config{Certificates: server.TLS.Certificates, MinVersion: tls.VersionTLS13})
				require.NoError(t, c.Handshake())
				require.NoError(t, <-shaken)
				conn = c
			}
			setSendBuffer(conn)
			s := &socket{conn: conn, terms: &terms{start: time.Now(), timeout: 50 * time.Millisecond}}
			require.Error(t, s.write(&block{buf: make([]byte, 64<<20)}))
			require.NoError(t, near.Close()) // not TLS's: its goodbye waits for room
			_, err := io.Copy(io.Discard, far)
			require.ErrorIs(t, err, syscall.ECONNRESET)
		})
	}
}
