package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// nats is nats-server, its client protocol over its own WebSocket port. The
// publisher is a client inside the process that writes what is due at once.
type nats struct {
	server *server.Server
	in     *bufio.Writer
}

func newNATS() (*nats, error) {
	s, err := server.NewServer(&server.Options{
		DontListen: true, NoSigs: true, NoLog: true, MaxPayload: 1 << 20,
		Websocket: server.WebsocketOpts{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoTLS: true}, // compression is off
	})
	if err != nil {
		return nil, err
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return nil, errors.New("nats-server is not ready")
	}
	conn, err := s.InProcessConn()
	if err != nil {
		return nil, err
	}
	go func() { _, _ = io.Copy(io.Discard, conn) }() // INFO, PING
	n := &nats{server: s, in: bufio.NewWriterSize(conn, 64<<10)}
	_, err = n.in.WriteString("CONNECT {\"verbose\":false,\"echo\":false}\r\n")
	return n, err
}

// addr is where it listens by itself.
func (n *nats) addr() (string, error) {
	u, err := url.Parse(n.server.WebsocketURL())
	if err != nil {
		return "", err
	}
	return u.Host, nil
}

func (n *nats) serve(net.Listener) error {
	n.server.WaitForShutdown()
	return nil
}

func (n *nats) publish(w work, on func() bool, due func(int64)) {
	paced(w, on, due, func(key, _ int, v []byte, _ time.Time) {
		fmt.Fprintf(n.in, "PUB %s %d\r\n%s\r\n", channel(key), len(v), v)
	}, func() { _ = n.in.Flush() })
}

// natsCommands subscribe, and wait for the answer to a PING behind it all.
func natsCommands(w work, session int) (texts []string, until string) {
	text := "CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":1}\r\n"
	for i, n := range w.channelsOf(session) {
		text += fmt.Sprintf("SUB %s %d\r\n", n, i+1)
	}
	return []string{text + "PING\r\n"}, "PONG\r\n"
}
