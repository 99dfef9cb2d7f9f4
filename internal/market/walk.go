package market

import (
	"encoding/json"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"strconv"
	"time"
)

// DefaultSymbols are four currency pairs and four coins.
func DefaultSymbols() []string {
	out := make([]string, len(listed))
	for i, l := range listed {
		out[i] = l.symbol
	}
	return out
}

// listing is where a symbol's walk begins. Prices are whole ticks of
// 10^-digits, so that they print as a market's do.
type listing struct {
	symbol string
	digits int
	start  int64 // ticks
	spread int64 // ticks, at the least
	lot    int64 // unit of quoted sizes
}

var listed = []listing{
	{"EURUSD", 5, 108_500, 6, 500_000},
	{"USDJPY", 3, 151_200, 5, 500_000},
	{"GBPUSD", 5, 126_400, 8, 500_000},
	{"AUDUSD", 5, 65_800, 7, 500_000},
	{"BTCUSDT", 2, 6_412_350, 10, 1},
	{"ETHUSDT", 2, 342_180, 5, 1},
	{"SOLUSDT", 2, 14_625, 2, 10},
	{"XRPUSDT", 4, 5_213, 2, 1_000},
}

// list finds or makes a symbol's listing; a made one is always the same.
func list(symbol string) listing {
	for _, l := range listed {
		if l.symbol == symbol {
			return l
		}
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(symbol)) // never fails
	return listing{symbol: symbol, digits: 2, start: 1_000 + int64(h.Sum32()%99_000), spread: 2, lot: 100}
}

// priceStart is where `price` begins, and what it returns to.
const priceStart = 1024

// book is one symbol's state.
type book struct {
	listing
	mid    int64 // ticks
	scale  float64
	step   float64 // ticks, standard deviation of a move
	trades int64   // the last trade's id
}

// walk makes the market's events: a pure function of seed, symbols and call
// count, but for the timestamps. Not safe for concurrent use.
type walk struct {
	rng   *rand.Rand
	books []*book
	price int64
	fresh bool // no price was made yet
}

// event is one event, its value as JSON.
type event struct {
	topic string
	key   string // "" = none
	json  []byte
}

func newWalk(seed uint64, symbols []string) *walk {
	w := &walk{rng: rand.New(rand.NewPCG(seed, 0x7461706563617374)), price: priceStart, fresh: true}
	for _, s := range symbols {
		l := list(s)
		w.books = append(w.books, &book{
			listing: l,
			mid:     l.start,
			scale:   math.Pow10(l.digits),
			step:    max(1, float64(l.start)*0.00004),
		})
	}
	return w
}

// next makes one event: mostly quotes, some trades, some prices.
func (w *walk) next(now time.Time) event {
	kind := w.rng.IntN(10)
	if kind < 2 {
		return w.nextPrice()
	}
	b := w.books[w.rng.IntN(len(w.books))]
	if kind < 4 {
		return w.trade(b, now)
	}
	return w.quote(b, now)
}

// nextPrice moves price by a few, back towards its start the farther it is
// away. The first is the start itself.
func (w *walk) nextPrice() event {
	if w.fresh {
		w.fresh = false
	} else {
		pull := float64(priceStart-w.price) * 0.01
		w.price = max(1, w.price+int64(math.Round(w.rng.NormFloat64()*2+pull)))
	}
	return event{topic: TopicPrice, json: strconv.AppendInt(nil, w.price, 10)}
}

// move walks the mid price, and never below a hundredth of its start.
func (w *walk) move(b *book) {
	pull := float64(b.start-b.mid) * 0.0002
	b.mid = max(b.start/100+1, b.mid+int64(math.Round(w.rng.NormFloat64()*b.step+pull)))
}

func (w *walk) quote(b *book, now time.Time) event {
	w.move(b)
	spread := b.spread + w.rng.Int64N(b.spread+1)
	bid := max(1, b.mid-spread/2)
	j := b.begin()
	j = b.number(append(j, `,"bid":`...), bid)
	j = b.number(append(j, `,"ask":`...), bid+spread)
	j = strconv.AppendInt(append(j, `,"bid_size":`...), b.lot*(1+w.rng.Int64N(9)), 10)
	j = strconv.AppendInt(append(j, `,"ask_size":`...), b.lot*(1+w.rng.Int64N(9)), 10)
	return event{topic: TopicQuotes, key: b.symbol, json: end(j, now)}
}

func (w *walk) trade(b *book, now time.Time) event {
	maker := w.rng.IntN(2) == 0
	at := b.mid + b.spread/2
	if maker {
		at = max(1, b.mid-b.spread/2)
	}
	b.trades++
	j := b.begin()
	j = strconv.AppendInt(append(j, `,"trade_id":`...), b.trades, 10)
	j = b.number(append(j, `,"price":`...), at)
	quantity := float64(b.lot) * float64(1+w.rng.IntN(5000)) / 1000
	j = strconv.AppendFloat(append(j, `,"quantity":`...), quantity, 'f', -1, 64)
	j = strconv.AppendBool(append(j, `,"buyer_maker":`...), maker)
	return event{topic: TopicTrades, key: b.symbol, json: end(j, now)}
}

func (b *book) begin() []byte {
	symbol, _ := json.Marshal(b.symbol) // a string always can be
	return append([]byte(`{"symbol":`), symbol...)
}

// number appends ticks as a price.
func (b *book) number(j []byte, ticks int64) []byte {
	return strconv.AppendFloat(j, float64(ticks)/b.scale, 'f', -1, 64)
}

func end(j []byte, now time.Time) []byte {
	j = strconv.AppendInt(append(j, `,"ts":`...), now.UnixMicro(), 10)
	return append(j, '}')
}
