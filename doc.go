// Package tapecast casts Kafka topics to very many WebSocket clients:
// replayable, ordered, market-data-style feeds.
//
//	producer ─Event▶ ingest ─Record▶ [feed topic] ─▶ fanout ─Batch▶ [delivery topic] ─▶ gateway ─Frame▶ session
//	                 (Avro)              │             ▲     (snappy)                    │   ▲
//	                                     │             └◀──────[interest topic]◀─Interest┘   │
//	                                     └───────────── replay from a Position ──────────────┘
//
// In brackets: Kafka; one delivery topic per gateway node; the interest topic
// is compacted. The thing changes its name at each door: an Event is handed in,
// a Record lies in a feed topic and has an offset, a Delivery is addressed to a
// node in a Batch, a Frame is encoded once and lies on sockets.
//
// Start reading in docs/ARCHITECTURE.md, or in the rooms: ingest, fanout, gateway.
package tapecast
