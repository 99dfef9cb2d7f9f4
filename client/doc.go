// Package client is the Go client of a tapecast gateway: it dials, subscribes,
// and keeps the promise of the feed over any number of disconnections. After
// each one it resumes from the position it holds, at the same gateway or at
// another, and never hands out an event twice. (A snapshot that was cut off is
// state, not events: it is taken anew, after another subscribed frame.)
//
// It also checks the feed while it reads: order, doubles, coverage, gaps,
// epochs, and that a resumption begins where it was asked to. What breaks the
// promise is counted and told (see [Violation], [Options.OnViolation]), and an
// event that must not be handed out is kept back.
//
// A Client has one goroutine for its connection, which starts two for each
// connection and waits for them; [Client.Close] ends them and waits. A
// Subscription owns none: its frames are pulled with [Subscription.Next] or
// [Subscription.Frames]; [Subscription.Chan] starts one.
//
// Each subscription buffers at most Options.Buffer bytes. What happens beyond
// is its [Overflow] policy; a reader that stays away never stops the
// connection, its pings or the other subscriptions for longer than
// Options.Stall: see [Block].
//
// Reading is cheap: a data frame is scanned once for its header, its value is
// not looked at before [Frame.Decode], and frames share blocks of memory.
package client
