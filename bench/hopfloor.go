package main

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tapecast/tapecast/internal/broker"
	"github.com/tapecast/tapecast/internal/stream"
)

// hopFloor measures what the broker itself needs for one of the two ways that
// an event goes through it: from before the request that writes what comes in
// one tick to when a reader that waits at the broker has it. Nothing else runs.
func hopFloor(ctx context.Context, e *env, rate int) (r row, err error) {
	s, err := newStack(ctx, e.kafka, 1)
	if s != nil {
		defer s.close()
	}
	if err != nil {
		return r, err
	}
	var clients [2]*broker.Client
	for i := range clients {
		if clients[i], err = broker.New(broker.Options{Addrs: strings.Split(s.addrs, ","), ClientID: "bench"}); err != nil {
			return r, err
		}
		defer clients[i].Close()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	took := make(chan []float64, 1)
	failed := make(chan error, 1)
	go func() {
		ms, err := readOneWay(ctx, clients[0], s.topic())
		failed <- err
		took <- ms
	}()
	err = writeOneWay(ctx, clients[1], s.topic(), rate, e.length+2*time.Second)
	cancel()
	if err = errors.Join(err, <-failed); err != nil {
		return r, err
	}
	ms := <-took
	ms = ms[min(len(ms), int(2*time.Second/batchEvery)):] // warm
	slices.Sort(ms)
	r = row{Work: "hop", Server: number(float64(rate)) + "/s broker, one way"}
	if len(ms) > 0 {
		r.add(p50ms, ms[len(ms)/2])
		r.add(p99ms, ms[len(ms)*99/100])
	}
	return r, nil
}

// writeOneWay writes what is due in a tick as one batch, whose first record
// says when, for a while.
func writeOneWay(ctx context.Context, cl *broker.Client, topic string, rate int, d time.Duration) error {
	recs := make([]broker.AppendRecord, max(rate*int(batchEvery)/int(time.Second), 1))
	for i := range recs {
		recs[i].Value = value(nil, valueSize, time.Now())
	}
	tick := time.NewTicker(batchEvery)
	defer tick.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		recs[0].Value = strconv.AppendInt(nil, time.Now().UnixMicro(), 10)
		if _, err := cl.Append(ctx, topic, 0, recs); err != nil {
			return err
		}
	}
	return nil
}

// readOneWay returns how long each batch took, ms.
func readOneWay(ctx context.Context, cl *broker.Client, topic string) (ms []float64, err error) {
	r := cl.NewReader(topic, stream.TopicID{}, 0)
	defer r.Close()
	for from := int64(0); ; {
		span, err := r.Read(ctx, from, 4<<20, 500*time.Millisecond)
		if ctx.Err() != nil {
			return ms, nil
		}
		if err != nil {
			return ms, err
		}
		now := time.Now().UnixMicro()
		for i := range span.Records {
			if us, err := strconv.ParseInt(string(span.Records[i].Value), 10, 64); err == nil {
				ms = append(ms, float64(now-us)/1e3)
			}
		}
		from = max(from, span.To)
	}
}
