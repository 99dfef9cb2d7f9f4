package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/brokertest"
)

// proxies stand between all processes and all brokers of a cluster.
type proxies struct {
	t        testing.TB
	server   *toxiproxy.ApiServer
	addrs    []string
	upstream []string
	all      []*toxiproxy.Proxy
}

// newProxies starts a proxy at each address.
func newProxies(t testing.TB, addrs, upstream []string) *proxies {
	t.Helper()
	p := &proxies{t: t, addrs: addrs, upstream: upstream}
	p.server = toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())
	p.all = make([]*toxiproxy.Proxy, len(p.addrs))
	t.Cleanup(func() {
		for _, px := range p.all {
			if px != nil {
				px.Stop()
			}
		}
	})
	for i := range p.all {
		require.NoError(t, p.start(i))
	}
	return p
}

// start puts a new proxy before broker i.
func (p *proxies) start(i int) error {
	p.all[i] = toxiproxy.NewProxy(p.server, fmt.Sprint("broker-", i), p.addrs[i], p.upstream[i])
	return p.all[i].Start()
}

// poison adds a toxic to the way to broker i. The returned function takes it
// away, with all connections: what it swallowed is missing in their streams.
func (p *proxies) poison(i int, kind, way string, attributes string) (heal func()) {
	_, err := p.all[i].Toxics.AddToxicJson(strings.NewReader(
		fmt.Sprintf(`{"name":"t","type":%q,"stream":%q,"toxicity":1,"attributes":{%s}}`, kind, way, attributes)))
	assert.NoError(p.t, err, "toxic %s", kind)
	return func() { p.cut(i) }
}

// cut breaks all connections to broker i. Another proxy takes the place of the
// one that was there: to take a toxic out of one whose connections are ending
// may wait for ever (toxiproxy 2.5). The port may be somebody's outgoing one
// for a moment.
func (p *proxies) cut(i int) {
	p.all[i].Stop()
	err := p.start(i)
	for end := time.Now().Add(10 * time.Second); errors.Is(err, syscall.EADDRINUSE) && time.Now().Before(end); err = p.start(i) {
		time.Sleep(20 * time.Millisecond)
	}
	assert.NoError(p.t, err, "proxy %d", i)
}

// TestProxiesHealUnderTraffic poisons and heals a proxy again and again while
// connections come, carry bytes both ways, and break: healing always comes to
// its end, and what is left of it works.
func TestProxiesHealUnderTraffic(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := brokertest.Addr(t)
	p := newProxies(t, []string{addr}, []string{echo.Addr().String()})
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer func() { stop(); _ = echo.Close(); all.Wait() }()
	each := func(c net.Conn, copy func()) {
		all.Go(func() {
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			copy()
			_ = c.Close()
		})
	}
	all.Go(func() {
		for c, err := echo.Accept(); err == nil; c, err = echo.Accept() {
			each(c, func() { _, _ = io.Copy(c, c) })
		}
	})
	for range 20 {
		all.Go(func() {
			for b := make([]byte, 16<<10); ctx.Err() == nil; {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					time.Sleep(time.Millisecond) // it is being healed
					continue
				}
				each(c, func() { _, _ = io.Copy(io.Discard, c) })
				for err == nil {
					_, err = c.Write(b)
				}
			}
		})
	}
	for i := range 60 {
		kind := [][3]string{{"timeout", "upstream", `"timeout":0`}, {"timeout", "downstream", `"timeout":0`}, {"slicer", "downstream", `"average_size":100,"delay":10`}, {"reset_peer", "downstream", `"timeout":1`}}[i%4]
		heal := p.poison(0, kind[0], kind[1], kind[2])
		time.Sleep(20 * time.Millisecond) // how long it is poisoned
		heal()
	}
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	_, err = c.Write([]byte("x"))
	require.NoError(t, err)
	_, err = io.ReadFull(c, make([]byte, 1))
	require.NoError(t, err)
}
