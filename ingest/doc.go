// Package ingest is stage 1 of 3: Event to Record. It takes events over HTTP,
// checks them against the topic's schema and writes them to feed topics with
// an idempotent producer.
//
//	POST /v1/topics/{topic}/events ─┐
//	    one, an array, or NDJSON    ├▶ parse ─▶ encode ─▶ produce (acks=all) ─▶ answer
//	POST /topics/{topic}           ─┘             │
//	    REST Proxy v2                       the topic's schema
//
// What it promises:
//
//   - What was answered with success is in Kafka, once. A connection that
//     breaks on the way to Kafka is no second record.
//   - Nothing of a bad request is written: all events are checked before the
//     first is queued. Of a stream (NDJSON) it is the chunk that is checked,
//     and the answer says what was written before it.
//   - Whoever cannot be told the outcome is told that, by the code
//     unknown_outcome, never success.
//   - Events of one request and one partition keep their order.
//   - Memory is bounded: by MaxBuffered over all requests. A sender that is
//     faster than Kafka is slowed down, then refused with "busy".
//
// It knows no sessions, no gateways and no fan-out. Its goroutines are those
// of the producer and of the drain, owned by Run; each request is served on
// the HTTP server's own.
package ingest
