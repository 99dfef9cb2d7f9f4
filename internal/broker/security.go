package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

// Security is how connections to Kafka are protected. The zero value is plain
// TCP without a login.
type Security struct {
	TLS               bool   // TLS 1.2 or newer; brokers are checked by name
	CAFile            string // PEM; "" = the system's roots
	CertFile, KeyFile string // PEM; this client's own certificate, "" = none
	Mechanism         string // SASL: "", "plain", "scram-sha-256", "scram-sha-512"
	Username          string
	PasswordFile      string // read once; a line end at its end is no part of the password
}

// Mechanisms lists what Security.Mechanism may be, beside "".
func Mechanisms() []string { return []string{"plain", "scram-sha-256", "scram-sha-512"} }

// apply sets the transport up. Errors name the file or the setting.
func (s Security) apply(t *kafka.Transport) (err error) {
	if t.TLS, err = s.tls(); err != nil {
		return err
	}
	t.SASL, err = s.sasl()
	return err
}

func (s Security) tls() (*tls.Config, error) {
	if !s.TLS {
		if s.CAFile != "" || s.CertFile != "" || s.KeyFile != "" {
			return nil, errors.New("kafka TLS files are named, but TLS is off")
		}
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			return nil, fmt.Errorf("kafka TLS CA: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("kafka TLS CA: %s holds no PEM certificate", s.CAFile)
		}
	}
	if s.CertFile != "" || s.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("kafka TLS certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

func (s Security) sasl() (sasl.Mechanism, error) {
	if s.Mechanism == "" {
		if s.Username != "" || s.PasswordFile != "" {
			return nil, errors.New("a kafka user or password is named, but no SASL mechanism")
		}
		return nil, nil
	}
	if s.Username == "" || s.PasswordFile == "" {
		return nil, fmt.Errorf("SASL %s needs a user name and a password file", s.Mechanism)
	}
	secret, err := os.ReadFile(s.PasswordFile)
	if err != nil {
		return nil, fmt.Errorf("kafka password: %w", err)
	}
	password := strings.TrimRight(string(secret), "\r\n")
	switch s.Mechanism {
	case "plain":
		return plain.Mechanism{Username: s.Username, Password: password}, nil
	case "scram-sha-256":
		return scram.Mechanism(scram.SHA256, s.Username, password)
	case "scram-sha-512":
		return scram.Mechanism(scram.SHA512, s.Username, password)
	}
	return nil, fmt.Errorf("SASL mechanism %q is none of %s", s.Mechanism, strings.Join(Mechanisms(), ", "))
}
