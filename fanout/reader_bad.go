//go:build provebad

package fanout

import (
	"strings"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/sabotage"
	"github.com/tapecast/tapecast/internal/stream"
)

// byReader casts by kafka-go's group Reader, if that safeguard is taken away:
// partitions come and go without a word, so the book of one that comes back
// goes on where it stood. FOR NEGATIVE CONTROLS ONLY.
func (m *member) byReader() bool {
	if !sabotage.Is(sabotage.GroupReader) {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.joined || m.closed {
		return true
	}
	m.joined = true
	m.loops.Go(func() error {
		ctx := m.loopsCtx
		ts, err := m.client.Topics(ctx)
		for err != nil && sleep(ctx, backoffMax) {
			ts, err = m.client.Topics(ctx)
		}
		var names []string
		for i := range ts {
			if strings.HasPrefix(ts[i].Name, "feed-") {
				names = append(names, ts[i].Name)
			}
		}
		return m.client.ReadGroup(ctx, strings.Split(m.client.Brokers(), ","), m.group+"-reader", names, m.message)
	})
	return true
}

// message casts one message.
func (m *member) message(topic string, part int32, r stream.Record) {
	tp := broker.TopicPartition{Topic: topic, Partition: part}
	m.fence.renew(time.Now())
	m.mu.Lock()
	p := m.owned[tp]
	m.mu.Unlock()
	if p == nil {
		p = &partition{parts: m.parts, tp: tp, stop: func() {}}
		id, ok := p.incarnation(m.loopsCtx)
		if !ok {
			return
		}
		p.begin(id, r.Offset)
		m.mu.Lock()
		m.owned[tp] = p
		m.mu.Unlock()
	}
	if r.Offset >= p.book.chains.Next() {
		p.take(broker.Span{From: r.Offset, To: r.Offset + 1, End: r.Offset + 1, Records: []stream.Record{r}}, time.Now())
	}
}
