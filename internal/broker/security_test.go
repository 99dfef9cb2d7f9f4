package broker

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
)

func TestTLSAndSASL(t *testing.T) {
	certs := httptest.NewTLSServer(http.NotFoundHandler()) // a certificate for 127.0.0.1, and its root
	certs.Close()
	dir := t.TempDir()
	file := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, text, 0o600))
		return path
	}
	ca := file("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certs.Certificate().Raw}))
	good, bad := file("good", []byte("secret\n")), file("bad", []byte("wrong"))
	conf := certs.TLS.Clone()
	conf.NextProtos = nil
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.TLS(conf), kfake.EnableSASL(),
		kfake.Superuser("PLAIN", "p", "secret"), kfake.Superuser("SCRAM-SHA-256", "s2", "secret"), kfake.Superuser("SCRAM-SHA-512", "s5", "secret"))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)

	for _, tt := range []struct {
		name string
		sec  Security
		ok   bool
	}{
		{"plain", Security{TLS: true, CAFile: ca, Mechanism: "plain", Username: "p", PasswordFile: good}, true},
		{"scram 256", Security{TLS: true, CAFile: ca, Mechanism: "scram-sha-256", Username: "s2", PasswordFile: good}, true},
		{"scram 512", Security{TLS: true, CAFile: ca, Mechanism: "scram-sha-512", Username: "s5", PasswordFile: good}, true},
		{"wrong password", Security{TLS: true, CAFile: ca, Mechanism: "scram-sha-256", Username: "s2", PasswordFile: bad}, false},
		{"no login", Security{TLS: true, CAFile: ca}, false},
		{"unknown root", Security{TLS: true, Mechanism: "plain", Username: "p", PasswordFile: good}, false},
		{"no TLS", Security{Mechanism: "plain", Username: "p", PasswordFile: good}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := New(Options{Addrs: cluster.ListenAddrs(), Security: tt.sec})
			require.NoError(t, err)
			defer c.Close()
			limit := 30 * time.Second
			if !tt.ok {
				limit = 2 * time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			if !tt.ok {
				require.Error(t, c.Ping(ctx))
				return
			}
			require.NoError(t, c.Ping(ctx))
			_, _, err = c.CreateTopic(ctx, TopicSpec{Name: "t", Partitions: 1, Replicas: 1})
			require.NoError(t, err)
			base, err := c.Append(ctx, "t", 0, []AppendRecord{{Value: []byte("v")}})
			require.NoError(t, err)
			r := c.NewReader("t", [16]byte{}, 0)
			defer r.Close()
			span, err := r.Read(ctx, base, 1<<20, time.Second)
			require.NoError(t, err)
			require.Len(t, span.Records, 1)
		})
	}
}

func TestSecurityNamesWhatIsWrong(t *testing.T) {
	for _, tt := range []struct {
		sec  Security
		want string
	}{
		{Security{CAFile: "x"}, "TLS is off"},
		{Security{TLS: true, CAFile: "/nowhere/ca.pem"}, "/nowhere/ca.pem"},
		{Security{Username: "u"}, "no SASL mechanism"},
		{Security{Mechanism: "plain", Username: "u"}, "password file"},
		{Security{Mechanism: "gssapi", Username: "u", PasswordFile: os.DevNull}, "none of plain"},
	} {
		_, err := New(Options{Addrs: []string{"127.0.0.1:1"}, Security: tt.sec})
		require.ErrorContains(t, err, tt.want)
	}
}
