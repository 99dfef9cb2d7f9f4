package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"time"
)

// overTLS has a listener's connections encrypted, with a certificate of its own.
func overTLS(ln net.Listener) (net.Listener, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS13}), nil
}

// dialTLS connects a client's end. It is kept as long as the process lives.
func dialTLS(addr string) (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", addr, time.Minute)
	if err != nil {
		return nil, err
	}
	c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}) //nolint:gosec // our own server, on loopback
	return c, c.SetDeadline(time.Now().Add(2 * time.Minute))
}

// bareTLS is what TLS itself takes: connections that have shaken hands, each
// with a goroutine that waits for a byte.
type bareTLS struct{}

func (bareTLS) serve(ln net.Listener) error {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			if err := enterTLS(conn); err != nil {
				fmt.Println(err)
			}
		}()
	}
}

func (bareTLS) publish(work, func() bool, func(int64)) {}

// enterTLS shakes hands, and leaves the connection to a goroutine with a fresh
// stack: the one that shook hands has a large one.
func enterTLS(conn net.Conn) error {
	if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n"); err != nil {
		return err
	}
	go func() {
		var b [1]byte
		for err := error(nil); err == nil; {
			_, err = conn.Read(b[:])
		}
	}()
	return nil
}
