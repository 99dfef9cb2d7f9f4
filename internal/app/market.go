package app

import (
	"errors"

	"github.com/tapecast/tapecast/internal/config"
	"github.com/tapecast/tapecast/internal/market"
)

// MarketOptions of the demo market as a process of its own.
type MarketOptions struct {
	Env

	Kafka       []string // brokers
	Registry    string   // URL
	AdminListen string   // host:port of metrics and health
	Rate        int      // events a second, over all topics; 0 = 50
	Symbols     []string // none = four currency pairs and four coins
	Seed        uint64   // of the walk; 0 = by the clock
}

const roleMarket = "market"

// NewMarket makes the demo market: it makes its topics, if they are not there,
// and writes to them. While Kafka or the registry is away it waits.
func NewMarket(o MarketOptions) (Runner, error) {
	r, err := newMarket(o)
	return runner(r, err)
}

func newMarket(o MarketOptions) (*Role, error) {
	cfg := config.Default()
	cfg.Kafka.Brokers, cfg.Kafka.ClientID, cfg.Registry.URL = o.Kafka, "tapecast-market", o.Registry
	for _, name := range market.Topics() {
		cfg.Topics = append(cfg.Topics, config.Topic{Topic: name})
	}
	b := newBase(roleMarket, cfg, o.Env)
	if err := b.admin(o.AdminListen); err != nil {
		return nil, err
	}
	if err := b.cluster(); err != nil {
		return nil, err
	}
	reg, err := b.registry()
	if err != nil {
		return nil, err
	}
	if reg == nil {
		return nil, b.abandon(errors.New("the demo market needs a schema registry"))
	}
	run := &market.Options{
		Client: b.client, Registry: reg, Logger: b.log, Rate: o.Rate, Symbols: o.Symbols, Seed: o.Seed,
	}
	return &Role{b, [][]part{b.floor, {b.catalogPart()}, {b.demo(reg, run)}}, nil}, nil
}
