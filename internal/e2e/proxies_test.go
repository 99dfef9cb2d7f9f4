package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/tapecast/tapecast/internal/brokertest"
)

// proxies stand between all processes and all brokers of a cluster.
type proxies struct {
	t     testing.TB
	addrs []string
	all   []*toxiproxy.Proxy
}

func newProxies(t testing.TB, c *brokertest.Cluster) *proxies {
	t.Helper()
	log := zerolog.Nop()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), log)
	via, upstream := c.Proxied()
	p := &proxies{t: t, addrs: via}
	for i := range via {
		px := toxiproxy.NewProxy(server, fmt.Sprint("broker-", i), via[i], upstream[i])
		require.NoError(t, px.Start())
		t.Cleanup(px.Stop)
		p.all = append(p.all, px)
	}
	return p
}

// poison adds a toxic to the way to broker i. The returned function takes it
// away, with all connections: what it swallowed is missing in their streams.
func (p *proxies) poison(i int, kind, way string, attributes string) (heal func()) {
	_, err := p.all[i].Toxics.AddToxicJson(strings.NewReader(
		fmt.Sprintf(`{"name":"t","type":%q,"stream":%q,"toxicity":1,"attributes":{%s}}`, kind, way, attributes)))
	if err != nil {
		p.t.Errorf("toxic %s: %v", kind, err)
	}
	return func() {
		p.all[i].Stop()
		_ = p.all[i].Toxics.RemoveToxic(context.Background(), "t")
		if err := p.all[i].Start(); err != nil {
			p.t.Errorf("proxy %d: %v", i, err)
		}
	}
}

// cut breaks all connections to broker i.
func (p *proxies) cut(i int) {
	p.all[i].Stop()
	if err := p.all[i].Start(); err != nil {
		p.t.Errorf("proxy %d: %v", i, err)
	}
}
