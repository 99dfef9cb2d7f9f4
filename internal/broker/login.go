package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go/sasl"
)

// maxLogin bounds what the two sides of a login may say in turn: the longest
// mechanism there is takes two.
const maxLogin = 8

// greet brings a new line to where requests may be sent.
func (s *lines) greet(ctx context.Context, l *line) error {
	if t, ok := l.Conn.(*tls.Conn); ok {
		if err := t.HandshakeContext(ctx); err != nil {
			return fmt.Errorf("TLS: %w", err)
		}
	}
	if s.sasl == nil {
		return nil
	}
	host, port, err := net.SplitHostPort(l.addr)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	return s.login(sasl.WithMetadata(ctx, &sasl.Metadata{Host: host, Port: n}), l)
}

// login names a mechanism and lets it talk until it is content.
func (s *lines) login(ctx context.Context, l *line) error {
	a, err := s.say(ctx, l, keySASLHandshake, func(f *frame) { f.string(s.sasl.Name()) })
	if err == nil {
		err = code(a.int16()) // which mechanisms there are instead is not looked at
	}
	if err != nil {
		return fmt.Errorf("SASL %s: %w", s.sasl.Name(), err)
	}
	began := time.Now()
	sess, state, err := s.sasl.Start(ctx)
	for range maxLogin {
		if err != nil {
			return fmt.Errorf("SASL %s: %w", s.sasl.Name(), err)
		}
		var lasts time.Duration
		if state, lasts, err = s.authenticate(ctx, l, state); err != nil {
			continue
		}
		if lasts > 0 {
			// Beyond it the broker closes the connection; a request under way needs
			// time of its own.
			l.ends = began.Add(lasts - lasts/5)
		}
		var done bool
		if done, state, err = sess.Next(ctx, state); done && err == nil {
			return nil
		}
	}
	return errors.Join(fmt.Errorf("SASL %s comes to no end", s.sasl.Name()), err)
}

// authenticate says one thing and returns the broker's answer to it, and how
// long the broker means to trust the login (0 = for ever, or not told yet).
func (s *lines) authenticate(ctx context.Context, l *line, text []byte) (challenge []byte, lasts time.Duration, err error) {
	a, err := s.say(ctx, l, keySASLAuthenticate, func(f *frame) { f.bytes32(text) })
	if err != nil {
		return nil, 0, err
	}
	err = code(a.int16())
	if why := a.string(); err != nil && why != "" {
		err = fmt.Errorf("%w (%s)", err, why)
	}
	challenge = a.bytes32()
	lasts = time.Duration(a.int64()) * time.Millisecond
	if err == nil {
		err = a.done("log in")
	}
	return challenge, lasts, err
}

// say is one exchange of a login, both of version 1.
func (s *lines) say(ctx context.Context, l *line, key int16, body func(*frame)) (*answer, error) {
	f := newFrame(nil, key, 1, false, 0, s.client)
	body(f)
	x := &exchange{key: key, frame: f.bytes(), limit: maxAnswer}
	deadline, _ := ctx.Deadline() // see connect: there is one
	if err := l.exchange(ctx, x, deadline); err != nil {
		return nil, err
	}
	return &answer{b: *x.buf, buf: x.buf}, nil
}
