// Package conformance holds the clients of all languages to one table of wire
// scripts, see scripts: what a gateway sends, where connections end, which
// commands a client must send, and what it must hand out. Its tests run the Go
// client in the process and the JavaScript client in Node.
//
// A script's connections are lists of steps: expect (the next command of the
// client), send (frames, each a message), batch (frames in one message), text
// (a message as it stands), await (until so many lines were handed out), do (the
// client's user acts), ping, cut, close, refuse (an HTTP status instead of an
// upgrade).
package conformance
