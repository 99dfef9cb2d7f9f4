package client

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Options of a Client. The zero value of every field but URLs is a default.
type Options struct {
	URLs   []string     // gateways, ws://HOST:PORT/ws or wss://...; the next is tried after a failure
	Header http.Header  // sent with each upgrade, e.g. Authorization
	Logger *slog.Logger // default: silent

	// Credentials is asked before each dial, so that a token can be renewed.
	// What it returns is added to Header. An error counts as a failed dial. With
	// it, an upgrade refused with 401 is tried again with fresh credentials;
	// without it, that is final.
	Credentials func(ctx context.Context) (Credentials, error)

	// Format of the values. JSON (the default) also packs many frames into one
	// message where the gateway can; Avro leaves the record's bytes untouched.
	Format Format
	// DecodeAvro is what Frame.Decode uses with the Avro format: body is the
	// Avro body, schema its id in the schema registry.
	DecodeAvro func(schema uint32, body []byte, v any) error

	// Buffer is how many bytes of frames (their text; the memory is about three
	// times that for small ones) a subscription holds for its reader, and
	// Overflow what happens beyond. Defaults 4 MiB and Block. Both can be
	// set for each subscription.
	Buffer   int
	Overflow Overflow
	// Stall is how long a full subscription that blocks may hold up the
	// connection (and with it the others on it) before it is parked, see
	// [Block]. Default 1 s.
	Stall time.Duration

	// MinBackoff and MaxBackoff bound the wait before a reconnection, which is
	// drawn evenly from [0, b] (full jitter); b doubles with each round of
	// failures over URLs. Defaults 100 ms and 15 s. A gateway's own wish
	// (wait_ms of a bye) goes first.
	MinBackoff, MaxBackoff time.Duration
	// PingEvery is how often the connection is probed; one that says nothing
	// for three times that is given up. Default 15 s.
	PingEvery time.Duration

	// OnState is told about the connection, in order, from the client's own
	// goroutine: it must not block.
	OnState func(State)
	// OnViolation is told about each breach of the feed's promise, from the
	// client's own goroutine: it must not block.
	OnViolation func(Violation)

	// NetDial replaces the dialer (tests, proxies).
	NetDial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Credentials of one dial.
type Credentials struct {
	Header       http.Header
	Subprotocols []string // offered after the client's own, for gateways that take tokens there
}

// Format of values on the wire.
type Format uint8

// The formats.
const (
	JSON Format = iota
	Avro
)

// Overflow says what happens when a subscription's buffer is full.
type Overflow uint8

const (
	// Block loses nothing: the connection is not read for a moment (Options.Stall),
	// so that the gateway lets the subscription lag. A reader that stays away
	// longer has its subscription parked: it is unsubscribed at the gateway,
	// pings and the other subscriptions go on, and when half of the buffer is
	// read it is subscribed again from where it stands. A snapshot cannot be
	// taken up in the middle: until it is complete it may fill the buffer up to
	// 64 MiB, and fails beyond.
	Block Overflow = iota
	// DropOldest keeps the newest events; what was dropped is reported by a gap
	// frame with cause [CauseBuffer].
	DropOldest
	// Fail ends the subscription with ErrOverflow, after what is buffered.
	Fail
)

// CauseBuffer is the cause of a gap that the client made itself: the reader
// was slow and DropOldest was chosen. The gap can be fetched later.
const CauseBuffer = "buffer"

// Bounds and defaults.
const (
	maxFrame      = 16 << 20 // longest message taken from a gateway, bytes
	maxSnapshot   = 64 << 20 // a snapshot's frames in a buffer that blocks, bytes
	defaultBuffer = 4 << 20
	writeTimeout  = 10 * time.Second
	steady        = 2 * time.Second  // a connection that lived that long begins a new backoff
	gone          = 30 * time.Second // how long a topic once had may be unknown to a gateway that has just started
)

// The ends of a client or a subscription that are nobody's fault.
var (
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("client is closed")
	// ErrEnd is returned by Next after the end frame: until was reached.
	ErrEnd = errors.New("the subscription's end was reached")
	// ErrOverflow ends a subscription whose buffer is full, with the policy Fail.
	ErrOverflow = errors.New("the subscription's buffer is full")
)

// Phase of the connection.
type Phase string

// The phases.
const (
	Connecting Phase = "connecting"
	Connected  Phase = "connected"
	Waiting    Phase = "waiting" // for the next try
	Closed     Phase = "closed"
)

// State of the connection.
type State struct {
	Phase Phase
	URL   string        // of Connecting and Connected
	Wait  time.Duration // of Waiting
	Err   error         // of Waiting and Closed: why
}

func (o *Options) fill() error {
	if len(o.URLs) == 0 {
		return errors.New("client: Options.URLs names no gateway")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Buffer <= 0 {
		o.Buffer = defaultBuffer
	}
	if o.Stall <= 0 {
		o.Stall = time.Second
	}
	if o.MinBackoff <= 0 {
		o.MinBackoff = 100 * time.Millisecond
	}
	if o.MaxBackoff < o.MinBackoff {
		o.MaxBackoff = max(15*time.Second, o.MinBackoff)
	}
	if o.PingEvery <= 0 {
		o.PingEvery = 15 * time.Second
	}
	if o.OnState == nil {
		o.OnState = func(State) {}
	}
	if o.OnViolation == nil {
		o.OnViolation = func(Violation) {}
	}
	return nil
}
