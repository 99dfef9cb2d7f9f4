// Package client is the Go client of a tapecast gateway: it dials, subscribes,
// and keeps the promise of the feed over any number of disconnections. After
// each one it resumes from the position it holds, at the same gateway or at
// another, and never hands out an event twice.
//
// It also checks the feed while it reads: order, doubles and epochs. What
// breaks the promise is counted (see [Subscription.Violations]) and the
// offending frame is kept back.
//
// A Client owns one goroutine for its connection; [Client.Close] ends it and
// waits. A Subscription owns none: its frames are pulled with
// [Subscription.Next]. Each subscription buffers at most Options.Buffer bytes;
// when the buffer is full the connection is not read, so the gateway sees a
// slow client and lets its cursor lag: nothing is dropped here.
package client
