package loadtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/schemas"
)

// tick is how often a producer sends what is due.
const tick = 5 * time.Millisecond

// ack is what a producer was told of one event.
type ack struct {
	producer, seq int64
	part          int32
	offset        int64
}

// sender hands events to Kafka or to an ingest door. An event whose outcome
// nobody knows has part -1.
type sender interface {
	send(ctx context.Context, evs []event, keys []string) ([]ack, error)
}

// producer writes its share of the events, paced.
type producer struct {
	id    int64
	rate  float64 // events/s
	keys  int
	pad   string
	rng   *rand.Rand
	out   sender
	seq   int64
	acked []ack
	maybe map[[2]int64]bool // outcome not known
	count *progress
}

// run sends until ctx ends, or until it has sent limit events (0 = no limit).
func (p *producer) run(ctx context.Context, limit int64) error {
	start := time.Now()
	t := time.NewTicker(tick)
	defer t.Stop()
	for limit == 0 || p.seq < limit {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		due := int64(time.Since(start).Seconds()*p.rate) - p.seq
		if limit > 0 {
			due = min(due, limit-p.seq)
		}
		for due > 0 {
			n := min(due, 1000)
			if err := p.batch(int(n)); err != nil {
				return err
			}
			due -= n
		}
	}
	return nil
}

// batch sends n events. Its context is its own: what was begun is finished, so
// that the verdict of every event is known.
func (p *producer) batch(n int) error {
	evs, keys := make([]event, n), make([]string, n)
	for i := range evs {
		evs[i] = event{Producer: p.id, Seq: p.seq, SentUs: time.Now().UnixMicro(), Pad: p.pad}
		keys[i] = "K" + strconv.Itoa(p.rng.IntN(p.keys))
		p.seq++
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	acks, err := p.out.send(ctx, evs, keys)
	if err != nil {
		return fmt.Errorf("producer %d: %w", p.id, err)
	}
	for _, a := range acks {
		if a.part < 0 {
			p.maybe[[2]int64{a.producer, a.seq}] = true
			continue
		}
		p.acked = append(p.acked, a)
	}
	p.count.sent.Add(int64(n))
	return nil
}

// kafkaSender writes with tapecast's idempotent producer.
type kafkaSender struct {
	producer *broker.Producer
	topic    string
	schema   uint32
}

func (s *kafkaSender) send(ctx context.Context, evs []event, keys []string) ([]ack, error) {
	recs := make([]broker.ProduceRecord, len(evs))
	for i := range evs {
		at := time.UnixMicro(evs[i].SentUs)
		recs[i] = broker.ProduceRecord{
			Key: []byte(keys[i]), Time: at, Partition: -1, Accepted: evs[i].SentUs,
			Value: evs[i].appendAvro(schemas.AppendWireHeader(nil, s.schema)),
		}
	}
	done, err := s.producer.Produce(ctx, s.topic, recs)
	if err != nil && len(done) != len(recs) {
		return nil, err
	}
	acks := make([]ack, len(evs))
	for i, d := range done {
		acks[i] = ack{producer: evs[i].Producer, seq: evs[i].Seq, part: d.Partition, offset: d.Offset}
		if d.Err != nil {
			acks[i].part = -1
		}
	}
	return acks, nil
}

// httpSender posts to an ingest door.
type httpSender struct {
	base, topic string
	client      *http.Client
}

func (s *httpSender) send(ctx context.Context, evs []event, keys []string) ([]ack, error) {
	type posted struct {
		Key   string `json:"key"`
		Value event  `json:"value"`
	}
	body := make([]posted, len(evs))
	for i := range evs {
		body[i] = posted{keys[i], evs[i]}
	}
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	for {
		acks, wait, err := s.post(ctx, b, evs)
		if err != nil || wait == 0 {
			return acks, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

// post sends one request. wait > 0: nothing of it was written, try again then.
func (s *httpSender) post(ctx context.Context, body []byte, evs []event) (acks []ack, wait time.Duration, err error) {
	acks = make([]ack, len(evs))
	for i := range evs {
		acks[i] = ack{producer: evs[i].Producer, seq: evs[i].Seq, part: -1}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost,
		strings.TrimSuffix(s.base, "/")+"/v1/topics/"+s.topic+"/events", bytes.NewReader(body))
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.client.Do(req)
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return nil, 200 * time.Millisecond, nil // nothing was sent
	}
	if err != nil {
		return acks, 0, nil // nobody knows what became of them
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return acks, 0, nil
	}
	var a struct {
		Code    string `json:"code"`
		Offsets []struct {
			Partition int32 `json:"partition"`
			Offset    int64 `json:"offset"`
		} `json:"offsets"`
	}
	_ = json.Unmarshal(answer, &a)
	switch {
	case resp.StatusCode/100 == 2 && len(a.Offsets) == len(evs):
		for i, o := range a.Offsets {
			acks[i].part, acks[i].offset = o.Partition, o.Offset
		}
		return acks, 0, nil
	case resp.StatusCode == http.StatusServiceUnavailable && a.Code == "unknown_outcome":
		return acks, 0, nil
	case resp.StatusCode == http.StatusServiceUnavailable, resp.StatusCode == http.StatusTooManyRequests:
		return nil, 200 * time.Millisecond, nil
	}
	return nil, 0, errors.New("ingest: HTTP " + resp.Status + ": " + string(answer))
}
