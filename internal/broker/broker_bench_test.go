package broker_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/brokertest"
	"github.com/tapecast/tapecast/internal/stream"
)

// BenchmarkProduce writes 200-byte records in calls of 100, from eight callers.
func BenchmarkProduce(b *testing.B) {
	env := brokertest.Start(b)
	topic := env.Topic(b, 4)
	p := producer(b, env.Client, broker.ProducerOptions{})
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w * 100; i < b.N; i += 800 {
				recs := make([]broker.ProduceRecord, min(100, b.N-i))
				for j := range recs {
					recs[j] = broker.ProduceRecord{Key: fmt.Append(nil, j), Value: make([]byte, 200), Partition: -1}
				}
				if _, err := p.Produce(ctxOf(b), topic, recs); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkRead reads 200-byte records in snappy batches of 1000.
func BenchmarkRead(b *testing.B) {
	env := brokertest.Start(b)
	topic := env.Topic(b, 1)
	p := producer(b, env.Client, broker.ProducerOptions{})
	recs := make([]broker.ProduceRecord, 1000)
	for j := range recs {
		recs[j] = broker.ProduceRecord{Key: fmt.Append(nil, j), Value: make([]byte, 200), Partition: -1}
	}
	const records = 200_000
	for range records / len(recs) {
		if _, err := p.Produce(ctxOf(b), topic, recs); err != nil {
			b.Fatal(err)
		}
	}
	r := env.Client.NewReader(topic, stream.TopicID{}, 0)
	b.ReportAllocs()
	b.ResetTimer()
	next := int64(0)
	for n := 0; n < b.N; {
		span, err := r.Read(ctxOf(b), next, 1<<20, time.Second)
		if err != nil {
			b.Fatal(err)
		}
		n += len(span.Records)
		if next = span.To; next >= records {
			next = 0
		}
	}
}

// BenchmarkLatency writes one record at a time and waits for its verdict.
func BenchmarkLatency(b *testing.B) {
	env := brokertest.Start(b)
	topic := env.Topic(b, 1)
	p := producer(b, env.Client, broker.ProducerOptions{})
	recs := []broker.ProduceRecord{{Value: make([]byte, 200)}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Produce(ctxOf(b), topic, recs); err != nil {
			b.Fatal(err)
		}
	}
}
